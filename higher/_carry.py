"""What one inner step hands to the next, as a layout and a flat list of tensors."""

from __future__ import annotations

import dataclasses
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Slot:
    """The place of a tensor in a layout: its number, from 0 on."""

    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at


_slots: list[Slot] = []


def _slot(at: int) -> Slot:
    """Always the same one: there are thousands in an unroll."""
    while len(_slots) <= at:
        _slots.append(Slot(len(_slots)))
    return _slots[at]


class Carry(NamedTuple):
    """Nested containers with a :class:`Slot` in the place of each tensor, and those
    tensors. A tensor that is found twice has one slot."""

    layout: Any
    tensors: list[Tensor]


def leaf_of(t: Tensor, requires_grad: bool | None = None) -> Tensor:
    """``t`` cut off its graph; requires grad like ``t`` unless told otherwise."""
    needs_grad = t.requires_grad if requires_grad is None else requires_grad
    return t.detach().requires_grad_(needs_grad)


def packed(value: Any) -> Carry:
    """Takes the tensors out of nested lists, tuples, dicts and deques."""
    tensors: list[Tensor] = []
    slots: dict[int, Slot] = {}

    def slot(t: Tensor) -> Slot:
        found = slots.get(id(t))
        if found is None:
            slots[id(t)] = found = _slot(len(tensors))
            tensors.append(t)
        return found

    return Carry(mapped(value, Tensor, slot), tensors)


def unpacked(layout: Any, tensors: Sequence[Any]) -> Any:
    """Containers of their own, with the given tensors in the layout's slots."""
    return mapped(layout, Slot, lambda slot: tensors[slot.at])


def mapped(value: Any, kind: type, leaf: Callable[[Any], Any]) -> Any:
    """``value`` with ``leaf`` of each instance of ``kind``, its containers copied.

    Containers that are one object stay one.
    """
    return _mapped(value, kind, leaf, {})


def once(leaf: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """``leaf``, called once for each tensor: those that are one stay one."""
    seen: dict[int, tuple[Any, Tensor]] = {}  # their ids must stay taken

    def found(t: Tensor) -> Any:
        if id(t) not in seen:
            seen[id(t)] = leaf(t), t
        return seen[id(t)][0]

    return found


# no closures: one that calls itself would keep tensors until the next collection
def _mapped(
    value: Any, kind: type, leaf: Callable[[Any], Any], seen: dict[int, Any]
) -> Any:
    if isinstance(value, kind):
        return leaf(value)
    container = type(value)
    if container not in _CONTAINERS:
        return value
    if id(value) in seen:
        return seen[id(value)]
    new: Any
    if container in (dict, defaultdict):
        new = {
            k: leaf(v) if isinstance(v, kind) else _mapped(v, kind, leaf, seen)
            for k, v in value.items()
        }
        if container is defaultdict:
            new = defaultdict(value.default_factory, new)
    else:
        items = [_mapped(v, kind, leaf, seen) for v in value]
        new = deque(items, value.maxlen) if container is deque else container(items)
    seen[id(value)] = new
    return new


_CONTAINERS = frozenset((dict, defaultdict, list, tuple, deque))


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested containers, each once."""
    return packed(value).tensors


def tensors_within(value: Any) -> list[Tensor]:
    """All tensors in nested containers, dataclasses and other objects with
    attributes."""
    found: list[Tensor] = []
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            found.append(one)
        elif id(one) not in seen and not isinstance(one, _PLAIN):
            seen[id(one)] = one
            waiting.extend(_parts(one))
    return found


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple, deque, set, frozenset)):
        yield from value
    if dataclasses.is_dataclass(value):
        yield from (getattr(value, f.name, None) for f in dataclasses.fields(value))
    yield from getattr(value, "__dict__", {}).values()


_PLAIN = (int, float, complex, str, bytes, type, types.ModuleType, types.FunctionType)
