"""Pairs each generated statement with the lines of upstream's that it was made from.

Rows follow the generated text. Upstream's lines that left no trace stand between,
where a reader of their function meets them.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from codegen.diagnostics import Origin
from codegen.translate import Translation

LOWERED = "lower"
"""The tag of what changed before any rule saw it."""


@dataclass(frozen=True)
class Code:
    """Lines of a file: ``numbers`` count from 1, ``texts`` keep their indentation."""

    numbers: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def bare(self) -> str:
        """The code without layout, comments and the kind of its quotes, to compare."""
        kept = (t.partition("#")[0].replace("'", '"') for t in self.texts)
        return "".join("".join(kept).split())


@dataclass(frozen=True)
class Row:
    """Upstream's lines, the generated lines they became, and the rules between.

    Where ``generated`` is empty, nothing of upstream's lines was left. ``file`` and
    ``function`` say where upstream's lines stand.
    """

    file: str
    function: str
    upstream: Code
    generated: Code
    tags: tuple[str, ...]


def rows(translation: Translation) -> list[Row]:
    """All rows, in the order of the generated text."""
    sources = {f: Source(text) for f, text in translation.sources.items()}
    return list(_Alignment(translation, sources).rows())


class Source:
    """The statements and functions of a Python text, by line."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.heads: dict[int, int] = {}
        self.functions: list[tuple[str, range, range]] = []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.stmt):
                self.heads.setdefault(node.lineno, self._head_end(node))
            if isinstance(node, ast.FunctionDef):
                self.functions.append((node.name, *_extent(node)))

    def _head_end(self, node: ast.stmt) -> int:
        """The last line of a statement, without the blocks inside it."""
        body: Sequence[ast.stmt] = getattr(node, "body", ())
        if not body:
            return node.end_lineno or node.lineno
        expressions = (n for n in ast.iter_child_nodes(node) if _is_in_head(n))
        ends = [getattr(n, "end_lineno", 0) for n in expressions]
        end = max([node.lineno, *ends])
        while end < body[0].lineno and not self._ends_head(end):
            end += 1
        return end

    def _ends_head(self, number: int) -> bool:
        return self.lines[number - 1].partition("#")[0].rstrip().endswith(":")

    def code(self, numbers: Iterable[int]) -> Code:
        kept = tuple(numbers)
        return Code(kept, tuple(self.lines[n - 1] for n in kept))

    def function_at(self, number: int) -> tuple[str, range]:
        """Name and lines (below signature and docstring) of the innermost function."""
        around = [f for f in self.functions if number in f[1]]
        if not around:
            return "", range(number, number)
        name, _, inside = max(around, key=lambda f: f[1].start)
        return name, inside

    def statement(self, number: int) -> range:
        """A statement's lines if it starts on that line; else the line alone."""
        return range(number, self.heads.get(number, number) + 1)

    def with_comments(self, lines: range) -> range:
        """The lines together with comments, ``else`` and the like right above."""
        start = lines.start
        while start > 1 and _introduces(self.lines[start - 2]):
            start -= 1
        return range(start, lines.stop)


def _is_in_head(node: ast.AST) -> bool:
    return not isinstance(node, (ast.stmt, ast.ExceptHandler, ast.arguments))


def _extent(node: ast.FunctionDef) -> tuple[range, range]:
    """All lines of a function, and those below its signature and docstring."""
    end = (node.end_lineno or node.lineno) + 1
    first = node.body[0]
    start = first.lineno
    if ast.get_docstring(node) is not None:
        start = (first.end_lineno or start) + 1
    return range(node.lineno, end), range(start, end)


def _introduces(line: str) -> bool:
    return line.lstrip().startswith(("#", "else:", "try:", "finally:"))


