"""Source that isn't installed: a folder, a wheel or an sdist, read and never run.

with unpacked("torch-2.15.0-cp312-cp312-macosx_14_0_arm64.whl") as tree:
    tree.version_of("torch")    # "torch 2.15.0"
    tree.root                   # the folder that holds torch/optim/adam.py

Of an archive only Python files are unpacked, of torch only those about optimizers,
into a temporary folder. Versions are read from what stands beside them.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from codegen.diagnostics import misuse
from codegen.source_version import version_in

_OPTIMIZERS = re.compile(r"(^|/)torch/(optim/.*|__init__|version)\.py$")
_METADATA = re.compile(r"^([^/]+/)?(METADATA|PKG-INFO|version\.txt|pyproject\.toml)$")
_NO_PACKAGES = frozenset(
    "test tests doc docs example examples benchmarks tools scripts src".split()
)
_LARGEST = 8 << 20
"""Bytes of the largest file that is unpacked: no module is longer."""


@dataclass(frozen=True)
class SourceTree:
    """A folder on which imports can be followed, as on ``sys.path``.

    ``packages`` are found there and nowhere else.
    """

    given: str
    root: Path
    packages: frozenset[str]

    def version_of(self, package: str) -> str | None:
        """``torch 2.15.0``; None for a package that isn't of this tree."""
        return version_in(self.root, package) if package in self.packages else None


@contextlib.contextmanager
def unpacked(path: str) -> Iterator[SourceTree]:
    """The tree of a folder, a wheel or an sdist; what was unpacked goes at the end.

    Raises:
        CodegenError: there is no such file, it is of no known kind, it is broken, or
            no Python package is in it.
    """
    place = Path(path)
    if place.is_dir():
        yield _tree(path, place.resolve())
        return
    if not place.is_file():
        raise misuse(
            f"no file or folder {path}",
            "name an unpacked source tree, a wheel or an sdist; pip download --no-deps "
            "--only-binary=:all: --platform macosx_14_0_arm64 torch==X fetches one",
        )
    with tempfile.TemporaryDirectory(prefix="codegen-") as folder:
        _unpack(place, Path(folder))
        yield _tree(path, Path(folder))


# --- archives --------------------------------------------------------------------


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder)
        else:
            raise misuse(
                f"{archive} is no wheel and no sdist",
                "name a .whl, .zip or .tar.gz that is whole, or an unpacked folder",
            )
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise misuse(
            f"{archive} can't be unpacked: {error}", "fetch it again: it is damaged"
        ) from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        wanted = _wanted(file.namelist())
        for item in file.infolist():
            if item.filename in wanted and item.file_size <= _LARGEST:
                _write(folder, item.filename, file.read(item))


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        members = file.getmembers()
        wanted = _wanted([item.name for item in members])
        for item in members:
            content = file.extractfile(item) if item.isfile() else None
            if content and item.name in wanted and item.size <= _LARGEST:
                _write(folder, item.name, content.read())


def _wanted(names: Iterable[str]) -> frozenset[str]:
    """Python source, and what tells its version; of torch what an optimizer reads."""
    inside = [name for name in names if _stays_inside(name)]
    source = [name for name in inside if _OPTIMIZERS.search(name)]
    if not source:
        source = [name for name in inside if name.endswith(".py")]
    return frozenset([*source, *(name for name in inside if _METADATA.match(name))])


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not (".." in parts or name.startswith("/") or "\\" in name or ":" in name)


def _write(folder: Path, name: str, content: bytes) -> None:
    place = folder.joinpath(*PurePosixPath(name).parts)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


# --- folders ---------------------------------------------------------------------


def _tree(given: str, folder: Path) -> SourceTree:
    """The tree in a folder: there, in ``src/``, below its one folder, or around it."""
    for root in _candidates(folder):
        packages = frozenset(_packages(root)) if root.is_dir() else frozenset()
        if packages:
            return SourceTree(given, root, packages)
    raise misuse(
        f"no Python package in {given}",
        "name the folder that holds the package's folder, such as site-packages, or a "
        "wheel or sdist of it",
    )


def _candidates(folder: Path) -> Iterator[Path]:
    if (folder / "__init__.py").is_file():
        yield folder.parent  # the package itself was named
        return
    inner = [path for path in folder.iterdir() if path.is_dir()]
    for place in (folder, *(inner if len(inner) == 1 else ())):
        yield place / "src"
        yield place


def _packages(root: Path) -> Iterator[str]:
    """What can be imported from a folder: packages, single modules, namespaces."""
    for path in root.iterdir():
        if path.suffix == ".py" and path.stem not in ("setup", "conftest", "noxfile"):
            yield path.stem
        elif path.name.isidentifier() and _is_package(path):
            yield path.name


def _is_package(path: Path) -> bool:
    if path.name in _NO_PACKAGES:
        return False
    source = ("__init__.py", "*.py", "*/__init__.py")
    return any(next(path.glob(pattern), None) is not None for pattern in source)
