"""What Python objects hold, and by which path a module holds it."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

ATOMIC = frozenset(
    [
        *(bool, int, float, complex, str, bytes, type(None), type(...)),
        *(type(NotImplemented), range, slice, property, type),
        *(types.ModuleType, types.CodeType, torch.Generator),
        *(torch.device, torch.dtype, torch.Size, torch.layout, torch.memory_format),
    ]
)
"""Types whose values are the same in a module and in its clone."""

SHARED = (
    torch.optim.Optimizer,
    torch.utils.data.Dataset,
    torch.utils.data.DataLoader,
)
"""What a module refers to but does not own."""

METHODS = (types.MethodType, types.BuiltinMethodType)
FIXED = (tuple, frozenset, weakref.ref, *METHODS)
"""What can't be made to hold something else."""


class Attributes:
    """The attributes of an object, assigned to like items of a dict."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __setitem__(self, name: str, value: Any) -> None:
        # a frozen dataclass refuses setattr
        object.__setattr__(self.owner, name, value)


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what an object holds in ``__dict__`` and in slots."""
    yield from getattr(value, "__dict__", {}).items()
    for name in slots_of(type(value)):
        if hasattr(value, name):
            yield name, getattr(value, name)


def slots_of(cls: type) -> list[str]:
    """Names of the attributes that instances keep outside ``__dict__``."""
    names: list[str] = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        own = (slots,) if isinstance(slots, str) else slots
        names.extend(_mangled(base, name) for name in own)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _mangled(cls: type, name: str) -> str:
    """The name under which a private slot is found."""
    private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if private else name


def content(cell: types.CellType) -> Any:
    """What a closure's cell holds; None while it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def referents(value: Any) -> Iterator[Any]:
    """What ``value`` refers to, as far as code of its own would use it; but keys."""
    kind = type(value)
    if kind is types.FunctionType:
        yield from map(content, value.__closure__ or ())
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
    elif isinstance(value, (dict, types.MappingProxyType)):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from value
    elif hasattr(value, "__wrapped__"):
        yield value.__wrapped__
    elif hasattr(value, "__dict__") or slots_of(kind):
        yield from (v for _, v in attributes_of(value))
    elif getattr(getattr(value, "dtype", None), "hasobject", False):
        # of numpy, which the garbage collector doesn't know
        yield from getattr(value, "flat", ())
    elif not isinstance(value, type):
        yield from (v for v in gc.get_referents(value) if not isinstance(v, type))


def code_names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes that a code object uses."""
    nested = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(code_names, nested))


UNNAMED = "an object of type"
"""How :func:`path_to` begins where no way is found."""


def path_to(root: nn.Module, wanted: Any) -> str:
    """How ``root`` gets at ``wanted``, such as ``layer.cache['x']``, at the shortest;
    the name of its type if no way is found."""
    # the objects too: the id of one that is gone may be another's
    seen: dict[int, Any] = {id(root): root}
    paths: deque[tuple[str, Any]] = deque([("", root)])
    while paths:
        path, value = paths.popleft()
        if value is wanted:
            return path.lstrip(".") or type(value).__name__
        for step, held in _steps(value):
            if type(held) not in ATOMIC and id(held) not in seen:
                seen[id(held)] = held
                paths.append((path + step, held))
    return f"{UNNAMED} {type(wanted).__name__}"


def _steps(value: Any) -> Iterator[tuple[str, Any]]:
    """What ``value`` holds, and how one writes getting at it from there."""
    if isinstance(value, nn.Module):
        for name, module in value._modules.items():
            yield f".{name}", module
        for name, held in attributes_of(value):
            if name not in ("_modules", "_parameters", "_buffers"):
                yield f".{name}", held
    elif isinstance(value, (Tensor, type, *SHARED)):
        return
    elif isinstance(value, dict):
        for key, held in value.items():
            yield f"[{key!r}]" if type(key) in (str, int) else "[...]", held
    elif isinstance(value, (list, tuple)):
        for i, held in enumerate(value):
            yield f"[{i}]", held
    elif type(value) is types.FunctionType:
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            yield f" (its variable {name!r})", content(cell)
        for held in referents(value):
            yield " (its default)", held
    elif isinstance(value, METHODS):
        yield ".__self__", value.__self__
    else:
        for name, held in attributes_of(value):
            yield f".{name}", held
        for held in referents(value):
            yield "", held
