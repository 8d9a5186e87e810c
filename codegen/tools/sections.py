"""Sections of a document that a command writes, between two comments.

<!-- rules: python -m codegen --rules -o docs/rules.md -->
…
<!-- end of rules -->
"""

from __future__ import annotations

import re
from pathlib import Path

from codegen import files
from codegen.diagnostics import misuse


def section(document: str, name: str) -> str | None:
    """What stands in the section ``name``; None where there is no such section."""
    match = _pattern(name).search(document)
    return None if match is None else match["inside"].strip("\n")


def renew(path: Path, name: str, text: str) -> bool:
    """Write ``text`` into the section ``name`` of a file; False where it was there.

    Raises:
        CodegenError: the file can't be read or written, or has no such section.
    """
    document, match = _found(path, name)
    start, end = match.span("inside")
    return files.write(path, f"{document[:start]}\n{text.strip()}\n\n{document[end:]}")


def must_hold(path: Path, name: str) -> None:
    """Refuse at once what could not be renewed in the end.

    Raises:
        CodegenError: as for ``renew``.
    """
    files.must_be_writable(path.parent)
    _found(path, name)


def _found(path: Path, name: str) -> tuple[str, re.Match[str]]:
    document = files.read_text(path)
    match = _pattern(name).search(document)
    if match is None:
        raise misuse(
            f"{path} has no section {name!r}",
            f"mark it with <!-- {name}: HOW TO RENEW IT --> and <!-- end of {name} -->",
        )
    return document, match


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        rf"<!-- {name}: [^\n]* -->\n(?P<inside>.*?)<!-- end of {name} -->", re.DOTALL
    )
