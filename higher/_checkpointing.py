"""Activation checkpointing inside stateless modules.

``torch.utils.checkpoint`` runs a part of the model again when backward reaches it.
By then an inner step has replaced the fast weights, and the values would be wrong
without a word. Here such a run finds the weights, buffers and modes of the first one.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import torch.utils.checkpoint
from torch import Tensor

from higher._attention import twice_differentiable
from higher._second_order import math_attention
from higher._weights import FastWeights


class _Live(threading.local):
    """Weights whose modules this thread may run."""

    def __init__(self) -> None:
        self.weights: WeakSet[FastWeights] = WeakSet()


_live = _Live()
_replaying = threading.RLock()


class _Buffer(NamedTuple):
    holder: dict[str, Any]
    name: str
    tensor: Tensor
    version: int
    values: Tensor


class _Moment(NamedTuple):
    """What a stateless module ran on at some moment; its frozen weights in copies."""

    weights: FastWeights
    params: list[Tensor]
    modes: list[bool]
    buffers: list[_Buffer]


def watch(weights: FastWeights) -> None:
    """Makes parts that this thread checkpoints run right again."""
    weights.thread = threading.get_ident()
    _live.weights.add(weights)
    _wrap_torch()


def _replayable(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, running on what it would have run on now."""
    moments = [_moment(w) for w in list(_live.weights)]
    if not moments:
        return function
    attention = [mode for mode in (math_attention, twice_differentiable) if mode.active]

    @functools.wraps(function, updated=())
    def again(*args: Any, **kwargs: Any) -> Any:
        with _replaying, ExitStack() as stack:
            for moment in moments:
                stack.enter_context(_back_at(moment))
            for mode in attention:
                stack.enter_context(mode)
            return function(*args, **kwargs)

    return again


def _moment(weights: FastWeights) -> _Moment:
    if weights.mapping is not None:
        raise RuntimeError(
            "Activation checkpointing inside of a module that is mapped over tasks: "
            "torch can't run a part of it again. Switch it off; "
            "higher.unroll(memory='low') saves memory, too."
        )
    modes = [m.training for m in weights.modules()]
    buffers = [
        _saved(weights, m._buffers, name, b)
        for m in weights.modules()
        for name, b in m._buffers.items()
        if b is not None
    ]
    return _Moment(
        weights, _with_own_frozen(weights.installed, weights), modes, buffers
    )


def _with_own_frozen(params: list[Tensor], weights: FastWeights) -> list[Tensor]:
    return [w if w.requires_grad else weights.watched.own(w) for w in params]


# batch_norm changes its statistics without raising their version
_TOO_MANY_TO_COPY = 1 << 16


def _saved(
    weights: FastWeights, holder: dict[str, Any], name: str, tensor: Tensor
) -> _Buffer:
    """A copy of a buffer; of a large one the last copy if its version is the same."""
    if tensor.numel() < _TOO_MANY_TO_COPY:
        return _Buffer(holder, name, tensor, -1, tensor.detach().clone())
    key = id(holder), name
    last: _Buffer | None = weights.saved_buffers.get(key)
    if last is None or last.tensor is not tensor or last.version != tensor._version:
        last = _Buffer(holder, name, tensor, tensor._version, tensor.detach().clone())
        weights.saved_buffers[key] = last
    return last


@contextmanager
def _back_at(moment: _Moment) -> Iterator[None]:
    """Puts a stateless module back to an earlier moment."""
    weights = moment.weights
    now = weights.installed, [m.training for m in weights.modules()], weights.replaying
    held = [(b.holder, b.name, b.holder[b.name]) for b in moment.buffers]
    try:
        weights.replaying = True
        weights.install(_with_own_frozen(moment.params, weights))
        _set_modes(weights, moment.modes)
        for b in moment.buffers:
            # a copy: the first run has changed the buffer already
            if b.holder[b.name] is not b.tensor or b.tensor._version != b.version:
                b.holder[b.name] = b.values.clone()
        yield
    finally:
        for holder, name, tensor in held:
            holder[name] = tensor
        _set_modes(weights, now[1])
        weights.install(now[0])
        weights.replaying = now[2]


def _set_modes(weights: FastWeights, modes: list[bool]) -> None:
    for module, training in zip(weights.modules(), modes):
        module.training = training


@functools.cache
def _wrap_torch() -> None:
    """Wraps what every call of ``checkpoint``, whoever imported it, ends in."""
    module: Any = torch.utils.checkpoint
    frame = getattr(module, "_CheckpointFrame", None)
    if frame is None or "recompute_fn" not in inspect.signature(frame).parameters:
        warnings.warn(
            "higher does not know how this torch does activation checkpointing. "
            "Switch it off in models that are differentiated through inner steps, "
            "or their gradients will be wrong.",
            stacklevel=5,
        )
        return
    make_frame = frame.__init__

    @functools.wraps(make_frame)
    def __init__(self: Any, recompute_fn: Any, *args: Any, **kwargs: Any) -> None:
        make_frame(self, _replayable(recompute_fn), *args, **kwargs)

    frame.__init__ = __init__
    apply = module.CheckpointFunction.apply

    def reentrant(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if not len(_live.weights):
            return apply(function, preserve, *args)
        # this variant has no second derivatives
        return module.checkpoint(
            function, *args, use_reentrant=False, preserve_rng_state=preserve
        )

    module.CheckpointFunction.apply = staticmethod(reentrant)
