"""Whether what a tensor is indexed with shows a part of it, or copies one.

m[0], m[len(xs) - 1], m[1:]       a part
m[mask > 0], m[step > 3]          a copy: booleans, of Python's or of torch's
m[i], i = x.argmax()              a part, if i has no dimensions; that isn't known
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import libcst as cst

from codegen.analysis.values import NUMBER, Kind, Value
from codegen.syntax import code

COUNT = replace(NUMBER, selects=True)
"""A whole number."""
FLAG = replace(NUMBER, selects=False)
"""A truth value."""

_BITWISE = (
    *(cst.BitAnd, cst.BitOr, cst.BitXor),
    *(cst.BitAndAssign, cst.BitOrAssign, cst.BitXorAssign),
)
_NUMBERS = (Kind.NUMBER, Kind.SCALAR_OR_TENSOR)


def computed(
    node: cst.BinaryOperation | cst.UnaryOperation | cst.AugAssign,
    operands: Iterable[Value],
) -> bool | None:
    """How what an operator yields indexes a tensor. Of truth values and of whole
    numbers, arithmetic makes whole numbers."""
    given = list(operands)
    ways = {v.selects for v in given}
    bitwise = isinstance(node.operator, (*_BITWISE, cst.BitInvert))
    if all(v.kind in _NUMBERS for v in given):
        if isinstance(node.operator, _BITWISE):
            return ways.pop() if len(ways) == 1 else None
        return True
    # tensors of booleans stay such
    only_tensors = all(v.kind is Kind.TENSOR for v in given)
    return False if only_tensors and bitwise and ways == {False} else None


def bounds(node: cst.Subscript) -> slice | None:
    """``1:`` as a slice, and ``0`` as that of one item; None where a bound isn't a
    number."""
    part = node.slice[0].slice
    if isinstance(part, cst.Index) and len(node.slice) == 1:
        text = code(part.value)
        number = int(text) if text.lstrip("-").isdigit() else None
        return None if number is None else slice(number, number + 1 or None)
    if len(node.slice) != 1 or not isinstance(part, cst.Slice):
        return None
    parts = [
        None if b is None else code(b) for b in (part.lower, part.upper, part.step)
    ]
    if not all(b is None or b.lstrip("-").isdigit() for b in parts):
        return None
    return slice(*(None if b is None else int(b) for b in parts))
