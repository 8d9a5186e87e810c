"""Containers and what they hold."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from codegen.fence.laws import Fault, broken
from codegen.fence.values import (
    ANYTHING,
    GRADIENT,
    NONE,
    NOTHING,
    NUMBER,
    PLAIN,
    RATIO,
    RAW,
    SCALAR_OR_TENSOR,
    UNKNOWN,
    Constants,
    Object,
    Users,
    Value,
    function,
    join,
    of,
    tensor,
)

ANY = "any key"
KEYS = "the keys themselves"
_INNER = frozenset({ANY, KEYS})

SELF, GROUP, STATE, SHARED, DEFAULTS = (
    Object(kind, "the optimizer's")
    for kind in ("self", "group", "state", "shared", "defaults")
)
OPEN = frozenset({GROUP, STATE, SHARED, DEFAULTS})
"""What they held before the step isn't all known."""
_WHOLE = {"groups": "groups", "states": "state", "slots": "state", "self": "self"}
"""Containers of the optimizer's that a step may not write into, and the law."""


@dataclass
class Heap:
    """Contents of all containers, by key; they only ever grow.

    ``changed`` says whether something was added since it was last cleared. A key that
    an open container may have held before is nothing while ``guessing``, for a later
    store may tell what it is, and anything afterwards.
    """

    contents: dict[Object, dict[Hashable, Value]] = field(default_factory=dict)
    changed: bool = False
    guessing: bool = True
    faults: list[Fault] = field(default_factory=list)
    quiet: bool = False
    """Nothing is a fault: in the constructor, which runs outside of all graphs."""
    outside: bool = False
    """At the level of the module: what is made there outlives the step."""

    def refuse(self, law: str, node: ast.AST, about: str = "") -> None:
        if not self.quiet:
            self.faults.append(broken(law, node, about))

    # --- writing

    def put(self, held: Object, key: Hashable, value: Value) -> None:
        """Notes what a container may hold under a key."""
        slots = self.contents.setdefault(held, {})
        before = slots.get(key, NOTHING)
        after = join((before, value))
        if after != before or key not in slots:
            slots[key] = after
            self.changed = True

    def store(self, node: ast.AST, target: Value, index: Value, value: Value) -> None:
        """``target[index] = value``."""
        for held in target.objects:
            if self.may_write(node, held):
                self.put(held, KEYS, index)
                for key in keys_of(index) or (ANY,):
                    self.put(held, key, value)

    def may_write(self, node: ast.AST, held: Object) -> bool:
        """Refuses writing into what is no step's to write."""
        if self.quiet or self.outside:
            return True
        if held.fixed:
            self.refuse("fixed", node)
        elif held.kind in _WHOLE:
            self.refuse(_WHOLE[held.kind], node)
        else:
            return True
        return False

    def made(
        self, node: Hashable, items: Iterable[Value] = (), kind: str = "list"
    ) -> Value:
        """A container that an expression makes, with items of unknown position."""
        value = of(kind, (node, kind), self.outside)
        (held,) = value.objects
        self.contents.setdefault(held, {})
        item = join(items)
        if item != NOTHING:
            self.put(held, ANY, item)
        return value

    def placed(self, node: Hashable, items: Iterable[Value]) -> Value:
        """A tuple or list, item by item."""
        value = self.made(node)
        for held in value.objects:
            for key, item in enumerate(items):
                self.put(held, key, item)
        return value

    def fixed(self, value: Value) -> Value:
        """A value whose containers outlive the step."""
        objects = set()
        for held in value.objects:
            objects.add(held._replace(fixed=True))
            self.contents[held._replace(fixed=True)] = self.contents.get(held, {})
        return value._replace(objects=frozenset(objects))

    # --- reading

    def read(self, held: Object, keys: Constants) -> Value:
        """What a container may hold under some keys; None for any."""
        slots = self.contents.get(held, {})
        if keys is None:
            found = [v for key, v in slots.items() if key != KEYS]
            if held in OPEN and ANY not in slots:
                found.append(self._before(held, None))
            return join(found)
        found = []
        for key in keys:
            hits = [slots[k] for k in (key, ANY) if k in slots]
            if not hits and held in OPEN:
                hits = [self._before(held, key)]
            found += hits
        return join(found)

    def _before(self, held: Object, key: Hashable) -> Value:
        if held in (GROUP, DEFAULTS):  # a setting that is no float of the constructor's
            return Value(PLAIN | UNKNOWN, constants=None)
        if self.guessing:
            return NOTHING
        if held == SHARED:
            return join((ANYTHING, function(Users(str(key)))))
        return ANYTHING

    def item(self, node: ast.AST, value: Value, index: Value) -> Value:
        """``value[index]``."""
        found = [self.read(held, keys_of(index)) for held in value.objects]
        if value.flags:
            constants = None if value.flags & PLAIN else frozenset[Hashable]()
            found.append(Value(value.flags & ~(RAW | RATIO), constants=constants))
        return join(found)

    def elements(self, value: Value) -> Value:
        """What a loop over a value is handed."""
        found = [
            (
                self.contents.get(held, {}).get(KEYS, NUMBER)
                if is_mapping(held)
                else self.read(held, None)
            )
            for held in value.objects
        ]
        if value.flags:
            constants = None if value.flags & PLAIN else frozenset[Hashable]()
            found.append(Value(value.flags & ~(RAW | RATIO), constants=constants))
        return join(found)

    def flags(self, value: Value, seen: frozenset[Object] = frozenset()) -> int:
        """Those of a value and of all that it holds, however deep."""
        flags = value.flags
        for found in value.functions:
            receiver = getattr(found, "receiver", None)
            if receiver is not None and not seen:
                flags |= receiver.flags
        for held in value.objects - seen:
            if held in OPEN:
                flags |= UNKNOWN | GRADIENT
            for key, inner in self.contents.get(held, {}).items():
                if key != KEYS:
                    flags |= self.flags(inner, seen | value.objects)
        return flags


