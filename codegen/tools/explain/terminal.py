"""Rows as text: two columns where there is room, else one above the other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from codegen.rules import RULES
from codegen.tools.explain.rows import LOWERED, Code, Row
from codegen.translate import Translation

WIDE = 110
"""Columns from which two of code fit side by side."""
TAGS = 11
NUMBER = 5
SHOWN = 3
"""How many lines of a longer run that left no trace are shown."""

_OLD, _NEW, _FAINT, _TAG = "red", "green", "bright_black", "bold magenta"

Line = tuple[str, str]
"""A line number, or nothing, and code."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The command tells what it means, with the exit code that it has for it."""
        raise BrokenPipeError


def show(
    translation: Translation, rows: Sequence[Row], file: TextIO, width: int | None
) -> None:
    """Print all rows; in colour where ``file`` is a terminal."""
    console = _Console(file=file, width=width, highlight=False, soft_wrap=True)
    console.print(
        Text(f"{translation.target} -> {translation.class_name}", style="bold")
    )
    lines = _side_by_side if console.width >= WIDE else _stacked
    place = ("", "")
    for row in rows:
        if row.file and (row.file, row.function) != place:
            place = row.file, row.function
            console.print(Text(f"\n{row.file}, {row.function}", style="bold cyan"))
        for line in lines(row, console.width):
            line.rstrip()
            console.print(line)
    console.print()
    for line in _legend(translation):
        console.print(line)


# --- layouts ------------------------------------------------------------------


def _side_by_side(row: Row, width: int) -> Iterator[Text]:
    room = (width - TAGS - 2 * (NUMBER + 1)) // 2
    left = _lines(_shortened(row), room - 1)
    right = _lines(row.generated, room)
    tags = " ".join(row.tags)
    for i in range(max(len(left), len(right))):
        old = left[i] if i < len(left) else ("", "")
        new = right[i] if i < len(right) else ("", "")
        line = Text()
        line.append(f"{old[0]:>{NUMBER}} ", style=_FAINT)
        line.append(f"{old[1]:<{room}}", style=_style(row, _OLD))
        line.append(f"{tags if i == 0 else '':<{TAGS}}", style=_tag_style(row))
        line.append(f"{new[0]:>{NUMBER}} ", style=_FAINT)
        line.append(new[1], style=_style(row, _NEW))
        yield line


def _stacked(row: Row, width: int) -> Iterator[Text]:
    room = width - TAGS - NUMBER - 3
    tags = f"{' '.join(row.tags):<{TAGS}}"
    old, new = _lines(_shortened(row), room), _lines(row.generated, room)
    marks = [("- ", old, _OLD), ("+ ", new, _NEW)] if row.tags else [("  ", new, "")]
    for mark, lines, colour in marks:
        for number, code in lines:
            line = Text()
            line.append(tags, style=_tag_style(row))
            line.append(f"{number:>{NUMBER}} ", style=_FAINT)
            line.append(mark + code, style=_style(row, colour))
            yield line
            tags = " " * TAGS


def _style(row: Row, colour: str) -> str:
    if not row.tags:
        return ""
    return colour if row.generated else _FAINT


def _tag_style(row: Row) -> str:
    return _FAINT if row.tags == (LOWERED,) else _TAG


# --- code ---------------------------------------------------------------------


def _shortened(row: Row) -> Code:
    """Upstream's lines; a long run that left no trace is cut."""
    code = row.upstream
    if row.generated or len(code.numbers) <= SHOWN + 1:
        return code
    more = f"... {len(code.numbers) - SHOWN} more lines, to {code.numbers[-1]}"
    indent = code.texts[0][: len(code.texts[0]) - len(code.texts[0].lstrip())]
    numbers = code.numbers[: SHOWN + 1]
    return Code((*numbers[:SHOWN], 0), (*code.texts[:SHOWN], indent + more))


def _lines(code: Code, room: int) -> list[Line]:
    """Numbered lines, indented half as deep as in their file, and wrapped."""
    result: list[Line] = []
    for number, text in zip(code.numbers, code.texts):
        bare = text.strip()
        indent = " " * ((len(text) - len(text.lstrip()) - 4) // 2)
        parts = textwrap.wrap(
            bare,
            max(room, len(indent) + 20),
            initial_indent=indent,
            subsequent_indent=indent + "    ",
            break_on_hyphens=False,
        )
        for i, part in enumerate(parts):
            result.append((str(number) if number and i == 0 else "", part))
    return result


# --- legend -------------------------------------------------------------------


def _legend(translation: Translation) -> Iterator[Text]:
    fired = translation.fired
    for rule in sorted(RULES, key=lambda rule: rule.name):
        if rule.name in fired:
            line = Text().append(f"{rule.name:<{TAGS}}", style=_TAG)
            yield line.append(f"{rule.title} ({fired[rule.name]})")
    line = Text().append(f"{LOWERED:<{TAGS}}", style=_FAINT)
    yield line.append("Layers inlined and dispatch folded, before any rule")
    yield Text("What the rules say: python -m codegen --rules")
