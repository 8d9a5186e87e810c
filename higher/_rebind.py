"""Functions, methods and partials that belong to a module, for its clone.

A hook, an instance's own ``forward`` or a stored method may refer to the module by
its closure, its defaults, its arguments, its owner or, in a script, by a global name.
Those are made to refer to the clone; callables that don't reach the module are shared, so that what a hook records
ends up where its owner looks.
"""

from __future__ import annotations

import builtins
import functools
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from higher._weights import FastWeights

ATOMIC = frozenset(
    [
        *(bool, int, float, complex, str, bytes, type(None), type(...)),
        *(type(NotImplemented), range, slice, property, type),
        *(types.ModuleType, types.CodeType, torch.Generator),
        *(torch.device, torch.dtype, torch.Size, torch.layout, torch.memory_format),
    ]
)
"""Types whose values are the same in a module and in its clone."""

_DEPTH = 4
_BREADTH = 1000


class Rebinder:
    """Rebinds callables to the clone of a module.

    Attributes:
        memo: ``id`` of something of the module -> its counterpart in the clone.
        index: ``id`` of a parameter -> its position among the fast weights.
        weights: the fast weights, told about holders that can't be assigned to.
    """

    def __init__(self, weights: FastWeights, originals: Sequence[Tensor]) -> None:
        self.weights = weights
        self.index = {id(p): i for i, p in enumerate(originals)}
        self.memo: dict[int, Any] = {
            id(p): w for p, w in zip(originals, weights.installed)
        }
        # an id is good only as long as its object lives
        self.keep: list[Any] = []
        self.namespaces: dict[int, bool] = {}

    def remember(self, old: Any, new: Any) -> None:
        self.memo[id(old)] = new
        self.keep.append(old)

    def rebound(self, value: Any) -> Any:
        """The counterpart of what reaches the tree; else ``value`` itself."""
        if type(value) in ATOMIC:
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if not self._reaches(value, _DEPTH):
            return value
        rebind = _REBINDERS.get(type(value))
        if rebind is None:
            return self._object(value)
        return rebind(self, value)

    def _reaches(self, value: Any, depth: int) -> bool:
        """Whether ``value`` refers to something of the tree."""
        if type(value) in ATOMIC:
            return False
        if id(value) in self.memo:
            return True
        if depth == 0 or isinstance(value, (nn.Module, Tensor, type)):
            return False
        if type(value) is types.FunctionType and self._named(value, depth):
            return True
        inside = islice(_referents(value), _BREADTH)
        return any(self._reaches(v, depth - 1) for v in inside)

    def _named(self, function: types.FunctionType, depth: int) -> dict[str, Any]:
        """Globals by which a function reaches the tree."""
        namespace = function.__globals__
        touches = self.namespaces.get(id(namespace))
        if touches is None:
            # most namespaces know nothing of the tree: seen once, then skipped
            touches = any(id(v) in self.memo for v in list(namespace.values()))
            self.namespaces[id(namespace)] = touches
        if not touches:
            return {}
        names = code_names(function.__code__) & namespace.keys()
        used = {name: namespace[name] for name in names}
        return {k: v for k, v in used.items() if self._reaches(v, depth - 1)}

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        named = self._named(function, _DEPTH)
        namespace = _Namespace(function.__globals__) if named else function.__globals__
        cells = function.__closure__ or ()
        reaching = [self._reaches(_content(c), _DEPTH - 1) for c in cells]
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
        new.__dict__.update(self._dict(function.__dict__))
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
            [function.__defaults__, function.__kwdefaults__],
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
        attributes = self._dict(partial.__dict__)

        def fill(renew: Callable[[Any], Any]) -> None:
            args, keywords = renew(partial.args), renew(partial.keywords)
            state = self.rebound(partial.func), args, keywords, attributes
            new.__setstate__(state)  # type: ignore[attr-defined]

        self._keep_renewed(fill, [partial.args, partial.keywords])
        return new

    def _cached(self, function: Any) -> Any:
        cache = functools.lru_cache(**function.cache_parameters())
        return cache(self.rebound(function.__wrapped__))

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        return {k: self.rebound(v) for k, v in value.items()}

    def _list(self, value: list[Any]) -> list[Any]:
        return list(map(self.rebound, value))

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self.rebound, value))

    def _object(self, value: Any) -> Any:
        """A shallow copy of an object, such as the owner of a hook."""
        try:
            new = object.__new__(type(value))
            attributes = vars(value)
        except TypeError:
            return value
        self.remember(value, new)
        new.__dict__.update(self._dict(attributes))
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

    def holds_weight(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return any(map(self.holds_weight, value))
        if type(value) is dict:
            return any(map(self.holds_weight, value.values()))
        return id(value) in self.index

    def renewed(self, value: Any, weights: Sequence[Tensor]) -> Any:
        """``value`` with the given weights in the place of parameters."""
        if isinstance(value, tuple):
            items = [self.renewed(v, weights) for v in value]
            # a namedtuple is made of its items one by one
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if type(value) is dict:
            return {k: self.renewed(v, weights) for k, v in value.items()}
        i = self.index.get(id(value))
        return self.rebound(value) if i is None else weights[i]


class _Namespace(dict[str, Any]):
    """The globals of a function, some of them replaced."""

    def __init__(self, original: dict[str, Any]) -> None:
        super().__init__(__builtins__=original.get("__builtins__", builtins))
        self.original = original

    def __missing__(self, name: str) -> Any:
        return self.original[name]


def code_names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes that a code object uses."""
    nested = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(code_names, nested))


def _set_defaults(
    new: types.FunctionType, old: types.FunctionType, renew: Callable[[Any], Any]
) -> None:
    new.__defaults__ = renew(old.__defaults__)
    new.__kwdefaults__ = renew(old.__kwdefaults__)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _referents(value: Any) -> Iterator[Any]:
    """What ``value`` refers to, as far as code of its own would use it."""
    kind = type(value)
    if kind is types.FunctionType:
        yield from map(_content, value.__closure__ or ())
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from value.__dict__.values()
    elif kind is types.MethodType:
        yield from (value.__self__, value.__func__)
    elif kind is types.BuiltinMethodType:
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__
    elif hasattr(value, "__dict__"):
        yield from vars(value).values()


_REBINDERS: dict[type, Callable[[Any, Any], Any]] = {
    types.FunctionType: Rebinder._function,
    types.MethodType: Rebinder._method,
    types.BuiltinMethodType: Rebinder._builtin,
    functools.partial: Rebinder._partial,
    functools._lru_cache_wrapper: Rebinder._cached,
    dict: Rebinder._dict,
    list: Rebinder._list,
    tuple: Rebinder._tuple,
}
