"""Which weights of a module an optimizer's parameters stand for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from higher._tree import modules_of, parameters_of
from higher._weights import FastWeights, WeightDict

MakeOptimizer: TypeAlias = "Callable[[Any], torch.optim.Optimizer]"
"""An optimizer's class, or anything else that makes one of a list of parameters."""


def origins_of(module: nn.Module) -> list[list[weakref.ref[Tensor]]]:
    """What the weights of a stateless version of ``module`` stand for, each: the
    module's own and, where these are fast weights, what those stand for."""
    own = module.__dict__.get("_higher")
    originals = parameters_of(module) if own is None else own.installed
    held = _fast_weights_in(module)
    return [
        [weakref.ref(p), *(_before(*held[id(p)]) if id(p) in held else ())]
        for p in originals
    ]


def reference_of(module: nn.Module, opt: torch.optim.Optimizer) -> list[Tensor]:
    """The module's parameters in their order, in the form in which ``opt`` has them.

    An optimizer for a stateless module, or for a part of one, may be one of the
    original's parameters, for torch refuses fast weights, which are no leaves.
    """
    params: list[Tensor] = parameters_of(module)
    held = _fast_weights_in(module)
    given = {id(p) for group in opt.param_groups for p in group["params"]}
    for k, weight in enumerate(params):
        if id(weight) in held:
            weights, index = held[id(weight)]
            forms = [ref() for ref in weights.origins[index]]
            for p in forms + _past(weights.history, index):
                if p is not None and id(p) in given:
                    params[k] = p
    return params


def _fast_weights_in(module: nn.Module) -> dict[int, tuple[FastWeights, int]]:
    """By ``id``, which weight of which stateless module each parameter is, if any."""
    found: dict[int, tuple[FastWeights, int]] = {}
    for each in modules_of(module):
        params: Any = each._parameters
        weights = params.weights() if isinstance(params, WeightDict) else None
        if weights is not None:
            for index in params.index.values():
                found[id(weights.installed[index])] = weights, index
    return found


def _before(weights: FastWeights, index: int) -> list[weakref.ref[Tensor]]:
    """What a fast weight was at first, and what it stands for."""
    first = weights.history[0] if weights.history else []
    initial = [weakref.ref(first[index])] if type(first) is list and first else []
    return [*initial, *weights.origins[index]]


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
