"""Counters of steps in an optimizer's state, groups and attributes: found by what a
step adds to them, and put to another number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Place = tuple[int, str]  # which of the holders, and its key


def numbers(opt: Optimizer) -> dict[Place, float]:
    """Every single number that the optimizer holds."""
    return {
        (j, key): float(value)
        for j, holder in enumerate(_holders(opt))
        for key, value in holder.items()
        if _is_number(value)
    }


def put(opt: Optimizer, before: Mapping[Place, float], value: int) -> None:
    """Put to `value` the numbers that are one more than they were `before`."""
    now = numbers(opt)
    for j, holder in enumerate(_holders(opt)):
        for key, held in list(holder.items()):
            if (j, key) not in before or now.get((j, key)) != before[j, key] + 1:
                continue
            if isinstance(held, Tensor):
                held.data.fill_(value)
            else:
                holder[key] = type(held)(value)


def _holders(opt: Optimizer) -> Iterator[dict[str, Any]]:
    params = (p for group in opt.param_groups for p in group["params"])
    states = (opt.state[p] for p in params if p in opt.state)
    yield from (state for state in states if isinstance(state, dict))
    yield from opt.param_groups
    yield vars(opt)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, (int, float)) and not isinstance(value, bool)
