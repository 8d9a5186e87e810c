"""What the compiler says when it can't translate a line.

Every diagnostic points at upstream's own source: ``file:line:col: R4: message``,
the source line, a caret and a hint. All of them are collected before any is
shown, so that one run tells everything there is to fix.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider


@dataclass(frozen=True, order=True)
class Origin:
    """A place in upstream's source; ``line`` counts from 1, ``col`` from 1."""

    file: str
    line: int
    col: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}"


@dataclass(frozen=True)
class Diagnostic:
    """One construct that can't be translated: which rule, why, what to do."""

    rule: str
    message: str
    hint: str = ""
    origin: Origin | None = None
    source_line: str = ""

    def render(self) -> str:
        head = f"{self.origin}: " if self.origin else ""
        lines = [f"{head}{self.rule}: {self.message}"]
        if self.origin and self.source_line:
            lines.append(f"    {self.source_line}")
            lines.append("    " + " " * (self.origin.col - 1) + "^")
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class CodegenError(Exception):
    """The optimizer can't be translated; ``diagnostics`` say where and why.

    Examples:
        >>> try:
        ...     codegen.translate("torch.optim.LBFGS")
        ... except codegen.CodegenError as error:
        ...     print(error.diagnostics[0].rule, error.diagnostics[0].origin.file)
        R1 torch/optim/lbfgs.py
    """

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(dict.fromkeys(diagnostics))
        super().__init__("\n".join(d.render() for d in self.diagnostics))


def misuse(message: str, hint: str = "") -> CodegenError:
    """An error without a position in source: a wrong name, an unreadable file."""
    return CodegenError([Diagnostic("error", message, hint)])


_LAYOUT = (
    cst.EmptyLine,
    cst.Comment,
    cst.Newline,
    cst.TrailingWhitespace,
    cst.BaseParenthesizableWhitespace,
)


class _Positions(MetadataWrapper):
    """Without the walk that the wrapper makes even where no provider asks for one."""

    def visit_batched(
        self, visitors: Iterable[cst.BatchableCSTVisitor], *hooks: Any, **named: Any
    ) -> cst.CSTNode:
        found = list(visitors)
        return super().visit_batched(found, *hooks, **named) if found else self.module


@functools.lru_cache(maxsize=128)
def _positions(
    module: cst.Module, file: str
) -> tuple[list[str], Mapping[cst.CSTNode, Origin]]:
    """The lines of a parsed module, and where in it each node stands."""
    found: dict[cst.CSTNode, Origin] = {}
    wrapper = _Positions(module, unsafe_skip_copy=True)
    for node, range_ in _resolved(wrapper).items():
        if not isinstance(node, _LAYOUT):
            start = range_.start
            found[node] = Origin(file, start.line, start.column + 1)
    return module.code.splitlines(), found


def _resolved(wrapper: MetadataWrapper) -> Mapping[cst.CSTNode, CodeRange]:
    """Positions. Where Ctrl-C comes in between, libcst raises an error of its own."""
    try:
        return wrapper.resolve(PositionProvider)
    except KeyError as error:
        if _begun_by_an_interrupt(error):
            raise KeyboardInterrupt from None
        raise


def _begun_by_an_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class Origins:
    """Side table: syntax node → where upstream wrote it.

    Nodes are compared by identity. A node that replaces another inherits its
    origin, so that a diagnostic after five passes points at upstream's line.
    """

    def __init__(self) -> None:
        self._of: dict[cst.CSTNode, Origin] = {}
        self._lines: dict[str, list[str]] = {}

    def read(self, module: cst.Module, file: str) -> None:
        """Record the positions of a freshly parsed module."""
        lines, origins = _positions(module, file)
        self._lines[file] = lines
        self._of.update(origins)

    def of(self, node: cst.CSTNode) -> Origin | None:
        """Origin of a node, or of the first node inside it that has one."""
        return next((self._of[n] for n in walk(node) if n in self._of), None)

    def inherit(self, new: cst.CSTNode, old: cst.CSTNode) -> None:
        """Give ``new``, and what inside it has none, the origin of ``old``."""
        origin = self._of.get(old) or self.of(old)
        if origin is not None:
            self._fill(new, origin)

    def _fill(self, node: cst.CSTNode, origin: Origin) -> None:
        if node in self._of:
            return
        self._of[node] = origin
        for child in children(node):
            self._fill(child, origin)

    def text(self, file: str) -> str:
        """A file that was read."""
        return "\n".join(self._lines.get(file, []))

    def line(self, origin: Origin) -> str:
        lines = self._lines.get(origin.file, [])
        return lines[origin.line - 1] if 0 < origin.line <= len(lines) else ""


def walk(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A node and all nodes below it, depth first; layout and punctuation left out."""
    return iter(_below(node))


@functools.lru_cache(maxsize=1 << 12)
def _below(node: cst.CSTNode) -> tuple[cst.CSTNode, ...]:
    """Nodes don't change, and every pass asks for those of the same statements."""
    found, left = [], [node]
    while left:
        node = left.pop()
        found.append(node)
        left += reversed(children(node))
    return tuple(found)


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """A node's parts. (``node.children`` rebuilds the node to find them.)"""
    found: list[cst.CSTNode] = []
    for name in parts(type(node)):
        part = getattr(node, name)
        if isinstance(part, (list, tuple)):
            found += filter(is_node, part)
        elif is_node(part):
            found.append(part)
    return found


def is_node(value: object) -> TypeGuard[cst.CSTNode]:
    """``isinstance`` of LibCST's abstract classes is slow, and asked millions of times."""
    kind = type(value)
    known = _is_node.get(kind)
    if known is None:
        known = _is_node[kind] = issubclass(kind, cst.CSTNode)
    return known


_is_node: dict[type, bool] = {}


@functools.cache
def parts(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    """Names of the fields that hold a node's parts, but for layout."""
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if not field.name.startswith(("whitespace", "leading", "trailing", "lines_"))
        and field.name not in _PUNCTUATION
    )


_PUNCTUATION = frozenset(
    "lpar rpar lbracket rbracket lbrace rbrace comma semicolon dot equal colon header "
    "footer indent".split()
)
