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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import libcst as cst

from codegen.analysis.annotations import annotated
from codegen.analysis.bindings import Bindings
from codegen.analysis.conditions import is_steady, may_change
from codegen.analysis.environment import Env
from codegen.analysis.expressions import Expressions
from codegen.analysis.indices import COUNT, computed
from codegen.analysis.keys import is_constant_key
from codegen.analysis.liveness import Liveness, liveness
from codegen.analysis.sharing import SharedSlots, Sharing, merged
from codegen.analysis.store import Shape
from codegen.analysis.summaries import Ended, Frame, Functions, Summaries
from codegen.analysis.turns import (
    in_state,
    inside,
    leave_group,
    leave_item,
    made_at,
    objects,
)
from codegen.analysis.values import (
    ANY,
    CONTAINERS,
    GRADIENTS,
    OTHER,
    UNKNOWN,
    VIEWED,
    Kind,
    Place,
    Slot,
    Value,
    is_many,
    join,
    of_another,
    of_another_group,
)
from codegen.diagnostics import walk
from codegen.ir.cfg import Edge, Node, control_flow, evaluated_at
from codegen.ir.loops import Loop, Walk
from codegen.ir.solve import MOST_VISITS, Unsolved, forward
from codegen.syntax import all_params, code, is_name, lazy_parts, small, statements


