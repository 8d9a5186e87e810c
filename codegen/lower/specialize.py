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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen.constructor import attribute_function
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.liveness import Liveness, liveness
from codegen.lower import facts
from codegen.lower.fold import UNKNOWN, Frame, fold, given_to, known, truth
from codegen.lower.lists import walk_selection
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
    calls,
    code,
    dict_entries,
    dotted,
    ends,
    free_names,
    is_constant,
    is_name,
    map_bodies,
    orelse_statements,
    read_names,
    rebuild_if,
    replace_nodes,
    small,
    statements,
    stmt,
    string_key,
    substitute,
    target_names,
    with_comments,
)
from codegen.upstream import Definition, Upstream

_MAX_DEPTH = 12
_RESULT = "__result"
_NESTED = "a function inside: "
WHOLE = frozenset({"self.param_groups", "self.state", "self.defaults"})
"""What belongs to the optimizer as a whole: a function handed one is seen through."""
_CONDITIONAL = (cst.IfExp, cst.BooleanOperation, cst.Lambda, cst.CompFor)


@dataclass
class Binding:
    """How a parameter of an inlined function is given: kept, renamed or constant."""

    name: str
    value: cst.BaseExpression


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
        body = self._name_groups(statements(_without_docstring(node.body)))
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
            if not isinstance(found, Definition) or _is_torchs(found):
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
            return _keep_comment(node, spliced)
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
        body = statements(_without_docstring(node.body))
        new = self.block(body, inner, liveness(body))
        result = node.with_changes(body=block(new))
        frame.constants.pop(node.name.value, None)
        if self._reaches_out(result):
            name = node.name.value
            whole = Definition(frame.module, f"{_NESTED}{name}", node)
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
        folded = cast(Statement, replace_nodes(folded, _flatten_tuple, self.origins))
        parts = _split_tuple(folded)
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
        if _is_property(node):
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
        if definition.name.startswith(_NESTED):
            return True
        if "." in definition.name and not self._needs_no_self(definition):
            return True
        return (
            _returns_parts(definition)
            or _asks_about_number(call, definition)
            or _calls_argument(definition)
            or _walks_parameters(definition)
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


class Inliner:
    """One call, replaced by the callee's body."""

    def __init__(
        self,
        specializer: Specializer,
        definition: Definition,
        call: cst.Call,
        frame: Frame,
        after: frozenset[str],
    ) -> None:
        self.specializer = specializer
        self.context = specializer.context
        self.definition = definition
        self.call = call
        self.frame = frame
        self.after = after
        self.node = cast(cst.FunctionDef, definition.node)

    def run(
        self, target: cst.BaseExpression | None, is_return: bool, like: Statement
    ) -> list[Statement] | None:
        if self.specializer.depth > _MAX_DEPTH:
            self.context.refuse(
                "lower",
                self.call,
                f"{self.definition.name} calls itself",
                "write the recursion as a loop",
            )
            return None
        given = self._bind_arguments()
        if given is None:
            return None
        body = self._tail_body(target, is_return)
        if body is None:
            return None
        if not self.definition.name.startswith(_NESTED):
            self.specializer.upstream.read(self.definition)
        prelude, inner, body = self._scope(given, body, target)
        self.specializer.depth += 1
        live_out = self.after if target is None else self.after | read_names(target)
        new = self.specializer.block(body, inner, liveness(body, live_out))
        self.specializer.depth -= 1
        for name in bound_names(block(new)):
            self.frame.forget(name)
        self.frame.local |= inner.local
        for statement_ in prelude:
            self.specializer._learn(statement_, self.frame)
        self._learn_result(target, inner)
        lines = [*prelude, *new]
        first = lines[:1]
        lines = _keep_comment(like, lines)
        for old in first:
            self.context.origins.inherit(lines[0], old)
        return lines

    def _learn_result(self, target: cst.BaseExpression | None, inner: Frame) -> None:
        for name in target_names(target) if target is not None else ():
            if name in inner.constants:
                self.frame.constants[name] = inner.constants[name]

    # --- arguments ----------------------------------------------------------

    def _bind_arguments(self) -> dict[str, cst.BaseExpression] | None:
        """Parameter name → argument; None where the call can't be matched."""
        params = self.node.params
        args = _spread(self.call.args)
        if args is None:
            return None
        names = [p.name.value for p in (*params.posonly_params, *params.params)]
        if names[:1] == ["self"] and "." in self.definition.name:
            names = names[1:]
        if _is_classmethod(self.node):
            names = names[1:]
        given: dict[str, cst.BaseExpression] = {}
        plain = [a for a in args if a.keyword is None]
        if isinstance(params.star_arg, cst.Param):
            rest = cst.Tuple(
                [cst.Element(a.value) for a in plain[len(names) :]],
                lpar=[cst.LeftParen()],
                rpar=[cst.RightParen()],
            )
            given[params.star_arg.name.value] = rest
            plain = plain[: len(names)]
        if len(plain) > len(names):
            return None
        for name, arg in zip(names, plain):
            given[name] = arg.value
        names += [p.name.value for p in params.kwonly_params]
        further: list[cst.DictElement] = []
        for arg in args:
            if arg.keyword is None:
                continue
            name = arg.keyword.value
            if name in names:
                given[name] = arg.value
            elif params.star_kwarg is None:
                return None
            else:
                key = cst.SimpleString(f'"{name}"')
                further.append(cst.DictElement(key, arg.value))
        if params.star_kwarg is not None:
            given[params.star_kwarg.name.value] = cst.Dict(further)
        for param in all_params(params):
            if param.default is not None and param.name.value not in given:
                given[param.name.value] = param.default
        return given

    # --- scope --------------------------------------------------------------

    def _scope(
        self,
        given: dict[str, cst.BaseExpression],
        body: Body,
        target: cst.BaseExpression | None,
    ) -> tuple[list[Statement], Frame, Body]:
        """Bind arguments, rename what would collide; (prelude, frame, body)."""
        inner = Frame(self.definition.module, self.frame.library, self.definition)
        inner.real_views = self.frame.real_views
        if self.definition.name.startswith(_NESTED):
            inner = self.frame.fork()
            for name in given:
                inner.forget(name)
        rebound = bound_names(block(body))
        star = self.node.params.star_arg
        if isinstance(star, cst.Param) and star.name.value in rebound:
            rebound = self._surely_rebound(body)
        rename: dict[str, cst.BaseExpression] = {}
        prelude: list[Statement] = []
        for name, value in given.items():
            self._bind_one(name, value, rebound, inner, rename, prelude)
        substituted = set().union(*(read_names(v) for v in rename.values())) | (
            self.after - set(target_names(target) if target is not None else ())
        )
        own = rebound - set(given) - {_RESULT}
        for name in sorted(own):
            if name in substituted or name in inner.local:
                rename[name] = cst.Name(self.specializer.fresh(name))
        if target is not None:
            rename[_RESULT] = target
        new = tuple(
            cast(Statement, substitute(s, rename, self.context.origins)) for s in body
        )
        inner.local |= bound_names(block(new)) | {
            n for v in rename.values() for n in read_names(v)
        }
        self.specializer.taken |= inner.local
        return prelude, inner, new

    def _surely_rebound(self, body: Body) -> set[str]:
        """Names that are bound once dead branches are gone."""
        trial = Frame(self.definition.module, self.frame.library, self.definition)
        trial.real_views = self.frame.real_views
        trial.local = bound_names(block(body)) | {
            p.name.value for p in all_params(self.node.params)
        }
        return bound_names(block(self.specializer.block(body, trial, liveness(body))))

    def _bind_one(
        self,
        name: str,
        value: cst.BaseExpression,
        rebound: set[str],
        inner: Frame,
        rename: dict[str, cst.BaseExpression],
        prelude: list[Statement],
    ) -> None:
        constant = known(value, self.frame)
        if constant is not UNKNOWN:
            inner.constants[name] = constant
            inner.local.add(name)
            if name in rebound and not is_constant(value):
                return
            if name in rebound:
                prelude.append(assign([cst.Name(name)], value))
            elif literal_name(value) is not None:
                rename[name] = value
            return
        if isinstance(value, cst.Name) and value.value in self.frame.absent:
            inner.absent.add(value.value)
        if isinstance(value, cst.Name) and self._may_share(name, value, rebound):
            if value.value != name:
                rename[name] = value
            inner.local.add(value.value)
            inner.share(self.frame, value, value.value)
            return
        simple = (
            is_constant(value)
            or isinstance(value, (cst.Tuple, cst.Dict))
            or dotted(value) in WHOLE
            or string_key(value) == "params"
        )
        if simple and name not in rebound:
            rename[name] = value
            return
        self._bind_new(name, value, inner, rename, prelude)

    def _may_share(self, name: str, value: cst.Name, rebound: set[str]) -> bool:
        """Whether the callee's parameter may be the caller's variable itself."""
        if value.value not in self.frame.local:
            return True
        return name not in rebound or value.value not in self.after

    def _bind_new(
        self,
        name: str,
        value: cst.BaseExpression,
        inner: Frame,
        rename: dict[str, cst.BaseExpression],
        prelude: list[Statement],
    ) -> None:
        """``name = value`` before the body, renamed where the caller needs ``name``."""
        new = name
        others = (a.value for a in self.call.args if a.value is not value)
        if name in self.after or any(name in read_names(o) for o in others):
            new = self.specializer.fresh(name)
            rename[name] = cst.Name(new)
        bind = assign([cst.Name(new)], value)
        self.context.origins.inherit(bind, value)
        prelude.append(bind)
        inner.local.add(new)
        inner.share(self.frame, value, new)

    # --- results ------------------------------------------------------------

    def _tail_body(
        self, target: cst.BaseExpression | None, is_return: bool
    ) -> Body | None:
        body = self.specializer._name_groups(
            statements(_without_docstring(self.node.body))
        )

        def finish(value: cst.BaseExpression | None) -> list[Statement]:
            if is_return:
                return [cst.SimpleStatementLine([cst.Return(value)])]
            if target is None:
                return []
            return [assign([cst.Name(_RESULT)], value or cst.Name("None"))]

        needs_value = target is not None or is_return
        return tail_returns(body, finish, needs_value)


def _is_torchs(found: Definition) -> bool:
    return found.module.name.partition(".")[0] == "torch"


def calls_through(decorator: cst.FunctionDef) -> bool:
    """Whether a decorator's function calls what it decorates, once, and otherwise
    touches no parameters."""
    inner = [n for n in walk(decorator.body) if isinstance(n, cst.FunctionDef)]
    params = [p.name.value for p in decorator.params.params]
    given = params[:1] if params else []
    for function in inner:
        given += [p.name.value for p in function.params.params[:1]]
    called = [
        n
        for n in walk(decorator.body)
        if isinstance(n, cst.Call) and dotted(n.func) in given
    ]
    repeats = any(
        isinstance(n, (cst.For, cst.While, cst.If, cst.IfExp))
        for n in walk(decorator.body)
    )
    touches = any(
        isinstance(n, cst.Attribute)
        and (n.attr.value in ("grad", "param_groups", "state", "data"))
        for n in walk(decorator.body)
    )
    return len(called) == 1 and not repeats and not touches


def _keyword(arg: cst.Arg) -> str | None:
    return None if arg.keyword is None else arg.keyword.value


def _clone(arg: cst.Arg) -> cst.Arg:
    return arg.with_changes(value=arg.value.deep_clone())


def _binds(node: Statement) -> set[str]:
    """Names that a statement itself binds, not those inside it."""
    return bound_names(node) if small(node) is not None else set()


def _flatten_tuple(node: cst.CSTNode) -> cst.CSTNode | None:
    """``(a, *(b, c))`` → ``(a, b, c)``."""
    if not isinstance(node, cst.Tuple):
        return None
    starred = [e for e in node.elements if isinstance(e, cst.StarredElement)]
    if not any(isinstance(e.value, cst.Tuple) for e in starred):
        return None
    elements: list[cst.BaseElement] = []
    for element in node.elements:
        if isinstance(element, cst.StarredElement) and isinstance(
            element.value, cst.Tuple
        ):
            elements.extend(element.value.elements)
        else:
            elements.append(element)
    plain = [e.with_changes(comma=cst.MaybeSentinel.DEFAULT) for e in elements]
    return node.with_changes(elements=plain)


def _split_tuple(node: Statement) -> list[Statement]:
    """``a, b = x, y`` → ``a = x``, ``b = y``, where the order doesn't matter."""
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Tuple):
        return [node]
    target, value = pair
    if not isinstance(value, cst.Tuple) or not isinstance(target, cst.Tuple):
        return [node]
    target, value = _unstarred(target, value)
    targets = [e.value for e in target.elements]
    values = [e.value for e in value.elements]
    names = set(target_names(target))
    starred = any(
        isinstance(e, cst.StarredElement) for e in (*target.elements, *value.elements)
    )
    independent = all(
        is_name(v) and is_name(t) and code(v) == code(t) or not names & read_names(v)
        for t, v in zip(targets, values)
    )
    if starred or len(targets) != len(values) or not independent:
        return [node]
    parts: list[Statement] = [
        assign([t], v) for t, v in zip(targets, values) if code(t) != code(v)
    ]
    if parts:
        parts[0] = with_comments(parts[0], node)
    return parts


