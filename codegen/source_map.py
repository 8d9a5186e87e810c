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


class Line(NamedTuple):
    """The generated statement on line ``number`` (from 1), and where upstream wrote
    what it was made from; None for what has no counterpart."""

    number: int
    origin: Origin | None


def map_lines(
    text: str, made_from: Iterable[cst.CSTNode], origins: Origins
) -> tuple[Line, ...]:
    """One entry per statement of the update and of the helpers below its class.

    ``made_from`` are the statements of the update, then the helpers, as syntax.

    Raises:
        ValueError: the text has other statements than those it was made from.
    """
    numbers = [s.lineno for s in _translated(ast.parse(text))]
    found = [o for node in made_from for o in _origins(node, origins)]
    return tuple(Line(n, o) for n, o in zip(numbers, found, strict=True))


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


def _origins(root: cst.CSTNode, origins: Origins) -> Iterator[Origin | None]:
    for node in walk(root):
        if isinstance(node, (cst.SimpleStatementLine, cst.SimpleStatementSuite)):
            yield from [origins.of(node)] * len(node.body)
        elif isinstance(node, cst.BaseCompoundStatement):
            yield origins.of(node)
