"""The ``state_dict`` of a differentiable optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from higher._carry import mapped, once
from higher._tasks import optimizer as tasked
from higher.optim.state import copied_settings, copy_structure, settings_of

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


def state_dict(optimizer: DifferentiableOptimizer, keep_graph: bool) -> dict[str, Any]:
    """See :meth:`DifferentiableOptimizer.state_dict`."""
    numbers = iter(range(optimizer._reference_count))
    packed: list[dict[str, Any]] = []
    slots: dict[int, dict[str, Any]] = {}
    for group, states in zip(optimizer.param_groups, optimizer.state):
        ids = [next(numbers) for _ in group["params"]]
        packed.append({**copy_structure(settings_of(group)), "params": ids})
        slots.update((ids[i], copy_structure(s)) for i, s in states.items())
    result: dict[str, Any] = {"state": slots, "param_groups": packed}
    if optimizer.shared:
        result["shared"] = copy_structure(optimizer.shared)
    if optimizer._tasks is not None:
        result["tasks"] = optimizer._tasks
    if keep_graph:
        return result
    # copies: who loads them may write into them
    copied = once(lambda t: t.detach().clone())
    detached: dict[str, Any] = mapped(result, Tensor, copied)
    return detached


def load_state_dict(
    optimizer: DifferentiableOptimizer, given: Mapping[str, Any]
) -> None:
    """See :meth:`DifferentiableOptimizer.load_state_dict`."""
    tasks = given.get("tasks")
    if tasks not in (None, optimizer._tasks):
        raise ValueError(
            f"The loaded state dict is of tasks={tasks}; this optimizer has "
            f"tasks={optimizer._tasks}."
        )
    packed = given["param_groups"]
    sizes = [len(g["params"]) for g in packed]
    if sizes != [len(g["params"]) for g in optimizer.param_groups]:
        raise ValueError(
            f"The loaded state dict has parameter groups of sizes {sizes}; this "
            "optimizer's are "
            f"{[len(g['params']) for g in optimizer.param_groups]}."
        )
    slots = given["state"]
    # an original optimizer writes into its tensors
    copied = once(Tensor.clone)
    own = once(lambda t: t if t.requires_grad else copied(t))
    settings = copied_settings(packed, optimizer.defaults, copied)
    optimizer.param_groups = [
        {**group, **loaded} for group, loaded in zip(optimizer.param_groups, settings)
    ]
    optimizer.state = [
        defaultdict(
            dict,
            {
                i: mapped(dict(slots[key]), Tensor, own)
                for i, key in enumerate(loaded["params"])
                if key in slots
            },
        )
        for loaded in packed
    ]
    optimizer.shared.update(mapped(dict(given.get("shared", {})), Tensor, own))
    if optimizer._tasks is not None and tasks is None:
        tasked.stack_state(optimizer, optimizer._tasks, ())
