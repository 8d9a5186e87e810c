"""Commands that a person can copy: quoted for a shell, from the folder one stands in."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection
from pathlib import Path

from codegen.diagnostics import misuse


def command(
    target: str,
    jumps: Collection[str] = (),
    output: Path | None = None,
    source: str | None = None,
) -> str:
    """What generates ``target``, as headers and hints say it."""
    words = ["python", "-m", "codegen", target]
    words += ["--jumps", ",".join(sorted(jumps))] if jumps else []
    words += ["-o", shown(output)] if output is not None else []
    words += ["--source", source] if source is not None else []
    return shlex.join(words)


def remove(path: Path) -> str:
    """What deletes a file."""
    return f"rm {shlex.quote(shown(path))}"


def shown(path: Path) -> str:
    """A path as seen from the present folder, where it lies below that."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


# --- FILE.py:Class ---------------------------------------------------------------


def split(target: str) -> tuple[str, str] | None:
    """File and class of ``FILE.py:Class``; None for a dotted path."""
    path, _, name = target.rpartition(":")
    return (path, name) if path.endswith(".py") else None


def moved(target: str, old: Path, new: Path) -> str:
    """A target whose file is told from the folder ``old``, told from ``new``.

    A generated file names its source as seen from where it lies itself.

    Raises:
        CodegenError: the path can't stand in a header.
    """
    parts = split(target)
    if parts is None:
        return target
    place = os.path.abspath(old / parts[0])
    try:
        seen = Path(os.path.relpath(place, new)).as_posix()
    except ValueError:  # on another drive
        seen = Path(place).as_posix()
    if re.search(r"[`\"\\\r\n]", seen):
        raise misuse(
            f"{seen!r} has a character that the generated file's header can't hold",
            "rename the file or its folder",
        )
    return f"{seen}:{parts[1]}"
