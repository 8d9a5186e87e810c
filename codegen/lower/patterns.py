"""Patterns of ``match`` as the tests that they are.

case "sign" | None:   →   subject == "sign" or subject is None
case x if x > 0:      →   x = subject
"""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.syntax import (
    Statement,
    assign,
    code,
    expr,
    is_constant,
    is_name,
    parenthesize,
)


def test_of(
    pattern: cst.MatchPattern, subject: cst.BaseExpression
) -> cst.BaseExpression | None:
    """When a pattern matches; None for those that take their subject apart."""
    if isinstance(pattern, cst.MatchValue):
        return expr(f"{code(subject)} == {code(pattern.value)}")
    if isinstance(pattern, cst.MatchSingleton):
        return expr(f"{code(subject)} is {code(pattern.value)}")
    if isinstance(pattern, cst.MatchOr):
        tests = [test_of(p.pattern, subject) for p in pattern.patterns]
        if any(t is None for t in tests):
            return None
        return expr(" or ".join(code(cast(cst.CSTNode, t)) for t in tests))
    if isinstance(pattern, cst.MatchAs):
        if pattern.pattern is None:
            return cst.Name("True")
        return test_of(pattern.pattern, subject)
    return None


def captured(pattern: cst.MatchPattern, subject: cst.BaseExpression) -> list[Statement]:
    if isinstance(pattern, cst.MatchAs) and pattern.name is not None:
        return [assign([cst.Name(pattern.name.value)], subject)]
    return []


def both(test: cst.BaseExpression, guard: cst.BaseExpression) -> cst.BaseExpression:
    if is_name(test, "True"):
        return guard
    first = parenthesize(test) if isinstance(test, cst.BooleanOperation) else test
    second = parenthesize(guard) if not is_constant(guard) else guard
    return cst.BooleanOperation(first, cst.And(), second)