class _Alignment:
    def __init__(self, translation: Translation, sources: Mapping[str, Source]) -> None:
        self.translation = translation
        self.sources = sources
        self.text = Source(translation.text)
        self.pairs = list(self._merged())
        self.mapped = {(o.file, o.line) for _, o in self.pairs if o is not None}
        self.taken: set[tuple[str, int]] = set()
        self.reached: dict[tuple[str, str], int] = {}

    def rows(self) -> Iterator[Row]:
        upstream = [self._upstream(o) for _, o in self.pairs]
        last = {self._place(o): i for i, (_, o) in enumerate(self.pairs)}
        for i, (generated, origin) in enumerate(self.pairs):
            if origin is None:
                yield Row("", "", Code(), generated, (LOWERED,))
                continue
            yield from self._folded(origin.file, *self._gap(origin, upstream[i].start))
            yield self._paired(origin, upstream[i], generated)
            if last[self._place(origin)] == i:
                yield from self._folded(origin.file, *self._gap(origin, None))

    def _merged(self) -> Iterator[tuple[Code, Origin | None]]:
        """Generated statements; neighbours from one line of upstream's together."""
        lines = self.translation.lines
        pending: list[int] = []
        shown = lines[0].number - 1 if lines else 0
        for i, (number, origin) in enumerate(lines):
            end = self.text.heads[number]
            pending += [n for n in range(shown + 1, end + 1) if self._has_text(n)]
            shown = max(shown, end)
            following = lines[i + 1].origin if i + 1 < len(lines) else None
            if origin is None or _line(following) != _line(origin):
                yield self.text.code(pending), origin
                pending = []

    def _has_text(self, number: int) -> bool:
        return bool(self.text.lines[number - 1].strip())

    def _upstream(self, origin: Origin | None) -> range:
        """Lines of the statement at ``origin``, up to the next that became another."""
        if origin is None:
            return range(0)
        source = self.sources[origin.file]
        lines = source.statement(origin.line)
        stop = next(
            (n for n in lines[1:] if (origin.file, n) in self.mapped), lines.stop
        )
        return source.with_comments(range(lines.start, stop))

    def _place(self, origin: Origin | None) -> tuple[str, str]:
        if origin is None:
            return "", ""
        return origin.file, self.sources[origin.file].function_at(origin.line)[0]

    def _paired(self, origin: Origin, lines: range, generated: Code) -> Row:
        fresh = [n for n in lines if (origin.file, n) not in self.taken]
        self.taken |= {(origin.file, n) for n in fresh}
        upstream = self.sources[origin.file].code(fresh or lines)
        tags = self._rules(origin.file, lines)
        if not tags and upstream.bare() != generated.bare():
            tags = (LOWERED,)
        return Row(*self._place(origin), upstream, generated, tags)

    @functools.cached_property
    def _fired(self) -> dict[tuple[str, int], set[str]]:
        fired: dict[tuple[str, int], set[str]] = {}
        for change in self.translation.changes:
            if change.origin is not None:
                line = change.origin.file, change.origin.line
                fired.setdefault(line, set()).add(change.rule)
        return fired

    def _rules(self, file: str, lines: Iterable[int]) -> tuple[str, ...]:
        return tuple(
            sorted(set().union(*(self._fired.get((file, n), ()) for n in lines)))
        )

    # --- what left no trace

    def _gap(self, origin: Origin, until: int | None) -> tuple[str, list[int]]:
        """(function, its lines that no row has shown nor will, before ``until``)."""
        source = self.sources[origin.file]
        function, inside = source.function_at(origin.line)
        place = origin.file, function
        start = self.reached.get(place, inside.start)
        stop = inside.stop if until is None else until
        self.reached[place] = max(start, stop)
        shown = self._shown
        return function, [
            n
            for n in range(start, stop)
            if source.lines[n - 1].strip() and (origin.file, n) not in shown
        ]

    @functools.cached_property
    def _shown(self) -> set[tuple[str, int]]:
        found = [o for _, o in self.pairs if o is not None]
        return {(o.file, n) for o in found for n in self._upstream(o)}

    def _folded(self, file: str, function: str, numbers: list[int]) -> Iterator[Row]:
        """Rows without a counterpart: one per run of lines with the same tags."""
        source = self.sources[file]
        run: list[int] = []
        tags: tuple[str, ...] = ()
        for n in numbers:
            own = self._rules(file, [n]) or (LOWERED,)
            if run and own != tags:
                yield Row(file, function, source.code(run), Code(), tags)
                run = []
            run, tags = [*run, n], own
        if run:
            yield Row(file, function, source.code(run), Code(), tags)


def _line(origin: Origin | None) -> tuple[str, int] | None:
    return None if origin is None else (origin.file, origin.line)
