"""What changed between two translations, with the lines of upstream's that did it."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from codegen.diagnostics import Origin
from codegen.tools.canonical import Line, code_lines

_CONTEXT = 2
_FALLBACK = 3
"""At most so many places of upstream's where no line tells the right one."""

Opcode: TypeAlias = "tuple[str, int, int, int, int]"


@dataclass(frozen=True)
class Side:
    """A generated text, where upstream wrote its lines, and the files there."""

    text: str
    origins: Mapping[int, Origin | None] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hunk:
    """Lines of a unified diff: of the generated code, and of upstream's by file."""

    generated: tuple[str, ...]
    upstream: Mapping[str, tuple[str, ...]]


def hunks(old: Side, new: Side) -> list[Hunk]:
    """The differences in code between two texts; empty where there is none.

    Where a side has no sources, ``upstream`` stays empty. A place of upstream's stands
    with the first hunk that comes from it.
    """
    before, after = code_lines(old.text), code_lines(new.text)
    # what is imported follows from the rest
    without = [_without_imports(before), _without_imports(after)]
    if _texts(without[0]) != _texts(without[1]):
        before, after = without
    found: list[Hunk] = []
    told: set[tuple[str, int, int]] = set()
    for group in _groups(_texts(before), _texts(after)):
        generated = _diff(_texts(before), _texts(after), group)
        numbers = (
            [*_touched(before, group, 1)],
            [*_touched(after, group, 3)],
        )
        upstream = _upstream(old, new, numbers, generated, told)
        found.append(Hunk(tuple(generated), upstream))
    return found


def _without_imports(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if not line.text.startswith(("import ", "from "))]


def _texts(lines: Sequence[Line]) -> list[str]:
    return [line.text for line in lines]


def _upstream(
    old: Side,
    new: Side,
    numbers: tuple[Sequence[int], Sequence[int]],
    generated: Sequence[str],
    told: set[tuple[str, int, int]],
) -> dict[str, tuple[str, ...]]:
    """What upstream changed where the statements ``numbers`` come from, by file."""
    changed = [line[1:] for line in generated if line[0] in "+-"]
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(old.sources.keys() | new.sources.keys()):
        if name in old.sources and name in new.sources:
            places = _places(old, name, numbers[0]), _places(new, name, numbers[1])
            texts = old.sources[name], new.sources[name]
            found[name] = _upstream_diff(name, texts, places, changed, told)
        elif name in old.sources and new.sources:
            found[name] = _moved("-", old, name, numbers[0])
        elif name in new.sources and old.sources:
            found[name] = _moved("+", new, name, numbers[1])
    return {name: lines for name, lines in found.items() if lines}


def _moved(sign: str, side: Side, name: str, numbers: Sequence[int]) -> tuple[str, ...]:
    """The lines of a file that only one side reads."""
    lines = side.sources[name].splitlines()
    return tuple(
        f"{sign}{lines[number - 1]}" for number in sorted(_places(side, name, numbers))
    )


def _groups(old: Sequence[str], new: Sequence[str]) -> Iterator[list[Opcode]]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    yield from matcher.get_grouped_opcodes(_CONTEXT)


def _diff(old: Sequence[str], new: Sequence[str], group: list[Opcode]) -> list[str]:
    lines: list[str] = []
    for tag, i1, i2, j1, j2 in group:
        if tag == "equal":
            lines += [f" {text}" for text in old[i1:i2]]
        else:
            lines += [f"-{text}" for text in old[i1:i2]]
            lines += [f"+{text}" for text in new[j1:j2]]
    return lines


def _touched(lines: Sequence[Line], group: list[Opcode], start: int) -> Iterator[int]:
    """Numbers of the statements that a group changes on one side of it."""
    for opcode in group:
        if opcode[0] != "equal":
            first, last = (opcode[1], opcode[2]) if start == 1 else opcode[3:5]
            yield from (line.number for line in lines[first:last])


def _places(side: Side, name: str, numbers: Iterable[int]) -> set[int]:
    """Lines of one of upstream's files that statements come from, whole statements."""
    extents = _extents(side.sources[name])
    found: set[int] = set()
    for number in numbers:
        origin = side.origins.get(number)
        if origin is not None and origin.file == name:
            found |= extents.get(origin.line, {origin.line})
    return found


def _extents(source: str) -> dict[int, set[int]]:
    """Line → the lines of the smallest statement around it, a block's head alone."""
    found: dict[int, set[int]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            lines = set(range(node.lineno, max(last, node.lineno) + 1))
            # the walk goes from the outside in
            found.update({line: lines for line in lines})
    return found


def _upstream_diff(
    name: str,
    texts: tuple[str, str],
    places: tuple[set[int], set[int]],
    changed: Sequence[str],
    told: set[tuple[str, int, int]],
) -> tuple[str, ...]:
    """The parts of a file's diff that touch ``places``, or else the words ``changed``."""
    before, after = (text.splitlines() for text in texts)
    opcodes = [
        opcode
        for opcode in difflib.SequenceMatcher(
            None, before, after, autojunk=False
        ).get_opcodes()
        if opcode[0] != "equal"
    ]
    picked = [o for o in opcodes if _touches(o, places)]
    if not picked:
        words = set(re.findall(r"\w{3,}", " ".join(changed)))
        picked = [o for o in opcodes if _new_words(o, before, after) & words]
        picked = picked[:_FALLBACK]
    picked = [o for o in picked if (name, o[1], o[3]) not in told]
    told.update((name, o[1], o[3]) for o in picked)
    lines: list[str] = []
    for _, i1, i2, j1, j2 in picked:
        lines.append(f"@@ -{i1 + 1},{i2 - i1} +{j1 + 1},{j2 - j1} @@")
        lines += [f" {text}" for text in before[max(i1 - _CONTEXT, 0) : i1]]
        lines += [f"-{text}" for text in before[i1:i2]]
        lines += [f"+{text}" for text in after[j1:j2]]
        lines += [f" {text}" for text in before[i2 : i2 + _CONTEXT]]
    return tuple(lines)


def _touches(opcode: Opcode, places: tuple[set[int], set[int]]) -> bool:
    _, i1, i2, j1, j2 = opcode
    old, new = places
    return bool(old & set(range(i1 + 1, i2 + 1)) or new & set(range(j1 + 1, j2 + 1)))


def _new_words(opcode: Opcode, old: Sequence[str], new: Sequence[str]) -> set[str]:
    """Words that a change brings or takes away."""
    _, i1, i2, j1, j2 = opcode
    before = set(re.findall(r"\w{3,}", " ".join(old[i1:i2])))
    return before ^ set(re.findall(r"\w{3,}", " ".join(new[j1:j2])))
