"""What of any object refers to a tree of modules or to its weights."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from higher._object_graph import ATOMIC, METHODS, SHARED, code_names, referents
from higher._tree import modules_of
from higher._weights import FastWeights

_MOST = 10_000
"""Of objects that are looked through for what they refer to."""


class Reach:
    """What of any object refers to a tree of modules or to its weights.

    Attributes:
        memo: ``id`` of something of the tree -> its counterpart in the clone.
        index: ``id`` of a parameter -> its position among the fast weights.
        weights: the fast weights, told where they are held.
        made: ``id`` of each counterpart; what those hold is taken care of.
        unreplaceable_holders: what holds a weight where no other can be put, in the module.
    """

    def __init__(self, weights: FastWeights, originals: Sequence[Tensor]) -> None:
        self.weights = weights
        both = (*enumerate(weights.installed), *enumerate(originals))
        self.index = {id(p): i for i, p in both}
        self.made: set[int] = set()
        self.unreplaceable_holders: list[Any] = []
        self.memo: dict[int, Any] = {
            id(p): w for p, w in zip(originals, weights.installed)
        }
        # an id is good only as long as its object lives
        self.keep: list[Any] = []
        self.namespaces: dict[int, bool] = {}

    def remember(self, old: Any, new: Any) -> None:
        self.memo[id(old)] = new
        self.made.add(id(new))
        self.keep.append(old)

    def reaches(self, value: Any) -> bool:
        """Whether ``value`` refers to something of the tree."""

        def found(v: Any) -> bool:
            if isinstance(v, nn.Module):
                return id(v) in self.memo or self._shares_weights(v)
            return id(v) in self.memo or self.is_keyed(v)

        return self._search(value, found, lambda v: False)

    def is_stray(self, value: Any) -> bool:
        """Whether a weight is in ``value`` without its place being known."""

        def known(v: Any) -> bool:
            return id(v) in self.made

        def found(v: Any) -> bool:
            return self.holds_weight(v) or (not known(v) and self.is_keyed(v))

        return self._search(value, found, known)

    def _search(
        self, value: Any, found: Callable[[Any], bool], closed: Callable[[Any], bool]
    ) -> bool:
        """Whether something is found in ``value``, the nearest first."""
        # kept to the end: an id is good only as long as its object lives
        objects = [value] if type(value) not in ATOMIC else []
        seen = {id(value)}
        for v in objects:
            if found(v):
                return True
            if closed(v) or isinstance(v, (nn.Module, Tensor, type, *SHARED)):
                continue
            for inside in islice(self._inside(v), _MOST):
                if type(inside) not in ATOMIC and id(inside) not in seen:
                    seen.add(id(inside))
                    objects.append(inside)
            if len(objects) > _MOST:
                return any(map(found, objects))
        return False

    def _inside(self, value: Any) -> Iterator[Any]:
        yield from referents(value)
        if type(value) is types.FunctionType:
            yield from self.globals_of(value).values()

    def _shares_weights(self, module: nn.Module) -> bool:
        """Whether a module outside the tree has parameters of the tree."""
        params = (p for m in modules_of(module) for p in m._parameters.values())
        return any(id(p) in self.index for p in params)

    def is_keyed(self, value: Any) -> bool:
        """Whether weights, or their ids, are looked up in ``value``."""
        return isinstance(value, (dict, set, frozenset)) and any(
            map(self.names_weight, islice(value, _MOST))
        )

    def names_weight(self, key: Any) -> bool:
        if type(key) is int:
            return key in self.index
        return type(key) is not str and self.holds_weight(key)

    def globals_of(self, function: types.FunctionType) -> dict[str, Any]:
        """What a function uses of globals that know of the tree."""
        namespace = function.__globals__
        touches = self.namespaces.get(id(namespace))
        if touches is None:
            # most namespaces know nothing of the tree: seen once, then skipped
            touches = any(id(v) in self.memo for v in list(namespace.values()))
            self.namespaces[id(namespace)] = touches
        if not touches:
            return {}
        names = code_names(function.__code__) & namespace.keys()
        return {name: namespace[name] for name in names}

    def holds_weight(self, value: Any) -> bool:
        """Whether ``value`` is a weight, or holds one and can't hold another."""
        if isinstance(value, (tuple, frozenset)):
            return any(map(self.holds_weight, value))
        if isinstance(value, METHODS):
            return self.holds_weight(value.__self__)
        return id(value() if type(value) is weakref.ref else value) in self.index
