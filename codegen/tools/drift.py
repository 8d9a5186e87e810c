"""Are the generated files what the compiler makes of upstream now? If not, why?

A file's header holds a hash of the functions of upstream's that were read, and one of
the file itself, so that three things can be told apart: upstream is another, the file
was edited, or the compiler writes something else than it did.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codegen import emit, files
from codegen.command_line import command, moved, remove, shown
from codegen.diagnostics import CodegenError, misuse
from codegen.source_tree import SourceTree
from codegen.translate import Translation, module_name, translate
from codegen.upstream import Absent, library_of, torch_optimizers

UPSTREAM = "upstream changed"
EDITED = "edited by hand"
TRANSLATOR = "translator changed"
ORPHAN = "orphan file"
MISSING = "missing file"
GONE = "gone upstream"
REFUSED = "no longer translates"

_ALL = "python -m codegen --all"
_NOT_OURS = frozenset({"__init__.py", "__pycache__", "py.typed"})


@dataclass(frozen=True)
class Drift:
    """One file that isn't what it should be; ``how`` says more about its kind."""

    path: Path
    kind: str
    detail: str
    fix: str
    how: str = ""

    def __str__(self) -> str:
        kind = f"{self.kind}: {self.how}" if self.how else self.kind
        return f"{self.path}: {kind}\n{self.detail}\nmend it with: {self.fix}"


def drifts(
    paths: Sequence[str] = (), tree: SourceTree | None = None
) -> Iterator[Drift]:
    """Every drift of the named files; without names, of all of ``generated/``.

    Upstream is what is installed, or a source tree.
    """
    if paths:
        for name in paths:
            yield from _check_named(Path(name), tree)
        return
    folder = files.generated_folder()
    expected = {
        module_name(target.rpartition(".")[2]): target
        for target in torch_optimizers(tree)
    }
    for path in sorted(folder.iterdir()):
        if path.name not in _NOT_OURS:
            yield from _check_file(path, tree, expected.get(path.stem))
    yield from _check_index(folder)
    yield from _missing(folder, expected, tree)


def _check_named(path: Path, tree: SourceTree | None) -> Iterator[Drift]:
    if path.is_dir():
        raise misuse(f"{path} is a folder", "name the generated files in it")
    if not path.is_file():
        fix = command("TARGET", output=path)
        yield Drift(path, MISSING, "there is no such file", fix)
    elif path.name == "__init__.py" and _in_generated(path):
        yield from _check_index(path.parent)
    else:
        yield from _check_file(path, tree, None)


def _check_file(
    path: Path, tree: SourceTree | None, expected: str | None
) -> Iterator[Drift]:
    """Compare one file; ``expected`` is the optimizer that its name stands for."""
    text = _text(path)
    found = files.header(text)
    if found is None and (expected or emit.MARKER in text[:200]):
        how = "its header is not one that the compiler writes"
        fix = f"{command(expected)} --force" if expected else _ALL
        first = text.partition("\n")[0] or "the file is empty"
        yield Drift(path, EDITED, f"it begins: {first!r}", fix, how)
    elif found is not None and expected and found.target != expected:
        how = f"it is not what {expected} translates to"
        detail = f"its header names {found.target}"
        yield Drift(path, EDITED, detail, command(expected), how)
    elif found is None:
        why = "it has no header of the compiler's: nothing would make it again"
        yield Drift(path, ORPHAN, why, remove(path))
    else:
        yield from _compare(path, text, found, tree)


