"""How a step is laid out, where black has no opinion: quotes and blank lines."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    assignment,
    code,
    map_bodies,
    replace_nodes,
    small,
)


def double_quotes(body: Body, context: Context) -> Body:
    """Every string in double quotes, those inside f-strings left alone."""
    return tuple(_double_quotes(s, context) for s in body)


def _double_quotes(node: Statement, context: Context) -> Statement:
    inside = strings_inside_fstrings(node)

    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if inner in inside:
            return None
        if isinstance(inner, cst.SimpleString) and inner.quote == "'":
            if '"' not in inner.raw_value and "\\" not in inner.raw_value:
                return inner.with_changes(value=f'{inner.prefix}"{inner.raw_value}"')
        if isinstance(inner, cst.FormattedString) and inner.end == "'":
            if '"' not in code(inner):
                start = inner.start.replace("'", '"')
                return inner.with_changes(start=start, end='"')
        return None

    return cast(Statement, replace_nodes(node, replace, context.origins))


def strings_inside_fstrings(node: cst.CSTNode) -> set[cst.CSTNode]:
    """What stands between the braces of f-strings, and their text."""
    return {
        part
        for string in walk(node)
        if isinstance(string, cst.FormattedString)
        for part in walk(string)
        if part is not string
    }


def alternate_quotes(body: Body, context: Context) -> Body:
    """Strings inside an f-string in the other quotes: Python before 3.12 asks for it."""
    origins = context.origins

    def single(inner: cst.CSTNode) -> cst.CSTNode | None:
        if isinstance(inner, cst.SimpleString) and inner.quote == '"':
            if "'" not in inner.raw_value and "\\" not in inner.raw_value:
                return inner.with_changes(value=f"{inner.prefix}'{inner.raw_value}'")
        return None

    def replace(node: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(node, cst.FormattedString) or node.end != '"':
            return None
        parts = [replace_nodes(part, single, origins) for part in node.parts]
        return node.with_changes(parts=parts)

    return tuple(cast(Statement, replace_nodes(s, replace, origins)) for s in body)


def space(body: Body, context: Context) -> Body:
    """Blank lines as a person would set them."""
    result: list[Statement] = []
    for node in body:
        if small(node) is None:
            node = map_bodies(node, lambda part: space(part, context))
        previous = result[-1] if result else None
        result.append(_spaced(node, previous))
    return tuple(result)


def _spaced(node: Statement, previous: Statement | None) -> Statement:
    lines = list(node.leading_lines)
    while any(l.comment for l in lines) and lines[-1].comment is None:
        lines.pop()  # a comment stands at what it speaks of
    tight = previous is None or (_reads_setting(previous) and _reads_setting(node))
    if tight:
        while lines and lines[0].comment is None:
            lines = lines[1:]
    elif isinstance(node, cst.For) and _reads_setting(previous) and not lines:
        lines = [cst.EmptyLine(indent=False)]
    return node.with_changes(leading_lines=lines)


def _reads_setting(node: Statement | None) -> bool:
    pair = None if node is None else assignment(node)
    if pair is None or not isinstance(pair[1], cst.Subscript):
        return False
    return isinstance(pair[1].value, cst.Name) and pair[1].value.value == "group"
