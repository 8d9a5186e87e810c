"""Which weights of a module an optimizer's parameters stand for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from higher._tree import parameters_of
from higher._weights import fast_weights

MakeOptimizer: TypeAlias = "Callable[[Any], torch.optim.Optimizer]"
"""An optimizer's class, or anything else that makes one of a list of parameters."""


def origins_of(module: nn.Module) -> list[list[weakref.ref[Tensor]]]:
    """What the weights of a stateless version of ``module`` stand for, each: the
    module's own and, if that is stateless too, what those stand for."""
    if "_higher" not in module.__dict__:
        return [[weakref.ref(p)] for p in parameters_of(module)]
    weights = fast_weights(module)
    first = weights.history[0] if weights.history else []
    initial = first if type(first) is list and first else weights.installed
    return [
        [weakref.ref(w), weakref.ref(then), *known]
        for w, then, known in zip(weights.installed, initial, weights.origins)
    ]


def reference_of(module: nn.Module, opt: torch.optim.Optimizer) -> list[Tensor]:
    """The module's parameters in their order, in the form in which ``opt`` has them.

    An optimizer for a stateless module may be one of the original's parameters, for
    torch refuses fast weights, which are no leaves.
    """
    params: list[Tensor] = parameters_of(module)
    if "_higher" not in module.__dict__:
        return params
    weights = fast_weights(module)
    given = {id(p): p for group in opt.param_groups for p in group["params"]}
    for k, known in enumerate(weights.origins):
        forms = [ref() for ref in known] + _past(weights.history, k)
        for p in forms:
            if p is not None and id(p) in given:
                params[k] = p
    return params


def made_for(
    module: nn.Module, make: MakeOptimizer
) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    """An optimizer that ``make`` made of stand-ins for the module's parameters, and
    these.

    Raises:
        TypeError: it made something else.
    """
    reference: list[Tensor] = [
        nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in parameters_of(module)
    ]
    opt = make(list(reference))
    if not isinstance(opt, torch.optim.Optimizer):
        raise TypeError(
            "opt must be a torch.optim.Optimizer, or make one of a list of parameters; "
            f"it made {type(opt).__name__}."
        )
    return opt, reference


def _past(history: Sequence[Any] | None, k: int) -> list[Tensor | None]:
    """The weight number ``k`` at all times at which it is at hand."""
    return [w[k] for w in history or () if type(w) is list and w]
