"""What a verification found, in figures and in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

#: Titles of the cells of `Report.row`.
HEADER = (
    "optimizer",
    "followed",
    "bit-identical",
    "hypergradients",
    "lines run",
    "worst trajectory error",
    "worst gradient error",
    "seconds",
)


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong, where, and by how much.

    kind: "trajectory", "dtype", "state", "meta-gradient", "hypergradient",
    "zero gradient", "side effect" or "error".
    """

    kind: str
    configuration: str
    figures: Mapping[str, object]

    def __str__(self) -> str:
        figures = ", ".join(
            f"{name} {_figure(value)}" for name, value in self.figures.items()
        )
        return f"{self.kind} [{self.configuration}]: {figures}"


@dataclass(frozen=True)
class Missed:
    """A line that no comparison ran; or (`one_way`) one that ran, on which a branch
    always went the same way."""

    file: str
    line: int
    one_way: bool = False


@dataclass(frozen=True)
class Share:
    """How many of a source's lines ran while both were compared, of how many, and what
    did not. whose: "" or "the update's"."""

    run: int = 0
    of: int = 0
    missed: tuple[Missed, ...] = ()
    whose: str = ""

    @property
    def lines_missed(self) -> str:
        """Like ``2 lines of 41, nadam.py:212, :230``; empty if all ran."""
        lines = [m for m in self.missed if not m.one_way]
        if not lines:
            return ""
        noun = "line" if len(lines) == 1 else "lines"
        return f"{len(lines)} {noun} of {self.of}, {_places(lines)}"

    def __str__(self) -> str:
        """Like ``2 lines of 41 not run: nadam.py:212; one way only: nadam.py:98``."""
        lines = [m for m in self.missed if not m.one_way]
        branches = [m for m in self.missed if m.one_way]
        parts = []
        if lines:
            noun = "line" if len(lines) == 1 else "lines"
            of = " ".join(filter(None, ("of", self.whose, str(self.of))))
            parts.append(f"{len(lines)} {noun} {of} not run: {_places(lines)}")
        if branches:
            parts.append(f"one way only: {_places(branches)}")
        return "; ".join(parts)


@dataclass
class Tally:
    """Counts while a verification runs; frozen into a `Report` at its end."""

    run: int = 0
    followed: int = 0
    identical: int = 0
    hypergradients_run: int = 0
    hypergradients_right: int = 0
    worst_trajectory: dict[str, float] = field(default_factory=dict)
    worst_gradient: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    undefined: dict[str, None] = field(default_factory=dict)
    influence: dict[str, bool] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def fail(self, kind: str, configuration: object, **figures: object) -> None:
        """Record a failure."""
        self.failures.append(Failure(kind, str(configuration), figures))

    def follow(self, dtype: str, error: float) -> None:
        """Record a configuration that is followed, with the relative error of weights,
        state and settings."""
        self.followed += 1
        self.identical += error == 0
        self.worst_trajectory[dtype] = max(error, self.worst_trajectory.get(dtype, 0))

    def refuse(self, what: str, message: str) -> None:
        """Record what the original does not do, once for each message of its."""
        if message not in self.refusals:
            self.refusals[message] = what
            self.note(f"the original refuses {what}: {message}")

    def seen(self, setting: str, moves_weights: bool) -> None:
        """Record whether a setting has any influence on the weights."""
        known = self.influence.get(setting, False)
        self.influence[setting] = known or moves_weights

    def note(self, text: str) -> None:
        """Record, once, something skipped or excused."""
        self.notes[text] = None

    def leave_undefined(self, where: str) -> None:
        """Record, once, a point at which torch leaves a derivative undefined."""
        self.undefined[where] = None


