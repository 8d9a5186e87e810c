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

COUNT = replace(NUMBER, selects=True)
"""A whole number."""
FLAG = replace(NUMBER, selects=False)
"""A truth value."""

_BITWISE = (
    *(cst.BitAnd, cst.BitOr, cst.BitXor),
    *(cst.BitAndAssign, cst.BitOrAssign, cst.BitXorAssign),
)
_NUMBERS = (Kind.NUMBER, Kind.SETTING)


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
