"""What several versions of torch translate to, and where that changed.

Each optimizer of each version is translated, none is imported; the results are held
against the committed ones and against each other.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import libcst as cst

from codegen import emit, files
from codegen.diagnostics import CodegenError, misuse
from codegen.lower.facts import FALSE_SETTINGS
from codegen.source_tree import SourceTree, unpacked
from codegen.syntax import all_params, code
from codegen.tools.canonical import Likeness, likeness
from codegen.tools.hunks import Side
from codegen.tools.processes import in_processes
from codegen.translate import translate
from codegen.upstream import Absent, library_of, open_target, torch_optimizers

COMMITTED = "generated/"
_PER_PROCESS = 7
"""Translations that are worth a process of their own."""


@dataclass(frozen=True)
class Outcome:
    """What became of one optimizer in one version: a text, or why there is none.

    ``settings`` are the constructor's parameters and their defaults.
    """

    side: Side | None = None
    settings: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def word(self) -> str:
        """``translated``, ``refused`` or ``absent``."""
        if self.side is not None:
            return "translated"
        return "refused" if self.refusal else "absent"


@dataclass(frozen=True)
class Change:
    """An optimizer between two versions: how alike, and both sides."""

    old_version: str
    new_version: str
    old: Outcome
    new: Outcome

    @property
    def likeness(self) -> Likeness | None:
        """None where one of them has no translation."""
        return alike(self.old, self.new)


@dataclass(frozen=True)
class Survey:
    """Outcomes by optimizer and version; versions from the oldest to the newest."""

    versions: tuple[str, ...]
    outcomes: dict[str, dict[str, Outcome]]
    committed: dict[str, Outcome] = field(default_factory=dict)
    committed_version: str = ""

    @property
    def targets(self) -> list[str]:
        return sorted(self.outcomes)

    def cell(self, target: str, version: str) -> str:
        """How a version's output compares with what is committed, in a word."""
        outcome = self.outcomes[target][version]
        if outcome.side is None:
            return outcome.word
        if target not in self.committed:
            return "new"
        found = alike(self.committed[target], outcome)
        return CELLS[cast(Likeness, found)]

    def outdated(self) -> list[str]:
        """Optimizers whose committed output is not what the newest version makes."""
        newest = self.versions[-1]
        return [t for t in self.targets if not self._current(t, newest)]

    def _current(self, target: str, version: str) -> bool:
        if target in self.committed:
            return self.cell(target, version) == "same"
        return self.outcomes[target][version].side is None

    def strays(self, target: str) -> bool:
        """Whether no version makes what is committed."""
        cells = {self.cell(target, version) for version in self.versions}
        return target in self.committed and not {"same", "notes"} & cells

    def changes(self, target: str) -> Iterator[Change]:
        """From each version to the next; what is committed first, if none made it."""
        outcomes = self.outcomes[target]
        newest = self.versions[-1]
        if self.strays(target):
            yield Change(
                f"{COMMITTED} ({self.committed_version})",
                newest,
                self.committed[target],
                outcomes[newest],
            )
        for old, new in zip(self.versions, self.versions[1:]):
            yield Change(old, new, outcomes[old], outcomes[new])


CELLS = {
    Likeness.TEXT: "same",
    Likeness.CODE: "notes",
    Likeness.COMPUTES: "checks",
    Likeness.DIFFERENT: "differs",
}
"""What the table says of an output, beside ``refused``, ``absent`` and ``new``."""


def alike(a: Outcome, b: Outcome) -> Likeness | None:
    """How alike two outputs are; None where one isn't there."""
    if a.side is None or b.side is None:
        return None
    return likeness(a.side.text, b.side.text)


# --- making it ---------------------------------------------------------------------


