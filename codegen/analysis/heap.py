"""Points-to analysis: which objects each name and slot may denote, at each statement.

    exp_avg = state["exp_avg"]        exp_avg → state["exp_avg"]
    row = exp_avg.view(-1)            row → state["exp_avg"] through .view(-1)
    grad = buf if nesterov else g     grad → buf's object or g's

Mutating a place changes every name and slot that holds the object; rebinding a name
changes that name alone. Objects are named by what makes them; what an expression made
in earlier turns of a loop stands apart, under one name for many. Solved over the
control-flow graph to the fixpoint, and that again until what the slots share when a
step ends is what they are taken to share when it begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.calls import Calls
from codegen.analysis.environment import (
    EARLIER_GROUP,
    Env,
    all_objects,
    is_constant_key,
)
from codegen.analysis.expressions import Expressions
from codegen.analysis.liveness import Liveness, liveness
from codegen.analysis.values import (
    CONTAINERS,
    MAY_HOLD_TENSORS,
    NUMBER,
    OTHER,
    REPEATS,
    REST,
    SETTING,
    UNKNOWN,
    ANOTHERS,
    OF_ANOTHER,
    PART,
    Kind,
    Place,
    Slot,
    Value,
    View,
    any_of,
    is_many,
    join,
    join_kind,
    numbered,
    of_another,
    of_another_group,
    of_any,
)
from codegen.diagnostics import walk
from codegen.ir.cfg import Edge, Graph, Node, control_flow
from codegen.ir.loops import Loop, Walk
from codegen.ir.solve import forward
from codegen.syntax import (
    all_params,
    all_statements,
    code,
    dotted,
    is_constant,
    is_name,
    positional,
    read_names,
    small,
    statements,
    string_key,
)

Sharing = dict[str, frozenset[str]]

_GROUP_BY_NUMBER = "which group it is"


class Heap:
    """The environment before each statement of a body.

    ``expressions`` evaluates what stands in one; ``sharing`` collects which slots may
    hold one tensor when the step ends.
    """

    def __init__(
        self,
        expressions: Expressions,
        sources: Mapping[str, cst.FunctionDef] | None = None,
        depth: int = 0,
        known: dict[object, _Summary] | None = None,
    ) -> None:
        self.expressions = expressions
        summaries = {} if known is None else known
        self.calls = _Summaries(expressions, dict(sources or {}), depth, summaries)
        self.before: dict[cst.CSTNode, Env] = {}
        self.returned: Value | None = None
        self.sharing: Sharing = {}
        self.live: Liveness = Liveness()
        self.within: dict[Walk, set[cst.CSTNode]] = {}

    def value(self, node: cst.BaseExpression, env: Env) -> Value:
        return self.expressions.value(node, env)

    def slot(self, node: cst.Subscript, env: Env) -> Slot | None:
        return self.expressions.slot(node, env)

    # --- solving

    def solve(self, body: Sequence[cst.CSTNode], env: Env) -> Env:
        """Find the environment before each statement of ``body``; the last one."""
        self.live = liveness(body)
        self.within = {
            kind: _inside(kind, body) for kind in (Walk.PARAMETERS, Walk.GROUPS)
        }
        graph = control_flow(body)
        found = forward(graph, env, self._transfer, Env.joined)
        for node in graph.nodes:
            if node in found and node.statement is not None:
                self.before[node.statement] = found[node].fork()
                self._age_sites(node.statement, self.before[node.statement])
        last = found.get(graph.exit, env)
        self._note_sharing(last)
        return last

    def _transfer(self, node: Node, edge: Edge, env: Env) -> Env:
        statement = node.statement
        if statement is None or isinstance(statement, (cst.Try, cst.Finally)):
            return env
        env = env.fork()
        self._age_sites(statement, env)
        if isinstance(statement, cst.For):
            self._loop(statement, edge, env)
        elif isinstance(statement, (cst.If, cst.While)):
            self.value(statement.test, env)
            self._walrus(statement.test, env)
            if isinstance(statement, cst.If) and _is_steady(statement.test):
                env.assume((code(statement.test), edge is Edge.TRUE))
        elif isinstance(statement, cst.With):
            for item in statement.items:
                if item.asname is not None:
                    self._bind(item.asname.name, UNKNOWN, env)
        elif isinstance(statement, cst.ExceptHandler):
            if statement.name is not None:
                self._bind(statement.name.name, OTHER, env)
        elif isinstance(statement, cst.FunctionDef):
            self._function(statement, env)
        else:
            self._simple(statement, env)
        return env

    def _age_sites(self, statement: cst.CSTNode, env: Env) -> None:
        """What this statement made in an earlier turn is not what it makes now."""
        head = statement
        if isinstance(statement, (cst.If, cst.While)):
            head = statement.test
        elif isinstance(statement, cst.For):
            head = statement.iter
        elif not isinstance(small(statement) or statement, cst.BaseSmallStatement):
            return
        sites = self.expressions.sites
        own = {sites[n] for n in walk(head) if n in sites}
        if own:
            env.age([o for o in _objects(env) if _made_at(o) in own and not is_many(o)])

    # --- loops

    def _loop(self, node: cst.For, edge: Edge, env: Env) -> None:
        loop = Loop.of(node)
        walk = loop.walk
        if walk is Walk.PARAMETERS:
            self._note_sharing(env)
            self._leave_turn(walk, env)
        if edge is not Edge.ITEM:
            self.value(node.iter, env)
            return
        if walk is Walk.GROUPS:
            self._leave_turn(walk, env)
        if walk in (Walk.PARAMETERS, Walk.GROUPS):
            live = self.live.at_head.get(node, frozenset())
            env.names = {n: v for n, v in env.names.items() if n in live}
        if loop.position is not None:
            self._bind(loop.position, NUMBER, env)
        for number, item in enumerate(loop.items):
            self._bind_item(item.target, item.source, walk, number, env)

    def _leave_turn(self, walk: Walk, env: Env) -> None:
        """What the turn of a parameter, or of a group, made and held is another's now."""
        _leave_item(env)
        if walk is Walk.GROUPS:
            env.drop_conditions("group")
            _leave_group(env)
        within, sites = self.within[walk], self.expressions.sites
        own = {number for made, number in sites.items() if made in within}
        whose = of_another if walk is Walk.PARAMETERS else of_another_group
        env.age([o for o in _objects(env) if _made_at(o) in own], whose)

    def _bind_item(
        self,
        target: cst.BaseExpression,
        source: cst.BaseExpression,
        walk: Walk,
        number: int,
        env: Env,
    ) -> None:
        if walk is Walk.PARAMETERS and number == 0 and isinstance(target, cst.Name):
            param = Value(Kind.TENSOR, frozenset({Place("param")}), parameter=True)
            self._bind(target, param, env)
            env.slots[Slot("param", ".data")] = replace(param, parameter=False)
            env.texts["param"] = target.value
            env.texts["state"] = "self.state[group_idx][p_idx]"
            env.origins["param"] = self.expressions.sharing.get("param", frozenset())
            # but for what earlier steps made one, the items of a state are different
            env.distinct -= {"state"}
            if not any(map(_in_state, self.expressions.sharing)):
                env.distinct |= {"state"}
        elif is_name(source, "grads") or is_name(source, "group_grads"):
            if walk is Walk.PARAMETERS:
                grad = Value(Kind.TENSOR, frozenset({Place("grad")}))
                self._bind(target, grad, env)
                env.slots[Slot("grads", "p_idx")] = grad
                env.texts["grads"] = code(source)
            else:
                self._bind(target, UNKNOWN, env)
        elif walk is Walk.GROUPS and number < 2:
            self._bind(target, OTHER, env)
        else:
            self._bind(target, self.expressions.item_of(source, env), env)

    # --- simple statements

    def _simple(self, node: cst.CSTNode, env: Env) -> None:
        inner = small(node)
        if isinstance(inner, cst.Assign):
            value = self.value(inner.value, env)
            for target in inner.targets:
                self._bind(target.target, value, env, inner.value)
        elif isinstance(inner, cst.AnnAssign) and inner.value is not None:
            self._bind(inner.target, self.value(inner.value, env), env, inner.value)
        elif isinstance(inner, cst.AugAssign):
            self._augmented(inner, env)
        elif isinstance(inner, cst.Del):
            self._delete(inner.target, env)
        elif isinstance(inner, cst.Return) and inner.value is not None:
            self.returned = join(self.returned, self.value(inner.value, env))
        elif isinstance(inner, cst.Expr):
            self.value(inner.value, env)
            env.forget_computed_keys()
        if inner is not None:
            self._walrus(inner, env)
            for call in walk(inner):
                if isinstance(call, cst.Call):
                    self._container_call(call, env)

    def _walrus(self, node: cst.CSTNode, env: Env) -> None:
        for inner in walk(node):
            if isinstance(inner, cst.NamedExpr):
                self._bind(inner.target, self.value(inner.value, env), env)

    def _augmented(self, node: cst.AugAssign, env: Env) -> None:
        before = self.value(node.target, env)
        added = self.value(node.value, env)
        env.forget_computed_keys()
        if before.kind in CONTAINERS:
            for place in before.places:
                env.summarize(place.obj, join(before.item, env.contents(added)))
            return
        if before.kind is Kind.TENSOR:
            return
        kind = self.expressions.arithmetic([before, added])
        if kind is Kind.UNKNOWN and before.places:
            # in place, if it is a tensor
            self._bind(node.target, replace(before, kind=kind), env)
            return
        outer, self.expressions.site = self.expressions.site, node
        made = self.expressions.fresh(kind)
        self.expressions.site = outer
        self._bind(node.target, made, env)

    def _delete(self, target: cst.CSTNode, env: Env) -> None:
        if isinstance(target, cst.Tuple):
            for element in target.elements:
                self._delete(element.value, env)
        elif isinstance(target, cst.Name):
            env.names.pop(target.value, None)
        elif isinstance(target, cst.Subscript):
            slot = self.slot(target, env)
            base = self.value(target.value, env)
            if base.kind is Kind.MAPPING and slot and is_constant_key(slot.key):
                env.slots.pop(slot, None)
                env.maybe.discard(slot)
            else:
                for place in base.places:
                    env.summarize(place.obj)

    # --- binding

    def _bind(
        self,
        target: cst.CSTNode,
        value: Value,
        env: Env,
        source: cst.BaseExpression | None = None,
    ) -> None:
        if isinstance(target, cst.Name):
            if is_name(target, "group") and source is not None:
                _leave_group(env)
                env.texts[_GROUP_BY_NUMBER] = code(source)
            env.forget_name(target.value)
            env.names[target.value] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            self._bind_tuple(target, value, env, source)
        elif isinstance(target, cst.StarredElement):
            self._bind(target.value, value, env)
        elif isinstance(target, cst.Subscript):
            self._store(target, value, env)
        elif isinstance(target, cst.Attribute) and target.attr.value == "data":
            self._share_memory(target, value, env)

    def _share_memory(self, target: cst.Attribute, value: Value, env: Env) -> None:
        """``p.data = x``: the parameter, by all its names, shows the memory of x."""
        held = self.value(target.value, env)
        memory = replace(value, kind=Kind.TENSOR, parameter=False, source=None)
        env.slots[Slot("param", ".data")] = memory
        for name, known in [*env.names.items()]:
            if known.parameter and known.places & held.places:
                env.names[name] = replace(memory, parameter=True)

    def _store(self, target: cst.Subscript, value: Value, env: Env) -> None:
        base = self.value(target.value, env)
        if code(target).startswith("grads[p_idx]"):
            env.slots[Slot("grads", "p_idx")] = value
            return
        slot = self.slot(target, env)
        if slot is None:
            if base.kind in CONTAINERS:
                # a slice, or one of several containers
                for place in base.places:
                    env.summarize(place.obj)
                    self._add(place.obj, join(value, env.contents(value)), env)
            return
        self._put(slot, value, env)

    def _put(self, slot: Slot, value: Value, env: Env) -> None:
        if slot.container == "group":
            env.drop_conditions("group")
        known = env.slots.get(slot)
        if known is not None and known.place is not None and known.place == value.place:
            return  # it is there already
        env.forget_computed_keys()
        self._weaken(slot, value, env)
        env.slots[slot] = value
        env.maybe.discard(slot)
        kind = self.expressions.slot_kinds.get(slot, Kind.NONE)
        self.expressions.slot_kinds[slot] = join_kind(kind, value.kind)

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
        if not constant:
            self._add(slot.container, value, env)
            env.exact.pop(slot.container, None)

    def _add(self, container: str, value: Value | None, env: Env) -> None:
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
                parts = [self.value(e.value, env) for e in source.elements]
                for element, part in zip(target.elements, parts):
                    self._bind(element.value, part, env)
                return
        for element, part in zip(target.elements, self._parts(value, stars, env)):
            self._bind(element.value, part, env)

    def _parts(self, value: Value, stars: Sequence[bool], env: Env) -> list[Value]:
        """What unpacking gives to each target."""
        count = len(stars)
        if value.kind in (Kind.SETTING, Kind.NUMBER) and not any(stars):
            return [value] * count
        if value.kind is Kind.TENSOR:
            rows = [View("index", f"[{n}]", cst.Integer(str(n))) for n in range(count)]
            some = View("opaque", "")
            return [value.through(some if any(stars) else row) for row in rows]
        place = value.place
        if place is not None and not any(stars) and _holds_objects(value, env):
            slots = [Slot(place.obj, str(n)) for n in range(count)]
            return [self.expressions.slot_value(s, value, env) for s in slots]
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

    # --- what methods of containers do

    def _container_call(self, node: cst.Call, env: Env) -> None:
        if not isinstance(node.func, cst.Attribute):
            return
        method = node.func.attr.value
        operation = optable.container_method(method)
        if operation is None or not operation.in_place:
            return
        base = self.value(node.func.value, env)
        if base.kind not in (*CONTAINERS, Kind.UNKNOWN) or not base.places:
            return
        args = [self.value(a.value, env) for a in node.args]
        if base.place is None:
            for place in base.places:
                env.summarize(place.obj)
                for value in args:
                    self._add(place.obj, join(value, env.contents(value)), env)
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
                for slot, _ in [*env.slots_of(obj)]:
                    del env.slots[slot]
                for number, item in enumerate(items):
                    env.slots[Slot(obj, str(number))] = item
                env.exact[obj] = len(items)
                return
        if method in ("append", "appendleft", "add"):
            self._add(obj, added, env)
            if method == "append":
                env.exact.pop(obj, None)
                return
        more = added
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
            env.maybe.discard(slot)
        elif method == "setdefault" and len(args) > 1:
            before = Value(args[1].kind, frozenset({Place(f"{obj}[{key}]")}))
            held = env.slots.get(slot, before)
            self._weaken(slot, args[1], env)
            env.slots[slot] = cast(Value, join(held, args[1]))
        elif method == "update":
            self._update(obj, node, env)
        else:
            env.summarize(obj)

    def _update(self, obj: str, node: cst.Call, env: Env) -> None:
        """``d.update(k=v)``, ``d.update({"k": v})``; of another dict, any key."""
        for arg in node.args:
            value = self.value(arg.value, env)
            place = value.place
            if arg.keyword is not None and not arg.star:
                self._put(Slot(obj, f'"{arg.keyword.value}"'), value, env)
            elif place is not None and place.obj in env.exact:
                for slot, held in [*env.slots_of(place.obj)]:
                    self._put(replace(slot, container=obj), held, env)
            else:
                more = env.contents(value) or UNKNOWN
                for slot, held in [*env.slots_of(obj)]:
                    env.slots[slot] = cast(Value, join(held, more))
                self._add(obj, more, env)
                env.exact.pop(obj, None)
                env.distinct -= {obj}

    # --- functions

    def _function(self, node: cst.FunctionDef, env: Env) -> None:
        """A nested function: its parameters are unknown, the rest is captured."""
        self.calls.nested.add(node.name.value)
        inside = env.fork()
        for param in all_params(node.params):
            inside.names[param.name.value] = Value(
                Kind.UNKNOWN, frozenset({Place(f"argument {param.name.value}")})
            )
        inner = Heap(
            self.expressions, self.calls.sources, self.calls.depth, self.calls.known
        )
        inner.solve(statements(node.body), inside)
        self.before.update(inner.before)
        self.expressions.calls = self.calls
        env.forget_name(node.name.value)
        env.names[node.name.value] = OTHER

    # --- what slots share from step to step

    def _note_sharing(self, env: Env) -> None:
        """Slots that may hold one tensor, or parts of one, when a turn ends."""
        if self.calls.depth:
            return
        kept = [
            (s, v)
            for s, v in env.slots.items()
            if v.kind in MAY_HOLD_TENSORS and v.places and _is_kept(s, env)
            if s.key == REST or is_constant_key(s.key)
        ]
        for slot, value in kept:
            if value.kind in CONTAINERS and not all(
                map(env.has_no_twins, value.objects())
            ):
                self._share(_name_of(slot), REPEATS)
        for (one, a), (two, b) in combinations(kept, 2):
            self._compare(one, a, two, b, env)

    def _compare(self, one: Slot, a: Value, two: Slot, b: Value, env: Env) -> None:
        outside = [s.container.endswith(OF_ANOTHER) for s in (one, two)]
        if all(outside):
            return
        if any(outside):
            if env.may_alias(a, b):
                own = two if outside[0] else one
                self._share(_name_of(own), ANOTHERS.obj)
            return
        if {one.container, two.container} & {"shared"}:
            # it may hold what belongs to any parameter
            a, b = a.with_places(of_any), b.with_places(of_any)
        if env.may_alias(a, b):
            self._share(_name_of(one), _name_of(two))
            self._share(_name_of(two), _name_of(one))

    def _share(self, one: str, two: str) -> None:
        self.sharing[one] = self.sharing.get(one, frozenset()) | {two}


