"""A new window of a long run: values stay, their graph goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from higher._carry import leaf_of, mapped, packed, tensors_in, unpacked
from higher._weights import fast_weights

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


def detach(optimizer: DifferentiableOptimizer) -> None:
    """Makes constants of state, and of settings that were computed from others."""

    def constant(t: Tensor) -> Tensor:
        return t.detach() if t.requires_grad else t

    groups, state, shared = optimizer._held()
    # what a scheduler makes of base rates goes on to depend on them
    scheduled = optimizer.scheduler is not None
    kept = [
        {
            name: (
                value
                if scheduled and name in _SCHEDULED
                else mapped(value, Tensor, lambda t: t if t.is_leaf else constant(t))
            )
            for name, value in group.items()
        }
        for group in groups
    ]
    latest = [p for g in optimizer.param_groups for p in g["params"]]
    at = {id(p): k for k, p in enumerate(latest)}
    # state may hold a weight itself, which goes on as such
    weights = [leaf_of(p) for p in latest]
    state, shared = mapped(
        [state, shared],
        Tensor,
        lambda t: weights[at[id(t)]] if id(t) in at else constant(t),
    )
    optimizer.state, optimizer.shared = state, shared
    left = iter(weights)
    optimizer.param_groups = [
        {**settings, "params": [next(left) for _ in group["params"]]}
        for settings, group in zip(kept, optimizer.param_groups)
    ]
    if optimizer._truncation is not None:
        optimizer._truncation.restart()


_SCHEDULED = ("lr", "initial_lr", "momentum", "betas")


def start_behind(
    optimizer: DifferentiableOptimizer,
    renewed: Callable[[Sequence[Tensor]], list[Tensor]],
) -> list[Tensor]:
    """Puts what is ``renewed`` in the place of weights, settings and state, and returns
    the tensors that they are now."""
    fmodel = optimizer._fmodel
    if fmodel is None:
        return []
    weights = fast_weights(fmodel)
    latest = weights.latest() or []
    layout, tensors = packed([list(latest), optimizer._held()])
    made = renewed(tensors)
    params, held = unpacked(layout, made)
    earlier = [*weights.earlier, *enumerate(latest)]
    weights.replace(params)
    weights.earlier = [(k, t) for k, t in earlier if t is not params[k]]
    optimizer._hold(params, held)
    return tensors_in([params, held])
