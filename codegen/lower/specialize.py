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

from collections import Counter
from collections.abc import Collection, Sequence
from typing import cast

import libcst as cst

from codegen.constructor import attribute_function
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.evaluation import Evaluation
from codegen.analysis.liveness import Liveness, liveness
from codegen.lower import facts
from codegen.lower.blocks import (
    NESTED,
    WHOLE,
    group_loop_target,
    keep_comment,
    without_docstring,
)
from codegen.lower.callees import (
    asks_about_number,
    calls_argument,
    calls_through,
    is_torchs,
    returns_parts,
    walks_parameters,
)
from codegen.lower.complex import only_converts
from codegen.lower.fold import UNKNOWN, Frame, fold, known, truth
from codegen.lower.inline import Inliner
from codegen.lower.lists import walk_selection
from codegen.lower.names import hidden_names, rename
from codegen.lower.own import Own, mangled, set_attribute
from codegen.lower.spelling import spelled
from codegen.lower.tuples import flatten_tuple, split_tuple
from codegen.substitution import substitute
from codegen.syntax import (
    HAVE_VALUES,
    Body,
    Statement,
    all_params,
    all_statements,
    assign,
    assignment,
    bare,
    block,
    bound_names,
    call,
    calls,
    dotted,
    ends,
    expr,
    free_names,
    is_constant,
    is_name,
    orelse_statements,
    parenthesize,
    read_names,
    rebuild_if,
    replace_nodes,
    small,
    statements,
    target_names,
    with_comments,
)
from codegen.upstream import (
    Definition,
    External,
    Resolved,
    SourceModule,
    Upstream,
)


def specialize(body: Body, context: Context) -> Body:
    """The definition of ``step`` into its body: dispatch folded, layers inlined.

    Where complex numbers are only ever asked for to see them as pairs of reals, the
    base class hands them over as such, and nothing asks.
    """
    upstream = context.optimizer
    step = upstream.method("step")
    assert step is not None and body == (step.node,)
    specialized = Specializer(upstream, context).function(step)
    context.complex_as_real = only_converts(upstream.reads.values())
    if context.complex_as_real:
        return Specializer(upstream, context, real_views=True).function(step)
    return specialized


