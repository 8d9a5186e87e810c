"""Which lines of some functions ran, and which ways their branches went.

A `Trace` watches the code that a predicate picks, while it is on. A line is a file's
line; a way is a jump of one code object and whether it was taken. Code of which all is
known already is not watched any longer, so that tracing costs little in the long run.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Where an expression stands: lines from 1, columns in bytes from 0."""

    line: int
    column: int
    end_line: int
    end_column: int


class Way(NamedTuple):
    """A conditional jump, at an offset of its code, taken or not."""

    code: CodeType
    offset: int
    taken: bool


@dataclass(frozen=True)
class Hits:
    """What ran: code that was entered, lines by file, ways."""

    entered: set[CodeType] = field(default_factory=set)
    lines: set[tuple[str, int]] = field(default_factory=set)
    ways: set[Way] = field(default_factory=set)

    def add(self, other: Hits) -> None:
        """What ran there ran here, too."""
        self.entered.update(other.entered)
        self.lines.update(other.lines)
        self.ways.update(other.ways)

    def without(self, other: Hits) -> Hits:
        """What did not run there."""
        return Hits(
            self.entered - other.entered,
            self.lines - other.lines,
            self.ways - other.ways,
        )


@dataclass
class Trace:
    """Watches code while it is `on`.

    picks: which code to watch. known: whether nothing more can be learnt of it.
    """

    picks: Callable[[CodeType], bool]
    known: Callable[[CodeType], bool] = lambda code: False

    @contextmanager
    def on(self, hits: Hits) -> Iterator[None]:
        """Enter into `hits` what runs meanwhile, in this thread."""
        before = sys.gettrace()
        sys.settrace(functools.partial(self._enter, hits))
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, hits: Hits, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not self.picks(code) or (code in hits.entered and self.known(code)):
            return None
        hits.entered.add(code)
        if self.known(code):
            return None
        return _watch(frame, hits)


def _watch(frame: FrameType, hits: Hits) -> Callable[[FrameType, str, Any], Any]:
    """The trace function of one call."""
    code = frame.f_code
    found = jumps(code)
    frame.f_trace_opcodes = bool(found)
    file, lines, ways = code.co_filename, hits.lines, hits.ways
    before = -1

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal before
        if event == "line":
            lines.add((file, frame.f_lineno))
        elif event == "opcode":
            here = frame.f_lasti
            jump = found.get(before)
            if jump is not None and here != jump.offset:
                ways.add(Way(code, jump.offset, here not in jump.falls))
            before = here
        return local

    return local


class Jump(NamedTuple):
    """A conditional jump: where it stands in code and source, the offsets at which code
    goes on where it is not taken, and whether it is taken where its condition holds."""

    offset: int
    span: Span
    falls: frozenset[int]
    if_true: bool


@functools.lru_cache(maxsize=4096)
def jumps(code: CodeType) -> dict[int, Jump]:
    """The conditional jumps of `code` by offset; those of ``with``, ``except`` and
    ``await`` left out. Python 3.10 doesn't tell columns, so there are none there."""
    if sys.version_info < (3, 11):
        return {}
    steps = list(dis.get_instructions(code))
    found: dict[int, Jump] = {}
    for j, step in enumerate(steps[:-1]):
        if not _decides(step.opname) or steps[j - 1].opname in _NO_CHOICE:
            continue
        at = step.positions
        assert at is not None
        if at.lineno is None or at.col_offset is None:
            continue
        assert at.end_lineno is not None and at.end_col_offset is not None
        span = Span(at.lineno, at.col_offset, at.end_lineno, at.end_col_offset)
        if_true = step.opname.endswith(("IF_TRUE", "IF_TRUE_OR_POP", "IF_NONE"))
        jump = Jump(step.offset, span, frozenset(_chain(steps, j + 1)), if_true)
        found[step.offset] = jump
        k = j - 1
        while k >= 0 and steps[k].opname == "EXTENDED_ARG":
            found[steps[k].offset] = jump  # the prefix of a far jump
            k -= 1
    return found


#: What stands before a jump that no source's condition makes.
_NO_CHOICE = frozenset({"WITH_EXCEPT_START", "CHECK_EXC_MATCH", "CHECK_EG_MATCH"})
_PREFIXES = ("EXTENDED_ARG", "NOT_TAKEN", "END_FOR", "NOP")


def _decides(name: str) -> bool:
    return name == "FOR_ITER" or ("JUMP" in name and "_IF_" in name)


def _chain(steps: list[dis.Instruction], j: int) -> Iterator[int]:
    """Offsets at which an instruction may be seen to begin, prefixes included."""
    yield steps[j].offset
    while steps[j].opname in _PREFIXES and j + 1 < len(steps):
        j += 1
        yield steps[j].offset


def nested(code: CodeType) -> Iterator[CodeType]:
    """`code`, and the functions, lambdas and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)
