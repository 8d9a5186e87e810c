"""What becomes part of a stateless module after it was made.

A layer that is put into its tree has parameters that are no fast weights: no step would
train them, and ``parameters()`` would not have them. So it is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn

from higher._tree import modules_of
from higher._weights import FastWeights, WeightDict


class Children(dict[str, Any]):
    """The ``_modules`` of a module: takes those whose weights are fast weights, or
    frozen."""

    __slots__ = ("weights",)

    def __init__(self, weights: FastWeights, held: Mapping[str, Any]) -> None:
        super().__init__(held)
        self.weights = weakref.ref(weights)

    def __setitem__(self, name: str, module: Any) -> None:
        weights = self.weights()
        if weights is not None and isinstance(module, nn.Module):
            _check(weights, name, module)
        super().__setitem__(name, module)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class NoWeights(dict[str, Any]):
    """The ``_parameters`` of a module that has none."""

    __slots__ = ("weights",)

    def __init__(self, weights: FastWeights) -> None:
        super().__init__()
        self.weights = weakref.ref(weights)

    def __setitem__(self, name: str, value: Any) -> None:
        weights = self.weights()
        if weights is not None:
            weights.added.append((self, name))
        super().__setitem__(name, value)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def check_tree(weights: FastWeights) -> None:
    """Looks for new parameters, and for new layers where torch puts them past
    :class:`Children`: containers make new dicts when something is deleted.

    Raises:
        TypeError: there is one.
    """
    for held, name in weights.added:
        if held.get(name) is not None and held[name].requires_grad:
            raise TypeError(_NEW_PARAMETER.format(name))
    for module in weights.modules():
        if type(module._modules) is not Children:
            for name, child in module._modules.items():
                if child is not None:
                    _check(weights, name, child)
            module.__dict__["_modules"] = Children(weights, module._modules)


def _check(weights: FastWeights, name: str, module: nn.Module) -> None:
    known = {id(w) for w in weights.installed}
    for m in modules_of(module):
        if type(m._parameters) in (WeightDict, NoWeights):
            continue
        for p in m._parameters.values():
            if p is not None and p.requires_grad and id(p) not in known:
                raise TypeError(
                    f"The {type(module).__name__} that becomes {name!r} of a stateless "
                    f"module has parameters of its own, which no step would train. "
                    f"{_BEFORE} For other values of the same shape assign tensors: "
                    f"fmodel.layer.weight = new_weight. If it is not to be trained, "
                    "call requires_grad_(False) on it."
                )


_BEFORE = (
    "Change the model before it is made stateless, and make the optimizer from the "
    "result: model = copy.deepcopy(model), model.head = nn.Linear(...), "
    "opt = torch.optim.SGD(model.parameters(), ...), then innerloop_ctx(model, opt)."
)
_NEW_PARAMETER = (
    "{!r} is a new parameter of a stateless module, which no step trains. "
    f"{_BEFORE} For a tensor of your own that the forward uses, register a buffer, or "
    "pass it as an argument."
)
