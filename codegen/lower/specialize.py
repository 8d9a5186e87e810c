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
from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen.constructor import attribute_function
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.liveness import Liveness, liveness
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
    is_property,
    is_torchs,
    returns_parts,
    walks_parameters,
)
from codegen.lower.fold import UNKNOWN, Frame, fold, known, truth
from codegen.lower.inline import Inliner
from codegen.lower.lists import walk_selection
from codegen.lower.tuples import flatten_tuple, split_tuple
from codegen.syntax import (
    Body,
    Statement,
    all_params,
    all_statements,
    assign,
    assignment,
    bare,
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
    substitute,
    target_names,
    with_comments,
)
from codegen.upstream import Definition, Upstream

_CONDITIONAL = (cst.IfExp, cst.BooleanOperation, cst.Lambda, cst.CompFor)


class Specializer:
    """Walks statements in order, with what is known at each."""

    def __init__(
        self, upstream: Upstream, context: Context, real_views: bool = False
    ) -> None:
        self.real_views = real_views
        self.upstream = upstream
        self.context = context
        self.origins = context.origins
        self.taken: set[str] = set()
        self.depth = 0
        self.partials: dict[str, cst.Call] = {}
        self.bindings: Counter[str] = Counter()

    # --- entry --------------------------------------------------------------

    def function(self, definition: Definition) -> Body:
        """The body of ``step`` specialised to the facts."""
        node = self.upstream.read(definition)
        self._refuse_decorators(node, definition)
        body = self._name_groups(statements(without_docstring(node.body)))
        names = {p.name.value for p in all_params(node.params)}
        frame = Frame(definition.module, self.upstream.library, definition)
        frame.real_views = self.real_views
        frame.local = names | bound_names(block(body))
        self.taken |= frame.local
        self.bindings.update(n for s in all_statements(body) for n in _binds(s))
        for param in all_params(node.params):
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
            for part in new:
                self._note_globals(part, frame)
            result.extend(new)
            if new and ends(new[-1]):
                break
        return tuple(result)

    def _without_dispatch_comments(self, node: Statement) -> Statement:
        kept = _without_dispatch_comments(node)
        self.origins.inherit(kept, node)
        return kept

    def _note_globals(self, node: Statement, frame: Frame) -> None:
        """Remember what module-level names mean where they are read."""
        for name in read_names(node) - frame.local:
            found = self.upstream.library.resolve(frame.module, name)
            if found is not None:
                self.context.globals.setdefault(name, found)

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
        test = self._name_methods(fold(node.test, frame, self.origins), frame)
        value = truth(test)
        orelse = orelse_statements(node)
        if value is not None:
            chosen = statements(node.body) if value else orelse
            spliced = list(self.block(chosen, frame, live))
            return keep_comment(node, spliced)
        before = frame.fork()
        body = self.block(statements(node.body), frame, live)
        other = frame.fork()
        other.__dict__.update(before.__dict__)
        rest = self.block(orelse, other, live)
        _join(frame, body, other, rest)
        if not body and not rest:
            return []
        return [rebuild_if(node, test, body, rest)]

    def _loop(
        self, node: cst.For | cst.While, frame: Frame, live: Liveness
    ) -> list[Statement]:
        before: list[Statement] = []
        if isinstance(node, cst.For):
            node = walk_selection(node, self.context)
            before, node = self._call_first(node, frame, live)
        for name in self._rebound_inside(node, frame, live):
            frame.forget(name)
        if isinstance(node, cst.While):
            node = node.with_changes(test=fold(node.test, frame, self.origins))
            if truth(node.test) is False:
                return []
        inner = frame.fork()
        body = self.block(statements(node.body), inner, live)
        frame.join(inner)
        return [*before, node.with_changes(body=block(body))]

    def _call_first(
        self, node: cst.For, frame: Frame, live: Liveness
    ) -> tuple[list[Statement], cst.For]:
        """What a loop walks, with calls that must be seen through made before it."""
        iterated = self._name_methods(fold(node.iter, frame, self.origins), frame)
        walked = cst.SimpleStatementLine([cst.Expr(iterated)])
        self.origins.inherit(walked, node.iter)
        parts = self._extract_calls(walked, frame)
        if len(parts) > 1:
            iterated = cast(cst.Expr, small(parts[-1])).value
        elif not isinstance(iterated, cst.Call):
            parts = []
        elif (definition := self._callee(iterated, frame)) and self._must_inline(
            iterated, definition, frame
        ):
            name = self.fresh(definition.name.rpartition(".")[2].strip("_"))
            frame.local.add(name)
            parts = [assign([cst.Name(name)], iterated), walked]
            self.origins.inherit(parts[0], walked)
            iterated = cst.Name(name)
        before = [s for p in parts[:-1] for s in self._simple(p, frame, live)]
        return before, node.with_changes(iter=iterated)

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
        items = [
            i.with_changes(item=fold(i.item, frame, self.origins)) for i in node.items
        ]
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
                name = self.fresh(word)
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
        inner = small(node)
        if isinstance(inner, cst.Pass) or self._has_no_effect(inner, frame):
            return []
        partial = self._note_partial(node, frame)
        if partial is not None:
            return partial
        node = self._unfold_partial(node, frame)
        folded = self._name_methods(fold(node, frame, self.origins), frame)
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
        inlined = self._try_inline(node, folded, frame, live)
        if inlined is not None:
            return inlined
        extracted = self._extract_calls(folded, frame)
        if extracted:
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
                    substitute(value.elt, {name: item}, self.origins),
                )
            )
            for item in items
        ]
        return replace_value(node, cst.Tuple(elements))

    def _name_methods(self, node: cst.CSTNodeT, frame: Frame) -> cst.CSTNodeT:
        """``self.debias`` → ``debias``: a method that needs no ``self`` is a function."""

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            name = dotted(inner) if isinstance(inner, cst.Attribute) else None
            if name is None or not name.startswith("self.") or name.count(".") != 1:
                return None
            if name[5:] in frame.local:
                return None
            method = self.upstream.method(name[5:])
            if method is None or not self._needs_no_self(method):
                return None
            self.context.globals[name[5:]] = method
            return cst.Name(name[5:])

        return cast(cst.CSTNodeT, replace_nodes(node, replace, self.origins))

    def _needs_no_self(
        self, method: Definition, seen: frozenset[str] = frozenset()
    ) -> bool:
        if method.name in seen:
            return True
        node = cast(cst.FunctionDef, method.node)
        if is_property(node):
            return False
        if "self" not in read_names(node.body):
            return True
        uses = [n for n in walk(node.body) if isinstance(n, cst.Attribute)]
        own = [n.attr.value for n in uses if is_name(n.value, "self")]
        count = sum(is_name(n, "self") for n in walk(node.body))
        if count != len(own):
            return False
        found = [self.upstream.method(name) for name in own]
        inner = seen | {method.name}
        return all(m is not None and self._needs_no_self(m, inner) for m in found)

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
        after = live.after.get(original, frozenset())
        is_return = isinstance(inner, cst.Return)
        return Inliner(self, definition, value, frame, after).run(
            target, is_return, node
        )

    def _extract_calls(self, node: Statement, frame: Frame) -> list[Statement]:
        """Calls to be inlined that stand inside an expression: each gets a statement."""
        prelude: list[Statement] = []
        whole = getattr(small(node), "value", None)

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if not isinstance(inner, cst.Call):
                return None
            definition = self._callee(inner, frame)
            if definition is None or not self._must_inline(inner, definition, frame):
                return None
            name = self.fresh(
                cast(cst.FunctionDef, definition.node).name.value.strip("_")
            )
            frame.local.add(name)
            bind = assign([cst.Name(name)], inner)
            self.origins.inherit(bind, inner)
            prelude.append(bind)
            return cst.Name(name)

        if any(isinstance(n, _CONDITIONAL) for n in walk(node)):
            return []
        new = cast(Statement, replace_nodes(node, replace, self.origins))
        if isinstance(whole, cst.Call) and is_name(getattr(small(new), "value", None)):
            # the statement is that call itself, which could not be inlined
            bound = cast(
                tuple[cst.CSTNode, cst.BaseExpression], assignment(prelude.pop())
            )
            new = replace_value(new, bound[1])
        if not prelude:
            return []
        prelude[0] = with_comments(prelude[0], node)
        return [*prelude, new.with_changes(leading_lines=[])]

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
        if "." in definition.name and not self._needs_no_self(definition):
            return True
        return (
            returns_parts(definition)
            or asks_about_number(call, definition)
            or calls_argument(definition)
            or walks_parameters(definition)
            or any(dotted(a.value) in WHOLE for a in call.args)
            or self.mutates_arguments(definition)
        )

    def mutates_arguments(self, definition: Definition) -> bool:
        """Whether a function may change what it is handed (judged by its syntax)."""
        from codegen.rules.r4_out_of_place.inplace import may_mutate

        node = cast(cst.FunctionDef, definition.node)
        params = {p.name.value for p in all_params(node.params)}
        return may_mutate(node, params)

    def fresh(self, name: str) -> str:
        """A name that nothing uses yet."""
        number = 1
        while f"{name}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{name}_{number}")
        return f"{name}_{number}"


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
