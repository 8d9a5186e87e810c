"""Copies of containers in a clone, which keep track of the weights that they hold."""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from higher._rebind import CallableRebinder


class Containers(CallableRebinder):
    """Copies containers: what is held in them is copied, each thing once."""

    def put(self, holder: Any, key: Any, value: Any) -> None:
        """Puts the copy of ``value`` into a dict or list of the clone."""
        self.settle(holder, key, value, self.copy(value))

    def dict_copy(self, value: Any) -> Any:
        new = type(value)()
        if isinstance(value, defaultdict):
            new.default_factory = self.rebound(value.default_factory)
        self.remember(value, new)
        self.put_pairs(new, value, value.items())
        return new

    def put_pairs(self, new: Any, value: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        for k, v in pairs:
            if self.names_weight(k):
                self.unreplaceable_holders.append(value)
            self.put(new, self.copy(k), v)

    def weak_values_copy(self, value: Any) -> Any:
        """Its own ``__deepcopy__`` would keep the values."""
        new = type(value)()
        self.remember(value, new)
        for k, v in value.items():
            self.settle(new, k, v, self._weakly_held(v))
        return new

    def list_copy(self, value: list[Any]) -> list[Any]:
        new: list[Any] = [None] * len(value)
        self.remember(value, new)
        for i, v in enumerate(value):
            self.put(new, i, v)
        return new

    def deque_copy(self, value: deque[Any]) -> deque[Any]:
        new = deque(value, value.maxlen)
        self.remember(value, new)
        for i, v in enumerate(value):
            self.put(new, i, v)
        return new

    def tuple_copy(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        new = tuple(map(self.copy, value))
        return value if all(a is b for a, b in zip(new, value)) else new

    def set_copy(self, value: set[Any]) -> set[Any]:
        new = set(map(self.copy, value))
        if any(type(v) is int and v in self.index for v in value):
            self.unreplaceable_holders.append(value)
        if any(map(self.holds_weight, value)):
            members = tuple(value)

            def rewrite(weights: Sequence[Tensor]) -> None:
                new.clear()
                new.update(self.renewed(members, weights))

            self.weights.rewrites.append(rewrite)
        return new

    def frozenset_copy(self, value: frozenset[Any]) -> frozenset[Any]:
        if any(type(v) is int and v in self.index for v in value):
            self.unreplaceable_holders.append(value)
        return frozenset(map(self.copy, value))

    def weakref_copy(self, value: weakref.ref[Any]) -> weakref.ref[Any]:
        target = value()
        new = self._weakly_held(target)
        return value if new is target else weakref.ref(new)

    def _weakly_held(self, value: Any) -> Any:
        if id(value) not in self.memo and self.is_stray(value):
            # a copy might be gone at once: it may be that nobody else holds it
            self.unreplaceable_holders.append(value)
        return self.memo.get(id(value), value)
