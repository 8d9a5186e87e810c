"""Whether complex parameters may reach an update as pairs of reals.

Optimizers treat a complex number as two independent reals. Where upstream says so
(``if torch.is_complex(param): param = torch.view_as_real(param)``), the base class
hands the update real views in the first place, and the update asks no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from codegen.diagnostics import walk
from codegen.lower.fold import asks_for_complex
from codegen.syntax import (
    all_statements,
    assignment,
    code,
    dotted,
    same,
    small,
    statements,
)

_VIEWS = ("torch.view_as_real", "torch.view_as_complex")


def only_converts(functions: Iterable[cst.CSTNode]) -> bool:
    """Whether these functions ask for complex numbers, and only to see them as reals."""
    branches = [branch for f in functions for branch in _branches(f)]
    converting = [b for b in branches if _converts(b)]
    return bool(converting) and all(b in converting for b in branches)


def _branches(function: cst.CSTNode) -> Iterator[cst.If | cst.IfExp]:
    """Branches on whether something is complex, also through a variable."""
    names = {
        code(pair[0])
        for node in walk(function)
        if isinstance(node, cst.SimpleStatementLine)
        and (pair := assignment(node)) is not None
        and asks_for_complex(pair[1])
    }
    for node in walk(function):
        if isinstance(node, (cst.If, cst.IfExp)):
            tests = list(walk(node.test))
            if any(asks_for_complex(t) or code(t) in names for t in tests):
                yield node


def _converts(node: cst.If | cst.IfExp) -> bool:
    if isinstance(node, cst.IfExp):
        return _is_conversion(node.body)
    return all(
        isinstance(s, cst.If) or _is_conversion(s) or _restores(s)
        for s in all_statements(statements(node.body))
    )


def _is_conversion(node: cst.CSTNode) -> bool:
    """Contains a real view, or fills both parts alike: ``complex(v, v)``."""
    for inner in walk(node):
        if isinstance(inner, cst.Call):
            name = dotted(inner.func)
            if name in _VIEWS:
                return True
            if name == "complex" and len(inner.args) == 2:
                if same(inner.args[0].value, inner.args[1].value):
                    return True
    return False


def _restores(node: cst.CSTNode) -> bool:
    return isinstance(small(node), cst.Pass)
