"""Lists that hold an item for each of the same parameters."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from codegen.syntax import calls, code, dotted, expr, parenthesize, read_names


@dataclass(frozen=True)
class Family:
    """The parameters that lists have one item for: where from, which are left out."""

    source: cst.BaseExpression
    conditions: tuple[cst.BaseExpression, ...]

    def key(self) -> tuple[str, ...]:
        return (code(self.source), *map(code, self.conditions))

    def test(self) -> str:
        """All conditions as one."""
        return " and ".join(map(_conjunct, self.conditions))

    def is_empty(self, item: str) -> cst.BaseExpression:
        """A test for whether there are none of these parameters, which it calls ``item``."""
        test = self.test() or "True"
        return expr(f"not any({test} for {item} in {code(self.source)})")


def _conjunct(test: cst.BaseExpression) -> str:
    """A test as it stands beside ``and``."""
    binds = isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.Or)
    loose = binds or isinstance(test, (cst.IfExp, cst.Lambda, cst.NamedExpr))
    return code(parenthesize(test) if loose else test)


_LASTING = {"dim", "numel", "size", "is_floating_point", "is_complex", "len"}
_LASTING |= {"isinstance", "hasattr", "getattr", "torch.is_complex", "any", "all"}


def lasts(test: cst.BaseExpression, item: str) -> bool:
    """Whether a test of a parameter has the same outcome all through a step."""
    names = read_names(test) - {item, "group", "torch", "len", "isinstance", "getattr"}
    if names - {"hasattr", "any", "all", "True", "False", "None"}:
        return False
    for node in calls(test):
        last = (dotted(node.func) or "").rpartition(".")[2]
        if last not in _LASTING and dotted(node.func) not in _LASTING:
            return False
    return True
