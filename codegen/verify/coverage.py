"""How much of an original's step and of the generated update was run and compared.

Only what ran in both while they were compared, and led to finite numbers, counts. What
is left is told by line, and to the search for something that runs it.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import torch
from torch.optim import Optimizer

from higher.optim.base import DifferentiableOptimizer

from . import source_lines
from .configuration import Configuration
from .report import Missed, Share
from .source_lines import Source, source_of
from .tracing import Hits, Jump, Span, Trace, Way, jumps, nested


class Gap(NamedTuple):
    """A statement that no comparison ran; or a condition that always came out alike."""

    file: str
    line: int
    condition: Span | None = None

    @property
    def missed(self) -> Missed:
        """What a report says of it."""
        return Missed(_label(self.file), self.line, self.condition is not None)


@dataclass
class Side:
    """One of the two: its code, what of it ran."""

    trace: Trace
    hits: Hits = field(default_factory=Hits)
    _complete: set[CodeType] = field(default_factory=set)
    _sources: dict[CodeType, Source | None] = field(default_factory=dict)

    def sources(self) -> dict[CodeType, Source]:
        """The functions that were entered, with their sources."""
        if len(self._sources) != len(self.hits.entered):
            self._sources = {code: source_of(code) for code in self.hits.entered}
        found = {c: source for c, source in self._sources.items() if source is not None}
        alive = {name for source in found.values() for name in source.names[0]}
        dead = {name for source in found.values() for name in source.names[1]} - alive
        return {c: source for c, source in found.items() if c.co_name not in dead}

    def gaps(self) -> list[Gap]:
        """What did not run, by file and line; of a condition whose statement has lines
        that did not run, those alone."""
        found: set[Gap] = set()
        for code, source in self.sources().items():
            gaps = set(self._of(code, source))
            lines = {g.line for g in gaps if g.condition is None}
            found |= {g for g in gaps if not _explained(g, source, lines)}
        return sorted(found, key=lambda g: (g.file, g.line))

    def share(self, whose: str = "") -> Share:
        """The same in figures."""
        every = {
            (code.co_filename, line)
            for code, source in self.sources().items()
            for line in source.lines
        }
        missed = dict.fromkeys(gap.missed for gap in self.gaps())
        lines = sum(not m.one_way for m in missed)
        return Share(len(every) - lines, len(every), tuple(missed), whose)

    def mentions(self, *words: str) -> bool:
        """Whether the functions that were entered have one of these words."""
        return any(
            word in text
            for code, source in self.sources().items()
            for text in source.text(code.co_filename)
            for word in words
        )

    def settle(self) -> None:
        """Stop watching functions of which everything ran."""
        for code, source in self.sources().items():
            if code not in self._complete and not any(self._of(code, source)):
                self._complete.update(nested(code))

    def known(self, code: CodeType) -> bool:
        """Whether nothing more can be learnt of this code."""
        return code in self._complete

    def _of(self, code: CodeType, source: Source) -> Iterator[Gap]:
        file, ran = code.co_filename, self.hits.lines
        for line, own in source.lines.items():
            if not any((file, each) in ran for each in own):
                yield Gap(file, line)
        for inner in nested(code):
            outcomes: dict[Span, set[bool]] = {}
            for jump, span in _conditions(inner, source):
                outcomes.setdefault(span, set()).update(
                    taken == jump.if_true
                    for taken in (False, True)
                    if Way(inner, jump.offset, taken) in self.hits.ways
                )
            for span, found in outcomes.items():
                if len(found) < 2 and source.chooses(span):
                    yield Gap(file, span.line, span)


def _label(file: str) -> str:
    """What a report calls a file."""
    path = Path(file)
    if file.startswith("<"):
        return "the update"
    return f"generated/{path.name}" if path.parent.name == "generated" else path.name


def _explained(gap: Gap, source: Source, lines: set[int]) -> bool:
    condition = gap.condition
    return condition is not None and any(
        gap.line in source.lines[line] or source.guards(condition, line)
        for line in lines
    )


def _conditions(code: CodeType, source: Source) -> Iterator[tuple[Jump, Span]]:
    """Every jump with the condition that it acts on. Some Pythons say where the
    statement stands that has it, and not where the condition itself does."""
    found: dict[Span, dict[int, Jump]] = {}
    for jump in jumps(code).values():
        found.setdefault(jump.span, {})[jump.offset] = jump
    for span, group in found.items():
        parts = source.tests.get(span, [span])
        # some of its conditions may have jumps that stand where they do
        parts = [p for p in parts if p not in found or p == span] or parts
        exact = len(group) % len(parts) == 0
        whole = Span(*parts[0][:2], *parts[-1][2:])
        for j, offset in enumerate(sorted(group)):
            yield group[offset], parts[j % len(parts)] if exact else whole


class Coverage:
    """Watches both while they are compared.

    original, update: what ran in comparisons. differentiated: what of the update ran
    where derivatives were compared. first: line or way -> the first configuration that
    ran it. changes: how often something new ran.
    """

    def __init__(
        self, original: type[Optimizer], compiled: type[DifferentiableOptimizer]
    ) -> None:
        source_lines.forget()
        files = set(_update_files(compiled))
        package = original.__module__.partition(".")[0]
        self.original = Side(Trace(lambda code: _is_own(code.co_filename, package)))
        self.update = Side(Trace(lambda code: code.co_filename in files))
        self.differentiated = Hits()
        self.first: dict[object, Configuration] = {}
        self.changes = 0
        for side in (self.original, self.update):
            side.trace.known = side.known
        self._here: tuple[Hits, Hits] | None = None

    @contextmanager
    def watching(self, hits: tuple[Hits, Hits] | None) -> Iterator[None]:
        """Enter into `hits` what runs in the `steps` of both meanwhile."""
        self._here = hits
        try:
            yield
        finally:
            self._here = None

    @contextmanager
    def steps(self, of_original: bool) -> Iterator[None]:
        """Around one step of either."""
        if self._here is None:
            yield
            return
        side = self.original if of_original else self.update
        with side.trace.on(self._here[0 if of_original else 1]):
            yield

    @property
    def knows_sparse(self) -> bool:
        """Whether the original's step says anything of sparse gradients."""
        return self.original.mentions("sparse", "coalesce", "_indices", "_values")

    def count(self, hits: tuple[Hits, Hits], conf: Configuration) -> None:
        """What was recorded, running `conf`, led to the same in both."""
        for side, found in zip((self.original, self.update), hits):
            new = found.without(side.hits)
            self.first.update(dict.fromkeys([*new.lines, *new.ways], conf))
            side.hits.add(found)
            if new.entered or new.lines or new.ways:
                self.changes += 1
                side.settle()

    def count_raising(self, hits: tuple[Hits, Hits], conf: Configuration) -> None:
        """Both raised: of what was recorded, that which only raises."""
        raising = (_raising(hits[0]), _raising(hits[1]))
        if all(found.lines for found in raising):
            self.count(raising, conf)

    def not_differentiated(self) -> list[Configuration]:
        """What to run to compare derivatives of lines of the update of which only values
        were compared."""
        new = self.update.hits.without(self.differentiated)
        found = (self.first.get(each) for each in [*sorted(new.lines), *new.ways])
        return list({str(conf): conf for conf in found if conf is not None}.values())

    def shares(self) -> tuple[Share, Share]:
        """How much ran of both."""
        return self.original.share(), self.update.share("the update's")

    def gaps(self) -> list[Gap]:
        """What did not run of either."""
        return [*self.original.gaps(), *self.update.gaps()]