def _unstarred(target: cst.Tuple, value: cst.Tuple) -> tuple[cst.Tuple, cst.Tuple]:
    """``a, b, c = x, *pair`` as ``a, (b, c) = x, pair``."""
    starred = [
        i for i, e in enumerate(value.elements) if isinstance(e, cst.StarredElement)
    ]
    several = len(target.elements) - len(value.elements) + 1
    plain = not any(isinstance(e, cst.StarredElement) for e in target.elements)
    if len(starred) != 1 or several < 1 or not plain:
        return target, value
    at = starred[0]
    inner = [e.with_changes(comma=cst.MaybeSentinel.DEFAULT) for e in target.elements]
    part = cst.Element(cst.Tuple(inner[at : at + several]))
    targets = [*inner[:at], part, *inner[at + several :]]
    values = [
        cst.Element(e.value) if i == at else e for i, e in enumerate(value.elements)
    ]
    return target.with_changes(elements=targets), value.with_changes(elements=values)


def replace_value(node: Statement, value: cst.BaseExpression) -> Statement:
    """An assignment, return or expression statement with another right-hand side."""
    line = cast(cst.SimpleStatementLine, node)
    return line.with_changes(body=[line.body[0].with_changes(value=value)])


def _asks_about_number(call: cst.Call, definition: Definition) -> bool:
    """Whether a function asks if something is a tensor that is a plain number here."""
    node = cast(cst.FunctionDef, definition.node)
    given = given_to(node, call) or {}
    numbers = {n for n, v in given.items() if isinstance(v, (cst.Integer, cst.Float))}
    asked = (n for n in walk(node.body) if isinstance(n, cst.Call) and n.args)
    return any(
        dotted(n.func) in ("isinstance", "torch.is_tensor")
        and dotted(n.args[0].value) in numbers
        for n in asked
    )