@dataclass(frozen=True)
class _Summary:
    """What a call returned, and what it left on the heap of its own."""

    returned: Value | None
    slots: dict[Slot, Value]
    exact: dict[str, int]
    distinct: frozenset[str]


class _Summaries(Calls):
    """Calls of functions with a source: their bodies are analysed with the arguments
    at hand, on the heap of the caller."""

    def __init__(
        self,
        expressions: Expressions,
        sources: dict[str, cst.FunctionDef],
        depth: int,
        known: dict[object, _Summary],
    ) -> None:
        super().__init__(expressions)
        self.sources = sources
        self.depth = depth
        self.known = known

    def returned_by(self, node: cst.Call, env: Env) -> Value | None:
        function = self.sources.get(dotted(node.func) or "")
        if function is None or self.depth > 3 or any(a.star for a in node.args):
            return None
        names = [p.name.value for p in all_params(function.params)]
        names = names[1:] if names[:1] == ["self"] else names
        given = dict(zip(names, (a.value for a in node.args if a.keyword is None)))
        given |= {a.keyword.value: a.value for a in node.args if a.keyword is not None}
        inside = env.fork()
        inside.names = {
            name: self.expressions.value(given[name], env) if name in given else SETTING
            for name in names
        }
        inside.keep_reachable()
        prefix = f"{self.expressions.new().obj}/"
        key = (prefix, function, *inside.names.items(), *inside.slots.items())
        if key not in self.known:
            self.known[key] = self._summary(function, prefix, inside)
        summary = self.known[key]
        env.slots.update(summary.slots)
        env.exact.update(summary.exact)
        env.distinct |= summary.distinct
        return summary.returned

    def _summary(self, function: cst.FunctionDef, prefix: str, inside: Env) -> _Summary:
        outer = self.expressions
        expressions = Expressions({}, {}, {}, outer.functions, outer.first)
        expressions.prefix = prefix
        inner = Heap(expressions, self.sources, self.depth + 1, self.known)
        last = inner.solve(statements(function.body), inside)
        returned = inner.returned
        if returned is not None and returned.kind is Kind.OTHER and inner.calls.nested:
            returned = UNKNOWN  # a function that a function makes

        def own(obj: str) -> bool:
            return obj.startswith(prefix)

        return _Summary(
            returned,
            {s: v for s, v in last.slots.items() if own(s.container)},
            {o: n for o, n in last.exact.items() if own(o)},
            frozenset(filter(own, last.distinct)),
        )


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
    return frozenset(Place(f"{p.obj}{PART}") for p in value.places)


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


