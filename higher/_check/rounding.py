"""Whether a difference comes from settings that are tensors.

Arithmetic with a tensor that requires grad is written out, in the tensor's own dtype,
where the original's kernels take a Python number. How far rounding then goes depends on
everything: ``1 - beta ** step`` in float32 has four digits. So it isn't guessed at. The
update is run again with numbers, which must do what the original did; and both ways in
double precision, which must agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from higher._carry import mapped, tensors_in
from higher._check.values import ABSENT, Gap, gaps, size
from higher.optim.state import OptimizerState


class Before(NamedTuple):
    """All that an update starts from, and states of the random generators."""

    params: list[Tensor]
    grads: list[Tensor | None]
    state: OptimizerState
    random: list[Any]


class After(NamedTuple):
    """What an update has made."""

    params: Sequence[Tensor]
    state: OptimizerState


def is_rounding(
    update: Callable[[Before], After],
    before: Before,
    with_numbers: Callable[[Before], Before],
) -> bool:
    """Whether in double precision an update with tensors does what it does with
    numbers."""
    wide = _wide(before)
    # counters that a first step makes are of the default dtype
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    seen = _Wide()
    try:
        with seen:
            tensors, numbers = update(wide), update(with_numbers(wide))
    finally:
        torch.set_default_dtype(usual)
    found = _gaps(numbers, tensors, wide)
    return not any(_differs(gap, seen.eps) for gap in found)


def _rekeyed(value: Any, key: Callable[[Tensor], Any]) -> Any:
    """With ``key`` of the keys that are tensors."""
    if isinstance(value, (dict, defaultdict)):
        new = {
            key(k) if isinstance(k, Tensor) else k: _rekeyed(v, key)
            for k, v in value.items()
        }
        if isinstance(value, defaultdict):
            return defaultdict(value.default_factory, new)
        return new
    if type(value) in (list, tuple):
        return type(value)(_rekeyed(v, key) for v in value)
    return value


def _wide(before: Before) -> Before:
    """In double precision; settings are tensors that require grad where they did."""
    known: dict[int, Tensor] = {}

    def double(t: Tensor) -> Tensor:
        if id(t) not in known:
            known[id(t)] = _double(t)
        return known[id(t)]

    def wide(value: Any) -> Any:
        return _rekeyed(mapped(value, Tensor, double), double)

    state = before.state
    return Before(
        wide(before.params),
        wide(before.grads),
        OptimizerState(wide(state.groups), wide(state.state), wide(state.shared)),
        before.random,
    )


def _double(t: Tensor) -> Tensor:
    if not (t.is_floating_point() or t.is_complex()):
        return t
    dtype = torch.complex128 if t.is_complex() else torch.float64
    return t.detach().to(dtype).requires_grad_(t.requires_grad)


def _gaps(expected: After, got: After, before: Before) -> list[Gap]:
    pairs = [
        (expected.params, got.params, before.params),
        (expected.state.state, got.state.state, before.state.state),
        (expected.state.shared, got.state.shared, before.state.shared),
    ]
    return [gap for pair in pairs for gap in gaps(*pair)]


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within, what would be rounded to short floats on purpose isn't. ``eps`` becomes
    that of the shortest floats that anything is computed in all the same."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps = _EPS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        told = dict(kwargs or {})
        if told.get("dtype") in _SHORT:
            told["dtype"] = _SHORT[told["dtype"]]
        result = func(*args, **told)
        for t in tensors_in(result):
            if t.dim() and (t.is_floating_point() or t.is_complex()):
                self.eps = max(self.eps, torch.finfo(t.dtype).eps)
        return result


_SHORT = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_EPS = torch.finfo(torch.float64).eps


def _differs(gap: Gap, within: float) -> bool:
    # a tensor that is zero keeps state that a zero does without
    if gap.expected is ABSENT or gap.got is ABSENT:
        return False
    found = size(gap, _EPS, within)
    return found.off > found.limit
