"""``setdefault`` written out.

state.setdefault("m", torch.zeros_like(p)).mul_(b)   →   if "m" not in state:
                                                             state["m"] = torch.zeros_like(p)
                                                         state["m"].mul_(b)
"""

from __future__ import annotations

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.evaluation import Evaluation
from codegen.purity import pure
from codegen.syntax import (
    HAVE_VALUES,
    Body,
    Statement,
    assign,
    block,
    code,
    dotted,
    expr,
    is_constant,
    map_bodies,
    positional,
    small,
    with_comments,
)

_CONTAINERS = ("{}", "dict()", "[]", "list()")


def without_setdefault(body: Body, context: Context) -> Body:
    """Every ``setdefault`` of a string key as a statement of its own in front."""
    result: list[Statement] = []
    for node in body:
        if small(node) is None:
            result.append(map_bodies(node, lambda b: without_setdefault(b, context)))
        else:
            result += _written_out(node, context)
    return tuple(result)


def _written_out(node: Statement, context: Context) -> list[Statement]:
    inner = small(node)
    value = getattr(inner, "value", None)
    if not isinstance(inner, HAVE_VALUES) or value is None:
        return [node]
    defaults = _Defaults(context)
    new = defaults.visit(value)
    if new is value:
        return [node]
    if isinstance(inner, cst.Expr) and not any(
        isinstance(n, cst.Call) for n in walk(new)
    ):
        lines = defaults.prelude
    else:
        lines = [
            *defaults.prelude,
            cst.SimpleStatementLine([inner.with_changes(value=new)]),
        ]
    for line in lines:
        context.origins.inherit(line, node)
    return [with_comments(lines[0], node), *lines[1:]] if lines else []


class _Defaults(Evaluation):
    def moves(self, node: cst.CSTNode) -> bool:
        if not isinstance(node, cst.Call) or len(node.args) not in (1, 2):
            return False
        func = node.func
        if not isinstance(func, cst.Attribute) or func.attr.value != "setdefault":
            return False
        key = node.args[0].value
        if dotted(func.value) == "self.state" and not is_constant(key):
            return len(node.args) == 2 and code(node.args[1].value) in ("{}", "dict()")
        if code(node.args[-1].value) in _CONTAINERS:
            return False  # what it holds is found where it is asked for
        place = isinstance(func.value, (cst.Name, cst.Subscript)) and pure(func.value)
        return is_constant(key) and place

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        made = cst.ensure_type(node, cst.Call)
        held = cst.ensure_type(made.func, cst.Attribute).value
        key, *default = positional(made)
        item = expr(f"{code(held)}[{code(key)}]")
        if dotted(held) == "self.state" and not is_constant(key):
            return item
        value = default[0] if default else cst.Name("None")
        if not pure(value):
            value = self._keep(value)  # it is computed in any case
        missing = expr(f"{code(key)} not in {code(held)}")
        self.prelude.append(
            cst.If(missing, block([assign([item], value.deep_clone())]))
        )
        self.context.origins.inherit(self.prelude[-1], node)
        return item.deep_clone()