def is_mapping(held: Object) -> bool:
    return held.kind == "dict" or held in OPEN


def keys_of(index: Value) -> Constants:
    """The keys that an index may be; None if that isn't known."""
    if index.flags != PLAIN or index.objects or index.functions:
        return None
    if not index.constants or any(
        isinstance(k, int) and not isinstance(k, bool) and k < 0
        for k in index.constants
    ):
        return None
    return index.constants


def optimizer(heap: Heap, settings: frozenset[str], jumps: frozenset[str]) -> Value:
    """``self``, and what hangs on it; returns it."""
    groups, states = of("groups", "its"), of("states", "its")
    params = of("list", "its parameters")
    slots, lists, grads = (
        of("slots", "its"),
        of("list", "gradients"),
        of("list", "grads"),
    )
    kwargs = of("dict", "what a step was given")
    gradient = join((tensor(), NONE))
    for held, key, value in (
        (SELF, "param_groups", groups),
        (SELF, "state", states),
        (SELF, "shared", Value(objects=frozenset({SHARED}))),
        (SELF, "defaults", Value(objects=frozenset({DEFAULTS}))),
        (*groups.objects, ANY, Value(objects=frozenset({GROUP}))),
        (*states.objects, ANY, slots),
        (*slots.objects, ANY, Value(objects=frozenset({STATE}))),
        (GROUP, "params", params),
        (*params.objects, ANY, tensor()),
        (*lists.objects, ANY, grads),
        (*grads.objects, ANY, gradient),
        (*kwargs.objects, ANY, ANYTHING),
    ):
        heap.put(held, key, value)  # type: ignore[arg-type]
    for name in settings:
        raw = 0 if name in jumps else RAW
        heap.put(GROUP, name, Value(SCALAR_OR_TENSOR | GRADIENT | raw))
        heap.put(DEFAULTS, name, Value(SCALAR_OR_TENSOR | GRADIENT))
    return Value(objects=frozenset({SELF}))
