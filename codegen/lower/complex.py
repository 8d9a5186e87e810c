"""Whether complex parameters may reach an update as pairs of reals.

Optimizers treat a complex number as two independent reals. Where upstream says so
(``if torch.is_complex(param): param = torch.view_as_real(param)``), the base class
hands the update real views in the first place, and the update asks no more.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.fold import asks_for_complex
from codegen.syntax import (
    Body,
    all_statements,
    assignment,
    block,
    code,
    dotted,
    read_names,
    same,
    small,
    statements,
)
from codegen.upstream import Definition

_VIEWS = ("torch.view_as_real", "torch.view_as_complex")


def only_converts(body: Body, context: Context) -> bool:
    """Whether a step and the functions that it still calls ask for complex numbers,
    and only to see them as reals."""
    functions = [block(body), *_called(body, context)]
    branches = [branch for f in functions for branch in _branches(f)]
    converting = [b for b in branches if _converts(b)]
    return bool(converting) and all(b in converting for b in branches)


def _called(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """The functions of upstream's that a body reads, and those that they read."""
    library = context.optimizer.library
    pending = [
        found
        for n in sorted(read_names(block(body)))
        if (found := context.globals.get(n))
    ]
    seen: set[str] = set()
    while pending:
        found = pending.pop()
        if not isinstance(found, Definition) or found.full_name in seen:
            continue
        seen.add(found.full_name)
        yield found.node
        for name in sorted(read_names(found.node)):
            if (inner := library.resolve(found.module, name)) is not None:
                pending.append(inner)


def _branches(function: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Branches on whether something is complex, also through a variable; a function
    that says so branches wherever it is called."""
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
        elif isinstance(node, cst.Return) and node.value is not None:
            if asks_for_complex(node.value) or code(node.value) in names:
                yield node


def _converts(node: cst.CSTNode) -> bool:
    if not isinstance(node, (cst.If, cst.IfExp)):
        return False
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
