"""What a function's annotations say of its parameters."""

from __future__ import annotations

import re

from codegen.analysis.values import (
    NUMBER,
    OTHER,
    SCALAR_OR_TENSOR,
    UNKNOWN,
    Kind,
    Place,
    Value,
)

_ITERABLES = frozenset("List list Tuple tuple Sequence Iterable Size".split())


def annotated(name: str, annotation: str) -> Value:
    """What a parameter with that annotation may be."""
    place = frozenset({Place(f"argument {name}")})
    words = set(re.findall(r"\w+", annotation))
    if "Tensor" in words:
        return Value(Kind.TENSOR, place) if len(words - {"torch"}) == 1 else UNKNOWN
    items = words - _ITERABLES - {"Union", "torch"}
    if words & _ITERABLES and items <= {"int", "float"}:
        return Value(
            Kind.SEQUENCE, place, SCALAR_OR_TENSOR if "float" in items else NUMBER
        )
    if words and words <= {"int", "bool", "None"}:
        return NUMBER
    if words and words <= {"float", "int", "None"}:
        return SCALAR_OR_TENSOR
    if words and words <= {"str", "None"}:
        return OTHER
    return Value(Kind.UNKNOWN, place)
