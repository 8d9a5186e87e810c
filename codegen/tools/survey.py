"""Every optimizer of some packages: what becomes of it, and why.

What was found is remembered, under a key of all that it depends on: sources of the
package, of torch's optimizers and of the compiler. A second run takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import libcst as cst

from codegen.class_source import import_original
from codegen.diagnostics import CodegenError, Diagnostic, misuse
from codegen.settle import translate_and_verify
from codegen.tools.processes import in_processes
from codegen.tools.progress import followed
from codegen.translate import translate
from codegen.upstream import Library, library_of, torch_optimizers

_NO_SOURCE = re.compile(r"(^|[._])tests?([._]|$)|(^|\.)(visualize|conftest)(\.|$)")


@dataclass(frozen=True)
class Finding:
    """What became of one optimizer: ``compiled``, or ``refused`` where and why."""

    target: str
    outcome: str
    reason: str

    def row(self) -> str:
        """A line of the table."""
        reason = " ".join(self.reason.split()).replace("|", "\\|")
        return f"| `{self.target}` | {self.outcome} | {reason} |"


def survey(packages: Sequence[str], verified: bool = True) -> list[tuple[str, str]]:
    """(package with its version, table) for each package.

    Raises:
        CodegenError: there is no such package, or no optimizer in it.
    """
    return [
        (package, table(findings(package, verified)))
        for package in map(_checked, packages)
    ]


def findings(package: str, verified: bool = True) -> list[Finding]:
    """One for each optimizer, in the order of their names."""
    targets = optimizers(package)
    keys = {t: _key(t, package, verified) for t in targets}
    known = {t: found for t, key in keys.items() if (found := _recall(key))}
    unknown = [t for t in targets if t not in known]
    if unknown:
        look = functools.partial(examine, verified=verified)
        for finding in followed(_in_processes(look, unknown), unknown):
            _remember(keys[finding.target], finding)
            known[finding.target] = finding
    return [known[t] for t in targets]


def table(found: Sequence[Finding]) -> str:
    """The findings as Markdown, with their count."""
    compiled = sum(f.outcome == "compiled" for f in found)
    lines = [f"{compiled} of {len(found)} compiled.", ""]
    lines += ["| optimizer | outcome | where and why |", "|---|---|---|"]
    return "\n".join([*lines, *(f.row() for f in found)])


def examine(target: str, verified: bool = True) -> Finding:
    """Translate, and verify, one optimizer."""
    try:
        translation = translate(target)
        if not verified:
            return Finding(target, "compiled", "not verified")
        _, report = translate_and_verify(import_original(target), translation)
    except CodegenError as error:
        return Finding(target, "refused", _first(error.diagnostics))
    except RecursionError:
        return Finding(target, "refused", "nested too deeply")
    figures = f"followed {report.row()[1]}, gradients {report.row()[3]}"
    return Finding(target, "compiled", f"{figures}: {report.summary}")


def _first(diagnostics: Sequence[Diagnostic]) -> str:
    """The first reason, and how many more there are."""
    lines = [d.render().splitlines() for d in diagnostics]
    first = lines[0][0]
    if diagnostics[0].rule == "verify" and len(lines[0]) > 2:
        first = f"{first}: {lines[0][2].strip()}"
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"{first}{more}"


# --- what there is ------------------------------------------------------------


def optimizers(package: str) -> list[str]:
    """Paths of the optimizers that a package defines; nothing is imported.

    Raises:
        CodegenError: there is none.
    """
    if package == "torch.optim":
        return torch_optimizers()
    library = library_of(None)
    found = sorted(
        f"{module}.{name}"
        for module, file in _modules(package)
        for name in _optimizers_in(library, module, file)
    )
    if not found:
        raise misuse(f"{package} defines no optimizer", "name another package")
    return found


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    """Modules that may define one, with their files."""
    for root in _places(package):
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            inside = file.relative_to(root).with_suffix("") if root.is_dir() else None
            parts = inside.parts if inside is not None else ()
            name = ".".join([package, *(p for p in parts if p != "__init__")])
            text = file.read_bytes()
            if b"ptimizer" in text and not _NO_SOURCE.search(name):
                yield name, file


def _optimizers_in(library: Library, module: str, file: Path) -> Iterator[str]:
    try:
        source = library.module(module)
    except CodegenError:
        return  # a file that Python itself can't read
    for name, binding in source.bindings.items() if source is not None else ():
        if not isinstance(binding, cst.ClassDef) or name.startswith("_"):
            continue
        try:
            is_one = library.is_optimizer(library.find_class(f"{module}.{name}"))
        except CodegenError:
            continue
        if is_one:
            yield name


def _places(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    folders = spec.submodule_search_locations
    return [Path(f) for f in folders] if folders else [Path(str(spec.origin))]


def _checked(package: str) -> str:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        raise misuse(f"no package {package!r} is installed", "install it, or correct")
    return package


# --- processes and memory -----------------------------------------------------


def _in_processes(
    look: Callable[[str], Finding], targets: Sequence[str]
) -> Iterator[Finding]:
    workers = min(len(targets), os.cpu_count() or 1)
    if workers == 1:
        yield from map(look, targets)
        return
    yield from in_processes(look, targets, workers)


def _key(target: str, package: str, verified: bool) -> str:
    parts = (target, str(verified), _digest(package), _digest("torch.optim"))
    own = (_digest(name) for name in ("codegen", "higher"))
    return hashlib.sha256("\n".join([*parts, *own]).encode()).hexdigest()


@functools.cache
def _digest(package: str) -> str:
    """Hash of a package's sources and templates."""
    hasher = hashlib.sha256()
    for root in _places(package):
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if file.suffix in (".py", ".jinja"):
                hasher.update(str(file.relative_to(root)).encode())
                hasher.update(file.read_bytes())
    return hasher.hexdigest()


def _memory() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "higher-codegen" / "survey"


def _recall(key: str) -> Finding | None:
    try:
        return Finding(**json.loads((_memory() / f"{key}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _remember(key: str, finding: Finding) -> None:
    """A folder that can't be written to costs time, nothing else."""
    try:
        _memory().mkdir(parents=True, exist_ok=True)
        new = _memory() / f"{key}.{os.getpid()}"
        new.write_text(json.dumps(asdict(finding)))
        new.replace(_memory() / f"{key}.json")
    except OSError:
        pass
