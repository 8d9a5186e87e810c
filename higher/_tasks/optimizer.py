"""Differentiable optimizers whose weights and state have a dimension of tasks.

Every tensor that an optimizer holds is 0-dim, and shared by all tasks, or has a leading
dimension of tasks. So it can be told which is which, and a step counter stays a number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from higher._carry import Carry, once, packed, tensors_in, unpacked
from higher._carry import mapped as over_tensors
from higher._tasks.mapping import is_per_task, is_wrapped, mapped
from higher.optim.flat_groups import is_elementwise
from higher.optim.state import settings_of

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


def check_setting(name: str, value: Any, tasks: int) -> None:
    """Refuses a setting that is neither one for all tasks nor one for each."""
    for t in tensors_in(value):
        if t.dim() and t.shape[0] != tasks:
            raise ValueError(
                f"A tensor of shape {tuple(t.shape)} was given for the setting {name!r} "
                f"of an optimizer with tasks={tasks}: it must have one element, or a "
                f"first dimension of {tasks}."
            )


def stack_state(
    optimizer: DifferentiableOptimizer, tasks: int, told: Iterable[str]
) -> None:
    """Gives what was branched off from an optimizer a dimension of tasks.

    Args:
        optimizer: its weights have that dimension already, and so have tensors
            among the settings in ``told`` that differ from task to task.
        tasks: its size.
        told: names of settings.
    """
    weights = {id(w) for g in optimizer.param_groups for w in g["params"]}

    def stacked(t: Tensor) -> Tensor:
        if t.dim() == 0 or id(t) in weights:
            return t
        if t.layout is not torch.strided:
            raise _sparse()
        return t.unsqueeze(0).expand(tasks, *t.shape).clone()

    groups = [settings_of(group) for group in optimizer.param_groups]
    kept = [{k: v for k, v in g.items() if k not in told} for g in groups]
    held = [kept, optimizer.state, optimizer.shared]
    kept, optimizer.state, optimizer.shared = over_tensors(held, Tensor, once(stacked))
    for group, settings in zip(optimizer.param_groups, kept):
        group.update(settings)


def ones_of(loss: Tensor, tasks: int) -> Tensor:
    """What makes of the losses of all tasks the gradient of each.

    Raises:
        ValueError: there is not one loss for each task.
    """
    if loss.shape != (tasks,):
        raise ValueError(
            f"With tasks={tasks} a step needs the losses of all tasks, of shape "
            f"({tasks},), not {tuple(loss.shape)}. Take the mean over each task's own "
            "examples; or write the loss for one task, and map it: "
            "higher.map_tasks(fmodel, loss_fn, batch)."
        )
    return torch.ones_like(loss)


def called_back_per_task(
    callback: Callable[[list[Any]], Iterable[Any]],
    grads: Sequence[Tensor | None],
    tasks: int,
) -> list[Tensor | None]:
    """What ``callback`` makes of the gradients of each task."""
    layout, tensors = packed(list(grads))

    def one(own: list[Tensor], level: int) -> list[Any]:
        return list(callback(unpacked(layout, own)))

    result: list[Tensor | None] = mapped(
        tasks, one, tensors, [True] * len(tensors), "grad_callback"
    )
    return result


def updated(
    optimizer: DifferentiableOptimizer,
    params: list[Tensor],
    grads: list[Tensor | None],
    kwargs: Mapping[str, Any],
    directly: Callable[[DifferentiableOptimizer], list[Tensor]],
) -> list[Tensor]:
    """Updates the weights of all tasks; the new ones.

    Args:
        optimizer: has these ``params`` already.
        params: stacked weights.
        grads: their gradients, or None.
        kwargs: for ``_update``.
        directly: updates an optimizer's weights whatever their shape. Where an update
            treats each element by itself, that is right for stacked ones.
    """
    if any(g is not None and g.layout is not torch.strided for g in grads):
        raise _sparse()
    common = _is_common(optimizer)
    if is_elementwise(optimizer) and common and _fits(optimizer, params):
        if _is_complete(optimizer, grads):
            return directly(optimizer)
        twin = copy.copy(optimizer)
        twin.restore(optimizer.snapshot())
        new = directly(twin)
        if _fits(twin, new):
            _take_over(optimizer, twin)
            return new
    return _each(optimizer, params, grads, kwargs)


def _take_over(
    optimizer: DifferentiableOptimizer, twin: DifferentiableOptimizer
) -> None:
    optimizer.param_groups, optimizer.state = twin.param_groups, twin.state
    optimizer.shared = twin.shared


def _is_common(optimizer: DifferentiableOptimizer) -> bool:
    """Whether all settings are those of all tasks."""
    settings = [settings_of(g) for g in optimizer.param_groups]
    tensors = tensors_in([settings, optimizer.shared])
    if any(map(is_wrapped, tensors)):
        raise RuntimeError(
            "A setting or the state of the optimizer was assigned to inside of what is "
            "mapped over tasks. Do it outside, or pass settings in override."
        )
    return all(t.dim() == 0 for t in tensors)


def _fits(optimizer: DifferentiableOptimizer, params: Sequence[Tensor]) -> bool:
    """Whether all state is that of all tasks, or has an element for each of its
    parameter's."""
    return all(
        t.dim() == 0 or t.shape == params[positions[i]].shape
        for positions, states in zip(optimizer._group_to_param_list, optimizer.state)
        for i, slots in states.items()
        for t in tensors_in(slots)
    )