@dataclass(frozen=True)
class Report:
    """The outcome of running a translation against its original.

    run, followed, identical: configurations run, followed within tolerance, followed
    bit for bit. hypergradients_run, hypergradients_right: derivatives compared with finite
    differences of the original, and found equal. worst_trajectory: dtype -> largest
    relative error met; worst_gradient: likewise. notes: what was skipped or excused, and
    why. original, update: how much of the original's step, and of the generated update,
    ran in these comparisons. undefined: points at which torch leaves a derivative
    undefined, for both.
    """

    name: str
    run: int
    followed: int
    identical: int
    hypergradients_run: int
    hypergradients_right: int
    worst_trajectory: Mapping[str, float]
    worst_gradient: float
    seconds: float
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
    original: Share = Share()
    update: Share = Share()
    undefined: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Everything that ran is right, and something ran."""
        return not self.failures and self.run > 0 and self.hypergradients_run > 0

    @property
    def not_run(self) -> str:
        """What no comparison reached, the original's lines first; "" if nothing."""
        return "; ".join(filter(None, map(str, (self.original, self.update))))

    @property
    def summary(self) -> str:
        """One line, like ``right; 2 lines of 41 not run: nadam.py:212, :230``."""
        if not self.ok:
            first = self.failures[0] if self.failures else "nothing could be compared"
            return f"WRONG: {first}"
        undefined = (
            f"undefined at {', '.join(self.undefined)}" if self.undefined else ""
        )
        right = f"right, {undefined}" if undefined else "right"
        return f"{right}; {self.not_run}" if self.not_run else right

    def row(self) -> tuple[str, ...]:
        """Cells for a table of several optimizers, titled by `HEADER`."""
        return (
            self.name,
            f"{self.followed}/{self.run}",
            str(self.identical),
            f"{self.hypergradients_right}/{self.hypergradients_run}",
            f"{self.original.run}/{self.original.of}",
            ", ".join(
                f"{dtype} {error:.0e}"
                for dtype, error in self.worst_trajectory.items()
                if error
            )
            or "0",
            f"{self.worst_gradient:.0e}",
            f"{self.seconds:.1f}",
        )

    def to_json(self) -> str:
        """The report as text, from which `from_json` makes an equal one, but for
        figures of failures that are no numbers: these come back as words."""
        return json.dumps(asdict(self), default=_figure)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote.

        Raises:
            ValueError: the text is not what `to_json` writes.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            found["failures"] = tuple(Failure(**f) for f in found["failures"])
            for name in ("original", "update"):
                missed = tuple(Missed(**m) for m in found[name].pop("missed"))
                found[name] = Share(**found[name], missed=missed)
            for name in ("notes", "undefined"):
                found[name] = tuple(found[name])
            return cls(**found)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no report: {error}") from None

    def __str__(self) -> str:
        titled = list(zip(HEADER, self.row()))[1:]
        figures = ", ".join(f"{title} {cell}" for title, cell in titled)
        lines = [f"{self.name}: {'right' if self.ok else 'WRONG'}: {figures}"]
        lines += [f"  {failure}" for failure in self.failures[:20]]
        hidden = len(self.failures) - 20
        lines += [f"  … and {hidden} more failures"] if hidden > 0 else []
        lines += [
            f"  {share}" for share in (self.original, self.update) if share.missed
        ]
        lines += [f"  undefined at {where}" for where in self.undefined]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def report(
    name: str,
    tally: Tally,
    seconds: float,
    original: Share = Share(),
    update: Share = Share(),
) -> Report:
    """The finished `tally` of `name`."""
    for setting, moves_weights in tally.influence.items():
        if not moves_weights:
            tally.note(
                f"{setting} moves no weight in any configuration run: its derivative is "
                "zero, and finite differences agree"
            )
    return Report(
        name,
        tally.run,
        tally.followed,
        tally.identical,
        tally.hypergradients_run,
        tally.hypergradients_right,
        dict(tally.worst_trajectory),
        tally.worst_gradient,
        seconds,
        tuple(tally.failures),
        tuple(tally.notes),
        original,
        update,
        tuple(tally.undefined),
    )


def _places(missed: Sequence[Missed]) -> str:
    """Like ``nadam.py:212, :230-234``: each file once, neighbours together."""
    found = []
    for file, group in groupby(missed, key=lambda m: m.file):
        spans = [
            f":{first}" if first == last else f":{first}-{last}"
            for first, last in _spans(sorted({m.line for m in group}))
        ]
        found.append(file + ", ".join(spans))
    return ", ".join(found)


def _spans(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for j in range(1, len(numbers) + 1):
        if j == len(numbers) or numbers[j] != numbers[j - 1] + 1:
            yield numbers[start], numbers[j - 1]
            start = j


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) < 200 else text[:200] + "…"
