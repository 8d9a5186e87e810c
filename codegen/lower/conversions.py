"""Conversions to a short float, which make a tensor of their own unless it is one.

g.bfloat16()   →   ops.converted(g, torch.bfloat16)

What is written into the result then is the tensor itself or a copy. Where that can't be
translated for both, it is for the copy, and the other is refused when it is met.
"""

from __future__ import annotations

import libcst as cst

from codegen.context import Context
from codegen.syntax import Body, call, dotted, expr, keyword, replace_nodes

_METHODS = {"bfloat16": "torch.bfloat16", "half": "torch.float16"}
_DTYPES = frozenset({"torch.bfloat16", "torch.float16", "torch.half"})


def with_copies(body: Body, context: Context) -> Body:
    """Each such conversion as one that makes a copy, if the context asks for that."""
    found = False

    def replace(node: cst.CSTNode) -> cst.CSTNode | None:
        nonlocal found
        dtype = short_float(node)
        if dtype is None or not isinstance(node, cst.Call):
            return None
        found = True
        if not context.assumes_casts_copy or not isinstance(node.func, cst.Attribute):
            return None
        return call("ops.converted", node.func.value, expr(dtype))

    body = tuple(
        replace_nodes(s, replace, context.origins) for s in body  # type: ignore[misc]
    )
    context.converts |= found
    if found and context.assumes_casts_copy:
        context.notes.append(
            "Where a tensor that it converts to a short float is one already, it raises: "
            "the original would write into that tensor."
        )
    return body


def short_float(node: cst.CSTNode) -> str | None:
    """The short float that this converts to."""
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return None
    name = node.func.attr.value
    if name in _METHODS and not node.args:
        return _METHODS[name]
    if name in ("to", "type") and len(node.args) == 1:
        dtype = dotted(keyword(node, "dtype") or node.args[0].value)
        return dtype if dtype in _DTYPES else None
    return None
