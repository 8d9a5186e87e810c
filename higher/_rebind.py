"""Functions, methods and partials that belong to a module, for its clone.

A hook, an instance's own ``forward`` or a stored method may refer to the module by
its closure, its defaults, its arguments, its owner or, in a script, by a global name.
Those are made to refer to the clone; callables that don't reach the module are shared,
so that what a hook records ends up where its owner looks.
"""

from __future__ import annotations

import builtins
import functools
import gc
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from higher._object_graph import ATOMIC, FIXED, Attributes, attributes_of, content
from higher._reach import Reach


class CallableRebinder(Reach):
    """Rebinds callables to the clone of a module."""

    def copy(self, value: Any) -> Any:
        """A counterpart of any value, whether it reaches the tree or not."""
        raise NotImplementedError

    def rebound(self, value: Any) -> Any:
        """The counterpart of what reaches the tree; else ``value`` itself."""
        if type(value) in ATOMIC:
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if not self.reaches(value):
            return value
        rebind = _REBINDERS.get(type(value))
        if rebind is None:
            return self._object(value)
        return rebind(self, value)

    def _named(self, function: types.FunctionType) -> dict[str, Any]:
        """Globals by which a function reaches the tree."""
        used = self.globals_of(function)
        return {k: v for k, v in used.items() if self.reaches(v)}

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        named = self._named(function)
        namespace = _Namespace(function.__globals__) if named else function.__globals__
        cells = function.__closure__ or ()
        reaching = [self.reaches(content(c)) for c in cells]
        closure = tuple(
            types.CellType() if new else cell for new, cell in zip(reaching, cells)
        )
        new = types.FunctionType(
            function.__code__,
            namespace,
            function.__name__,
            None,
            closure if cells else None,
        )
        # before its closure, which may hold the function itself
        self.remember(function, new)
        new.__qualname__ = function.__qualname__
        self._fill_dict(new.__dict__, function.__dict__)
        if named:
            self._keep_renewed(
                lambda renew: namespace.update({k: renew(v) for k, v in named.items()}),
                named.values(),
            )
        for cell, old, fresh in zip(closure, cells, reaching):
            if fresh:
                self._fill_cell(cell, old.cell_contents)
        self._keep_renewed(
            lambda renew: _set_defaults(new, function, renew),
            [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()],
        )
        return new

    def _fill_cell(self, cell: types.CellType, content: Any) -> None:
        def fill(renew: Callable[[Any], Any]) -> None:
            cell.cell_contents = renew(content)

        self._keep_renewed(fill, [content])

    def _method(self, method: types.MethodType) -> types.MethodType:
        return types.MethodType(
            self.rebound(method.__func__), self.rebound(method.__self__)
        )

    def _builtin(self, method: types.BuiltinMethodType) -> Any:
        return getattr(self.rebound(method.__self__), method.__name__)

    def _partial(self, partial: functools.partial[Any]) -> functools.partial[Any]:
        new = type(partial)(self.rebound(partial.func))
        self.remember(partial, new)
        attributes: dict[str, Any] = {}
        self._fill_dict(attributes, partial.__dict__)

        def fill(renew: Callable[[Any], Any]) -> None:
            keywords = {k: renew(v) for k, v in partial.keywords.items()}
            args = tuple(map(renew, partial.args))
            state = renew(partial.func), args, keywords, attributes
            new.__setstate__(state)  # type: ignore[attr-defined]

        contents = [partial.func, *partial.args, *partial.keywords.values()]
        self._keep_renewed(fill, contents)
        return new

    def _cached(self, function: Any) -> Any:
        cache = functools.lru_cache(**function.cache_parameters())
        new = cache(self.rebound(function.__wrapped__))
        last = [self.weights.installed]

        def forget(weights: Sequence[Tensor]) -> None:
            # results that are weights, as of before
            old = set(map(id, last[0]))
            if any(id(v) in old for v in _results(new)):
                new.cache_clear()
            last[0] = list(weights)

        self.weights.rewrites.append(forget)
        return new

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        new: dict[Any, Any] = {}
        self.remember(value, new)
        self._fill_dict(new, value)
        return new

    def _fill_dict(self, new: dict[Any, Any], value: dict[Any, Any]) -> None:
        if self.is_keyed(value):
            self.unreplaceable_holders.append(value)
        for k, v in value.items():
            self.settle(new, k, v, self.rebound(v))

    def _list(self, value: list[Any]) -> list[Any]:
        new: list[Any] = [None] * len(value)
        self.remember(value, new)
        for i, v in enumerate(value):
            self.settle(new, i, v, self.rebound(v))
        return new

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self.rebound, value))

    def _proxy(self, value: types.MappingProxyType[Any, Any]) -> Any:
        # what it is a view of, which others may write into
        return types.MappingProxyType(self.rebound(*gc.get_referents(value)))

    def _weak_method(self, value: weakref.WeakMethod[Any]) -> Any:
        return weakref.WeakMethod(self.rebound(value()))

    def _object(self, value: Any) -> Any:
        """A shallow copy of an object, such as the owner of a hook."""
        if isinstance(value, nn.Module):
            return self.copy(value)
        try:
            new = object.__new__(type(value))
        except TypeError:
            # of a type that is not made by a class statement
            return self.copy(value)
        self.remember(value, new)
        for name, v in list(attributes_of(value)):
            self.settle(Attributes(new), name, v, self.rebound(v))
        return new

    # places of weights that can't be assigned to by key

    def _keep_renewed(
        self, fill: Callable[[Callable[[Any], Any]], None], contents: Iterable[Any]
    ) -> None:
        """Calls ``fill(renew)`` now, and after each change if weights are held."""
        fill(self.rebound)
        if any(map(self.holds_weight, contents)):
            self.weights.rewrites.append(
                lambda weights: fill(lambda value: self.renewed(value, weights))
            )

    def settle(self, holder: Any, key: Any, value: Any, new: Any) -> None:
        """Puts the counterpart of ``value`` where its weights are kept up to date."""
        holder[key] = new
        i = self.index.get(id(value))
        if i is not None:
            self.weights.places[i].append((holder, key))
        elif type(value) is weakref.ref and self.holds_weight(value):
            i = self.index[id(value())]
            # every RNN has these: without the clone, which these are held by
            self.weights.rewrites.append(
                lambda weights: holder.__setitem__(key, weakref.ref(weights[i]))
            )
        elif isinstance(value, FIXED) and self.holds_weight(value):
            self.weights.rewrites.append(
                lambda weights: holder.__setitem__(key, self.renewed(value, weights))
            )

    def renewed(self, value: Any, weights: Sequence[Tensor]) -> Any:
        """``value`` with the given weights in the place of parameters."""
        if not isinstance(value, FIXED):
            i = self.index.get(id(value))
            return self.rebound(value) if i is None else weights[i]
        if not self.holds_weight(value):
            return self.rebound(value)
        if isinstance(value, (tuple, frozenset)):
            items = [self.renewed(v, weights) for v in value]
            # a namedtuple is made of its items one by one
            named = hasattr(value, "_fields")
            return type(value)(*items) if named else _plain_kind(value)(items)
        if isinstance(value, weakref.ref):
            return weakref.ref(self.renewed(value(), weights))
        owner = self.renewed(value.__self__, weights)
        return getattr(owner, value.__name__)


