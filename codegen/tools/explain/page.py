"""Rows as one HTML page that needs nothing besides itself."""

from __future__ import annotations

import html
import inspect
import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from codegen import emit, files
from codegen.rules import RULES
from codegen.tools.explain.rows import LOWERED, Code, Row
from codegen.translate import Translation

MARKER = '<meta name="generator" content="python -m codegen --explain=html">'


@dataclass(frozen=True)
class Text:
    """What is shown where the pointer rests on a tag."""

    title: str
    html: Markup


class Line(NamedTuple):
    """A line of code: its number, how deep it is indented, and the rest as HTML."""

    number: int
    indent: int
    code: Markup


@dataclass(frozen=True)
class Shown:
    """One row of the page's table; ``place`` is set where another function begins."""

    place: str
    kind: str
    span: str
    tags: tuple[str, ...]
    old: tuple[Line, ...]
    new: tuple[Line, ...]


def page(translation: Translation, rows: Sequence[Row]) -> str:
    """The text of the page."""
    header = files.header(translation.text)
    assert header is not None
    texts = _texts()
    used = {tag for row in rows for tag in row.tags}
    template = emit.environment().get_template("explain.html.jinja")
    return template.render(
        target=translation.target,
        class_name=translation.class_name,
        source=f"{header.source}, {header.version}",
        rows=list(_shown(rows)),
        texts=texts,
        used=[tag for tag in texts if tag in used],
        lines=_lines,
    )


def _texts() -> dict[str, Text]:
    found = {
        rule.name: Text(rule.title, _prose(inspect.cleandoc(rule.__doc__ or "")))
        for rule in sorted(RULES, key=lambda rule: rule.name)
    }
    found[LOWERED] = Text(
        "Lowered",
        Markup(
            "Before any rule: upstream's layers are inlined into one loop over the "
            "parameters, parallel lists are the state they were filled from, and other "
            "implementations of the same step (foreach, fused, capturable) are gone."
        ),
    )
    return found


def _prose(text: str) -> Markup:
    """A docstring's paragraphs; its ``code`` as code."""
    escaped = html.escape(text, quote=False)
    coded = re.sub(r"``(.+?)``", r"<code>\1</code>", escaped, flags=re.DOTALL)
    return Markup("<br><br>".join(coded.split("\n\n")))


def _shown(rows: Sequence[Row]) -> Iterator[Shown]:
    place = ("", "")
    for row in rows:
        moved = bool(row.file) and (row.file, row.function) != place
        place = (row.file, row.function) if row.file else place
        kind = "folded" if not row.generated else "changed" if row.tags else "same"
        yield Shown(
            f"{row.file}, {row.function}" if moved else "",
            kind,
            _span(row.upstream),
            row.tags,
            tuple(_coloured(row.upstream, 4)),
            tuple(_coloured(row.generated, 8)),
        )


def _span(code: Code) -> str:
    if not code:
        return ""
    return f"{len(code.numbers)} lines, {code.numbers[0]} to {code.numbers[-1]}"


# --- code ---------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<c>#.*)|(?P<s>[rfb]?\"[^\"]*\"|[rfb]?'[^']*')|(?P<k>\b(?:"
    + "|".join(keyword.kwlist)
    + r")\b)"
)


def _coloured(code: Code, margin: int) -> Iterator[Line]:
    """Lines as HTML, ``margin`` columns less indented than in their file."""
    for number, text in zip(code.numbers, code.texts):
        bare = text.strip()
        indent = max(len(text) - len(text.lstrip()) - margin, 0)
        coloured = Markup(_TOKEN.sub(_span_of, html.escape(bare, quote=False)))
        yield Line(number, indent, coloured)


def _span_of(match: re.Match[str]) -> str:
    return f'<span class="{match.lastgroup}">{match[0]}</span>'


def _lines(code: Sequence[Line]) -> Markup:
    line = Markup('<div style="--i:{1}"><span class="n">{0}</span>{2}</div>')
    inside = Markup("").join(line.format(*each) for each in code)
    return Markup('<div class="code">{}</div>').format(inside) if code else Markup("")
