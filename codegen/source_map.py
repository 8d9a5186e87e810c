"""Which of upstream's lines each generated statement comes from.

The text that black laid out has the same statements, in the same order, as the
syntax that it was written from; and syntax knows its origins.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import libcst as cst

from codegen.diagnostics import Origin, Origins, walk
from codegen.syntax import code


class Line(NamedTuple):
    """The generated statement on line ``number`` (from 1), and where upstream wrote
    what it was made from; None for what has no counterpart."""

    number: int
    origin: Origin | None


def map_lines(
    tree: ast.Module, made_from: Iterable[cst.CSTNode], origins: Origins
) -> tuple[Line, ...]:
    """One entry per statement of the update and of the helpers below its class.

    ``made_from`` are the statements of the update, then the helpers, as syntax.

    Raises:
        ValueError: the text has other statements than those it was made from.
    """
    return tuple(
        Line(node.lineno, origins.of(made)) for node, made in _pairs(tree, made_from)
    )


def origin_of(
    part: ast.AST,
    tree: ast.Module,
    made_from: Iterable[cst.CSTNode],
    origins: Origins,
) -> Origin | None:
    """Where upstream wrote what a statement or an expression of the text was made
    from."""
    for node, made in _pairs(tree, made_from):
        if part is node:
            return origins.of(made)
        if any(part is inner for inner in _own(node)):
            wanted = ast.dump(part)
            same = (n for n in walk(made) if _reads_as(n, wanted))
            return origins.of(next(same, made))
    return None


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions of a statement, without those of statements inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield child
            yield from _own(child)


def _reads_as(node: cst.CSTNode, wanted: str) -> bool:
    if not isinstance(node, cst.BaseExpression):
        return False
    return ast.dump(ast.parse(f"({code(node)}\n)", mode="eval").body) == wanted


def _pairs(
    tree: ast.Module, made_from: Iterable[cst.CSTNode]
) -> Iterator[tuple[ast.stmt, cst.CSTNode]]:
    """Statements of the text, with the syntax that each was written from."""
    syntax = (made for node in made_from for made in _syntax(node))
    return zip(_translated(tree), syntax, strict=True)


def _translated(module: ast.Module) -> Iterator[ast.stmt]:
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    yield from _statements(member.body)
        elif isinstance(node, ast.FunctionDef):
            yield from _statements([node])


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.stmt]:
    for node in nodes:
        if isinstance(node, ast.stmt):
            yield node
        yield from _statements(ast.iter_child_nodes(node))


def _syntax(root: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """As many nodes as there are statements: a line may hold several."""
    for node in walk(root):
        if isinstance(node, (cst.SimpleStatementLine, cst.SimpleStatementSuite)):
            yield from [node] * len(node.body)
        elif isinstance(node, cst.BaseCompoundStatement):
            yield node
