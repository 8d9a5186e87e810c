"""``--explain``: upstream's lines beside the generated ones, changes tagged."""

from __future__ import annotations

import html
import os
import sys
from pathlib import Path

from codegen import files
from codegen.diagnostics import misuse
from codegen.tools.explain.page import MARKER, page
from codegen.tools.explain.rows import rows
from codegen.tools.explain.terminal import show
from codegen.translate import Translation

PIPED_WIDTH = 160
"""Columns of the text where it goes to no terminal that could tell its own."""


def explain(translation: Translation, form: str, output: str | None) -> None:
    """Show how ``translation`` came about.

    Args:
        translation: what to explain.
        form: ``"text"``, printed, in colour on a terminal; or ``"html"``, a page.
        output: the page's file; default: named after the optimizer, in the present
            folder; ``-`` prints it.

    Raises:
        CodegenError: the file exists and is no such page, or can't be written.
    """
    found = rows(translation)
    if form == "text":
        if output not in (None, "-"):
            raise misuse(
                "-o goes with --explain=html", "for text, redirect: --explain > FILE"
            )
        show(translation, found, sys.stdout, _width())
        return
    text = page(translation, found)
    if output == "-":
        print(text, end="")
        return
    path = Path(output or f"{translation.module_name}.html")
    _refuse_to_overwrite(path)
    files.write(path, text)
    print(f"wrote {path}")


def inline(translation: Translation) -> str:
    """The page inside another one, whose style stays as it is."""
    text = html.escape(page(translation, rows(translation)))
    style = "width: 100%; height: 40em; border: 0"
    return f'<iframe srcdoc="{text}" style="{style}"></iframe>'


def _width() -> int | None:
    """None where the terminal knows."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return None
    return PIPED_WIDTH


def _refuse_to_overwrite(path: Path) -> None:
    if path.is_dir():
        raise misuse(f"{path} is a folder", "name a file: -o FILE.html")
    if path.is_file() and MARKER.encode() not in path.read_bytes():
        raise misuse(
            f"{path} exists and is no page of --explain",
            "choose another name: -o FILE.html",
        )