def _calls_argument(definition: Definition) -> bool:
    """Whether a function calls one of its arguments: which shows at its own call."""
    node = cast(cst.FunctionDef, definition.node)
    params = {p.name.value for p in all_params(node.params)}
    return any(dotted(n.func) in params for n in calls(node.body))


def _walks_parameters(definition: Definition) -> bool:
    """Whether a function reads gradients, or a group's parameters, by itself."""
    return any(
        isinstance(n, cst.Attribute)
        and n.attr.value == "grad"
        or string_key(n) == "params"
        for n in walk(cast(cst.FunctionDef, definition.node).body)
    )


def _spread(args: Sequence[cst.Arg]) -> list[cst.Arg] | None:
    """Arguments with ``*(a, b)`` and ``**{"k": v}`` written out; None where what is
    unpacked isn't known."""
    result: list[cst.Arg] = []
    for arg in args:
        if not arg.star:
            result.append(arg)
        elif arg.star == "*" and isinstance(arg.value, (cst.Tuple, cst.List)):
            result += [cst.Arg(e.value) for e in arg.value.elements]
        elif arg.star == "**" and (entries := dict_entries(arg.value)) is not None:
            result += [cst.Arg(v, keyword=cst.Name(k)) for k, v in entries.items()]
        else:
            return None
    return result


