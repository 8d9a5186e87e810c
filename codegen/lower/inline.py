"""Calls replaced by what they call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import libcst as cst

from codegen.liveness import liveness
from codegen.lower.blocks import NESTED, WHOLE, keep_comment, without_docstring
from codegen.lower.callees import is_classmethod
from codegen.lower.fold import UNKNOWN, Frame, known
from codegen.lower.returns import tail_returns
from codegen.syntax import (
    Body,
    Statement,
    all_params,
    assign,
    block,
    bound_names,
    dict_entries,
    dotted,
    is_constant,
    read_names,
    statements,
    string_key,
    substitute,
    target_names,
)
from codegen.upstream import Definition

if TYPE_CHECKING:
    from codegen.lower.specialize import Specializer


_MAX_DEPTH = 12
_RESULT = "__result"


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
        if not self.definition.name.startswith(NESTED):
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
        lines = keep_comment(like, lines)
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
        if is_classmethod(self.node):
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
        if self.definition.name.startswith(NESTED):
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
            statements(without_docstring(self.node.body))
        )

        def finish(value: cst.BaseExpression | None) -> list[Statement]:
            if is_return:
                return [cst.SimpleStatementLine([cst.Return(value)])]
            if target is None:
                return []
            return [assign([cst.Name(_RESULT)], value or cst.Name("None"))]

        needs_value = target is not None or is_return
        return tail_returns(body, finish, needs_value)


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


def literal_name(node: cst.BaseExpression) -> str | None:
    if isinstance(node, cst.Name) and node.value in ("True", "False", "None"):
        return node.value
    return None
