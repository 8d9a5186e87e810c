"""What the source of a call says of it: its arguments by name, a result that is plain."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.purity import pure
from codegen.syntax import Body, bare, dict_entries, is_name, small, statements


def given_to(
    node: cst.FunctionDef, made: cst.Call, through_self: bool = False
) -> dict[str, cst.BaseExpression] | None:
    """Parameter → argument or default, of a call without stars."""
    params = node.params
    plain = [p.name.value for p in (*params.posonly_params, *params.params)]
    if through_self and plain[:1] == ["self"]:
        plain = plain[1:]
    if params.star_kwarg is not None or isinstance(params.star_arg, cst.Param):
        return None
    given: dict[str, cst.BaseExpression] = {
        p.name.value: p.default
        for p in (*params.posonly_params, *params.params, *params.kwonly_params)
        if p.default is not None
    }
    for number, arg in enumerate(made.args):
        if arg.star or (arg.keyword is None and number >= len(plain)):
            return None
        name = plain[number] if arg.keyword is None else arg.keyword.value
        given[name] = arg.value
    return given


def none_test(node: cst.CSTNode) -> cst.Comparison | None:
    """``x is not None`` of ``def exists(x): return x is not None``."""
    if not isinstance(node, cst.FunctionDef) or node.decorators:
        return None
    params = [p.name.value for p in node.params.params]
    body = statements(node.body)
    inner = small(body[0]) if len(body) == 1 else None
    if len(params) != 1 or not isinstance(inner, cst.Return):
        return None
    test = inner.value
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return None
    (part,) = test.comparisons
    asks = isinstance(part.operator, (cst.Is, cst.IsNot))
    if asks and is_name(test.left, params[0]) and is_name(part.comparator, "None"):
        return cast(cst.Comparison, bare(test))
    return None


def got_from_literal(
    node: cst.Call, args: list[cst.BaseExpression]
) -> cst.BaseExpression | None:
    """``{"k": v}.get("k", d)`` is ``v``: keywords that went through ``**kwargs``."""
    func = node.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "get":
        return None
    entries = dict_entries(func.value)
    if entries is None or not args or not isinstance(args[0], cst.SimpleString):
        return None
    if not all(map(pure, (*entries.values(), *args))):
        return None
    default = args[1] if len(args) > 1 else cst.Name("None")
    return entries.get(str(args[0].evaluated_value), default)


def item_of_display(node: cst.Subscript) -> cst.BaseExpression | None:
    """``a`` of ``(a, b)[0]``."""
    index = node.slice[0].slice if len(node.slice) == 1 else None
    if not isinstance(node.value, (cst.Tuple, cst.List)):
        return None
    if not isinstance(index, cst.Index):
        return None
    items = [e.value for e in node.value.elements if isinstance(e, cst.Element)]
    if len(items) != len(node.value.elements) or not isinstance(
        index.value, cst.Integer
    ):
        return None
    number = index.value.evaluated_value
    if number >= len(items) or not all(
        pure(i) for i in items if i is not items[number]
    ):
        return None
    return items[number]


def function_statements(node: cst.FunctionDef) -> Body:
    """A function's statements but for its docstring."""
    body = statements(node.body)
    if body and isinstance(small(body[0]), cst.Expr):
        return body[1:]
    return body