def _returns_parts(definition: Definition) -> bool:
    """Whether a function hands arguments back in a tuple: their aliases must be seen."""
    node = cast(cst.FunctionDef, definition.node)
    params = {p.name.value for p in all_params(node.params)}
    for inner in all_statements(statements(node.body)):
        returned = small(inner)
        if isinstance(returned, cst.Return) and isinstance(returned.value, cst.Tuple):
            for element in returned.value.elements:
                if (
                    isinstance(element.value, cst.Name)
                    and element.value.value in params
                ):
                    return True
    return False


def _is_property(node: cst.FunctionDef) -> bool:
    names = {dotted(d.decorator) for d in node.decorators}
    return bool(names & {"property", "cached_property", "functools.cached_property"})


def _is_classmethod(node: cst.FunctionDef) -> bool:
    return any(dotted(d.decorator) == "classmethod" for d in node.decorators)


def literal_name(node: cst.BaseExpression) -> str | None:
    if isinstance(node, cst.Name) and node.value in ("True", "False", "None"):
        return node.value
    return None


def tail_returns(
    body: Body,
    finish: Callable[[cst.BaseExpression | None], list[Statement]],
    needs_value: bool,
) -> Body | None:
    """``body`` with each ``return`` in tail position replaced; None where one isn't.

    ``if c: return`` followed by more becomes ``if c: … else: more``.
    """
    result: list[Statement] = []
    for number, node in enumerate(body):
        inner = small(node)
        if isinstance(inner, cst.Return):
            new = finish(inner.value)
            result.extend(with_comments(s, node) for s in new)
            return tuple(result)
        if isinstance(node, cst.If) and _returns(node):
            rest = body[number + 1 :]
            merged = _split_if(node, rest, finish, needs_value)
            return None if merged is None else (*result, merged)
        if isinstance(node, (cst.For, cst.While)) and _returns(node):
            loop = _break_out(node, body[number + 1 :], finish, needs_value)
            return None if loop is None else (*result, loop)
        if _returns(node):
            return None
        result.append(node)
    if needs_value and not (result and ends(result[-1])):
        result.extend(finish(None))
    return tuple(result)


