"""Which version a source tree is of, by the metadata that lies in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path


def version_in(root: Path, package: str) -> str:
    """``torch 2.15.0``: the distribution that ``package``, a folder of ``root``, is of."""
    if package == "torch":
        return f"torch {_of_torch(root) or 'of unknown version'}"
    for place in dict.fromkeys((root, root.parent if root.name == "src" else root)):
        for name, version in _stated(place, package):
            return f"{name} {_public(version)}"
    return f"{package} {_of_package(root / package) or 'of unknown version'}"


def _public(version: str) -> str:
    """Without the local part: ``2.13.0+cpu`` has the source of ``2.13.0``."""
    return version.strip().partition("+")[0]


def _of_torch(root: Path) -> str | None:
    """From ``torch/version.py``; a checkout has ``version.txt`` until it is built."""
    version = _assigned(root / "torch" / "version.py")
    if version is None and (root / "version.txt").is_file():
        version = (root / "version.txt").read_text()
    return None if version is None else _public(version)


def _stated(place: Path, package: str) -> Iterator[tuple[str, str]]:
    """Names and versions that metadata states for a package."""
    described = sorted(place.glob("*.dist-info/METADATA"))
    for path in (*described, place / "PKG-INFO"):
        if not path.is_file():
            continue
        message = HeaderParser().parsestr(path.read_text(errors="replace"))
        name, version = message["Name"], message["Version"]
        # in site-packages lies the metadata of many
        ours = len(described) <= 1 or _same(str(name), package)
        if name is not None and version is not None and ours:
            yield name, version
    yield from _project(place / "pyproject.toml")


def _same(distribution: str, package: str) -> bool:
    return re.sub(r"[-.]+", "_", distribution).lower() == package.lower()


def _project(path: Path) -> Iterator[tuple[str, str]]:
    """Name and version of a ``pyproject.toml`` that states both."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    table = re.search(r"^\[project\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    stated = dict(
        re.findall(
            r'^(name|version)\s*=\s*["\']([^"\']+)', table[1] if table else "", re.M
        )
    )
    if len(stated) == 2:
        yield stated["name"], stated["version"]


def _of_package(path: Path) -> str | None:
    """``__version__`` of a package, where it is a plain string."""
    places = ("version.py", "_version.py", "__version__.py", "__init__.py")
    found = (_assigned(path / name) for name in places)
    return next((_public(version) for version in found if version is not None), None)


def _assigned(path: Path) -> str | None:
    """The string that a file assigns to ``__version__``, read and not run."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if "__version__" in names and isinstance(value, ast.Constant):
            return value.value if isinstance(value.value, str) else None
    return None
