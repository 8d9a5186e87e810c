"""Calls replaced by what they call."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, cast

import libcst as cst

from codegen.analysis.liveness import Liveness, liveness
from codegen.bindings import walrus_names
from codegen.context import Context
from codegen.lower.blocks import NESTED, WHOLE, keep_comment
from codegen.lower.callees import is_classmethod
from codegen.lower.frame import NOT_KNOWN, Frame, Whole, known
from codegen.lower.kinds import learn, share
from codegen.lower.names import BUILTINS
from codegen.lower.reading import Reader
from codegen.lower.returns import tail_returns
from codegen.purity import effects
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_params,
    assign,
    block,
    bound_names,
    code,
    dict_entries,
    dotted,
    is_constant,
    read_names,
    string_key,
    target_names,
)
from codegen.upstream import Definition, Upstream

_MAX_DEPTH = 12
_RESULT = "__result"


class Caller(Protocol):
    """Who inlines: it specializes the callee's body in the place of the call.

    ``depth`` counts the calls around that are being inlined.
    """

    context: Context
    upstream: Upstream
    reader: Reader
    depth: int

    def block(self, body: Sequence[Statement], frame: Frame, live: Liveness) -> Body:
        """A body, with what is known in ``frame``."""
        ...


class Inliner:
    """One call, replaced by the callee's body."""

    def __init__(
        self,
        caller: Caller,
        definition: Definition,
        call: cst.Call,
        frame: Frame,
        after: frozenset[str],
    ) -> None:
        self.caller = caller
        self.context = caller.context
        self.definition = definition
        self.call = call
        self.frame = frame
        self.after = after
        self.node = cast(cst.FunctionDef, definition.node)
        self.is_nested = definition.name.startswith(NESTED)

    def run(
        self, target: cst.BaseExpression | None, is_return: bool, like: Statement
    ) -> list[Statement] | None:
        if self.caller.depth > _MAX_DEPTH:
            self.context.refuse(
                "lower",
                self.call,
                f"{self.definition.name} calls itself",
                "write the recursion as a loop",
            )
            return None
        inner = self._inner_frame()
        given = self._bind_arguments(inner)
        if given is None:
            return None
        for name in given:
            inner.forget(name)
        body = self._tail_body(inner, target, is_return)
        if body is None:
            return None
        if not self.is_nested:
            self.caller.reader.refuse_decorators(self.node, self.definition)
            self.caller.upstream.read(self.definition)
        prelude, body = self._scope(given, inner, body, target)
        self.caller.depth += 1
        live_out = self.after if target is None else self.after | read_names(target)
        new = self.caller.block(body, inner, liveness(body, live_out))
        self.caller.depth -= 1
        for name in bound_names(block(new)):
            self.frame.forget(name)
        self.frame.forget_paths()
        self.frame.local |= inner.local
        for statement_ in prelude:
            learn(statement_, self.frame)
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
        if target is not None and code(target) in inner.kinds:
            self.frame.kinds[code(target)] = inner.kinds[code(target)]

    # --- arguments ----------------------------------------------------------

    def _bind_arguments(self, inner: Frame) -> dict[str, cst.BaseExpression] | None:
        """Parameter name → argument; None where the call can't be matched."""
        params = self.node.params
        args = _spread(self.call.args)
        if args is None:
            return None
        names = [p.name.value for p in (*params.posonly_params, *params.params)]
        if names[:1] == ["self"] and self.definition.is_method:
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
                self._refuse_kept(param)
                given[param.name.value] = self._default(param.default, inner)
        return given

    def _refuse_kept(self, param: cst.Param) -> None:
        """A list or dict that is made once, when the function is, keeps what calls put
        into it."""
        if isinstance(param.default, (cst.List, cst.Dict, cst.Set, cst.Call)):
            self.context.refuse(
                "lower",
                param,
                f"the default of {param.name.value!r} is made once, and kept from call "
                "to call",
                "default to None and make it inside, or keep it in self.state",
            )

    def _default(self, node: cst.BaseExpression, inner: Frame) -> cst.BaseExpression:
        """A default, which reads names of the callee's module."""
        named = self.caller.reader.name_globals(node, inner, (), self._around())
        return cast(cst.BaseExpression, named)

    # --- scope --------------------------------------------------------------

    def _inner_frame(self) -> Frame:
        """What is known inside: what is known around, for a nested function."""
        if self.is_nested:
            return self.frame.fork()
        return self.frame.of(self.definition)

    def _around(self) -> Collection[str]:
        """Variables that would hide module-level names of the callee's."""
        return () if self.is_nested else self.frame.local

    def _scope(
        self,
        given: dict[str, cst.BaseExpression],
        inner: Frame,
        body: Body,
        target: cst.BaseExpression | None,
    ) -> tuple[list[Statement], Body]:
        """Bind arguments, rename what would collide; (prelude, body)."""
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
            if name in substituted or name in inner.local or self._is_taken(name):
                rename[name] = cst.Name(self.context.fresh(name))
        if target is not None:
            rename[_RESULT] = target
        new = tuple(
            cast(Statement, substitute(s, rename, self.context.origins)) for s in body
        )
        inner.local |= bound_names(block(new)) | {
            n for v in rename.values() for n in read_names(v)
        }
        self.context.taken |= inner.local
        return prelude, new

    def _is_taken(self, name: str) -> bool:
        """Whether the step reads a module-level name like that."""
        return name in self.context.globals

    def _surely_rebound(self, body: Body) -> set[str]:
        """Names that are bound once dead branches are gone."""
        trial = self.frame.of(self.definition)
        trial.local = bound_names(block(body)) | {
            p.name.value for p in all_params(self.node.params)
        }
        return bound_names(block(self.caller.block(body, trial, liveness(body))))

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
        if constant is not NOT_KNOWN:
            inner.constants[name] = constant
            inner.local.add(name)
            if name in rebound and not (
                is_constant(value) or isinstance(constant, Whole)
            ):
                return
            if name in rebound:
                prelude.append(assign([cst.Name(name)], value))
            elif literal_name(value) is not None or isinstance(constant, Whole):
                rename[name] = value
            elif isinstance(constant, Definition) and isinstance(value, cst.Name):
                # what is left of it in the body must not be taken for a variable
                rename[name] = value
                inner.constants[value.value] = constant
            return
        if isinstance(value, cst.Name) and value.value in self.frame.absent:
            inner.absent.add(value.value)
        if isinstance(value, cst.Name) and self._may_share(name, value, rebound):
            if value.value != name:
                rename[name] = value
            inner.local.add(value.value)
            share(inner, self.frame, value, value.value)
            return
        if isinstance(value, (cst.Tuple, cst.Dict)) and name not in rebound:
            rename[name] = self._computed_first(value, prelude)
            return
        simple = (
            is_constant(value)
            or dotted(value) in WHOLE
            or string_key(value) == "params"
        )
        if simple and name not in rebound:
            rename[name] = value
            return
        self._bind_new(name, value, inner, rename, prelude)

    def _computed_first(
        self, value: cst.Tuple | cst.Dict, prelude: list[Statement]
    ) -> cst.BaseExpression:
        """A tuple of names: what was computed for it is computed before the call."""
        items: list[cst.BaseElement | cst.BaseDictElement] = []
        for item in value.elements:
            part = item.value
            plain = isinstance(part, (cst.Name, cst.Lambda)) or is_constant(part)
            if not plain and not self.frame.is_setting(part):
                name = cst.Name(self.context.fresh("value"))
                prelude.append(assign([name], part))
                self.context.origins.inherit(prelude[-1], part)
                item = item.with_changes(value=name.deep_clone())
            items.append(item)
        return value.with_changes(elements=items)

    def _may_share(self, name: str, value: cst.Name, rebound: set[str]) -> bool:
        """Whether the callee's parameter may be the caller's variable itself."""
        if value.value in walrus_names(self.call):
            return False  # it may be another one when the call begins
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
        shared = name in self.after or any(name in read_names(o) for o in others)
        if shared or self._is_taken(name) or name in BUILTINS:
            new = self.context.fresh(name)
            rename[name] = cst.Name(new)
        bind = assign([cst.Name(new)], value)
        self.context.origins.inherit(bind, value)
        prelude.append(bind)
        inner.local.add(new)
        share(inner, self.frame, value, new)

    # --- results ------------------------------------------------------------

    def _tail_body(
        self, inner: Frame, target: cst.BaseExpression | None, is_return: bool
    ) -> Body | None:
        body = self.caller.reader.read_body(self.node, inner, self._around())

        def finish(value: cst.BaseExpression | None) -> list[Statement]:
            if is_return:
                return [cst.SimpleStatementLine([cst.Return(value)])]
            if target is None:
                # nobody asks for the value, but it may be made by changing something
                return [] if value is None else effects(value)
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
