"""What torch has replaced or says in two ways, in the one way that the rules know.

    constructor = grad.new
    constructor(indices, values, size)    →   torch.sparse_coo_tensor(indices, values, size)
    constructor().resize_as_(grad)        →   torch.zeros_like(grad)
    buf.add(momentum, grad)               →   buf.add(grad, alpha=momentum)
    nn.init.constant_(x, 0.5)             →   x.fill_(0.5)
    try: x = a / b                        →   try: x = ops.quotient(a, b)
    except ZeroDivisionError: …
    m = state.setdefault("m", x)          →   if "m" not in state: state["m"] = x
                                              m = state["m"]
    torch.max(a, dim=0, out=(x, indices)) →   values = torch.max(a, dim=0)
                                              torch.clone(values[0], out=x)

The legacy constructors copy values without their gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import Origins, walk
from codegen.inplace import is_place
from codegen.syntax import (
    TIGHT_EQUAL,
    Body,
    Statement,
    assign,
    assignment,
    block,
    bound_names,
    call,
    code,
    dotted,
    expr,
    is_name,
    keyword,
    map_bodies,
    method,
    replace_nodes,
    small,
    with_comments,
)


def modernize(body: Body, context: Context) -> Body:
    """Replace calls of ``x.new`` wherever its arguments tell what is meant."""
    names = _constructors(body)
    taken = bound_names(block(body))

    def replace(node: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(node, cst.Call):
            return None
        reordered = _scalar_last(node)
        if reordered is not None:
            return reordered
        func = node.func
        if (initialised := _initialised(node)) is not None:
            return initialised
        if isinstance(func, cst.Attribute) and func.attr.value == "resize_as_":
            if _constructs(func.value, names) and not _args(func.value):
                return call("torch.zeros_like", node.args[0].value)
        if _constructs(node, names) and node.args:
            return _in_todays_words(node)
        return None

    origins = context.origins
    body = _guard_divisions(body, origins)
    body = _set_defaults(_several_outs(body, taken, origins), origins)
    return tuple(cast(Statement, replace_nodes(s, replace, origins)) for s in body)


def _scalar_last(node: cst.Call) -> cst.Call | None:
    """``x.addcdiv_(value, a, b)`` → ``x.addcdiv_(a, b, value=value)``."""
    func = node.func
    if not isinstance(func, cst.Attribute):
        return None
    operation = optable.method(func.attr.value)
    if operation is None:
        return None
    scalars = [p for p in operation.parameters if p.keyword_only and p.number]
    count = sum(not p.keyword_only for p in operation.parameters)
    before = 1 if is_name(func.value, "torch") else 0
    args = [a.with_changes(comma=cst.MaybeSentinel.DEFAULT) for a in node.args]
    plain = sum(a.keyword is None and not a.star for a in args)
    if len(scalars) != 1 or plain != before + count:
        return None
    word = cst.Name(scalars[0].name)
    scalar = cst.Arg(args[before].value, word, equal=TIGHT_EQUAL)
    operands = [*args[:before], *args[before + 1 : plain]]
    return node.with_changes(args=[*operands, scalar, *args[plain:]])


def _initialised(node: cst.Call) -> cst.Call | None:
    """``nn.init.constant_(x, 0.5)`` → ``x.fill_(0.5)``."""
    operation = optable.function(dotted(node.func) or "")
    if operation is None or operation.means is None:
        return None
    if not node.args or node.args[0].keyword is not None:
        return None
    name, _, value = operation.means.partition(":")
    rest = [cst.Arg(expr(value))] if value else node.args[1:]
    return method(node.args[0].value, name, list(rest))


def _guard_divisions(body: Sequence[Statement], origins: Origins) -> Body:
    """``try: x = a / b`` with ``except ZeroDivisionError``: tensors raise none."""

    def guard(node: cst.CSTNode) -> cst.CSTNode | None:
        if isinstance(node, cst.BinaryOperation):
            if isinstance(node.operator, cst.Divide):
                return call("ops.quotient", node.left, node.right)
        return None

    result: list[Statement] = []
    for node in body:
        if isinstance(node, cst.Try) and any(
            h.type is not None and "ZeroDivisionError" in code(h.type)
            for h in node.handlers
        ):
            inside = cast(cst.BaseSuite, replace_nodes(node.body, guard, origins))
            node = node.with_changes(body=inside)
        elif small(node) is None:
            node = map_bodies(node, lambda part: _guard_divisions(part, origins))
        result.append(node)
    return tuple(result)


def _set_defaults(body: Sequence[Statement], origins: Origins) -> Body:
    """``m = state.setdefault("m", x)`` → ``if "m" not in state: state["m"] = x``, and
    ``m = state["m"]``."""
    result: list[Statement] = []
    for node in body:
        inner = small(node)
        if inner is None:
            result.append(map_bodies(node, lambda part: _set_defaults(part, origins)))
            continue
        value = getattr(inner, "value", None)
        parts = _default_of(value) if isinstance(value, cst.Call) else None
        whole = isinstance(inner, (cst.Expr, cst.Assign))
        if parts is None or not whole or "rand" in code(parts[1]):
            result.append(node)
            continue
        slot, default, absent = parts
        new: list[Statement] = [cst.If(absent, block([assign([slot], default)]))]
        if isinstance(inner, cst.Assign):
            line = cst.ensure_type(node, cst.SimpleStatementLine)
            read = inner.with_changes(value=slot)
            new.append(line.with_changes(body=[read], leading_lines=[]))
        for part in new:
            origins.inherit(part, node)
        result += [with_comments(new[0], node), *new[1:]]
    return tuple(result)


def _default_of(
    node: cst.Call,
) -> tuple[cst.BaseExpression, cst.BaseExpression, cst.BaseExpression] | None:
    """(slot, default, whether it is absent) of ``state.setdefault(key, default)``."""
    func = node.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "setdefault":
        return None
    args = [a.value for a in node.args]
    if len(args) != 2 or not isinstance(args[0], cst.SimpleString):
        return None
    container, key = code(func.value), code(args[0])
    return expr(f"{container}[{key}]"), args[1], expr(f"{key} not in {container}")


def _several_outs(body: Sequence[Statement], taken: set[str], origins: Origins) -> Body:
    """``torch.max(…, out=(x, y))`` into a call, and a store for each."""
    result: list[Statement] = []
    for node in body:
        inner = small(node)
        out = None
        if isinstance(inner, cst.Expr) and isinstance(inner.value, cst.Call):
            out = keyword(inner.value, "out")
        if inner is None:
            node = map_bodies(node, lambda part: _several_outs(part, taken, origins))
        if not isinstance(out, (cst.Tuple, cst.List)):
            result.append(node)
            continue
        name = "values"
        while name in taken:
            name += "_"
        call_ = cast(cst.Call, cast(cst.Expr, inner).value)
        args = [a for a in call_.args if a.value is not out]
        args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        new = [assign([cst.Name(name)], call_.with_changes(args=args))]
        for place, element in enumerate(out.elements):
            if is_place(element.value):
                # not copied: one of another shape is resized
                value = expr(f"{name}[{place}]")
                store = call("torch.clone", value, out=element.value)
                new.append(cst.SimpleStatementLine([cst.Expr(store)]))
        for part in new:
            origins.inherit(part, node)
        result += [with_comments(new[0], node), *new[1:]]
    return tuple(result)


def _in_todays_words(node: cst.Call) -> cst.CSTNode | None:
    """``x.new(indices, values, size)``, or ``x.new(rows, columns)``."""
    args = [a.value for a in node.args]
    if len(args) == 3 and "indices" in code(args[0]):
        return node.with_changes(func=expr("torch.sparse_coo_tensor"))
    if isinstance(node.func, cst.Attribute):
        size = cst.Tuple(
            [cst.Element(a) for a in args],
            lpar=[cst.LeftParen()],
            rpar=[cst.RightParen()],
        )
        return method(node.func.value, "new_empty", [cst.Arg(size)])
    return None


def _constructors(body: Body) -> set[str]:
    """Variables that hold some tensor's ``new``."""
    names: set[str] = set()
    for statement in body:
        for node in walk(statement):
            pair = assignment(node)
            if pair is not None and isinstance(pair[0], cst.Name) and _is_new(pair[1]):
                names.add(pair[0].value)
    return names


def _is_new(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Attribute) and node.attr.value == "new"


def _constructs(node: cst.CSTNode, names: set[str]) -> bool:
    if not isinstance(node, cst.Call):
        return False
    if isinstance(node.func, cst.Name):
        return node.func.value in names
    return _is_new(node.func)


def _args(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Call) and bool(node.args)
