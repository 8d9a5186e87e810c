"""Lists that stay empty, once the branch that would have filled them is gone.

batches = []
later.append(batches)
if batches:                               →   batches = []
    …                                         later.append(batches)
for group, batches in zip(groups, later):     for group, batches in zip(groups, later):
    if batches:                                   …
        …
    …
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from codegen.diagnostics import children
from codegen.ir.loops import Loop
from codegen.lower.blocks import keep_comment
from codegen.lower.forms import appended
from codegen.syntax import (
    Body,
    Statement,
    assignment,
    bare,
    code,
    ends,
    is_name,
    map_bodies,
    orelse_statements,
    small,
    statements,
)


def without_unfilled(body: Body) -> Body:
    """Branches that ask for what is in such a list decided."""
    known = {n for s in _everywhere(body) if (n := _made_empty(s)) is not None}
    while known:
        outer = {pair[0] for s in _everywhere(body) if (pair := _appended(s))} & known
        lists = _Lists(frozenset(known - outer), frozenset(outer))
        chosen = lists.choose(body)
        used = {n for s in chosen for n in lists.uses(s)} & known
        if not used:
            return chosen
        known -= used
    return body


@dataclass(frozen=True)
class _Lists:
    """Names of ``empty`` lists, and of ``outer`` ones, which hold such alone."""

    empty: frozenset[str]
    outer: frozenset[str]

    def choose(self, body: Sequence[Statement]) -> Body:
        result: list[Statement] = []
        for node in body:
            value = self._asked(node.test) if isinstance(node, cst.If) else None
            if isinstance(node, cst.If) and value is not None:
                chosen = statements(node.body) if value else orelse_statements(node)
                result += keep_comment(node, list(self.choose(chosen)))
            elif small(node) is None:
                result.append(map_bodies(node, self.choose))
            else:
                result.append(node)
            if result and ends(result[-1]):
                break
        return tuple(result)

    def _asked(self, test: cst.CSTNode) -> bool | None:
        """What a test of such a list says."""
        test = bare(test)
        if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
            inside = self._asked(test.expression)
            return None if inside is None else not inside
        return (
            False if isinstance(test, cst.Name) and test.value in self.empty else None
        )

    def uses(self, node: cst.CSTNode) -> Iterator[str]:
        """Names that something may see otherwise than as these lists: there they could
        get an item, or another meaning."""
        pair = _appended(node)
        if _made_empty(node) in self.empty | self.outer or self._holds(pair):
            return
        if isinstance(node, cst.For):
            loop = Loop.of(node)
            for item in loop.items:
                if not self._holds((code(item.source), code(item.target))):
                    yield from self.uses(item.target)
                    yield from self.uses(item.source)
            parts = (loop.position, node.body, node.orelse)
            for part in parts:
                yield from () if part is None else self.uses(part)
        elif isinstance(node, cst.Name):
            yield node.value
        else:
            for child in children(node):
                yield from self.uses(child)

    def _holds(self, pair: tuple[str, str] | None) -> bool:
        return pair is not None and pair[0] in self.outer and pair[1] in self.empty


def _everywhere(body: Sequence[cst.CSTNode]) -> Iterator[cst.CSTNode]:
    for node in body:
        yield node
        yield from _everywhere(list(children(node)))


def _made_empty(node: cst.CSTNode) -> str | None:
    """``x`` of ``x = []``."""
    pair = assignment(node)
    if pair is None or not isinstance(pair[0], cst.Name):
        return None
    made = bare(pair[1])
    empty = isinstance(made, cst.List) and not made.elements
    return pair[0].value if empty else None


def _appended(node: cst.CSTNode) -> tuple[str, str] | None:
    """``xs`` and ``x`` of ``xs.append(x)``."""
    pair = appended(node)
    named = pair is not None and is_name(pair[1])
    return (pair[0], code(pair[1])) if pair is not None and named else None
