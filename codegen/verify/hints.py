"""What the conditions before a line depend on, read from the source.

    if state["step"] % self.every == 0 and p.size(0) > 128:   ->  every, 128, 0; size, step

Names are followed to what they are assigned, parameters to what they are called with,
attributes and keys to wherever the file sets them.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from .coverage import Gap
from .source_lines import tree_of
from .tracing import Span

DEPTH = 4  # assignments that a name is followed through
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Hints:
    """Constants and names that decide whether something runs."""

    numbers: set[float] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def about(self, *words: str) -> bool:
        """Whether one of these words is a name here, or a part of one."""
        return any(
            word in name.lower().split("_") for name in self.names for word in words
        )


def hints(gap: Gap) -> Hints:
    """What the conditions depend on that keep `gap` from running."""
    function = _function(gap)
    found = Hints()
    if function is not None:
        for test in _tests(function, gap):
            _gather(test, gap.file, function, found, DEPTH)
    return found


def forget() -> None:
    """Read sources anew: another text may have taken a module's place."""
    for remembered in (_assignments, _results, _calls):
        remembered.cache_clear()


def _function(gap: Gap) -> ast.FunctionDef | None:
    """The innermost function around a gap."""
    around = [
        node
        for node in ast.walk(tree_of(gap.file))
        if isinstance(node, ast.FunctionDef)
        and node.lineno <= gap.line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno, default=None)


def _tests(function: ast.FunctionDef, gap: Gap) -> Iterator[ast.expr]:
    """The tests a gap depends on: its own, those around it, those of ways out before."""
    if gap.condition is not None:
        for node in ast.walk(function):
            if isinstance(node, ast.expr) and _place(node) == gap.condition:
                yield node
                break
    yield from _around(function.body, gap.line)


def _around(body: list[ast.stmt], line: int) -> Iterator[ast.expr]:
    for node in body:
        if node.lineno > line:
            return
        inside = node.lineno <= line <= (node.end_lineno or 0)
        blocks = [b for b in _blocks(node)]
        if inside or any(map(_leaves, blocks)):
            yield from _asked(node)
        if inside:
            for block in blocks:
                yield from _around(block, line)


def _asked(node: ast.stmt) -> Iterator[ast.expr]:
    if isinstance(node, (ast.If, ast.While)):
        yield node.test
    elif isinstance(node, ast.For):
        yield node.iter
    elif isinstance(node, ast.Match):
        yield node.subject
        for case in node.cases:
            yield from (
                p.value for p in ast.walk(case) if isinstance(p, ast.MatchValue)
            )
            if case.guard is not None:
                yield case.guard
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from (n.test for n in ast.walk(child) if isinstance(n, ast.IfExp))
            yield from (n for n in ast.walk(child) if isinstance(n, ast.BoolOp))


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        if block := getattr(node, name, None):
            yield block
    for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
        yield part.body


def _leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))


def _gather(
    node: ast.expr, file: str, function: ast.FunctionDef, found: Hints, depth: int
) -> None:
    """Enter what an expression names, and what those names are made from."""
    for each in ast.walk(node):
        name: str | None = None
        match each:
            case ast.Constant(str(value)):
                found.strings.add(value)
            case ast.Constant(bool()):
                pass
            case ast.Constant(int(number) | float(number)):
                found.numbers.add(number)
            case ast.Name(word) | ast.Attribute(attr=word):
                name = word
            case ast.Subscript(slice=ast.Constant(str(word))):
                name = word
        if name is None or name in found.names:
            continue
        found.names.add(name)
        if depth:
            for made, where in _made_from(name, file, function):
                _gather(made, file, where, found, depth - 1)


def _made_from(
    name: str, file: str, function: ast.FunctionDef
) -> Iterator[tuple[ast.expr, ast.FunctionDef]]:
    """Expressions that may be the value of a name, an attribute or a key."""
    parameters = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    for (scope, stored), value, where in _assignments(file):
        # a parameter's value may come from a variable of that name anywhere
        seen = scope in (function.name, "") or name in parameters
        if stored == name and seen:
            yield value, where or function
    for helper, value in _results(file):
        if helper.name == name:
            yield value, helper
    if name in parameters:
        for called, where in _calls(file):
            if _called_name(called) == function.name:
                yield from (
                    (value, where or function)
                    for value in _argument(called, name, parameters)
                )


def _argument(called: ast.Call, name: str, parameters: list[str]) -> Iterator[ast.expr]:
    yield from (k.value for k in called.keywords if k.arg == name)
    place = parameters.index(name) - (parameters[0] == "self")
    if 0 <= place < len(called.args):
        yield called.args[place]


def _called_name(called: ast.Call) -> str:
    return getattr(called.func, "id", "") or getattr(called.func, "attr", "")


Assigned = tuple[tuple[str, str], ast.expr, "ast.FunctionDef | None"]


@functools.lru_cache(maxsize=64)
def _assignments(file: str) -> list[Assigned]:
    """((function or "" where it is seen everywhere, name), value, function)."""
    found: list[Assigned] = []
    for node, where in _owned(tree_of(file), None):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(t, node.value) for t in node.targets]
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.NamedExpr)):
            pairs = [(node.target, node.value)] if node.value is not None else []
        elif isinstance(node, (ast.For, ast.comprehension)):
            pairs = [(node.target, node.iter)]
        elif isinstance(node, ast.keyword) and node.arg:
            found.append((("", node.arg), node.value, where))
        elif isinstance(node, ast.Dict):
            keys = (k.value if isinstance(k, ast.Constant) else "" for k in node.keys)
            found += [(("", str(k)), v, where) for k, v in zip(keys, node.values) if k]
        for target, value in pairs:
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    scope = where.name if where is not None else ""
                    found.append(((scope, part.id), value, where))
                elif isinstance(part, ast.Attribute):
                    found.append((("", part.attr), value, where))
                elif isinstance(part, ast.Subscript) and isinstance(
                    part.slice, ast.Constant
                ):
                    found.append((("", str(part.slice.value)), value, where))
    return found


@functools.lru_cache(maxsize=64)
def _results(file: str) -> list[tuple[ast.FunctionDef, ast.expr]]:
    """What each function of a file returns, and asks on the way."""
    return [
        (node, part)
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef) and node.name != "step"
        for inner in ast.walk(node)
        for part in [getattr(inner, "value", None) or getattr(inner, "test", None)]
        if isinstance(inner, (ast.Return, ast.If)) and isinstance(part, ast.expr)
    ]


@functools.lru_cache(maxsize=64)
def _calls(file: str) -> list[tuple[ast.Call, ast.FunctionDef | None]]:
    owned = _owned(tree_of(file), None)
    return [(node, where) for node, where in owned if isinstance(node, ast.Call)]


def _owned(
    node: ast.AST, where: ast.FunctionDef | None
) -> Iterator[tuple[ast.AST, ast.FunctionDef | None]]:
    """Every node with the innermost function that it stands in."""
    for child in ast.iter_child_nodes(node):
        yield child, where
        inner = child if isinstance(child, ast.FunctionDef) else where
        yield from _owned(child, inner)


def _place(node: ast.expr) -> Span:
    end = node.end_lineno or node.lineno
    return Span(node.lineno, node.col_offset, end, node.end_col_offset or 0)