class Specializer:
    """Walks statements in order, with what is known at each."""

    def __init__(
        self, upstream: Upstream, context: Context, real_views: bool = False
    ) -> None:
        self.real_views = real_views
        self.upstream = upstream
        self.context = context
        self.origins = context.origins
        self.own = Own(upstream, context)
        self.depth = 0
        self.partials: dict[str, cst.Call] = {}
        self.bindings: Counter[str] = Counter()

    # --- entry --------------------------------------------------------------

    def function(self, definition: Definition, called: bool = False) -> Body:
        """The body of ``step`` specialised to the facts, or of a function that it calls
        with any arguments."""
        node = self.upstream.read(definition)
        self._refuse_decorators(node, definition)
        names = {p.name.value for p in all_params(node.params)}
        frame = Frame(definition.module, self.upstream.library, definition)
        frame.real_views = self.real_views
        body = self.read_body(node, frame, frozenset())
        frame.local = names | bound_names(block(body))
        self.context.taken |= frame.local
        self.bindings.update(n for s in all_statements(body) for n in _binds(s))
        for param in () if called else all_params(node.params):
            if param.name.value == "closure":
                frame.absent.add("closure")
            elif param.default is not None:
                # a step here is handed its loss, and nothing else
                given = known(param.default, frame)
                if given is not UNKNOWN:
                    frame.constants[param.name.value] = given
        return self.block(body, frame, liveness(body))

    def _refuse_decorators(self, node: cst.FunctionDef, where: Definition) -> None:
        """A decorator of the sources at hand must call what it decorates, once, and do
        nothing to tensors by itself."""
        for decorator in node.decorators:
            func = decorator.decorator
            func = func.func if isinstance(func, cst.Call) else func
            name = dotted(func)
            found = self.upstream.library.resolve(where.module, name) if name else None
            if not isinstance(found, Definition) or is_torchs(found):
                continue
            if found.full_name in facts.STEP_DECORATORS:
                continue
            if isinstance(found.node, cst.FunctionDef) and calls_through(found.node):
                continue
            self.context.refuse(
                "lower",
                decorator,
                f"{found.name} may change what {node.name.value} does",
                "do what the decorator does in the function itself",
            )

    def read_body(
        self, node: cst.FunctionDef, frame: Frame, around: Collection[str]
    ) -> Body:
        """A function's statements, its names apart from those around it."""
        body = statements(without_docstring(node.body))
        params = {p.name.value for p in all_params(node.params)}

        def resolve(named: cst.CSTNode) -> str | None:
            return None if read_names(named) & params else frame.full_name(named)

        body = spelled(body, self.context, resolve)
        body = rename(body, hidden_names(body) - params, self.origins)
        own = bound_names(block(body)) | params | frame.local
        body = tuple(
            cast(Statement, self.name_globals(s, frame, own, around)) for s in body
        )
        if frame.owner is not None and "." in frame.owner.name:
            owner = frame.owner.name.partition(".")[0]
            body = tuple(mangled(s, owner, self.origins) for s in body)
        return self._name_groups(body)

    def name_globals(
        self,
        node: cst.CSTNode,
        frame: Frame,
        own: Collection[str],
        around: Collection[str],
    ) -> cst.CSTNode:
        """Module-level names under those by which the whole step knows them."""
        new: dict[str, cst.BaseExpression] = {}
        for name in sorted(read_names(node) - set(own)):
            found = self.upstream.library.resolve(frame.module, name)
            if found is None:
                continue
            known = _well_known(found, name)
            if known is not None:
                new[name] = expr(known)
                frame.aliases[known] = name
                continue
            alias = self.context.name(found, name, around)
            if alias != name:
                frame.aliases[alias] = name
                new[name] = cst.Name(alias)
        return substitute(node, new, self.origins)

    def _name_groups(self, body: Body) -> Body:
        """``for pg in self.param_groups`` → ``for group in …``: one name for all."""
        rename: dict[str, cst.BaseExpression] = {
            target: cst.Name("group")
            for node in all_statements(body)
            if (target := group_loop_target(node)) not in (None, "group")
        }
        if not rename or "group" in bound_names(block(body)):
            return body
        return tuple(cast(Statement, substitute(s, rename, self.origins)) for s in body)

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
        kept = _without_dispatch_comments(node)
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
        test = fold(test, frame, self.origins)
        value = truth(test)
        orelse = orelse_statements(node)
        if value is not None:
            chosen = statements(node.body) if value else orelse
            spliced = list(self.block(chosen, frame, live))
            return keep_comment(node, [*before, *spliced])
        fork = frame.fork()
        body = self.block(statements(node.body), frame, live)
        other = frame.fork()
        other.__dict__.update(fork.__dict__)
        rest = self.block(orelse, other, live)
        _join(frame, body, other, rest)
        if not body and not rest:
            return before
        return [*before, rebuild_if(node, test, body, rest)]

    def _loop(
        self, node: cst.For | cst.While, frame: Frame, live: Liveness
    ) -> list[Statement]:
        before: list[Statement] = []
        if isinstance(node, cst.For):
            node = walk_selection(self._count_from_zero(node), self.context)
            before, walked = self._call_first(node.iter, node, frame, live)
            node = node.with_changes(iter=walked)
        for name in self._rebound_inside(node, frame, live):
            frame.forget(name)
        if isinstance(node, cst.While):
            node = node.with_changes(test=self._folded(node.test, frame))
            if truth(node.test) is False:
                return []
        inner = frame.fork()
        body = self.block(statements(node.body), inner, live)
        frame.join(inner)
        return [*before, node.with_changes(body=block(body))]

    def _count_from_zero(self, node: cst.For) -> cst.For:
        """``for i, x in enumerate(xs, 1)`` counts from zero, and adds one."""
        call, target = node.iter, node.target
        if not isinstance(call, cst.Call) or not is_name(call.func, "enumerate"):
            return node
        if len(call.args) != 2 or not isinstance(target, cst.Tuple):
            return node
        walked, start = call.args
        if read_names(start.value) & bound_names(node):
            self.context.refuse(
                "lower", start.value, "where this count starts changes", "count from 0"
            )
            return node
        head = target.elements[0]
        name = self.context.fresh("position")
        added = start.value if is_constant(start.value) else parenthesize(start.value)
        shifted = cst.BinaryOperation(cst.Name(name), cst.Add(), added)
        bind = assign([head.value], shifted)
        self.origins.inherit(bind, node.iter)
        last = walked.with_changes(comma=cst.MaybeSentinel.DEFAULT)
        first = head.with_changes(value=cst.Name(name))
        return node.with_changes(
            iter=call.with_changes(args=[last]),
            target=target.with_changes(elements=[first, *target.elements[1:]]),
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
        elif (definition := self._callee(node, frame)) and self._must_inline(
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
        if not names & frame.constants.keys():
            return names
        trial = frame.fork()
        for name in target_names(node.target) if isinstance(node, cst.For) else ():
            trial.constants.pop(name, None)
        body = self.block(statements(node.body), trial, live)
        left = bound_names(block(body))
        return left | (names - frame.constants.keys())

    def _with(self, node: cst.With, frame: Frame, live: Liveness) -> list[Statement]:
        items = [i.with_changes(item=self._folded(i.item, frame)) for i in node.items]
        body = self.block(statements(node.body), frame, live)
        return [node.with_changes(items=items, body=block(body))]

    def _try(self, node: cst.Try, frame: Frame, live: Liveness) -> list[Statement]:
        for name in bound_names(node):
            frame.constants.pop(name, None)
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
        for name in own:
            inner.forget(name)
        body = statements(without_docstring(node.body))
        new = self.block(body, inner, liveness(body))
        result = node.with_changes(body=block(new))
        frame.constants.pop(node.name.value, None)
        if self._reaches_out(result):
            name = node.name.value
            whole = Definition(frame.module, f"{NESTED}{name}", node)
            frame.constants[name] = whole
        return [result]

    def _reaches_out(self, node: cst.FunctionDef) -> bool:
        """Whether a nested function changes its arguments, or the variables around it."""
        from codegen.rules.r4_out_of_place.inplace import may_mutate

        params = {p.name.value for p in all_params(node.params)}
        return may_mutate(node, params | free_names(node))

    def _unfold_partial(self, node: Statement, frame: Frame) -> Statement:
        """``f = functools.partial(g, a)`` makes ``f(x)`` mean ``g(a, x)``."""

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if not isinstance(inner, cst.Call) or not isinstance(inner.func, cst.Name):
                return None
            partial = self.partials.get(inner.func.value)
            if partial is None:
                return None
            given = {_keyword(a) for a in inner.args}
            func, *args = partial.args
            plain = [a for a in args if a.keyword is None]
            named = [a for a in args if a.keyword and _keyword(a) not in given]
            return inner.with_changes(
                func=func.value.deep_clone(),
                args=[
                    *(_clone(a) for a in (*plain,)),
                    *inner.args,
                    *map(_clone, named),
                ],
            )

        if not self.partials:
            return node
        return cast(Statement, replace_nodes(node, replace, self.origins))

    def _note_partial(self, node: Statement, frame: Frame) -> list[Statement] | None:
        """Remember a ``partial``, its arguments bound to variables of their own."""
        pair = assignment(node)
        for name in bound_names(node):
            self.partials.pop(name, None)
        if pair is None or not isinstance(pair[0], cst.Name):
            return None
        target, value = pair[0].value, pair[1]
        if not isinstance(value, cst.Call) or not value.args:
            return None
        made = frame.full_name(value.func) == "functools.partial"
        if not made or self._bound_again(target):
            return None
        binds: list[Statement] = []
        args = [value.args[0]]
        for arg in value.args[1:]:
            if arg.star:
                return None
            if not is_constant(arg.value):
                word = _keyword(arg) or target
                name = self.context.fresh(word)
                frame.local.add(name)
                binds.append(assign([cst.Name(name)], arg.value))
                self.origins.inherit(binds[-1], node)
                arg = arg.with_changes(value=cst.Name(name))
            args.append(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT))
        self.partials[target] = value.with_changes(args=args)
        for bind in binds:
            self._learn(bind, frame)
        return binds

    def _bound_again(self, name: str) -> bool:
        """Whether several statements of the step bind a name."""
        return self.bindings.get(name, 0) > 1

    # --- simple statements --------------------------------------------------

    def _simple(self, node: Statement, frame: Frame, live: Liveness) -> list[Statement]:
        original, inner = node, small(node)
        if isinstance(inner, cst.Pass) or self._has_no_effect(inner, frame):
            return []
        partial = self._note_partial(node, frame)
        if partial is not None:
            return partial
        node = set_attribute(self._unfold_partial(node, frame))
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
                self._learn(part, frame)
            return parts
        inlined = self._try_inline(original, folded, frame, live)
        if inlined is not None:
            return inlined
        extracted = self._extract_calls(folded, frame)
        if extracted:
            live.replace(original, extracted)
            return [s for part in extracted for s in self._simple(part, frame, live)]
        self._learn(folded, frame)
        return [folded]

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
        node = self.own.read_properties(node, frame)
        node = self.own.ask_attributes(fold(node, frame, self.origins))
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

    def _learn(self, node: Statement, frame: Frame) -> None:
        """Constants and settings that an assignment makes known."""
        pair = assignment(node)
        constant = known(pair[1], frame) if pair is not None else UNKNOWN
        setting = pair is not None and frame.is_setting(pair[1])
        for name in bound_names(node):
            frame.forget(name)
        if pair is None:
            return
        target, value = pair
        if isinstance(target, cst.Name):
            if constant is not UNKNOWN:
                frame.constants[target.value] = constant
            if setting:
                frame.settings.add(target.value)
            if isinstance(bare(value), (cst.List, cst.ListComp)):
                frame.lists.add(target.value)
        elif isinstance(target, cst.Tuple) and setting:
            frame.settings |= set(target_names(target))

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
        definition = self._callee(value, frame)
        if definition is None:
            return None
        effect = isinstance(inner, cst.Expr)
        if not effect and not self._must_inline(value, definition, frame):
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
        found = _Calls(self, frame)
        # what is itself a call has been tried, and could not be inlined
        new = found.visit(value, whole=not isinstance(inner, cst.AugAssign))
        if not found.prelude:
            return []
        if isinstance(inner, cst.AugAssign) and not isinstance(inner.target, cst.Name):
            self._refuse_late_read(inner, found)
        first = with_comments(found.prelude[0], node)
        last = replace_value(node, new).with_changes(leading_lines=[])
        return [first, *found.prelude[1:], last]

    def _refuse_late_read(self, node: cst.AugAssign, found: _Calls) -> None:
        """``s["k"] += f(s)`` reads ``s["k"]`` before it calls."""
        if found.effects:
            self.context.refuse(
                "lower",
                node,
                "a call changes things while a value is added to",
                "call it in a statement of its own first",
            )

    def _callee(self, call: cst.Call, frame: Frame) -> Definition | None:
        name = dotted(call.func)
        if name is None:
            return self._super_method(call, frame)
        if name.startswith("self.") and name.count(".") == 1:
            method = self.upstream.method(name[5:])
            return method or attribute_function(self.upstream, name[5:])
        constant = frame.constants.get(name)
        if isinstance(constant, Definition):
            return constant
        found = frame.resolve(call.func)
        if found is None and name not in frame.local:
            found = self.context.globals.get(name)
        if isinstance(found, Definition) and isinstance(found.node, cst.FunctionDef):
            return found
        return None

    def _super_method(self, call: cst.Call, frame: Frame) -> Definition | None:
        func = call.func
        if not isinstance(func, cst.Attribute) or not isinstance(func.value, cst.Call):
            return None
        if not is_name(func.value.func, "super") or frame.owner is None:
            return None
        class_name = frame.owner.name.partition(".")[0]
        for cls in self.upstream.lineage:
            if cls.name == class_name:
                return self.upstream.method(func.attr.value, after=cls)
        return None

    def _must_inline(
        self, call: cst.Call, definition: Definition, frame: Frame
    ) -> bool:
        if definition.name.startswith(NESTED):
            return True
        if "." in definition.name and not self.own.needs_no_self(definition):
            return True
        return (
            returns_parts(definition)
            or asks_about_number(call, definition)
            or calls_argument(definition)
            or walks_parameters(definition)
            or any(dotted(a.value) in (*WHOLE, "self") for a in call.args)
            or self.mutates_arguments(definition)
        )

    def changes_something(self, definition: Definition) -> bool:
        """Whether a call may be seen in what is computed after it."""
        body = cast(cst.FunctionDef, definition.node).body
        stores = any(
            isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.Del))
            and not isinstance(n.target, (cst.Name, cst.Tuple))
            for n in walk(body)
        )
        asks = any((dotted(c.func) or "").startswith("self.") for c in calls(body))
        return stores or asks or self.mutates_arguments(definition)

    def mutates_arguments(self, definition: Definition) -> bool:
        """Whether a function may change what it is handed (judged by its syntax)."""
        from codegen.rules.r4_out_of_place.inplace import may_mutate

        node = cast(cst.FunctionDef, definition.node)
        params = {p.name.value for p in all_params(node.params)}
        return may_mutate(node, params)


