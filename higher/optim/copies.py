"""Deep copies of a differentiable optimizer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from higher._carry import tensors_in
from higher._truncation import Truncation
from higher.optim.schedule import Schedule, groups_of
from higher.utils import detached_copy

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


def deep_copied(optimizer: DifferentiableOptimizer, memo: dict[int, Any]) -> Any:
    """A copy with its own module, whose tensors are leaves: as copies of weights are,
    for nothing can flow back from a copy."""
    new = memo[id(optimizer)] = object.__new__(type(optimizer))
    held = {name: v for name, v in vars(optimizer).items() if name != "_fmodel"}
    for t in tensors_in(held):
        if id(t) not in memo:
            memo[id(t)] = detached_copy(t)
    for name, value in vars(optimizer).items():
        if isinstance(value, Truncation):
            new.__dict__[name] = Truncation(new, value.steps)
        elif isinstance(value, Schedule):
            new.__dict__[name] = value.on(groups_of(new))
        else:
            new.__dict__[name] = copy.deepcopy(value, memo)
    return new
