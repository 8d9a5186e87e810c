"""One straight function out of upstream's layers: dispatch folded, calls inlined.

    nadam(params, …, foreach=group["foreach"])      for i, param in enumerate(params):
    def nadam(…):                              →        grad = grads[i]
        func = _multi if foreach else _single           …
        func(params, …)

Calls are inlined where they can change their arguments: functions called for
their effect, methods of the optimizer, functions that are handed parallel lists.
Pure helpers stay calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.analysis.liveness import Liveness, liveness
from codegen.context import Context
from codegen.inplace import may_mutate
from codegen.lower import facts
from codegen.lower.blocks import NESTED, keep_comment, without_docstring
from codegen.lower.called import called
from codegen.lower.calling import Callees, CallExtractor
from codegen.lower.complex import only_converts
from codegen.lower.fold import fold
from codegen.lower.frame import NOT_KNOWN, Frame, join_branches, known
from codegen.lower.inline import Inliner
from codegen.lower.kinds import learn, learn_loop, learn_test, only_computes
from codegen.lower.lists import walk_selection
from codegen.lower.literals import truth
from codegen.lower.own import SelfResolver, set_attribute
from codegen.lower.partials import Partials
from codegen.lower.reading import Reader
from codegen.lower.tuples import flatten_tuple, split_tuple
from codegen.lower.unfilled import without_unfilled
from codegen.purity import effects
from codegen.substitution import substitute
from codegen.syntax import (
    HAVE_VALUES,
    Body,
    Statement,
    all_params,
    assign,
    assignment,
    block,
    bound_names,
    dotted,
    ends,
    free_names,
    is_constant,
    is_name,
    orelse_statements,
    read_names,
    rebuild_if,
    replace_nodes,
    small,
    statements,
    target_names,
    with_comments,
)
from codegen.upstream import Definition, Upstream


def specialize(body: Body, context: Context) -> Body:
    """The definition of ``step`` into its body: dispatch folded, layers inlined.

    Where complex numbers are only ever asked for to see them as pairs of reals, the
    base class hands them over as such, and nothing asks.
    """
    upstream = context.optimizer
    step = upstream.method("step")
    assert step is not None and body == (step.node,)
    refused, real_views = len(context.diagnostics), False
    while True:
        known = len(context.kept_tensors)
        specialized = Specializer(upstream, context, real_views).function(step)
        again = context.asked_settings and len(context.kept_tensors) > known
        if not real_views and only_converts(specialized, context):
            real_views = again = context.complex_as_real = True
        if not again:
            return without_unfilled(specialized)
        del context.diagnostics[refused:]


class Specializer:
    """Walks statements in order, with what is known at each."""

    def __init__(
        self, upstream: Upstream, context: Context, real_views: bool = False
    ) -> None:
        self.real_views = real_views
        self.upstream = upstream
        self.context = context
        self.origins = context.origins
        self.own = SelfResolver(upstream, context)
        self.depth = 0
        self.partials = Partials(context)
        self.reader = Reader(upstream, context)
        self.callees = Callees(context, self.own)

    # --- entry --------------------------------------------------------------

    def function(self, definition: Definition, called: bool = False) -> Body:
        """The body of ``step`` specialised to the facts, or of a function that it calls
        with any arguments."""
        node = self.upstream.read(definition)
        self.reader.refuse_decorators(node, definition)
        names = {p.name.value for p in all_params(node.params)}
        frame = Frame(definition.module, self.context, definition)
        frame.real_views = self.real_views
        body = self.reader.read_body(node, frame, frozenset())
        frame.local = names | bound_names(block(body))
        self.context.taken |= frame.local
        self.partials.count(body)
        for param in () if called else all_params(node.params):
            if param.name.value == "closure":
                frame.absent.add("closure")
            elif param.default is not None:
                # a step here is handed its loss, and nothing else
                given = known(param.default, frame)
                if given is not NOT_KNOWN:
                    frame.constants[param.name.value] = given
        body = self.block(body, frame, liveness(body))
        self.reader.refuse_unsettled(body, frame.local)
        return body

    # --- blocks -------------------------------------------------------------

    def block(self, body: Sequence[Statement], frame: Frame, live: Liveness) -> Body:
        result: list[Statement] = []
        for node in body:
            new = self.statement(node, frame, live)
            new = [self._without_dispatch_comments(s) for s in new]
            self._pass_comments_on(node, new)
            result.extend(new)
            if new and ends(new[-1]):
                break
        return tuple(result)

    def _without_dispatch_comments(self, node: Statement) -> Statement:
        kept = facts.without_dispatch_comments(node)
        self.origins.inherit(kept, node)
        return kept

    def _pass_comments_on(self, old: Statement, new: list[Statement]) -> None:
        for node in new:
            self.origins.inherit(node, old)

    def statement(
        self, node: Statement, frame: Frame, live: Liveness
    ) -> list[Statement]:
        if isinstance(node, cst.If):
            return self._if(node, frame, live)
        if isinstance(node, (cst.For, cst.While)):
            return self._loop(node, frame, live)
        if isinstance(node, cst.With):
            return self._with(node, frame, live)
        if isinstance(node, cst.Try):
            return self._try(node, frame, live)
        if isinstance(node, cst.FunctionDef):
            return self._nested_function(node, frame)
        return self._simple(node, frame, live)

    def _if(self, node: cst.If, frame: Frame, live: Liveness) -> list[Statement]:
        before, test = self._call_first(node.test, node, frame, live)
        test = fold(test, frame, asked=True)
        value = truth(test)
        orelse = orelse_statements(node)
        if value is not None:
            chosen = statements(node.body) if value else orelse
            spliced = list(self.block(chosen, frame, live))
            return keep_comment(node, [*before, *spliced])
        for name in bound_names(test):
            frame.forget(name)
        if not only_computes(test):
            frame.forget_paths()
        other = frame.fork()
        learn_test(test, True, frame)
        learn_test(test, False, other)
        body = self.block(statements(node.body), frame, live)
        rest = self.block(orelse, other, live)
        join_branches(frame, body, other, rest)
        if not body and not rest:
            return [*before, *self._effects(test, node, frame, live)]
        return [*before, rebuild_if(node, test, body, rest)]

    def _loop(
        self, node: cst.For | cst.While, frame: Frame, live: Liveness
    ) -> list[Statement]:
        before: list[Statement] = []
        if isinstance(node, cst.For):
            node = walk_selection(self._count_from_zero(node, before), frame, fold)
            before = list(self.block(before, frame, live))
            calls, walked = self._call_first(node.iter, node, frame, live)
            before += calls
            node = node.with_changes(iter=walked)
        for name in self._rebound_inside(node, frame, live):
            frame.forget(name)
        if isinstance(node, cst.While):
            node = node.with_changes(test=self._folded(node.test, frame))
            if truth(node.test) is False:
                return []
        frame.forget_paths()
        inner = frame.fork()
        if isinstance(node, cst.For):
            learn_loop(node, inner)
        body = self.block(statements(node.body), inner, live)
        frame.join(inner)
        node = node.with_changes(body=block(body))
        if node.orelse is not None:
            last = frame.fork()
            rest = self.block(statements(node.orelse.body), last, live)
            node = node.with_changes(orelse=node.orelse.with_changes(body=block(rest)))
            frame.join(last)
        return [*before, node]

    def _count_from_zero(self, node: cst.For, before: list[Statement]) -> cst.For:
        """``for i, x in enumerate(xs, 1)`` counts from zero, and adds one."""
        call, target = node.iter, node.target
        if not isinstance(call, cst.Call) or not is_name(call.func, "enumerate"):
            return node
        if len(call.args) != 2 or not isinstance(target, cst.Tuple):
            return node
        walked, start = call.args
        if not is_constant(start.value):
            first = self.context.fresh("start")
            before.append(assign([cst.Name(first)], start.value))
            self.origins.inherit(before[-1], node.iter)
            start = cst.Arg(cst.Name(first))
        head, name = target.elements[0], cst.Name(self.context.fresh("position"))
        bind = assign([head.value], cst.BinaryOperation(name, cst.Add(), start.value))
        self.origins.inherit(bind, node.iter)
        items = [head.with_changes(value=name.deep_clone()), *target.elements[1:]]
        return node.with_changes(
            iter=call.with_changes(args=[cst.Arg(walked.value)]),
            target=target.with_changes(elements=items),
            body=block([bind, *statements(node.body)]),
        )

    def _call_first(
        self,
        node: cst.BaseExpression,
        statement: Statement,
        frame: Frame,
        live: Liveness,
    ) -> tuple[list[Statement], cst.BaseExpression]:
        """What a statement tests or walks, its calls that must be seen through made
        before it."""
        node = self._folded(node, frame)
        whole = cst.SimpleStatementLine([cst.Expr(node)])
        self.origins.inherit(whole, node)
        parts = self._extract_calls(whole, frame)
        if len(parts) > 1:
            node = cast(cst.Expr, small(parts[-1])).value
        elif not isinstance(node, cst.Call):
            parts = []
        elif (definition := called(node, frame)) and self.callees.must_inline(
            node, definition, frame
        ):
            name = self.context.fresh(definition.name.rpartition(".")[2].strip("_"))
            frame.local.add(name)
            parts = [assign([cst.Name(name)], node), whole]
            self.origins.inherit(parts[0], whole)
            node = cst.Name(name)
        live.replace(statement, parts, read_names(statement))
        before = [s for p in parts[:-1] for s in self._simple(p, frame, live)]
        return before, node

    def _rebound_inside(
        self, node: cst.For | cst.While, frame: Frame, live: Liveness
    ) -> set[str]:
        """Names that a loop binds, dead branches left out."""
        names = bound_names(node)
        rebound = names - frame.constants.keys()
        if isinstance(node, cst.For):
            rebound |= set(target_names(node.target))
        while rebound != names:
            trial = frame.fork()
            for name in rebound:
                trial.forget(name)
            body = self.block(statements(node.body), trial, live)
            more = bound_names(block(body)) & names - rebound
            if not more:
                break
            rebound |= more
        return rebound

    def _with(self, node: cst.With, frame: Frame, live: Liveness) -> list[Statement]:
        items = [i.with_changes(item=self._folded(i.item, frame)) for i in node.items]
        for name in set().union(*map(bound_names, items)):
            frame.forget(name)
        frame.forget_paths()
        body = self.block(statements(node.body), frame, live)
        return [node.with_changes(items=items, body=block(body))]

    def _try(self, node: cst.Try, frame: Frame, live: Liveness) -> list[Statement]:
        for name in bound_names(node):
            frame.forget(name)
        frame.forget_paths()
        body = self.block(statements(node.body), frame.fork(), live)
        handlers = [
            h.with_changes(
                body=block(self.block(statements(h.body), frame.fork(), live))
            )
            for h in node.handlers
        ]
        changes: dict[str, object] = {"body": block(body), "handlers": handlers}
        for part in ("orelse", "finalbody"):
            old = getattr(node, part)
            if old is not None:
                new = self.block(statements(old.body), frame.fork(), live)
                changes[part] = old.with_changes(body=block(new))
        return [node.with_changes(**changes)]

    def _nested_function(self, node: cst.FunctionDef, frame: Frame) -> list[Statement]:
        inner = frame.fork()
        own = {p.name.value for p in all_params(node.params)} | bound_names(node.body)
        inner.local |= own
        inner.kinds.clear()
        for known_name in own | free_names(node):
            inner.forget(known_name)  # variables around it are read when it is called
        body = statements(without_docstring(node.body))
        new = self.block(body, inner, liveness(body))
        result = node.with_changes(body=block(new))
        name = node.name.value
        frame.constants.pop(name, None)
        if self._reaches_out(result):
            frame.constants[name] = Definition(frame.module, f"{NESTED}{name}", node)
        return [result]

    def _reaches_out(self, node: cst.FunctionDef) -> bool:
        """Whether a nested function changes its arguments, or the variables around it."""
        names = {p.name.value for p in all_params(node.params)} | free_names(node)
        return may_mutate(node, names)

    # --- simple statements --------------------------------------------------

    def _simple(self, node: Statement, frame: Frame, live: Liveness) -> list[Statement]:
        original, inner = node, small(node)
        if isinstance(inner, cst.Pass):
            return []
        if self._has_no_effect(inner, frame):
            value = cast(cst.Expr, inner).value
            told = [a.value for a in value.args] if isinstance(value, cst.Call) else ()
            return [s for v in told for s in self._effects(v, node, frame, live)]
        partial = self.partials.note(node, frame)
        if partial is not None:
            return partial
        node = set_attribute(self.partials.unfold(node, frame))
        if self.own.sets_property(node):
            return []
        folded = self._folded(node, frame)
        self.origins.inherit(folded, node)
        inner = small(folded)
        if isinstance(inner, cst.Assert):
            return [] if truth(inner.test) is True else [folded]
        folded = self._written_out(folded)
        folded = cast(Statement, replace_nodes(folded, flatten_tuple, self.origins))
        parts = split_tuple(folded)
        if len(parts) != 1:
            for part in parts:
                learn(part, frame)
            return parts
        inlined = self._try_inline(original, folded, frame, live)
        if inlined is not None:
            return inlined
        extracted = self._extract_calls(folded, frame)
        if extracted:
            live.replace(original, extracted)
            return [s for part in extracted for s in self._simple(part, frame, live)]
        learn(folded, frame)
        return [folded]

    def _effects(
        self, node: cst.BaseExpression, like: Statement, frame: Frame, live: Liveness
    ) -> list[Statement]:
        """What is left of an expression whose value nobody needs."""
        lines = effects(node)
        for line in lines:
            self.origins.inherit(line, like)
        live.replace(like, lines, read_names(like))
        return [s for line in lines for s in self.statement(line, frame, live)]

    def _written_out(self, node: Statement) -> Statement:
        """``m, v = (state[k] for k in ("m", "v"))``, item by item."""
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], (cst.Tuple, cst.List)):
            return node
        value = pair[1]
        if not isinstance(value, (cst.GeneratorExp, cst.ListComp)):
            return node
        loop = value.for_in
        if loop.ifs or loop.inner_for_in or not isinstance(loop.target, cst.Name):
            return node
        if not isinstance(loop.iter, (cst.Tuple, cst.List)):
            return node
        items = [e.value for e in loop.iter.elements]
        if not all(is_constant(i) for i in items):
            return node
        name = loop.target.value
        elements = [
            cst.Element(
                cast(
                    cst.BaseExpression,
                    substitute(value.elt.deep_clone(), {name: item}, self.origins),
                )
            )
            for item in items
        ]
        return replace_value(node, cst.Tuple(elements))

    def _folded(self, node: cst.CSTNodeT, frame: Frame) -> cst.CSTNodeT:
        """What is known folded; what is read of the optimizer itself made plain."""
        frame.forget_named(node)
        node = self.own.read_properties(node, frame)
        node = self.own.ask_attributes(fold(node, frame))
        return self.own.name_methods(node, frame)

    def _has_no_effect(self, node: cst.CSTNode | None, frame: Frame) -> bool:
        if not isinstance(node, cst.Expr):
            return False
        if not isinstance(node.value, cst.Call):
            return isinstance(node.value, (cst.BaseString, cst.Ellipsis))
        func = node.value.func
        name = dotted(func) or ""
        if name.startswith("self."):
            return name[5:] in facts.NO_EFFECT_METHODS
        return frame.full_name(func) in facts.NO_EFFECT_CALLS

    # --- inlining -----------------------------------------------------------

    def _try_inline(
        self, original: Statement, node: Statement, frame: Frame, live: Liveness
    ) -> list[Statement] | None:
        """Replace a statement that is a call (or assigns, or returns one)."""
        inner = small(node)
        target: cst.BaseExpression | None = None
        value: cst.BaseExpression | None = None
        if isinstance(inner, cst.Expr):
            value = inner.value
        elif isinstance(inner, cst.Return):
            value = inner.value
        elif (pair := assignment(node)) is not None:
            target, value = pair
        if not isinstance(value, cst.Call):
            return None
        definition = called(value, frame)
        if definition is None:
            return None
        effect = isinstance(inner, cst.Expr)
        if not effect and not self.callees.must_inline(value, definition, frame):
            return None
        after = live.after.get(original, frozenset(frame.local))
        is_return = isinstance(inner, cst.Return)
        return Inliner(self, definition, value, frame, after).run(
            target, is_return, node
        )

    def _extract_calls(self, node: Statement, frame: Frame) -> list[Statement]:
        """Calls to be inlined that stand inside an expression: each gets a statement."""
        inner = small(node)
        value = getattr(inner, "value", None)
        if not isinstance(inner, HAVE_VALUES) or value is None:
            return []
        found = CallExtractor(self.callees, frame)
        # what is itself a call has been tried, and could not be inlined
        new = found.visit(value, whole=not isinstance(inner, cst.AugAssign))
        if not found.prelude:
            return []
        if isinstance(inner, cst.AugAssign) and not isinstance(inner.target, cst.Name):
            self._refuse_late_read(inner, found)
        first = with_comments(found.prelude[0], node)
        last = replace_value(node, new).with_changes(leading_lines=[])
        return [first, *found.prelude[1:], last]

    def _refuse_late_read(self, node: cst.AugAssign, found: CallExtractor) -> None:
        """``s["k"] += f(s)`` reads ``s["k"]`` before it calls."""
        if found.effects:
            self.context.refuse(
                "lower",
                node,
                "a call changes things while a value is added to",
                "call it in a statement of its own first",
            )


def replace_value(node: Statement, value: cst.BaseExpression) -> Statement:
    """An assignment, return or expression statement with another right-hand side."""
    line = cast(cst.SimpleStatementLine, node)
    return line.with_changes(body=[line.body[0].with_changes(value=value)])