class _Calls(Evaluation):
    """Calls to be inlined; ``effects`` once one changes something."""

    def __init__(self, specializer: Specializer, frame: Frame) -> None:
        super().__init__(specializer.context)
        self.specializer = specializer
        self.frame = frame
        self.effects = False

    def moves(self, node: cst.CSTNode) -> bool:
        return self._definition(node) is not None

    def _definition(self, node: cst.CSTNode) -> Definition | None:
        if not isinstance(node, cst.Call):
            return None
        found = self.specializer._callee(node, self.frame)
        if found is None or not self.specializer._must_inline(node, found, self.frame):
            return None
        self.effects |= self.specializer.changes_something(found)
        return found

    def is_steady(self, node: cst.BaseExpression) -> bool:
        return not self.effects or super().is_steady(node)

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        found = cast(Definition, self._definition(node))
        called = cast(cst.FunctionDef, found.node).name.value
        name = self.context.fresh(called.strip("_"))
        self.frame.local.add(name)
        bind = assign([cst.Name(name)], node)
        self.context.origins.inherit(bind, node)
        self.prelude.append(bind)
        return cst.Name(name)


def _keyword(arg: cst.Arg) -> str | None:
    return None if arg.keyword is None else arg.keyword.value


def _clone(arg: cst.Arg) -> cst.Arg:
    return arg.with_changes(value=arg.value.deep_clone())


