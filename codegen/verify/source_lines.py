"""What of a function's source can run at all, and what of it only raises.

Statements are counted by the line on which they begin. Out of reach is what only
another way of running would reach, by what the compiler takes for known: closures,
TorchScript, fused and foreach kernels.
"""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import TypeAlias

from ..lower.facts import (
    FALSE_CALLS,
    FALSE_PARAMETER_MARKS,
    FALSE_SETTINGS,
    NONE_ATTRIBUTES,
)
from .tracing import Span

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda"


class _Unknown:
    pass


_UNKNOWN = _Unknown()
_FALSY = _Unknown()  # False or None, which of the two is not known

_NOT_COUNTED = (
    ast.FunctionDef,
    ast.ClassDef,
    ast.Global,
    ast.Nonlocal,
    ast.Try,
    ast.Pass,
    ast.Assert,
)
_CALLS = frozenset(name.rpartition(".")[2] for name in FALSE_CALLS)
_NONE = NONE_ATTRIBUTES | {"closure"}


@dataclass
class Source:
    """One function's statements.

    lines: first line of each statement that can run -> all lines of its own, without
    those of statements inside it. raising: lines of statements that lead to nothing
    but an exception. decided: spans of expressions whose value is known beforehand, or
    that can't be reached. tests: span of what has a test -> the test's parts, each as
    often as it may jump.
    """

    tree: ast.FunctionDef
    lines: dict[int, range] = field(default_factory=dict)
    raising: set[int] = field(default_factory=set)
    decided: list[Span] = field(default_factory=list)
    tests: dict[Span, list[Span]] = field(default_factory=dict)

    def text(self, file: str) -> list[str]:
        """Its lines as they stand in the file."""
        return linecache.getlines(file)[self.tree.lineno - 1 : self.tree.end_lineno]

    def guards(self, condition: Span, line: int) -> bool:
        """Whether a line stands in a statement that has that condition."""
        return any(
            condition in parts and span.line < line <= span.end_line
            for span, parts in self.tests.items()
        )

    @functools.cached_property
    def names(self) -> tuple[set[str], set[str]]:
        """The names read within what can run, and those read within what can't."""
        found: tuple[set[str], set[str]] = (set(), set())
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = node.id if isinstance(node, ast.Name) else node.attr
                found[not self.chooses(_place(node))].add(name)
        return found

    def chooses(self, span: Span) -> bool:
        """Whether a condition there may go both ways."""
        return not any(_within(span, each) for each in self.decided)


def _within(inner: Span, outer: Span) -> bool:
    return outer[:2] <= inner[:2] and inner[2:] <= outer[2:]


@functools.lru_cache(maxsize=1024)
def source_of(code: CodeType) -> Source | None:
    """What is known of a function's source; None where it has none."""
    node = _nodes(code.co_filename).get((code.co_name, code.co_firstlineno))
    if node is None:
        return None
    found = Source(node)
    _read(node.body, found)
    return found


@functools.lru_cache(maxsize=256)
def tree_of(file: str) -> ast.Module:
    """Syntax of a file, empty where it has none."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


@functools.lru_cache(maxsize=256)
def _nodes(file: str) -> dict[tuple[str, int], ast.FunctionDef]:
    return {
        (node.name, min([node.lineno, *(d.lineno for d in node.decorator_list)])): node
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef)
    }


def forget() -> None:
    """Read sources anew: another text may have taken a module's place."""
    for remembered in (source_of, tree_of, _nodes):
        remembered.cache_clear()


def _read(body: Sequence[ast.stmt], found: Source) -> None:
    """Enter the statements of a block, up to where it is known to be left."""
    if body and isinstance(body[-1], ast.Raise):
        found.raising.update(line for s in body for line in _span(s))
    for j, statement in enumerate(body):
        _statement(statement, found)
        if _leaves(statement):
            for dead in body[j + 1 :]:
                found.decided.append(_place(dead))
            return


