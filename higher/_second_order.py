"""Kernels that can be differentiated twice, while higher gradients are tracked.

torch's fused attention kernels and cuDNN's RNNs have no second derivative.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from higher._weights import FastWeights


class _ProcessWide:
    """Holds flags that torch keeps for the whole process at certain values.

    Threads may overlap, so entries are counted: the first one in saves and sets, the
    last one out restores.
    """

    def __init__(
        self,
        get: Callable[[], tuple[bool, ...]],
        put: Callable[..., None],
        values: tuple[bool, ...],
    ) -> None:
        self._get = get
        self._put = put
        self._values = values
        self._lock = threading.Lock()
        self._entered = 0
        self._saved: tuple[bool, ...] = ()

    @property
    def active(self) -> bool:
        return self._entered > 0

    def __enter__(self) -> None:
        with self._lock:
            if self._entered == 0:
                self._saved = self._get()
                self._put(*self._values)
            self._entered += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                self._put(*self._saved)


# torch leaves these without types
_C: Any = torch._C
_cudnn: Any = torch.backends.cudnn


def _attention_backends() -> tuple[bool, ...]:
    # not torch.backends.cuda's functions around these: this is in every forward
    return (
        _C._get_flash_sdp_enabled(),
        _C._get_mem_efficient_sdp_enabled(),
        _C._get_cudnn_sdp_enabled(),
        _C._get_math_sdp_enabled(),
    )


def _set_attention_backends(
    flash: bool, efficient: bool, cudnn: bool, math: bool
) -> None:
    _C._set_sdp_use_flash(flash)
    _C._set_sdp_use_mem_efficient(efficient)
    _C._set_sdp_use_cudnn(cudnn)
    _C._set_sdp_use_math(math)


def _set_cudnn(enabled: bool) -> None:
    _cudnn.enabled = enabled


math_attention = _ProcessWide(
    _attention_backends, _set_attention_backends, (False, False, False, True)
)
"""While entered, scaled_dot_product_attention has its math backend alone."""

no_cudnn = _ProcessWide(lambda: (_cudnn.enabled,), _set_cudnn, (False,))
"""While entered, torch doesn't use cuDNN."""


class RNNForward:
    """The ``forward`` of one RNN of a stateless module.

    Attributes:
        own: the RNN's own ``forward`` if it has one beside its class's.
    """

    __slots__ = ("own", "rnn", "weights")

    def __init__(self, rnn: nn.RNNBase, weights: FastWeights) -> None:
        self.own: Callable[..., Any] | None = rnn.__dict__.get("forward")
        # weakly: the RNN holds this
        self.rnn = weakref.ref(rnn)
        self.weights = weakref.ref(weights)

    def __call__(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        rnn: Any = self.rnn()
        forward = self.own or functools.partial(type(rnn).forward, rnn)
        weights = self.weights()
        # without the module that it came from, an RNN may still be tracked
        tracked = (weights is None or weights.track) and torch.is_grad_enabled()
        # a packed sequence has is_cuda, too
        if tracked and input.is_cuda:
            with no_cudnn:
                return forward(input, *args, **kwargs)
        return forward(input, *args, **kwargs)