def _binds(node: Statement) -> set[str]:
    """Names that a statement itself binds, not those inside it."""
    return bound_names(node) if small(node) is not None else set()


def replace_value(node: Statement, value: cst.BaseExpression) -> Statement:
    """An assignment, return or expression statement with another right-hand side."""
    line = cast(cst.SimpleStatementLine, node)
    return line.with_changes(body=[line.body[0].with_changes(value=value)])


def _well_known(found: Resolved, name: str) -> str | None:
    """``math.sqrt`` for a ``sqrt`` of math's, ``torch`` for torch by another name: the
    rules know these by their own."""
    if isinstance(found, SourceModule):
        full = found.name
    else:
        full = found.full_name if isinstance(found, External) else ""
    known = full in ("math", "torch") or full.startswith("math.")
    return full if known and full != name else None


def _join(frame: Frame, body: Body, other: Frame, rest: Body) -> None:
    if body and ends(body[-1]):
        frame.__dict__.update(other.__dict__)
    elif not (rest and ends(rest[-1])):
        frame.join(other)
    frame.local |= other.local


def _without_dispatch_comments(node: Statement) -> Statement:
    kept = [
        line
        for line in node.leading_lines
        if line.comment is None or not facts.DISPATCH_COMMENT.search(line.comment.value)
    ]
    return node.with_changes(leading_lines=kept)