class Heap:
    """The environment before each statement of a body.

    ``expressions`` evaluates what stands in one; ``shared`` collects which slots may
    hold one tensor when the step ends.
    """

    def __init__(
        self, expressions: Expressions, functions: Functions, depth: int = 0
    ) -> None:
        self.expressions = expressions
        self.functions = functions
        self.bindings = Bindings(expressions)
        self.calls = Summaries(expressions, functions, depth, self._enter)
        self.before: dict[cst.CSTNode, Env] = {}
        self.ended = Env()
        self.returned: Value | None = None
        self.shared = SharedSlots()
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
            kind: inside(kind, body) for kind in (Walk.PARAMETERS, Walk.GROUPS)
        }
        graph = control_flow(body)
        found = forward(graph, env, self._transfer, Env.joined)
        for node in graph.nodes:
            if node in found and node.statement is not None:
                self.before[node.statement] = found[node].fork()
                self._age_sites(node.statement, self.before[node.statement])
        last = self.ended = found.get(graph.exit, env)
        if not self.calls.depth:
            self.shared.note(last)
        return last

    def _transfer(self, node: Node, edge: Edge, env: Env) -> Env | None:
        after = self._left(node, edge, env.fork())
        if edge is Edge.RAISED and after is not None:
            return env.joined(after)  # it may be left before it has done anything
        return after

    def _left(self, node: Node, edge: Edge, env: Env) -> Env | None:
        """What holds where a statement is left; None where it can't be left so."""
        statement = node.statement
        if statement is None or isinstance(statement, (cst.Try, cst.Finally)):
            return env
        self._age_sites(statement, env)
        self._inner_calls(statement, env)
        value = partial(self._seen, env=env)
        head = evaluated_at(statement)
        if head is not None and may_change(head, value):
            env.forget_conditions()
        if isinstance(statement, cst.For):
            self._loop(statement, edge, env)
        elif isinstance(statement, (cst.If, cst.While)):
            self.value(statement.test, env)
            self._walrus(statement.test, env)
            found = self._is_member(statement.test, env)
            if found is not None and found is not (edge is Edge.TRUE):
                return None
            if isinstance(statement, cst.If) and is_steady(statement.test, value):
                env.assume((code(statement.test), edge is Edge.TRUE))
        elif isinstance(statement, cst.With):
            for item in statement.items:
                if item.asname is not None:
                    self.bindings.bind(item.asname.name, UNKNOWN, env)
        elif isinstance(statement, cst.ExceptHandler):
            if statement.name is not None:
                self.bindings.bind(statement.name.name, OTHER, env)
        elif isinstance(statement, cst.FunctionDef):
            self._function(statement, env)
        else:
            self._simple(statement, env)
        return env

    def _seen(self, node: cst.BaseExpression, env: Env) -> Value:
        """What is evaluated here, perhaps: that shows no slot to be there."""
        return self.value(node, env.fork())

    def _age_sites(self, statement: cst.CSTNode, env: Env) -> None:
        """What this statement made in an earlier turn is not what it makes now."""
        head = evaluated_at(statement)
        if head is None:
            return
        sites = self.expressions.sites
        own = {sites[n] for n in walk(head) if n in sites}
        if own:
            env.age([o for o in objects(env) if made_at(o) in own and not is_many(o)])

    # --- loops

    def _loop(self, node: cst.For, edge: Edge, env: Env) -> None:
        loop = Loop.of(node)
        walk = loop.walk
        if walk in (Walk.PARAMETERS, Walk.GROUPS) and not self.calls.depth:
            self.shared.note(env)
        if walk is Walk.PARAMETERS:
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
            self.bindings.bind(loop.position, COUNT, env)
        for number, item in enumerate(loop.items):
            self._bind_item(item.target, item.source, walk, number, env)

    def _leave_turn(self, walk: Walk, env: Env) -> None:
        """What the turn of a parameter, or of a group, made and held is another's now."""
        leave_item(env)
        if walk is Walk.GROUPS:
            env.drop_conditions("group")
            leave_group(env)
        within, sites = self.within[walk], self.expressions.sites
        own = {number for made, number in sites.items() if made in within}
        whose = of_another if walk is Walk.PARAMETERS else of_another_group
        env.age([o for o in objects(env) if made_at(o) in own], whose)

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
            self.bindings.bind(target, param, env)
            env.slots[Slot("param", ".data")] = replace(param, parameter=False)
            env.texts["param"] = target.value
            env.texts["state"] = "self.state[group_idx][p_idx]"
            env.origins["param"] = self.expressions.sharing.get("param", frozenset())
            # but for what earlier steps made one, the items of a state are different
            env.distinct -= {"state"}
            if not any(map(in_state, self.expressions.sharing)):
                env.distinct |= {"state"}
            state = Value(Kind.MAPPING, frozenset({Place("state")}))
            self.expressions.find_shared(state, env)
        elif is_name(source, "grads") or is_name(source, "group_grads"):
            if walk is Walk.PARAMETERS:
                grad = Value(Kind.TENSOR, frozenset({Place("grad")}))
                self.bindings.bind(target, grad, env)
                env.slots[Slot("grads", "p_idx")] = grad
                env.texts["grads"] = code(source)
            else:
                self.bindings.bind(target, UNKNOWN, env)
        elif walk is Walk.GROUPS and number < 2:
            beside = is_name(source, "grouped_grads")
            self.bindings.bind(target, GRADIENTS if beside else OTHER, env)
            if not beside:
                group = Value(Kind.MAPPING, frozenset({Place("group")}))
                self.expressions.find_shared(group, env)
        else:
            self.bindings.bind(target, self.expressions.item_of(source, env), env)

    # --- simple statements

    def _simple(self, node: cst.CSTNode, env: Env) -> None:
        inner = small(node)
        if isinstance(inner, cst.Assign):
            value = self.value(inner.value, env)
            for target in inner.targets:
                self.bindings.bind(target.target, value, env, inner.value)
        elif isinstance(inner, cst.AnnAssign) and inner.value is not None:
            self.bindings.bind(
                inner.target, self.value(inner.value, env), env, inner.value
            )
        elif isinstance(inner, cst.AugAssign):
            self._augmented(inner, env)
        elif isinstance(inner, cst.Del):
            self.bindings.delete(inner.target, env)
        elif isinstance(inner, cst.Return) and inner.value is not None:
            self.returned = join(self.returned, self.value(inner.value, env))
        elif isinstance(inner, cst.Expr):
            self.value(inner.value, env)
            env.forget_computed_keys()
        if inner is not None:
            self._walrus(inner, env)
            whole = getattr(inner, "value", None)
            if isinstance(whole, cst.Call):
                self.bindings.call(whole, env)

    def _is_member(self, test: cst.BaseExpression, env: Env) -> bool | None:
        """Whether ``"k" in d`` comes out true, where a slot surely exists, or can't."""
        if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
            return None
        asked = test.comparisons[0]
        if not isinstance(asked.operator, (cst.In, cst.NotIn)):
            return None
        place, key = self.value(asked.comparator, env).place, code(test.left)
        kind = self.value(asked.comparator, env).kind
        if place is None or kind is not Kind.MAPPING or not is_constant_key(key):
            return None
        slot, found = Slot(place.obj, key), isinstance(asked.operator, cst.In)
        if slot in env.slots:
            return None if slot in env.possibly_absent else found
        return None if env.may_have(slot) else not found

    def _inner_calls(self, statement: cst.CSTNode, env: Env) -> None:
        """Containers that are changed while a statement is evaluated."""
        head, whole = evaluated_at(statement), getattr(small(statement), "value", None)
        for call in walk(head) if head is not None else ():
            if isinstance(call, cst.Call) and call is not whole:
                self.bindings.call(call, env, whole=False)

    def _walrus(self, node: cst.CSTNode, env: Env) -> None:
        found = [n for n in walk(node) if isinstance(n, cst.NamedExpr)]
        lazy = [p for n in walk(node) for p in lazy_parts(n)] if found else []
        later = {n for part in lazy for n in walk(part)}
        inner = {n for c in walk(node) if isinstance(c, cst.BaseComp) for n in walk(c)}
        for named in found:
            value = ANY if named in inner else self.value(named.value, env)
            self.bindings.bind(named.target, value, env, weak=named in later)

    def _augmented(self, node: cst.AugAssign, env: Env) -> None:
        before = self.value(node.target, env)
        added = self.value(node.value, env)
        env.forget_computed_keys()
        if before.kind in CONTAINERS:
            self._extended(node, before, added, env)
            return
        if before.kind is Kind.TENSOR:
            return
        kind = self.expressions.arithmetic([before, added])
        if kind is Kind.UNKNOWN and before.places:
            # in place, if it is a tensor
            self.bindings.bind(node.target, replace(before, kind=kind), env)
            return
        outer, self.expressions.site = self.expressions.site, node
        made = self.expressions.fresh(kind)
        made = replace(made, selects=computed(node, [before, added]))
        self.expressions.site = outer
        self.bindings.bind(node.target, made, env)

    def _extended(
        self, node: cst.AugAssign, before: Value, added: Value, env: Env
    ) -> None:
        """``bufs += [x]`` and ``slots |= {"x": y}`` change the very container."""
        if before.place is not None:
            if isinstance(node.operator, cst.AddAssign):
                self.bindings.extend(before.place.obj, added, env)
                return
            if (
                isinstance(node.operator, cst.BitOrAssign)
                and before.kind is Kind.MAPPING
            ):
                self.bindings.update(before.place.obj, added, env)
                return
        for place in before.places:
            env.summarize(place.obj, join(before.item, env.contents(added)))

    # --- functions

    def _function(self, node: cst.FunctionDef, env: Env) -> None:
        """A nested function: its parameters are unknown, the rest is captured."""
        made = Place(f"function {node.name.value} {len(self.calls.nested)}")
        known = (o for o, n in self.calls.nested.items() if n is node)
        made = Place(next(known, made.obj))
        self.calls.nested[made.obj] = node
        inside = env.fork()
        for param in all_params(node.params):
            inside.names[param.name.value] = Value(
                Kind.UNKNOWN, frozenset({Place(f"argument {param.name.value}")})
            )
        inner = Heap(self.expressions, self.functions, self.calls.depth)
        inner.solve(statements(node.body), inside)
        self.before.update(inner.before)
        self.expressions.calls = self.calls
        env.forget_name(node.name.value)
        env.names[node.name.value] = Value(Kind.OTHER, frozenset({made}))

    def _enter(self, function: cst.FunctionDef, prefix: str, inside: Env) -> Ended:
        """Analyse a function that is called, with its own names for what it makes."""
        outer = self.expressions
        expressions = Expressions(
            outer.slot_kinds, outer.stored, outer.sharing, outer.functions, outer.first
        )
        expressions.prefix, expressions.tuples = prefix, outer.tuples
        expressions.constructed, expressions.viewed = outer.constructed, outer.viewed
        expressions.operations = outer.operations
        inner = Heap(expressions, self.functions, self.calls.depth + 1)
        last = inner.solve(statements(function.body), inside)
        returned = inner.returned
        if returned is not None and returned.kind is Kind.OTHER and inner.calls.nested:
            returned = UNKNOWN  # a function that a function makes
        return Ended(last, returned, Frame(expressions.sites, inner.before))


