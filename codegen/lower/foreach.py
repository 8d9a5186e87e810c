"""``torch._foreach_*`` on lists of tensors, as loops over single tensors.

torch._foreach_mul_(exp_avgs, beta)         for exp_avg in exp_avgs:
                                                exp_avg.mul_(beta)
torch._foreach_add_(params, updates)    →   for param, update in zip(params, updates):
                                                param.add_(update)
denom = torch._foreach_sqrt(sqs)            denom = [sq.sqrt() for sq in sqs]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.filled import singular
from codegen.lower.forms import as_list, repeated
from codegen.syntax import (
    TIGHT_EQUAL,
    Body,
    Statement,
    assign,
    assignment,
    block,
    bound_names,
    call,
    calls,
    code,
    dotted,
    expr,
    is_name,
    map_bodies,
    method,
    parenthesize,
    read_names,
    replace_nodes,
    small,
    target_names,
    with_comments,
)

_PREFIX = "torch._foreach_"
_BOUNDS = {"maximum": "clamp_min", "minimum": "clamp_max"}
_KEYWORDS = {"other", "scalar", "scalars", "tensors1", "tensors2", "tensor1", "weight"}
_KEYWORDS |= {"tensor2", "weights", "exponent", "src"}
"""Keywords of operands, which single-tensor functions call otherwise."""


def without_foreach(body: Body, context: Context) -> Body:
    """Replace each call of a ``torch._foreach_`` function by one for each tensor."""
    if not any(_operation(c) for s in body for c in calls(s)):
        return body
    return _Foreach(body, context).block(body)


def _operation(node: cst.CSTNode) -> str | None:
    """``add_`` for a call of ``torch._foreach_add_``."""
    if not isinstance(node, cst.Call):
        return None
    name = dotted(node.func) or ""
    return name[len(_PREFIX) :] if name.startswith(_PREFIX) else None


class _Foreach:
    """What is a list, which names are taken, and one statement after another."""

    def __init__(self, body: Body, context: Context) -> None:
        self.context = context
        whole = block(body)
        self.taken = bound_names(whole) | read_names(whole)
        self.lists = set(_list_names(body))

    def block(self, body: Sequence[Statement]) -> Body:
        result: list[Statement] = []
        for node in body:
            if small(node) is None:
                result.append(map_bodies(node, self.block))
            elif any(_operation(c) for c in calls(node)):
                result.extend(self._statement(node))
            else:
                result.append(node)
        return tuple(result)

    def _statement(self, node: Statement) -> list[Statement]:
        inner = small(node)
        if isinstance(inner, cst.Expr) and (name := _operation(inner.value)):
            if name.endswith("_"):
                return self._effect(node, cast(cst.Call, inner.value), name)
        before: list[Statement] = []

        def replace(part: cst.CSTNode) -> cst.CSTNode | None:
            return self._value(part, before)

        new = cast(Statement, replace_nodes(node, replace, self.context.origins))
        for part in before:
            self.context.origins.inherit(part, node)
        return [*before, new]

    def _effect(self, node: Statement, call_: cst.Call, name: str) -> list[Statement]:
        """A loop for a call that is there for its effect."""
        before: list[Statement] = []
        operands = [self._named(a, before) for a in call_.args]
        walked = self._walked(operands)
        if not walked:
            return [node]
        items = {old: cst.Name(new) for old, new in walked.items()}
        listed = [code(a.value) in walked for a in operands]
        inside = _mutate(name, [_item(a, items) for a in operands], listed)
        if inside is None:
            return self._refuse(node, name)
        self.context.origins.inherit(inside, node)
        loop = cst.For(
            target=_tuple(list(walked.values())),
            iter=_zipped(list(walked)),
            body=block([cst.SimpleStatementLine([cst.Expr(inside)])]),
        )
        new: list[Statement] = [*before, with_comments(loop, node)]
        for part in new:
            self.context.origins.inherit(part, node)
        return new

    def _refuse(self, node: Statement, name: str) -> list[Statement]:
        self.context.refuse(
            "R4",
            node,
            f"no single-tensor form of {_PREFIX}{name} is known for these operands",
            "write it as a loop over the tensors",
        )
        return [node]

    def _value(
        self, node: cst.CSTNode, before: list[Statement]
    ) -> cst.BaseExpression | None:
        """A comprehension for a call that is there for its value."""
        name = _operation(node)
        if name is None or name.endswith("_"):
            return None
        operands = [self._named(a, before) for a in cast(cst.Call, node).args]
        walked = self._walked(operands)
        if not walked:
            return None
        items = {old: cst.Name(new) for old, new in walked.items()}
        listed = [code(a.value) in walked for a in operands]
        element = _compute(name, [_item(a, items) for a in operands], listed)
        if element is None:
            return None
        self.context.origins.inherit(element, node)
        loop = cst.CompFor(_tuple(list(walked.values())), _zipped(list(walked)))
        return cst.ListComp(element, loop)

    # --- operands

    def _named(self, arg: cst.Arg, before: list[Statement]) -> cst.Arg:
        """A list that is computed in place gets a name first."""
        value = as_list(arg.value)
        if _operation(value):
            # a call inside the arguments of one that works in place
            new = self._value(value, before)
            value = value if new is None else new
        same = repeated(value)
        if same is not None:
            return arg.with_changes(value=same[0])
        if isinstance(value, (cst.ListComp, cst.List)):
            name = self._fresh("items")
            before.append(assign([cst.Name(name)], value))
            self.lists.add(name)
            value = cst.Name(name)
        return arg.with_changes(value=value)

    def _walked(self, operands: Sequence[cst.Arg]) -> dict[str, str]:
        """List → the name of its item, for each list among the operands."""
        walked: dict[str, str] = {}
        for arg in operands:
            if isinstance(arg.value, cst.Name) and arg.value.value in self.lists:
                name = arg.value.value
                if name not in walked:
                    walked[name] = self._fresh(singular(name), walked)
        return walked

    def _fresh(self, name: str, walked: dict[str, str] | None = None) -> str:
        used = set(walked.values()) if walked else set()
        while name in self.taken or name in used:
            name += "_"
        if walked is None:
            self.taken.add(name)
        return name


def _list_names(body: Sequence[Statement]) -> Iterator[str]:
    """Names that are bound to lists, or appended to, anywhere."""
    lists: set[str] = set()
    while True:
        before = len(lists)
        for node in (n for s in body for n in walk(s)):
            pair = (
                assignment(node) if isinstance(node, cst.SimpleStatementLine) else None
            )
            if pair is not None and _makes_list(pair[1], lists):
                lists.update(target_names(pair[0]))
            if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
                if node.func.attr.value in ("append", "extend"):
                    lists.update(target_names(node.func.value))
        if len(lists) == before:
            return iter(lists)


def _makes_list(node: cst.BaseExpression, lists: set[str]) -> bool:
    if (
        isinstance(node, (cst.List, cst.ListComp))
        or is_name(node)
        and (code(node) in lists)
    ):
        return True
    if code(node).endswith('["params"]') or code(node).endswith("['params']"):
        return True
    if isinstance(node, cst.BinaryOperation):
        return isinstance(node.left, cst.List)
    if isinstance(node, cst.Call):
        made = dotted(node.func) in ("list", "tuple", "sorted")
        return made or bool(_operation(node))
    return False


def _tuple(names: Sequence[str]) -> cst.BaseAssignTargetExpression:
    text = ", ".join(names)
    loop = cst.ensure_type(cst.parse_statement(f"for {text} in x: pass"), cst.For)
    return loop.target


def _zipped(lists: Sequence[str]) -> cst.BaseExpression:
    return expr(lists[0] if len(lists) == 1 else f"zip({', '.join(lists)})")


def _item(arg: cst.Arg, items: dict[str, cst.Name]) -> cst.Arg:
    name = arg.value.value if isinstance(arg.value, cst.Name) else None
    plain = arg.with_changes(comma=cst.MaybeSentinel.DEFAULT)
    if arg.keyword is not None and arg.keyword.value in _KEYWORDS:
        plain = cst.Arg(arg.value)
    return plain.with_changes(value=items[name]) if name in items else plain


# --- single tensors ----------------------------------------------------------


def _mutate(name: str, args: list[cst.Arg], listed: list[bool]) -> cst.Call | None:
    """``x.add_(y)``, the in-place form for one tensor."""
    first, rest = args[0].value, args[1:]
    plain = name.removesuffix("_")
    if plain in _BOUNDS and listed[1]:
        value = call(f"torch.{plain}", first, rest[0].value)
        return method(first, "copy_", [cst.Arg(value)])
    if not listed[0] or plain == "norm":
        return None
    twin = _BOUNDS.get(plain, plain)
    return method(first, f"{twin}_", _scaled(plain, rest))


def _compute(
    name: str, args: list[cst.Arg], listed: list[bool]
) -> cst.BaseExpression | None:
    """``x.add(y)``, out of place, for one tensor."""
    first, rest = args[0].value, args[1:]
    if name == "pow" and not listed[0]:
        return cst.BinaryOperation(parenthesize(first), cst.Power(), rest[0].value)
    if not listed[0]:
        return None
    if name in _BOUNDS and listed[1]:
        return call(f"torch.{name}", first, rest[0].value)
    if name == "norm":
        return cst.Call(expr("torch.linalg.vector_norm"), [cst.Arg(first), *rest])
    return method(first, _BOUNDS.get(name, name), _scaled(name, rest))


def _scaled(name: str, rest: list[cst.Arg]) -> list[cst.Arg]:
    """``addcmul(a, b, value)`` is spelt ``addcmul(a, b, value=value)``."""
    if name in ("addcmul", "addcdiv") and len(rest) == 3 and rest[2].keyword is None:
        return [*rest[:2], cst.Arg(rest[2].value, cst.Name("value"), equal=TIGHT_EQUAL)]
    return rest
