"""What may be computed in double precision because a number became a tensor.

norm = ops.value(ops.norm(p))      a number upstream, here a tensor in float64
d_p = d_p.mul(norm)                in float64 where d_p has no dimensions
state["m"] = d_p.clone()           upstream's is of the parameter's dtype
"""

from __future__ import annotations

import libcst as cst

from codegen.diagnostics import walk
from codegen.syntax import (
    HAVE_VALUES,
    Body,
    all_statements,
    calls,
    dotted,
    read_names,
    small,
    target_names,
)


class Promoted:
    """Variables of a body that such numbers flow into, before each statement.

    In the order of the text: what one turn of the loop over parameters leaves behind is
    not what the next one starts with.
    """

    def __init__(self, body: Body) -> None:
        self._before: dict[cst.CSTNode, frozenset[str]] = {}
        names: frozenset[str] = frozenset()
        for statement in all_statements(body):
            self._before[statement] = names
            inner = small(statement)
            if isinstance(inner, HAVE_VALUES) and inner.value is not None:
                if self.reaches(inner.value, statement):
                    names |= {*_targets(inner)}

    def reaches(self, node: cst.BaseExpression, statement: cst.CSTNode) -> bool:
        """Whether an expression in a statement may be made of such a number."""
        if any(dotted(c.func) == "ops.value" for c in calls(node)):
            return True
        return bool(read_names(node) & self._before.get(statement, frozenset()))


def _targets(node: cst.CSTNode) -> list[str]:
    targets = [n for n in walk(node) if isinstance(n, cst.AssignTarget)]
    found = [name for t in targets for name in target_names(t.target)]
    if isinstance(node, (cst.AnnAssign, cst.AugAssign)):
        found += target_names(node.target)
    return found
