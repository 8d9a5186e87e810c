"""Are the generated files what the compiler makes of upstream now? If not, why?"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codegen import emit, files
from codegen.diagnostics import CodegenError
from codegen.translate import translate

UPSTREAM = "upstream changed"
EDITED = "edited by hand"
TRANSLATOR = "translator changed"
ORPHAN = "orphan file"
MISSING = "missing file"
REFUSED = "no longer translates"


@dataclass(frozen=True)
class Drift:
    """One file that isn't what it should be."""

    path: Path
    kind: str
    detail: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}\n{self.detail}\nmend it with: {self.fix}"


def drifts(paths: Sequence[str] = ()) -> Iterator[Drift]:
    """Every drift of the named files; without names, of all of ``generated/``."""
    if paths:
        for name in paths:
            yield from _check_file(Path(name))
        return
    folder = files.generated_folder()
    for path, _ in files.generated_files(folder):
        yield from _check_file(path)
    yield from _check_index(folder)


def _check_file(path: Path) -> Iterator[Drift]:
    if not path.is_file():
        yield Drift(path, MISSING, "there is no such file", "python -m codegen --all")
        return
    text = files.read_text(path)
    found = files.header(text)
    if found is None and emit.MARKER in text[:200]:
        fix = "git checkout it, or python -m codegen --all"
        yield Drift(path, EDITED, "its header is not one that the compiler writes", fix)
        return
    if found is None:
        why = "it has no header of the compiler's: nothing would make it again"
        yield Drift(path, ORPHAN, why, f"rm {_shown(path)}")
        return
    fix = f"{found.command}{_output(path)}"
    try:
        translation = translate(found.target, jumps=found.jumps)
    except CodegenError as error:
        yield Drift(path, REFUSED, str(error), "see the diagnostics above")
        return
    if translation.text != text:
        kind = _kind(found, text, translation.digest)
        yield Drift(path, kind, _diff(path, text, translation.text), fix)


def _kind(found: files.Header, text: str, digest: str) -> str:
    if emit.body_digest(text) != found.body:
        return EDITED
    return UPSTREAM if digest != found.digest else TRANSLATOR


def _check_index(folder: Path) -> Iterator[Drift]:
    path = folder / "__init__.py"
    right = files.index_of(folder)
    text = files.read_text(path) if path.is_file() else ""
    if text != right:
        kind = EDITED if text else MISSING
        fix = "python -m codegen --all"
        yield Drift(
            path,
            f"{kind}: the index doesn't fit its folder",
            _diff(path, text, right),
            fix,
        )


def _diff(path: Path, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"{_shown(path)} (as it is)",
        f"{_shown(path)} (as generated)",
    )
    shown = [line if line.endswith("\n") else f"{line}\n" for line in lines]
    return "".join(shown).replace("\r", "\\r").rstrip("\n")


def _output(path: Path) -> str:
    try:
        inside = path.resolve().parent == files.generated_folder()
    except CodegenError:
        inside = False
    return "" if inside else f" -o {_shown(path)}"


def _shown(path: Path) -> str:
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)