def _objects(env: Env) -> set[str]:
    found = {s.container for s in env.slots} | env.origins.keys()
    found = found.union(*env.origins.values())
    for value in (*env.names.values(), *env.slots.values()):
        found |= all_objects(value)
    return found


def _made_at(obj: str) -> int | None:
    """The number of the expression that made an object."""
    match = re.match(r"#(\d+)", obj)
    return int(match[1]) if match else None


def _name_of(slot: Slot) -> str:
    """The object that a slot holds when a step begins."""
    return "param" if slot.container == "param" else f"{slot.container}[{slot.key}]"


def _is_kept(slot: Slot, env: Env) -> bool:
    """Whether a slot outlives the step: in the state or in what is shared, at any depth."""
    pending, seen = [slot.container], set[str]()
    while pending:
        obj = pending.pop()
        if of_any(Place(obj)).obj in ("state", "shared", "param"):
            return True
        if obj not in seen:
            seen.add(obj)
            pending += [s.container for s, v in env.slots.items() if obj in v.objects()]
    return False


def _is_steady(node: cst.CSTNode) -> bool:
    """Whether a condition comes out the same until a variable in it is bound again."""
    if isinstance(node, cst.Subscript):
        return is_name(node.value, "group") and string_key(node) is not None
    if isinstance(node, cst.Comparison):
        parts = [node.left, *(c.comparator for c in node.comparisons)]
        return all(map(_is_steady, parts))
    if isinstance(node, cst.BooleanOperation):
        return _is_steady(node.left) and _is_steady(node.right)
    if isinstance(node, cst.UnaryOperation):
        return _is_steady(node.expression)
    return isinstance(node, cst.Name) or is_constant(node)