def _is_complete(
    optimizer: DifferentiableOptimizer, grads: Sequence[Tensor | None]
) -> bool:
    """Whether no state is made by the next update."""
    return all(
        grads[k] is None or states.get(i)
        for positions, states in zip(optimizer._group_to_param_list, optimizer.state)
        for i, k in enumerate(positions)
    )


def _each(
    optimizer: DifferentiableOptimizer,
    params: list[Tensor],
    grads: list[Tensor | None],
    kwargs: Mapping[str, Any],
) -> list[Tensor]:
    """The update of one task, mapped over all."""
    tasks = optimizer._tasks
    assert tasks is not None
    groups = [settings_of(g) for g in optimizer.param_groups]
    layout, tensors = packed([params, grads, groups, optimizer.state, optimizer.shared])
    _check(tensors, tasks)
    twin = copy.copy(optimizer)
    twin._tasks = None
    forms: list[Any] = []

    def one(own: list[Tensor], level: int) -> list[Tensor]:
        given = {id(t): i for i, t in enumerate(own)}
        params, grads, groups, twin.state, twin.shared = unpacked(layout, own)
        twin.param_groups = [{**g, "params": []} for g in groups]
        new = twin._updated_as_is(params, grads, kwargs)
        settings = [settings_of(g) for g in twin.param_groups]
        form, made = packed([new, settings, twin.state, twin.shared])
        kept = [given.get(id(t)) for t in made]
        common = [not is_per_task(t, level) for t in made]
        forms[:] = form, kept, common
        return made

    made = mapped(
        tasks, one, tensors, [t.dim() > 0 for t in tensors], type(optimizer).__name__
    )
    form, kept, common = forms
    for i, (before, shared) in enumerate(zip(kept, common)):
        if before is not None:
            made[i] = tensors[before]
        elif shared and made[i].dim() == 1:
            # was 0-dim before all tasks got theirs
            made[i] = made[i][0]
    new, settings, optimizer.state, optimizer.shared = unpacked(*Carry(form, made))
    result: list[Tensor] = [
        n.detach().requires_grad_() if p.requires_grad and not n.requires_grad else n
        for p, n in zip(params, new)
    ]
    for group, own, positions in zip(
        optimizer.param_groups, settings, optimizer._group_to_param_list
    ):
        group.update({**own, "params": [new[k] for k in positions]})
    optimizer._renew(new, result)
    return result


def _check(tensors: Sequence[Tensor], tasks: int) -> None:
    for t in tensors:
        if t.dim() and t.shape[0] != tasks:
            raise ValueError(
                f"A tensor of shape {tuple(t.shape)} in the settings or the state of an "
                f"optimizer with tasks={tasks} must be 0-dim, for all tasks, or have a "
                f"first dimension of {tasks}."
            )


def _sparse() -> RuntimeError:
    return RuntimeError(
        "Sparse gradients and state can't be mapped over tasks: torch.func has no "
        "sparse tensors. Make the embedding with sparse=False and use Adam."
    )