def _raising(hits: Hits) -> Hits:
    """The lines among those hit that only raise, and the ways that led there."""
    found = Hits()
    for code in hits.entered:
        source = source_of(code)
        if source is None:
            continue
        ran = {
            line for line in source.raising if (code.co_filename, line) in hits.lines
        }
        if not ran:
            continue
        found.entered.add(code)
        found.lines.update((code.co_filename, line) for line in ran)
        found.ways.update(w for w in hits.ways if w.code in set(nested(code)))
    return found


def _update_files(compiled: type[DifferentiableOptimizer]) -> Iterator[str]:
    for base in compiled.__mro__:
        update = vars(base).get("_update")
        if update is not None and base is not DifferentiableOptimizer:
            yield update.__code__.co_filename


_TORCH = str(Path(torch.__file__).parent)
_OPTIM = str(Path(_TORCH) / "optim")
_COMPILER = str(Path(__file__).parent.parent)
_STANDARD = sysconfig.get_paths()["stdlib"]


def _is_own(file: str, package: str) -> bool:
    """Whether a file holds an optimizer's own code: that of its package, or of nobody's.

    The base class of all optimizers, and torch but for its optimizers, are no part.
    """
    if file.startswith(f"{_TORCH}{os.sep}"):
        return file.startswith(f"{_OPTIM}{os.sep}") and not file.endswith(
            "optim/optimizer.py"
        )
    parts = Path(file).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            return parts[parts.index(folder) + 1] in (package, f"{package}.py")
    return not file.startswith(("<frozen", _STANDARD, _COMPILER))
