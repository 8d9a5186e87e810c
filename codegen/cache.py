"""What was compiled and verified before, on disk.

An entry is found by the class (its name, its file, the code that its module runs),
torch's version, Python's, and a hash of the compiler; it holds for as long as every
source file that the compiler read is what it was. A file is written whole and moved into
its place, so that several processes may do so at once; one that is damaged is as good as
none.

``HIGHER_CODEGEN_CACHE`` names another folder than the platform's usual one; empty, it
turns the cache off.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "HIGHER_CODEGEN_CACHE"
_FORM = 1
"""Raised when entries get another form."""
_MOST = 256
"""Entries that are kept; those that were made first go."""


@dataclass(frozen=True)
class Entry:
    """A translation and how it was found.

    Attributes:
        target: what was translated.
        class_name: of the differentiable optimizer.
        text: of its module.
        report: of the verification, as JSON; "" if there was none.
        summary: of the report, in a line.
        read: for each module whose source was read, its file and that file's hash.
    """

    target: str
    class_name: str
    text: str
    report: str
    summary: str
    read: Mapping[str, tuple[str, str]]

    def holds(self) -> bool:
        """Whether all sources are still what they were, and where."""
        return all(
            _digest(Path(path)) == digest and _is_from(name, path)
            for name, (path, digest) in self.read.items()
        )


def folder() -> Path | None:
    """Where entries are; None if they are not wanted."""
    told = os.environ.get(VARIABLE)
    if told is not None:
        return Path(os.path.expanduser(told)) if told else None
    import platformdirs

    return platformdirs.user_cache_path("higher-codegen", appauthor=False)


def place_of(cls: type, verified: bool) -> Path | None:
    """The file of a class's entry; None where there can't be one: no file holds its
    source, or no cache is wanted."""
    where, file = folder(), _file_of(cls)
    if where is None or file is None or not Path(file).is_file():
        return None
    import torch

    told = [
        *(_FORM, verified, cls.__module__, cls.__qualname__, os.path.realpath(file)),
        *(torch.__version__, sys.implementation.cache_tag, _compiler(), _code(cls)),
    ]
    name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
    return where / f"{cls.__name__}-{name}.json"


def _file_of(cls: type) -> str | None:
    """Where its own methods were compiled: a class that was typed in has another place
    than the script that was run before."""
    own = f"{cls.__qualname__}."  # torch puts a base's step into a class that has none
    for member in vars(cls).values():
        function = inspect.unwrap(member) if callable(member) else None
        if isinstance(function, types.FunctionType):
            if function.__qualname__.startswith(own):
                return function.__code__.co_filename
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def find(place: Path) -> Entry | None:
    """The entry there, if it is whole and still holds."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        content = found["content"]
        if found["sha256"] != _sum(content):
            return None
        read = {
            name: (path, digest) for name, (path, digest) in content["read"].items()
        }
        entry = Entry(**{**content, "read": read})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry if entry.holds() else None


def store(place: Path, entry: Entry) -> None:
    """Puts an entry there in one move. Where nothing can be written, nothing is."""
    content = asdict(entry)
    text = json.dumps({"sha256": _sum(content), "content": content})
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _prune(place.parent)


def read_by(paths: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Files and hashes of the modules that were read."""
    return {
        name: (os.path.realpath(path), _digest(path)) for name, path in paths.items()
    }


def _prune(where: Path) -> None:
    """Drops what is too much, also what a process that was killed has left."""
    files = [*where.glob("*.json"), *where.glob(".*.tmp")]
    if len(files) > _MOST:
        ages = {path: path.stat().st_mtime for path in files if path.exists()}
        for path in sorted(ages, key=ages.__getitem__)[: len(ages) - _MOST]:
            path.unlink(missing_ok=True)


# --- hashes -------------------------------------------------------------------------


def _sum(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    """Of a file's bytes; "" if it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _is_from(name: str, path: str) -> bool:
    """Whether a module, if it is loaded, was loaded from there."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or os.path.realpath(file) == path


@functools.cache
def _compiler() -> str:
    """Hash of the compiler, of what translations run on, and of what both are built on."""
    hasher = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for top in ("codegen", "higher", "templates"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in (".py", ".jinja"):
                hasher.update(path.relative_to(root).as_posix().encode())
                hasher.update(path.read_bytes())
    for tool in ("libcst", "jinja2", "black"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            hasher.update(importlib.metadata.version(tool).encode())
    return hasher.hexdigest()


def _code(cls: type) -> str:
    """Hash of the code that a class and its modules run: what is verified is that, and
    need not be what is in the file (an edit after the import, a patched method)."""
    hasher = hashlib.sha256()
    for base in cls.__mro__:
        if base.__module__ not in ("builtins", "typing", "torch.optim.optimizer"):
            held = vars(sys.modules.get(base.__module__, base))
            own = [v for v in held.values() if _is_of(v, base.__module__)]
            for function in (base, *own):
                for line in _told(function):
                    hasher.update(line.encode())
    return hasher.hexdigest()


def _is_of(value: Any, module: str) -> bool:
    return isinstance(value, (type, types.FunctionType)) and value.__module__ == module


def _told(value: Any) -> Iterator[str]:
    """A function's code, or that of all methods of a class, as text."""
    if isinstance(value, type):
        for name, member in vars(value).items():
            inner = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(inner, types.FunctionType):
                yield name
                yield from _told(inner)
        return
    # torch wraps step when the first instance is made
    code = getattr(inspect.unwrap(value), "__code__", None)
    if code is not None:
        yield from _instructions(code)


def _instructions(code: types.CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)