def _inside(kind: Walk, body: Sequence[cst.CSTNode]) -> set[cst.CSTNode]:
    """All nodes inside loops that walk groups, or parameters."""
    loops = (n for n in all_statements(body) if isinstance(n, cst.For))
    return {n for loop in loops if Loop.of(loop).walk is kind for n in walk(loop)}


def _leave_item(env: Env) -> None:
    """What is held of the last parameter is none of the next one's."""
    env.age([o for o in _objects(env) if _of_item(o)], of_another)


def _in_state(obj: str) -> bool:
    return obj.startswith("state[")


def _of_item(obj: str) -> bool:
    return obj in ("param", "grad", "state") or obj.startswith("state[")


def _leave_group(env: Env) -> None:
    """What the last group holds is not the next one's: it can be written to only if
    that was ``self.param_groups[0]``, or another by number."""
    earlier = env.texts.pop(_GROUP_BY_NUMBER, EARLIER_GROUP)
    if earlier != EARLIER_GROUP:
        env.texts[earlier] = earlier
    own = {s for s in env.slots if s.container == "group"}
    objects = set().union(*(env.slots[s].objects() for s in own), set())

    if earlier == EARLIER_GROUP:
        env.age(objects, of_another_group)
    else:
        env.age(f"earlier {obj}" for obj in objects)

    def renamed(place: Place) -> Place:
        if place.obj in objects and not is_many(place.obj):
            return replace(place, obj=f"earlier {place.obj}")
        return place

    env.slots = {
        replace(s, container=earlier) if s in own else s: v
        for s, v in env.slots.items()
    }
    env.rename(renamed)
    env.maybe -= own


