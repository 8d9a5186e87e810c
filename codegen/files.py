"""Where generated files live, and how they are written: whole, or not at all."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codegen import emit
from codegen.diagnostics import misuse

_ROOT = Path(__file__).resolve().parent.parent
_ELSEWHERE = "choose another place with -o FILE.py, or - for standard output"


@dataclass(frozen=True)
class Header:
    """What a generated file says about itself."""

    target: str
    jumps: frozenset[str]
    command: str
    source: str
    version: str
    digest: str
    body: str


def read_text(path: Path) -> str:
    """The text of a file as it is: line ends untranslated."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise misuse(f"{path} can't be read: {error}") from None


def header(text: str) -> Header | None:
    """The header of a generated file; None for a file of another make."""
    match = emit.HEADER.match(text.replace("\r\n", "\n"))
    if match is None:
        return None
    found = match.groupdict()
    try:
        words = shlex.split(found["command"])
    except ValueError:  # a quotation that doesn't end
        return None
    jumps = words[words.index("--jumps") + 1].split(",") if "--jumps" in words else ()
    return Header(words[3] if len(words) > 3 else "", frozenset(jumps), **found)


def generated_folder() -> Path:
    """``generated/`` of the checkout that this compiler runs from.

    Raises:
        CodegenError: the compiler is installed, not in a checkout.
    """
    if not in_checkout():
        raise misuse(
            "this compiler is installed: it has no generated/ folder to write to",
            "name the output: python -m codegen TARGET -o FILE.py",
        )
    return _ROOT / "generated"


def in_checkout() -> bool:
    """Whether the compiler runs from a checkout of its repository."""
    return (_ROOT / "higher" / "_generated.py").is_file()  # a wheel has a folder there


def must_be_in_checkout(reason: str, hint: str) -> None:
    """Refuse what only a checkout has the files for."""
    if not in_checkout():
        raise misuse(f"this compiler is installed, not in a checkout: {reason}", hint)


def must_be_writable(folder: Path) -> None:
    """Refuse at once what could not be written in the end."""
    if not folder.is_dir():
        made = f"make it: mkdir -p {shlex.quote(str(folder))}"
        raise misuse(f"{folder} is no folder", made)
    if not os.access(folder, os.W_OK):
        raise misuse(f"{folder} can't be written to", _ELSEWHERE)


def generated_files(folder: Path) -> Iterator[tuple[Path, Header | None]]:
    """Modules of a folder, and their headers."""
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py" and path.is_file():
            yield path, header(path.read_bytes().decode(errors="replace"))


def index_of(folder: Path) -> str:
    """The text that ``generated/__init__.py`` ought to have."""
    return emit.render_index(_entries(folder))


def indexes(folder: Path) -> Iterator[tuple[Path, str]]:
    """The lists of what is in ``generated/``, and the texts that they ought to have:
    its index, and beside it what ``higher.optim`` tells type checkers."""
    yield folder / "__init__.py", index_of(folder)
    optim = folder.parent / "higher" / "optim"
    if optim.is_dir():
        names = emit.render_index(_entries(folder), "names.pyi.jinja")
        yield optim / "_compiled.pyi", names


def _entries(folder: Path) -> list[emit.Entry]:
    return [
        emit.Entry(
            found.target, path.stem, f"Differentiable{_class_name(found.target)}"
        )
        for path, found in generated_files(folder)
        if found is not None
    ]


def _class_name(target: str) -> str:
    return target.replace(":", ".").rpartition(".")[2]


def write(path: Path, text: str) -> bool:
    """Write a file in one move; False where it had that text already.

    Raises:
        CodegenError: the folder can't be written to.
    """
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise misuse(
            f"{path.parent} can't be written to: {error.strerror}",
            _ELSEWHERE,
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