def analyse(
    body: Sequence[cst.CSTNode],
    annotations: Mapping[str, str] | None = None,
    sources: Mapping[str, cst.FunctionDef] | None = None,
    stored: Mapping[Slot, Value] | None = None,
    shared: Mapping[str, frozenset[str]] | None = None,
    operations: Mapping[str, str] | None = None,
) -> Heap:
    """The heap of a function body in the shape of rules R2 and R3.

    ``annotations`` are those of the function's parameters, if it has any; ``sources``
    the functions that it calls; ``stored`` is what slots hold before, ``shared`` which
    of them may hold one tensor then; ``operations`` are names of the body's that mean
    operations of the table.
    """
    start = Env(texts={"group": "group", "shared": "self.shared"})
    for name, annotation in (annotations or {}).items():
        start.names[name] = annotated(name, annotation)
    functions = frozenset(sources or ())
    # what a step reads it has stored before: the first round looks at first stores alone
    kinds: dict[Slot, Kind] = {s: v.kind for s, v in (stored or {}).items()}
    sharing: Sharing = {n: o - {VIEWED} for n, o in (shared or {}).items()}
    viewed = {n for n, others in (shared or {}).items() if VIEWED in others}
    tuples: set[str] = set()
    shapes: dict[str, Shape] | None = None
    order = {n: i for i, n in enumerate((n for s in body for n in walk(s)), 1)}
    first, rounds = True, 0
    while True:
        rounds += 1
        if rounds > MOST_VISITS:
            raise Unsolved(body[0] if body else None)
        expressions = Expressions(kinds, stored or {}, sharing, functions, first, order)
        expressions.tuples |= tuples
        expressions.operations = dict(operations or {})
        expressions.constructed, expressions.viewed = shared or {}, viewed
        heap = Heap(expressions, Functions(sources or {}))
        begin = replace(start.fork(), sharing=sharing, kinds=kinds, shapes=shapes)
        shared_by_all = Value(Kind.MAPPING, frozenset({Place("shared")}))
        expressions.find_shared(shared_by_all, begin)
        heap.solve(body, begin)
        found = {s: k for s, k in expressions.slot_kinds.items()}
        if first:
            found = {s: k for s, k in found.items() if k is not Kind.NONE}
            shapes = heap.shared.shapes_but(stored or {})
        elif found == kinds:
            more = merged(sharing, heap.shared.found)
            same = heap.shared.agrees(shapes or {})
            views = viewed | heap.shared.viewed
            if more == sharing and same == shapes and views == viewed:
                return heap
            sharing, shapes, viewed = more, same, views
        # what the step makes is named anew in each round
        tuples = {o for o in expressions.tuples if not o.startswith(expressions.prefix)}
        kinds, first = found, False