def analyse(
    body: Sequence[cst.CSTNode],
    annotations: Mapping[str, str] | None = None,
    sources: Mapping[str, cst.FunctionDef] | None = None,
    stored: Mapping[Slot, Value] | None = None,
    shared: Mapping[str, frozenset[str]] | None = None,
) -> Heap:
    """The heap of a function body in the shape of rules R2 and R3.

    ``annotations`` are those of the function's parameters, if it has any; ``sources``
    the functions that it calls; ``stored`` is what slots hold before, ``shared`` which
    of them may hold one tensor then.
    """
    start = Env(texts={"group": "group", "shared": "self.shared"})
    for name, annotation in (annotations or {}).items():
        start.names[name] = annotated(name, annotation)
    functions = frozenset(sources or ())
    # what a step reads it has stored before: the first round looks at first stores alone
    kinds: dict[Slot, Kind] = {s: v.kind for s, v in (stored or {}).items()}
    sharing: Sharing = dict(shared or {})
    first = True
    while True:
        expressions = Expressions(kinds, stored or {}, sharing, functions, first)
        heap = Heap(expressions, sources)
        begin = replace(start.fork(), sharing=sharing, kinds=kinds)
        heap.solve(body, begin)
        found = {s: k for s, k in expressions.slot_kinds.items()}
        if first:
            found = {s: k for s, k in found.items() if k is not Kind.NONE}
        elif found == kinds:
            merged = _merged(sharing, heap.sharing)
            if merged == sharing:
                return heap
            sharing = merged
        kinds, first = found, False


def _merged(a: Sharing, b: Sharing) -> Sharing:
    return {k: a.get(k, frozenset()) | b.get(k, frozenset()) for k in {**a, **b}}


_ITERABLES = frozenset("List list Tuple tuple Sequence Iterable Size".split())


def annotated(name: str, annotation: str) -> Value:
    """What a parameter with that annotation may be."""
    place = frozenset({Place(f"argument {name}")})
    words = set(re.findall(r"\w+", annotation))
    if "Tensor" in words:
        return Value(Kind.TENSOR, place) if len(words - {"torch"}) == 1 else UNKNOWN
    items = words - _ITERABLES - {"Union", "torch"}
    if words & _ITERABLES and items <= {"int", "float"}:
        return Value(Kind.SEQUENCE, place, SETTING if "float" in items else NUMBER)
    if words and words <= {"int", "bool", "None"}:
        return NUMBER
    if words and words <= {"float", "int", "None"}:
        return SETTING
    if words and words <= {"str", "None"}:
        return OTHER
    return Value(Kind.UNKNOWN, place)