def _text(path: Path) -> str:
    """What is in a file, whatever it is."""
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def _compare(
    path: Path, text: str, found: files.Header, tree: SourceTree | None
) -> Iterator[Drift]:
    folder = path.parent  # from which the path of a ``FILE.py:Class`` is told
    fix = command(
        moved(found.target, folder, Path.cwd()),
        found.jumps,
        None if _in_generated(path) else path,
        None if tree is None else tree.given,
    )
    try:
        translation = translate(found.target, library_of(tree, folder), found.jumps)
    except CodegenError as error:
        if emit.body_digest(text) != found.body:
            how = "and what its header names doesn't translate"
            yield Drift(path, EDITED, str(error), "git checkout it", how)
        elif isinstance(error, Absent):
            yield Drift(path, GONE, str(error), remove(path))
        else:
            yield Drift(path, REFUSED, str(error), "see the diagnostics above")
        return
    told = emit.with_not_run(translation.text, emit.not_run(text))
    translation = replace(translation, text=told)
    right = f"{translation.module_name}.py"
    if _in_generated(path) and path.name != right:
        why = f"{found.target} belongs into {right}"
        yield Drift(path, ORPHAN, why, remove(path))
    elif not _current(text, found, translation):
        kind, how = _kind(text, found, translation)
        detail = _diff(path, text, translation.text)
        yield Drift(path, kind, detail, fix, how)


def _current(text: str, found: files.Header, translation: Translation) -> bool:
    """Whether a file is right; which version has just this source may differ."""
    right = files.header(translation.text)
    assert right is not None
    if found.version != right.version and emit.body_digest(text) == found.body:
        return emit.with_version(text, right.version) == translation.text
    return text == translation.text


def _kind(text: str, found: files.Header, translation: Translation) -> tuple[str, str]:
    """What happened to a file, and how it shows."""
    if emit.body_digest(text) != found.body:
        return EDITED, _edit(text, translation.text)
    if translation.digest != found.digest:
        same = emit.body(text) == emit.body(translation.text)
        return UPSTREAM, "what is generated stays the same" if same else ""
    black = emit.installed_black()
    if black != emit.BLACK and _same_code(text, translation.text):
        raise misuse(
            f"black {black} lays code out in another way than "
            f"{emit.BLACK}, which generated files are made with: whether they are "
            "current can't be told",
            f"pip install black=={emit.BLACK}",
        )
    return TRANSLATOR, "or the file was, and its hash made to fit"


def _edit(text: str, right: str) -> str:
    """How a file was edited, where that has a name."""
    if "\r" in text and text.replace("\r\n", "\n") == right:
        return "its lines end in CRLF (git config core.autocrlf input)"
    if text and right.startswith(text):
        return "it is truncated"
    if emit.body(text) == emit.body(right):
        return "its header alone"
    if sorted(filter(None, text.split("\n"))) == sorted(
        filter(None, right.split("\n"))
    ):
        return "its lines are in another order"
    return ""


def _same_code(a: str, b: str) -> bool:
    try:
        return ast.dump(ast.parse(a)) == ast.dump(ast.parse(b))
    except (SyntaxError, ValueError):
        return False


# --- the folder as a whole ---------------------------------------------------------


def _missing(
    folder: Path, expected: dict[str, str], tree: SourceTree | None
) -> Iterator[Drift]:
    """Optimizers that translate and have no file."""
    for stem, target in expected.items():
        path = folder / f"{stem}.py"
        if path.exists():
            continue
        try:
            translate(target, library_of(tree))
        except CodegenError:
            continue
        fix = command(target, source=None if tree is None else tree.given)
        yield Drift(path, MISSING, f"nothing is generated from {target}", fix)


def _check_index(folder: Path) -> Iterator[Drift]:
    for path, right in files.indexes(folder):
        text = _text(path)
        if text != right:
            kind = EDITED if path.is_file() else MISSING
            how = "the index doesn't fit its folder"
            yield Drift(path, kind, _diff(path, text, right), _ALL, how)


# --- words -------------------------------------------------------------------------


def _diff(path: Path, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"{shown(path)} (as it is)",
        f"{shown(path)} (as generated)",
    )
    whole = [line if line.endswith("\n") else f"{line}\n" for line in lines]
    return "".join(whole).replace("\r", "\\r").rstrip("\n")


def _in_generated(path: Path) -> bool:
    try:
        return path.resolve().parent == files.generated_folder().resolve()
    except CodegenError:
        return False