def survey(paths: Sequence[str]) -> Survey:
    """Translate every optimizer of torch in each of the source trees.

    Raises:
        CodegenError: a path holds no torch, or two hold the same version.
    """
    with contextlib.ExitStack() as stack:
        trees = _by_version([stack.enter_context(unpacked(path)) for path in paths])
        committed, headers = _committed()
        present = {v: set(torch_optimizers(tree)) for v, tree in trees.items()}
        targets = sorted(set().union(*present.values(), committed))
        jobs = [
            (tree, target, _jumps(headers.get(target)))
            for tree in trees.values()
            for target in targets
        ]
        made = iter(_all_outcomes(jobs))
        outcomes: dict[str, dict[str, Outcome]] = {target: {} for target in targets}
        for version in trees:
            for target in targets:
                outcomes[target][version] = next(made)
    made_from = ", ".join(sorted({header.version for header in headers.values()}))
    found = Survey(tuple(trees), outcomes, committed, made_from)
    for target, header in headers.items():
        if found.strays(target):
            committed[target] = _with_sources(committed[target], header)
    return found


def _jumps(header: files.Header | None) -> frozenset[str]:
    return header.jumps if header is not None else frozenset()


Job = tuple["SourceTree | None", str, frozenset[str]]


def _all_outcomes(jobs: Sequence[Job]) -> list[Outcome]:
    """In order; by several processes where there is work for them."""
    workers = min(os.cpu_count() or 1, len(jobs) // (2 * _PER_PROCESS))
    if workers < 2:
        return [_outcome(job) for job in jobs]
    return list(in_processes(_outcome, jobs, workers))


def _outcome(job: Job) -> Outcome:
    tree, target, jumps = job
    try:
        settings = _settings(tree, target)
        translation = translate(target, library_of(tree), jumps)
    except Absent:
        return Outcome()
    except CodegenError as error:
        return Outcome(refusal=str(error))
    side = Side(translation.text, dict(translation.lines), translation.sources)
    return Outcome(side, settings)


def _settings(tree: SourceTree | None, target: str) -> tuple[str, ...]:
    """Parameters of the constructor, with their defaults; how it is run left out."""
    init = open_target(target, library_of(tree)).method("__init__")
    if init is None:
        return ()
    return tuple(
        p.name.value + (f"={code(p.default)}" if p.default is not None else "")
        for p in all_params(cast(cst.FunctionDef, init.node).params)
        if p.name.value not in {"self", "params", *FALSE_SETTINGS}
    )


def _committed() -> tuple[dict[str, Outcome], dict[str, files.Header]]:
    """What lies in ``generated/``, and its headers."""
    outcomes: dict[str, Outcome] = {}
    headers: dict[str, files.Header] = {}
    for path, header in files.generated_files(files.generated_folder()):
        if header is not None and header.target.startswith("torch.optim."):
            text = emit.with_not_run(files.read_text(path), "")
            outcomes[header.target] = Outcome(Side(text))
            headers[header.target] = header
    return outcomes, headers


def _with_sources(committed: Outcome, header: files.Header) -> Outcome:
    """What is committed with upstream's lines, if those are the installed torch's."""
    installed = _outcome((None, header.target, header.jumps))
    same = alike(committed, installed) is Likeness.TEXT and installed.side is not None
    found = files.header(installed.side.text) if same and installed.side else None
    return installed if found and found.digest == header.digest else committed


def _by_version(trees: Sequence[SourceTree]) -> dict[str, SourceTree]:
    """Trees by the version of their torch, oldest first."""
    found: dict[str, SourceTree] = {}
    for tree in trees:
        torch_optimizers(tree)  # says so where there are none
        version = (tree.version_of("torch") or "").removeprefix("torch ")
        if version in found:
            raise misuse(
                f"{found[version].given} and {tree.given} are both torch {version}",
                "name each version once",
            )
        found[version] = tree
    return {version: found[version] for version in sorted(found, key=_order)}


def _order(version: str) -> tuple[list[int], bool, list[int]]:
    """2.9.0 < 2.10.0.dev1 < 2.10.0rc1 < 2.10.0: enough of how versions are ordered."""
    release = re.match(r"[\d.]*", version)
    assert release is not None
    rest = version[release.end() :]
    numbers = [int(n) for n in re.findall(r"\d+", release[0])]
    stage = 0 if "dev" in version else 1
    return numbers[:3], not rest, [stage, *(int(n) for n in re.findall(r"\d+", rest))]
