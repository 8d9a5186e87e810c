"""One run of an optimizer's ``_update``, on parameters as they are.

Around it stands what no ``_update`` need know of: which words a setting may be, complex
numbers as pairs of reals, settings of sharded parameters, the dtypes of state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from higher._dtensor import settings_on_each_rank
from higher._views import in_functorch
from higher.optim.arguments import other_shape
from higher.optim.complex_views import as_complex, as_real
from higher.optim.elements import explained
from higher.optim.settings import check_choices
from higher.optim.state import changed_settings, pin_dtypes

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer, GroupedGrads


def updated_as_is(
    optimizer: DifferentiableOptimizer,
    params: list[Tensor],
    grads: list[Tensor | None],
    kwargs: Mapping[str, Any],
) -> list[Tensor]:
    """The new parameters, in the order of ``params``; also in the groups.

    Each has the shape and the dtype of the one that it replaces, and requires grad
    where that does.

    Raises:
        ValueError: a setting is a word that isn't known, or ``_update`` made a
            parameter of another shape.
    """
    check_choices(type(optimizer), optimizer.param_groups, optimizer._choices)
    grouped: GroupedGrads = []
    for group, positions in zip(optimizer.param_groups, optimizer._group_to_param_list):
        group["params"] = [params[k] for k in positions]
        grouped.append([grads[k] for k in positions])
    seen: list[tuple[int, int]] = []
    if optimizer._complex_as_real and any(p.is_complex() for p in params):
        seen = as_real(optimizer.param_groups, grouped, optimizer.state)
    before = [{i: dict(s) for i, s in states.items()} for states in optimizer.state]
    with settings_on_each_rank(optimizer.param_groups, type(optimizer)):
        with explained(optimizer.param_groups, type(optimizer)):
            told = [dict(group) for group in optimizer.param_groups]
            optimizer._update(grouped, **kwargs)
            optimizer._kept_in_groups.update(
                changed_settings(told, optimizer.param_groups)
            )
    pin_dtypes(optimizer.state, before)
    as_complex(optimizer.param_groups, optimizer.state, seen)
    made, new = list(params), list(params)
    for group, positions in zip(optimizer.param_groups, optimizer._group_to_param_list):
        for p, k in zip(group["params"], positions):
            made[k] = p
            if p.shape != params[k].shape:
                raise ValueError(other_shape(p, params[k]))
            p = p if p.dtype == params[k].dtype else p.to(params[k].dtype)
            constant = params[k].requires_grad and not p.requires_grad
            if constant and not in_functorch():
                # of constants alone (the gradient of a linear loss): steps go on
                p = p.detach().requires_grad_()
            new[k] = p
    optimizer._renew(made, new)
    return new