def _statement(node: ast.stmt, found: Source) -> None:
    blocks = list(_blocks(node))
    if not (isinstance(node, _NOT_COUNTED) or _is_text(node) or _dispatches(node)):
        end = min([b[0].lineno - 1 for b in blocks if b], default=node.end_lineno)
        own = range(node.lineno, max(end or node.lineno, node.lineno) + 1)
        found.lines[node.lineno] = own
    if isinstance(node, ast.Assert):
        found.decided.append(_place(node))  # it only raises
    if isinstance(node, (ast.If, ast.While)):
        found.tests[_place(node)] = list(_parts(node.test))
    _expressions(node, found)
    known = _known(node.test) if isinstance(node, (ast.If, ast.While)) else _UNKNOWN
    for block in blocks:
        alive = known is _UNKNOWN or _truth(known) == (block is blocks[0])
        if alive:
            _read(block, found)
        else:
            found.decided.extend(map(_place, block))


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The blocks of a compound statement; of an ``if`` both, though one be empty."""
    if isinstance(node, (ast.If, ast.While)):
        yield from (node.body, node.orelse)
        return
    for name in ("body", "orelse", "finalbody"):
        if block := getattr(node, name, None):
            yield block
    for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
        yield part.body


def _leaves(node: ast.stmt) -> bool:
    """Whether what stands after a statement can't be reached, as far as is known."""
    if isinstance(node, (ast.Return, ast.Raise, ast.Continue, ast.Break)):
        return True
    if not isinstance(node, ast.If) or (known := _known(node.test)) is _UNKNOWN:
        return False
    taken = node.body if _truth(known) else node.orelse
    return any(map(_leaves, taken))


def _expressions(node: ast.stmt, found: Source) -> None:
    """Enter what is decided within a statement's own expressions."""
    pending = [
        child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)
    ]
    while pending:
        each = pending.pop()
        test = each.test if isinstance(each, ast.IfExp) else each
        if isinstance(each, ast.IfExp):
            found.tests[_place(each)] = list(_parts(test))
        known = _known(test) is not _UNKNOWN and not isinstance(test, ast.Constant)
        if known or _asks_dispatch(test):
            found.decided.append(_place(each))
        pending += [c for c in ast.iter_child_nodes(each) if isinstance(c, ast.expr)]


def _parts(test: ast.expr) -> Iterator[Span]:
    """The conditions that a test is made of, in the order in which they are asked."""
    match test:
        case ast.BoolOp(values=values):
            for value in values:
                yield from _parts(value)
        case ast.UnaryOp(ast.Not(), operand):
            yield from _parts(operand)
        case ast.Compare(ops=ops):
            yield from [_place(test)] * len(ops)
        case _:
            yield _place(test)


def _asks_dispatch(test: ast.expr) -> bool:
    """Whether a test only asks if a way to run was chosen: ``foreach is None``."""
    match test:
        case ast.BoolOp(values=values):
            return all(map(_asks_dispatch, values))
        case ast.Compare(left, [_], [ast.Constant(None)]):
            return _last(left) in FALSE_SETTINGS
    return False


def _dispatches(node: ast.stmt) -> bool:
    """Whether a statement only chooses a way to run: ``foreach = False``."""
    match node:
        case ast.Assign([target]):
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            return all(_last(n) in FALSE_SETTINGS | {"_"} for n in names)
    return False


def _known(node: ast.expr) -> object:
    """The value that an expression is known to have."""
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(ast.Not(), operand):
            inner = _known(operand)
            return _UNKNOWN if inner is _UNKNOWN else not _truth(inner)
        case ast.BoolOp(op, values):
            found = [_known(value) for value in values]
            ends = isinstance(op, ast.Or)
            if any(v is not _UNKNOWN and _truth(v) == ends for v in found):
                return ends
            return _UNKNOWN if _UNKNOWN in found else not ends
        case ast.Compare(left, [op], [ast.Constant(None)]):
            inner = _known(left)
            if inner in (_UNKNOWN, _FALSY) or not isinstance(op, (ast.Is, ast.IsNot)):
                return _UNKNOWN
            return (inner is None) == isinstance(op, ast.Is)
        case ast.Call(func, arguments):
            name = _last(func)
            marks = [a.value for a in arguments[1:2] if isinstance(a, ast.Constant)]
            if name == "hasattr" and marks and marks[0] in FALSE_PARAMETER_MARKS:
                return False
            return False if name in _CALLS else _UNKNOWN
    name = _last(node)
    if name in _NONE:
        return None
    return _FALSY if name in FALSE_SETTINGS else _UNKNOWN


def _truth(value: object) -> bool:
    return value is not _FALSY and bool(value)


def _last(node: ast.expr) -> str | None:
    """The last part of a name, an attribute or a key."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(str(name))):
            return name
    return None


def _is_text(node: ast.stmt) -> bool:
    """A docstring, or a name that is only declared: neither makes any code."""
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _place(node: ast.stmt | ast.expr) -> Span:
    end = node.end_lineno or node.lineno
    return Span(node.lineno, node.col_offset, end, node.end_col_offset or 0)
