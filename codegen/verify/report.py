"""What a verification found, in figures and in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Titles of the cells of `Report.row`.
HEADER = (
    "optimizer",
    "followed",
    "bit-identical",
    "hypergradients",
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


@dataclass(frozen=True)
class Report:
    """The outcome of running a translation against its original.

    run, followed, identical: configurations run, followed within tolerance, followed
    bit for bit. hypergradients_run, hypergradients_right: derivatives compared with finite
    differences of the original, and found equal. worst_trajectory: dtype -> largest
    relative error met; worst_gradient: likewise. notes: what was skipped or excused, and
    why.
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

    @property
    def ok(self) -> bool:
        """Everything that ran is right, and something ran."""
        return not self.failures and self.run > 0 and self.hypergradients_run > 0

    def row(self) -> tuple[str, ...]:
        """Cells for a table of several optimizers, titled by `HEADER`."""
        return (
            self.name,
            f"{self.followed}/{self.run}",
            str(self.identical),
            f"{self.hypergradients_right}/{self.hypergradients_run}",
            ", ".join(
                f"{dtype} {error:.0e}"
                for dtype, error in self.worst_trajectory.items()
                if error
            )
            or "0",
            f"{self.worst_gradient:.0e}",
            f"{self.seconds:.1f}",
        )

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {'right' if self.ok else 'WRONG'}: "
            + ", ".join(f"{t} {c}" for t, c in zip(HEADER[1:], self.row()[1:]))
        ]
        lines += [f"  {failure}" for failure in self.failures[:20]]
        hidden = len(self.failures) - 20
        lines += [f"  … and {hidden} more failures"] if hidden > 0 else []
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def report(name: str, tally: Tally, seconds: float) -> Report:
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
    )


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) < 200 else text[:200] + "…"
