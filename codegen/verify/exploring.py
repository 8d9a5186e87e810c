"""Runs on purpose what the grid of configurations has not run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from . import hints, trajectory
from .configuration import Configuration
from .report import Tally
from .subject import Subject
from .trials import trials as trials_for

MOST = 240  # trials for one optimizer
DERIVATIVES = 6  # of those, at most so many are differentiated


def watches(conf: Configuration) -> bool:
    """Whether to watch the lines that a configuration of the grid runs: pairs of
    settings and other precisions seldom run others, and watching takes time."""
    return len(conf.settings) != 2 and conf.dtype is not torch.float32


def trials(subject: Subject, tally: Tally) -> Iterator[Callable[[], None]]:
    """Trials that run what has not run, until there is nothing left to try."""
    hints.forget()
    coverage = subject.coverage
    found = trials_for(subject)
    for shape in found.left_out():
        tally.note(f"parameters of shape {list(shape)} are refused, or take too long")
    run = partial(trajectory.check, subject, tally=tally, watched=True)
    for conf in found.always():
        yield partial(run, conf)
    tried: set[str] = set()
    hopeless: set[object] = set()
    while open_gaps := [g for g in coverage.gaps() if g not in hopeless]:
        gap, changes = open_gaps[0], coverage.changes
        for conf in found.towards(gap):
            if str(conf) in tried or len(tried) >= MOST:
                continue
            tried.add(str(conf))
            yield partial(run, conf, trial=True)
            if coverage.changes != changes:
                changes = coverage.changes
                if gap not in coverage.gaps():
                    break
        hopeless.add(gap)


def undifferentiated(subject: Subject) -> Iterator[Configuration]:
    """Configurations that run lines of the update of which no derivative was taken."""
    differentiable = 0
    for conf in subject.coverage.not_differentiated():
        if conf.dtype is not torch.float64 or conf.user or not conf.track:
            continue
        if differentiable == DERIVATIVES:
            return
        differentiable += 1
        yield conf
