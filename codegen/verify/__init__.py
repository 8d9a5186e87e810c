"""Translation validation: runs a translation against the optimizer it was made from.

    report = verify(torch.optim.NAdam, DifferentiableNAdam)
    print(report)          # figures, each failure in a line, what was skipped and why
    assert report.ok

`trajectory` compares where both go over a grid of settings, dtypes, parameter groups
and used optimizers; `gradients` compares derivatives with finite differences of the
original; `stability` does so where gradients are exactly zero. `coverage` knows which lines ran in
all that, and `exploring` tries to run the others. Nothing here knows any
optimizer by name: `settings` reads what a constructor takes, `subject` finds out by
trying which parameters the original accepts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from torch.optim import Optimizer

from higher.optim.base import DifferentiableOptimizer

from . import exploring, gradients, stability, trajectory
from .report import HEADER, Failure, Missed, Report, Share, Tally, report
from .subject import Subject, Unusable, subject
from .surroundings import undisturbed

__all__ = ["HEADER", "Failure", "Missed", "Report", "Share", "verify"]


def verify(
    original: type[Optimizer],
    differentiable: type[DifferentiableOptimizer],
    *,
    thorough: bool = False,
    stop_after: int | None = None,
) -> Report:
    """Run `differentiable` against `original` on small problems, on the CPU.

    thorough: all pairs of settings in every precision, tensor settings in the user's
    own optimizer, each setting a tensor by itself. Takes seconds, thorough about three
    times as long. stop_after: give up after so many failures. Never raises for what
    either class does: the report tells.
    """
    started = time.perf_counter()
    tally = Tally()
    with undisturbed():
        try:
            found = subject(original, differentiable)
        except Unusable as reason:
            tally.fail("error", "defaults", **{"original cannot be run": str(reason)})
            return report(original.__name__, tally, time.perf_counter() - started)
        for run in _checks(found, tally, thorough):
            run()
            if stop_after is not None and len(tally.failures) >= stop_after:
                break
    seconds = time.perf_counter() - started
    return report(original.__name__, tally, seconds, *found.coverage.shares())


def _checks(
    found: Subject, tally: Tally, thorough: bool
) -> Iterator[Callable[[], None]]:
    """Every check of every configuration, cheap ones first."""
    for conf in trajectory.configurations(found, thorough):
        yield partial(trajectory.check, found, conf, tally, exploring.watches(conf))
    yield from exploring.trials(found, tally)
    for conf in gradients.configurations(found, thorough):
        yield partial(gradients.check, found, conf, tally, thorough)
    for conf in gradients.further(found, tally):
        yield partial(gradients.check, found, conf, tally)
    for conf in exploring.undifferentiated(found):
        yield partial(gradients.check_briefly, found, conf, tally)
    for conf in stability.configurations(found, thorough):
        yield partial(stability.check, found, conf, tally)
