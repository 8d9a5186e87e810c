"""What generated code says, without how it says it.

    # Perform step weight decay                    param = param.mul(1 - lr)
    param: Tensor = param.mul(1 - lr)    →

Comments, docstrings, annotations and layout go; lines remember the statement that they
were part of. Two texts may be alike in code, or at least in what they compute: then
only checks of arguments differ, and the messages of errors.
"""

from __future__ import annotations

import ast
import enum
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from codegen import emit


class Likeness(enum.IntEnum):
    """How alike two generated texts are, headers aside."""

    DIFFERENT = 0
    COMPUTES = 1
    CODE = 2
    TEXT = 3


class Line(NamedTuple):
    """A line of code, and the number of the statement it belongs to in the text."""

    text: str
    number: int


def likeness(a: str, b: str) -> Likeness:
    """How alike two generated modules are."""
    if emit.body(a) == emit.body(b):
        return Likeness.TEXT
    first, second = _bare(a), _bare(b)
    if ast.dump(first) == ast.dump(second):
        return Likeness.CODE
    unchecked = [ast.dump(_Unchecked().visit(module)) for module in (first, second)]
    return Likeness.COMPUTES if len(set(unchecked)) == 1 else Likeness.DIFFERENT


def code_lines(text: str) -> list[Line]:
    """The code of a generated module, line by line."""
    return list(_lines(_bare(text).body, ""))


def _bare(text: str) -> ast.Module:
    module = cast(ast.Module, _Bare().visit(ast.parse(text)))
    used = {n.id for n in ast.walk(module) if isinstance(n, ast.Name)}
    module.body = [s for s in module.body if not _is_import(s) or _binds(s) & used]
    return module


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _binds(node: ast.stmt) -> set[str]:
    assert isinstance(node, (ast.Import, ast.ImportFrom))
    return {(a.asname or a.name).partition(".")[0] for a in node.names}


class _Bare(ast.NodeTransformer):
    """Drops docstrings and annotations."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        text = isinstance(node.value, ast.Constant) and isinstance(
            node.value.value, str
        )
        return None if text else node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.Assign | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)


class _Unchecked(ast.NodeTransformer):
    """Drops what only refuses: assertions, and branches that only raise."""

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        return ast.Raise(None, None)

    def visit_If(self, node: ast.If) -> ast.If | None:
        self.generic_visit(node)
        raises = all(isinstance(s, ast.Raise) for s in node.body)
        return None if raises and not node.orelse else node


# --- lines ---------------------------------------------------------------------------


def _lines(body: Sequence[ast.stmt], indent: str) -> Iterator[Line]:
    for node in body:
        yield from _statement(node, indent)


def _statement(node: ast.stmt, indent: str, head: str = "") -> Iterator[Line]:
    """A statement's own lines, then those of its blocks; ``head`` is ``el`` of elif."""
    for text in _own_lines(node):
        yield Line(f"{indent}{head}{text}", node.lineno)
        head = ""
    inside = indent + "    "
    yield from _lines(getattr(node, "body", ()), inside)
    for handler in getattr(node, "handlers", ()):
        kind = f" {ast.unparse(handler.type)}" if handler.type else ""
        name = f" as {handler.name}" if handler.name else ""
        yield Line(f"{indent}except{kind}{name}:", handler.lineno)
        yield from _lines(handler.body, inside)
    rest: list[ast.stmt] = getattr(node, "orelse", [])
    if isinstance(node, ast.If) and len(rest) == 1 and isinstance(rest[0], ast.If):
        yield from _statement(rest[0], indent, "el")
    elif rest:
        yield Line(f"{indent}else:", node.lineno)
        yield from _lines(rest, inside)
    if getattr(node, "finalbody", ()):
        yield Line(f"{indent}finally:", node.lineno)
        yield from _lines(getattr(node, "finalbody"), inside)


def _own_lines(node: ast.stmt) -> list[str]:
    """A statement laid out, without its blocks."""
    if not hasattr(node, "body"):
        return emit.layout(ast.unparse(node)).splitlines()
    if isinstance(node, ast.Try):
        return ["try:"]
    fields: dict[str, Any] = {name: getattr(node, name) for name in node._fields}
    if "orelse" in fields:
        fields["orelse"] = []
    head = type(node)(**{**fields, "body": [ast.Pass()]})
    lines = emit.layout(ast.unparse(ast.fix_missing_locations(head))).splitlines()
    return [line for line in lines if line.strip()][:-1]
