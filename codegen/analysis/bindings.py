"""What stores do to an environment: names and slots that are bound, and containers that
their methods change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env, dulled_by
from codegen.analysis.expressions import Expressions
from codegen.analysis.indices import bounds
from codegen.analysis.keys import is_constant_key
from codegen.analysis.turns import GROUP_BY_NUMBER, leave_group
from codegen.analysis.values import (
    ANY,
    CONTAINERS,
    PART,
    REST,
    UNKNOWN,
    Kind,
    Place,
    Slot,
    Value,
    View,
    any_of,
    join,
    join_all,
    join_kind,
    numbered,
)
from codegen.syntax import code, is_name, positional


class Bindings:
    """Binds targets of assignments, and follows the methods of lists and dicts."""

    def __init__(self, expressions: Expressions) -> None:
        self.expressions = expressions

    def bind(
        self,
        target: cst.CSTNode,
        value: Value,
        env: Env,
        source: cst.BaseExpression | None = None,
        weak: bool = False,
    ) -> None:
        """``target`` denotes ``value``; where that is ``weak``, what it did before, too."""
        if isinstance(target, cst.Name) and weak:
            before, sure = env.names.get(target.value), target.value not in env.unbound
            self.bind(target, cast(Value, join(before, value)), env)
            if before is None or not sure:
                env.unbound.add(target.value)
        elif isinstance(target, cst.Name):
            if is_name(target, "group") and source is not None:
                leave_group(env)
                env.texts[GROUP_BY_NUMBER] = code(source)
            env.forget_name(target.value)
            # what its own text read of the name is read no more
            env.names[target.value] = value.with_places(dulled_by(target.value))
        elif isinstance(target, (cst.Tuple, cst.List)):
            self._bind_tuple(target, value, env, source)
        elif isinstance(target, cst.StarredElement):
            self.bind(target.value, value, env)
        elif isinstance(target, cst.Subscript):
            self._store(target, value, env)
        elif isinstance(target, cst.Attribute) and target.attr.value == "data":
            self.share_memory(target, value, env)

    def share_memory(self, target: cst.Attribute, value: Value, env: Env) -> None:
        """``p.data = x``: the parameter, by all its names, shows the memory of x."""
        held = self.expressions.value(target.value, env)
        memory = replace(value, kind=Kind.TENSOR, parameter=False, source=None)
        env.slots[Slot("param", ".data")] = memory
        for name, known in [*env.names.items()]:
            if known.parameter and known.places & held.places:
                env.names[name] = replace(memory, parameter=True)

    def _store(self, target: cst.Subscript, value: Value, env: Env) -> None:
        base = self.expressions.value(target.value, env)
        if code(target).startswith("grads[p_idx]"):
            env.slots[Slot("grads", "p_idx")] = value
            return
        slot = self.expressions.slot(target, env)
        if slot is None:
            listed, added, chosen = env.listed(base), env.listed(value), bounds(target)
            plain = chosen is not None and chosen.step is None
            if base.place and listed is not None and added is not None and plain:
                listed[chosen or slice(None)] = added
                if not _are_apart(listed, env):
                    env.distinct -= {base.place.obj}
                env.relist(base.place.obj, listed)
            elif base.place and added is not None and chosen == slice(None):
                env.distinct -= {base.place.obj}
                if _are_apart(added, env):
                    env.distinct |= {base.place.obj}
                env.relist(base.place.obj, added)
            elif base.kind in CONTAINERS:
                # a slice, or one of several containers
                part = isinstance(target.slice[0].slice, cst.Slice)
                more = None if part and value.kind is Kind.SEQUENCE else value
                for place in base.places:
                    env.summarize(place.obj)
                    self.add(place.obj, join(more, env.contents(value)), env)
            return
        self.put(slot, value, env)

    def put(self, slot: Slot, value: Value, env: Env) -> None:
        if slot.container == "group":
            env.drop_conditions("group")
        known = env.slots.get(slot)
        if known is not None and known.place is not None and known.place == value.place:
            env.possibly_absent.discard(slot)
            return  # it is there already
        env.forget_computed_keys()
        self._weaken(slot, value, env)
        env.slots[slot] = value
        env.possibly_absent.discard(slot)
        if any(map(self.expressions.may_be_tuple, value.objects)):
            self.expressions.tuples.add(f"{slot.container}[{slot.key}]")
        kind = self.expressions.slot_kinds.get(slot, Kind.NONE)
        self.expressions.slot_kinds[slot] = join_kind(kind, value.kind)
        if value.kind is Kind.TENSOR:
            self.expressions.tensors_left.add(slot)

    def _weaken(self, slot: Slot, value: Value, env: Env) -> None:
        """Slots that may be the one that is stored to may hold the new value."""
        constant = is_constant_key(slot.key)
        for other, held in [*env.slots_of(slot.container)]:
            apart = constant and is_constant_key(other.key)
            if other != slot and not apart and other.key != REST:
                env.slots[other] = cast(Value, join(held, value))
        whole = env.contents(Value(Kind.SEQUENCE, frozenset({Place(slot.container)})))
        if not constant and whole is not None and env.may_alias(whole, value):
            env.distinct -= {slot.container}
        if constant and slot.container in env.exact:
            if env.exact[slot.container] == -1 or slot in env.slots:
                return
        if not constant and env.exact.get(slot.container, -1) < 0:
            # each item of a list of known length may be it: they were joined above
            self.add(slot.container, value, env)
            env.exact.pop(slot.container, None)

    def add(self, container: str, value: Value | None, env: Env) -> None:
        """Some item of a container may be ``value``."""
        rest = Slot(container, REST)
        new = join(env.slots.get(rest), value)
        if new is not None:
            env.slots[rest] = new

    def _bind_tuple(
        self,
        target: cst.Tuple | cst.List,
        value: Value,
        env: Env,
        source: cst.BaseExpression | None,
    ) -> None:
        stars = [isinstance(e, cst.StarredElement) for e in target.elements]
        if isinstance(source, (cst.Tuple, cst.List)) and not any(stars):
            plain = not any(isinstance(e, cst.StarredElement) for e in source.elements)
            if plain and len(source.elements) == len(target.elements):
                parts = [self.expressions.value(e.value, env) for e in source.elements]
                for element, part in zip(target.elements, parts):
                    self.bind(element.value, part, env)
                return
        for element, part in zip(target.elements, self._parts(value, stars, env)):
            self.bind(element.value, part, env)

    def _parts(self, value: Value, stars: Sequence[bool], env: Env) -> list[Value]:
        """What unpacking gives to each target."""
        count = len(stars)
        if value.kind in (Kind.SCALAR_OR_TENSOR, Kind.NUMBER) and not any(stars):
            return [value] * count
        if value.kind is Kind.TENSOR:
            rows = [View("index", f"[{n}]", cst.Integer(str(n))) for n in range(count)]
            some = View("opaque", "")
            return [value.through(some if any(stars) else row) for row in rows]
        place = value.place
        if place is not None and not any(stars) and _holds_objects(value, env):
            slots = [Slot(place.obj, str(n)) for n in range(count)]
            env.possibly_absent -= set(slots)  # else this raised
            return [self.expressions.slot_value(s, value, env) for s in slots]
        if place is not None and any(stars) and env.exact.get(place.obj, -1) >= 0:
            return self._starred(place.obj, stars, env)
        whole = env.contents(value)
        if whole is None:
            return [Value(Kind.UNKNOWN, _unseen(value))] * count
        if any(stars):
            rest = Value(Kind.SEQUENCE, frozenset({self.expressions.new()}), whole)
            return [rest if s else any_of(whole) for s in stars]
        if not all(p.views for p in whole.places):
            # of what isn't seen through
            return [Value(Kind.UNKNOWN, whole.places | _unseen(value))] * count
        return [numbered(whole, str(n)) for n in range(count)]

    def delete(self, target: cst.CSTNode, env: Env) -> None:
        if isinstance(target, cst.Tuple):
            for element in target.elements:
                self.delete(element.value, env)
        elif isinstance(target, cst.Name):
            env.names.pop(target.value, None)
            env.unbound.add(target.value)
        elif isinstance(target, cst.Subscript):
            slot = self.expressions.slot(target, env)
            base = self.expressions.value(target.value, env)
            listed = env.listed(base)
            chosen = bounds(target)
            if base.kind is Kind.MAPPING and slot and is_constant_key(slot.key):
                env.slots.pop(slot, None)
                env.possibly_absent.discard(slot)
            elif base.place is not None and listed is not None and chosen is not None:
                del listed[chosen]
                env.relist(base.place.obj, listed)
            else:
                for place in base.places:
                    env.summarize(place.obj)

    def _starred(self, obj: str, stars: Sequence[bool], env: Env) -> list[Value]:
        """``first, *rest = xs`` of a list of known length."""
        length, star = env.exact[obj], stars.index(True)
        if length < len(stars) - 1:
            return [UNKNOWN] * len(stars)  # this raises
        end = length - (len(stars) - star - 1)
        made = self.expressions.new(" rest").obj
        env.copy_items(obj, made, slice(star, end))
        items = [env.slots[Slot(obj, str(n))] for n in range(length)]
        rest = Value(Kind.SEQUENCE, frozenset({Place(made)}), join_all(items[star:end]))
        return [*items[:star], rest, *items[end:]]

    # --- what methods of containers do

    def call(self, node: cst.Call, env: Env, whole: bool = True) -> None:
        """A call of a method; inside an expression it may run at any time, or never."""
        if not isinstance(node.func, cst.Attribute):
            return
        method = node.func.attr.value
        operation = optable.container_method(method)
        if operation is None or not operation.in_place:
            return
        base = self.expressions.value(node.func.value, env)
        if base.kind not in (*CONTAINERS, Kind.UNKNOWN) or not base.places:
            return
        args = [self.expressions.value(a.value, env) for a in node.args]
        if base.place is None or not whole:
            for place in base.places:
                env.summarize(place.obj)
                env.distinct -= {place.obj}
                for value in args:
                    self.add(place.obj, join(value, env.contents(value)), env)
        elif base.kind is Kind.MAPPING:
            self._dict_call(method, base.place.obj, node, args, env)
        else:
            self._list_call(method, base.place.obj, node, args, env)

    def _list_call(
        self, method: str, obj: str, node: cst.Call, args: list[Value], env: Env
    ) -> None:
        """Where the length is known, so is what becomes of each item."""
        length = env.exact.get(obj, -1)
        held = env.contents(Value(Kind.SEQUENCE, frozenset({Place(obj)})))
        added = args[-1] if args and method in _ADDS else None
        if added is not None and held is not None and env.may_alias(held, added):
            env.distinct -= {obj}
        if added is not None and (added.place is None or added.place.views):
            env.distinct -= {obj}
        plain = [code(a) for a in positional(node)]
        if length >= 0:
            items = [env.slots[Slot(obj, str(n))] for n in range(length)]
            if _played(method, items, plain, args):
                env.relist(obj, items)
                return
        if method in ("append", "appendleft", "add"):
            env.forget_variable_keys(obj)
            self.add(obj, added, env)
            if method == "append":
                env.exact.pop(obj, None)
                return
        more = added
        if method == "extend" and args:
            self.extend(obj, args[0], env)
            return
        if method in ("extend", "extendleft", "update"):
            more = env.contents(args[0]) if args else None
            env.distinct -= {obj}
        env.summarize(obj, more)

    def _dict_call(
        self, method: str, obj: str, node: cst.Call, args: list[Value], env: Env
    ) -> None:
        key = code(node.args[0].value) if node.args else ""
        slot = Slot(obj, key)
        if method == "pop" and is_constant_key(key):
            env.slots.pop(slot, None)
            env.possibly_absent.discard(slot)
        elif method == "setdefault" and len(args) > 1:
            self._set_default(slot, args[1], env)
        elif method == "update":
            self._update(obj, node, env)
        elif method == "clear":
            env.summarize(obj)
            env.slots.pop(Slot(obj, REST), None)
            env.exact[obj] = -1
            env.distinct |= {obj}
        else:
            env.summarize(obj)

    def _set_default(self, slot: Slot, value: Value, env: Env) -> None:
        if is_constant_key(slot.key):
            if slot in env.slots and slot not in env.possibly_absent:
                return  # it is there already
            if slot not in env.slots and not env.may_have(slot):
                self.put(slot, value, env)
                return
        before = Value(value.kind, frozenset({Place(f"{slot.container}[{slot.key}]")}))
        held = env.slots.get(slot, before)
        self._weaken(slot, value, env)
        env.slots[slot] = cast(Value, join(held, value))
        env.possibly_absent.discard(slot)

    def _update(self, obj: str, node: cst.Call, env: Env) -> None:
        """``d.update(k=v)``, ``d.update({"k": v})``; of another dict, any key."""
        for arg in node.args:
            value = self.expressions.value(arg.value, env)
            if arg.keyword is not None and not arg.star:
                self.put(Slot(obj, f'"{arg.keyword.value}"'), value, env)
            else:
                self.update(obj, value, env)

    def update(self, obj: str, value: Value, env: Env) -> None:
        """A dict gets the items of another one."""
        shape = None if value.place is None else env.shape(value.place.obj)
        if value.place is not None and isinstance(shape, frozenset):
            for key in sorted(shape):
                self.put(Slot(obj, key), env.slots[Slot(value.place.obj, key)], env)
            return
        more = env.contents(value) or ANY
        for slot, held in [*env.slots_of(obj)]:
            env.slots[slot] = cast(Value, join(held, more))
        self.add(obj, more, env)
        env.exact.pop(obj, None)
        env.distinct -= {obj}

    def extend(self, obj: str, value: Value, env: Env) -> None:
        """A list gets the items of another one behind its own."""
        own = env.listed(Value(Kind.SEQUENCE, frozenset({Place(obj)})))
        added = env.listed(value)
        if own is None or added is None:
            env.distinct -= {obj}
            env.summarize(obj, env.contents(value) or ANY)
            return
        if not _are_apart([*own, *added], env):
            env.distinct -= {obj}
        env.relist(obj, [*own, *added])


def _are_apart(items: Sequence[Value], env: Env) -> bool:
    return not any(env.may_alias(a, b) for a, b in combinations(items, 2))


_ADDS = ("append", "appendleft", "insert", "add")


def _played(
    method: str, items: list[Value], plain: list[str], args: list[Value]
) -> bool:
    """Do to the items what a list's method does; False where that isn't known."""
    position = plain[0] if plain else ""
    known = position.lstrip("-").isdigit()
    if method == "append":
        items.append(args[0])
    elif method == "appendleft":
        items.insert(0, args[0])
    elif method == "insert" and known and len(args) == 2:
        items.insert(int(position), args[1])
    elif method == "reverse":
        items.reverse()
    elif method == "clear":
        items.clear()
    elif method == "sort" and items:
        items[:] = [cast(Value, join_all(items))] * len(items)
    elif method == "popleft" and items:
        items.pop(0)
    elif method == "pop" and items and (not plain or known):
        number = int(position) if plain else -1
        if not -len(items) <= number < len(items):
            return False
        items.pop(number)
    else:
        return False
    return True


def _unseen(value: Value) -> frozenset[Place]:
    """What may lie in a container that isn't seen through."""
    return frozenset(Place(f"{p.obj.removesuffix(PART)}{PART}") for p in value.places)


def _holds_objects(value: Value, env: Env) -> bool:
    """A list whose items are tensors of their own, not parts of one."""
    if value.kind is not Kind.SEQUENCE or value.place is None:
        return False
    if value.place.obj in env.exact:
        return True
    item = env.contents(value)
    if item is None or item.kind is not Kind.TENSOR:
        return False
    return not any(p.views for p in item.places)