def _break_out(
    node: cst.For | cst.While,
    rest: Body,
    finish: Callable[[cst.BaseExpression | None], list[Statement]],
    needs_value: bool,
) -> Statement | None:
    """``for …: return x`` and more after it → ``for …: y = x; break`` with an else."""
    if node.orelse is not None or _returns_from_inner_loop(statements(node.body)):
        return None
    after = tail_returns(rest, finish, needs_value)
    if after is None:
        return None

    def leave(body: Body) -> Body:
        result: list[Statement] = []
        for part in body:
            inner = small(part)
            if isinstance(inner, cst.Return):
                result.extend(with_comments(s, part) for s in finish(inner.value))
                result.append(stmt("break"))
            elif inner is None and not isinstance(part, cst.FunctionDef):
                result.append(map_bodies(part, leave))
            else:
                result.append(part)
        return tuple(result)

    orelse = cst.Else(block(after)) if after else None
    return node.with_changes(body=block(leave(statements(node.body))), orelse=orelse)


def _returns_from_inner_loop(body: Body) -> bool:
    loops = (n for n in all_statements(body) if isinstance(n, (cst.For, cst.While)))
    return any(_returns(loop) for loop in loops)


def _split_if(
    node: cst.If,
    rest: Body,
    finish: Callable[[cst.BaseExpression | None], list[Statement]],
    needs_value: bool,
) -> cst.If | None:
    body = statements(node.body)
    orelse = orelse_statements(node)
    if not (body and ends(body[-1])):
        body = (*body, *rest)
    if not (orelse and ends(orelse[-1])):
        orelse = (*orelse, *rest)
    new_body = tail_returns(body, finish, needs_value)
    new_else = tail_returns(orelse, finish, needs_value)
    if new_body is None or new_else is None:
        return None
    return rebuild_if(node, node.test, new_body, new_else)


def _returns(node: Statement) -> bool:
    return any(isinstance(small(n), cst.Return) for n in all_statements([node]))


def group_loop_target(node: cst.CSTNode) -> str | None:
    """``group`` for ``for group in self.param_groups:`` (also under ``enumerate``,
    and in a ``zip`` with something else)."""
    if not isinstance(node, cst.For):
        return None
    source, target = node.iter, cast(cst.BaseExpression, node.target)
    if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
        source = source.args[0].value
        if isinstance(target, cst.Tuple) and len(target.elements) == 2:
            target = target.elements[1].value
    if isinstance(source, cst.Call) and is_name(source.func, "zip") and source.args:
        source = source.args[0].value
        if isinstance(target, cst.Tuple):
            target = target.elements[0].value
    if dotted(source) == "self.param_groups" and isinstance(target, cst.Name):
        return target.value
    return None


def _without_docstring(body: cst.BaseSuite) -> list[Statement]:
    items = list(statements(body))
    if items and isinstance(small(items[0]), cst.Expr):
        if isinstance(cast(cst.Expr, small(items[0])).value, cst.BaseString):
            return items[1:]
    return items


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


def _keep_comment(old: Statement, new: list[Statement]) -> list[Statement]:
    """Put the comment above a folded statement on what replaces it."""
    kept = [
        line
        for line in old.leading_lines
        if line.comment is None or not facts.DISPATCH_COMMENT.search(line.comment.value)
    ]
    if not new or not any(line.comment for line in kept):
        if new and old.leading_lines and not new[0].leading_lines:
            blank = [line for line in old.leading_lines if line.comment is None][:1]
            new[0] = new[0].with_changes(leading_lines=blank)
        return new
    first = new[0]
    new[0] = first.with_changes(leading_lines=[*kept, *first.leading_lines])
    return new