class _Namespace(dict[str, Any]):
    """The globals of a function, some of them replaced."""

    def __init__(self, original: dict[str, Any]) -> None:
        super().__init__(__builtins__=original.get("__builtins__", builtins))
        self.original = original

    def __missing__(self, name: str) -> Any:
        return self.original[name]


def _results(cached: Any) -> list[Any]:
    """What an ``lru_cache`` keeps, which has no other way in."""
    kept = gc.get_referents(cached)
    return kept + [v for d in kept if type(d) is dict for v in d.values()]


def _set_defaults(
    new: types.FunctionType, old: types.FunctionType, renew: Callable[[Any], Any]
) -> None:
    if old.__defaults__ is not None:
        new.__defaults__ = tuple(map(renew, old.__defaults__))
    if old.__kwdefaults__ is not None:
        new.__kwdefaults__ = {k: renew(v) for k, v in old.__kwdefaults__.items()}


def _plain_kind(value: tuple[Any, ...] | frozenset[Any]) -> type:
    return tuple if isinstance(value, tuple) else frozenset


_REBINDERS: dict[type, Callable[[Any, Any], Any]] = {
    types.FunctionType: CallableRebinder._function,
    types.MethodType: CallableRebinder._method,
    types.BuiltinMethodType: CallableRebinder._builtin,
    functools.partial: CallableRebinder._partial,
    functools._lru_cache_wrapper: CallableRebinder._cached,
    dict: CallableRebinder._dict,
    list: CallableRebinder._list,
    tuple: CallableRebinder._tuple,
    types.MappingProxyType: CallableRebinder._proxy,
    weakref.WeakMethod: CallableRebinder._weak_method,
}
