"""Kernels that can be differentiated twice, while higher gradients are tracked.

torch's fused attention kernels and cuDNN's RNNs have no second derivative; that of its
kernel for weight normalization leaves out a term.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from higher._weights import FastWeights


class _ProcessWide:
    """Holds what torch has once for the whole process at certain values.

    Threads may overlap, so entries are counted: the first one in saves and sets, the
    last one out restores.
    """

    def __init__(
        self,
        get: Callable[[], tuple[Any, ...]],
        put: Callable[..., None],
        values: tuple[Any, ...],
    ) -> None:
        self._get = get
        self._put = put
        self._values = values
        self._lock = threading.Lock()
        self._entered = 0
        self._saved: tuple[Any, ...] = ()

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


class OwnForward:
    """The ``forward`` of one submodule of a stateless module.

    Attributes:
        own: the submodule's own ``forward`` if it has one beside its class's.
    """

    __slots__ = ("own", "module", "weights")

    def __init__(self, module: nn.Module, weights: FastWeights) -> None:
        self.own: Callable[..., Any] | None = module.__dict__.get("forward")
        # weakly: the submodule holds this
        self.module = weakref.ref(module)
        self.weights = weakref.ref(weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.usual()(*args, **kwargs)

    def usual(self) -> Callable[..., Any]:
        """What ``forward`` was before."""
        module: Any = self.module()
        return self.own or functools.partial(type(module).forward, module)

    def tracked(self) -> bool:
        # without the module that it came from, a submodule may still be tracked
        weights = self.weights()
        return (weights is None or weights.track) and torch.is_grad_enabled()

    def __reduce__(self) -> Any:
        """A submodule that is copied or pickled alone has its usual ``forward``."""
        usual = self.usual()
        if isinstance(usual, functools.partial):
            return functools.partial, (usual.func, *usual.args)
        return functools.partial, (usual,)


class RNNForward(OwnForward):
    """Without cuDNN while higher gradients are tracked."""

    __slots__ = ()

    def __call__(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        # a packed sequence has is_cuda, too
        if self.tracked() and input.is_cuda:
            with no_cudnn:
                return self.usual()(input, *args, **kwargs)
        return self.usual()(input, *args, **kwargs)


class NormForward(OwnForward):
    """In eval mode on copies of the running statistics: torch saves them for backward,
    and writes new ones over them in train mode without taking notice."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.module()
        if module.training or not self.tracked():
            return self.usual()(*args, **kwargs)
        names = ("running_mean", "running_var")
        held = {
            n: b for n, b in module._buffers.items() if n in names and b is not None
        }
        try:
            for name, b in held.items():
                dict.__setitem__(module._buffers, name, b.clone())
            return self.usual()(*args, **kwargs)
        finally:
            for name, b in held.items():
                dict.__setitem__(module._buffers, name, b)


def weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """``g * v / |v|`` (Salimans & Kingma 2016), the norm over all dimensions but
    ``dim``, or over all for -1, by primitives.

    torch's kernel keeps the norm as a constant for the second derivative.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


class WeightNormForward(OwnForward):
    """``torch.nn.utils.parametrizations.weight_norm``, differentiable twice."""

    __slots__ = ()

    def __call__(self, weight_g: Tensor, weight_v: Tensor) -> Any:
        module: Any = self.module()
        if self.own is not None or not self.tracked():
            return self.usual()(weight_g, weight_v)
        return weight_norm(weight_v, weight_g, module.dim)


class WeightNormHook(WeightNorm):
    """The hook of ``torch.nn.utils.weight_norm``, differentiable twice."""

    def __init__(self, hook: WeightNorm) -> None:
        super().__init__(hook.name, hook.dim)

    def compute_weight(self, module: nn.Module) -> Tensor:
        g, v = (getattr(module, self.name + end) for end in ("_g", "_v"))
        return weight_norm(v, g, self.dim)

    def __reduce__(self) -> Any:
        """A submodule that is copied or pickled alone has its usual hook."""
        return WeightNorm, (self.name, self.dim)


def own_hooks(module: nn.Module) -> None:
    """Puts the hooks that ``module`` needs in a stateless module in their places."""
    for key, hook in module._forward_pre_hooks.items():
        if type(hook) is WeightNorm:
            module._forward_pre_hooks[key] = WeightNormHook(hook)


def own_forward(module: nn.Module, weights: FastWeights) -> OwnForward | None:
    """The ``forward`` that ``module`` needs in a stateless module, if any."""
    if isinstance(module, nn.RNNBase):
        return RNNForward(module, weights)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return NormForward(module, weights)
    if type(module) is parametrizations._WeightNorm:
        return WeightNormForward(module, weights)
    return None
