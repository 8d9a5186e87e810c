"""Are the derivatives of the translation those of the original?

The translation is unrolled with every float setting a 0-dim tensor that requires grad,
told by each route there is, and differentiated by autograd with respect to them and to
the initial weights; the `oracle` says what should come out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .comparison import CONSTRUCTION, STEP, USER, Comparison
from .configuration import Configuration
from .hyperparameters import WRITE, Hyperparameter, Perturbation
from .oracle import Original, moments
from .problem import SPARSE
from .report import Tally
from .settings import Setting, elements, farther, sampled, together
from .subject import Subject, Unusable
from .surroundings import unrounded

SLOW = 0.08  # seconds that a run takes, of which differences need some hundred


def configurations(subject: Subject, thorough: bool) -> Iterator[Configuration]:
    """The defaults, all float settings at work, every flag, groups, a used optimizer."""
    layout = subject.layout
    floats = sampled(subject.settings, subject.runs)
    everything = together(subject.settings, subject.runs)
    yield Configuration(layout)
    yield Configuration(layout, floats)
    yield Configuration(layout, everything, warm=True)
    flagged = list(_flags(subject, floats))
    yield from flagged
    mixed = layout.with_(
        "two groups, gradients absent, one frozen",
        split=True,
        intermittent=True,
        frozen=True,
    )
    second = subject.second(everything, mixed, floats)
    yield Configuration(mixed, floats, second=second)
    if subject.takes_sparse:
        yield Configuration(SPARSE)
    if thorough:
        yield Configuration(layout, warm=True)
        yield Configuration(layout, floats, warm=True)
        yield Configuration(layout.with_("two groups", split=True), {}, second)
        yield from (replace(conf, warm=True) for conf in flagged)


def further(subject: Subject, tally: Tally) -> Iterator[Configuration]:
    """Settings that had no influence on the weights yet, where they do have some."""
    floats = sampled(subject.settings, subject.runs)
    silent = {s.partition("[")[0] for s, moves in tally.influence.items() if not moves}
    for setting in (s for s in subject.settings if s.name in silent):
        for told in ({}, floats):
            trials = [
                Configuration(subject.layout, {**told, setting.name: value})
                for value in farther(setting)
            ]
            found = next((c for c in trials if _matters(subject, c, setting)), None)
            if found:
                yield found
                break


def _matters(subject: Subject, conf: Configuration, setting: Setting) -> bool:
    """Whether moving each number of `setting` changes the weights."""
    if not subject.runs(conf.settings):
        return False
    value = conf.settings[setting.name]
    original = Original(subject, conf, subject.problem(conf))
    with unrounded():
        here = original.outcomes()[:-1]
        return all(
            original.outcomes([Perturbation(leaf, number * 1.001, WRITE)])[:-1] != here
            for place, number in elements(value)
            for leaf in [Hyperparameter(setting.name, place, None, number, value)]
        )


def _flags(subject: Subject, floats: Mapping[str, Any]) -> Iterator[Configuration]:
    """Every flag and choice changed by itself, among float settings at work: those
    that the constructor takes together with it."""
    for setting in subject.settings:
        if setting.kind not in ("bool", "choice"):
            continue
        for value in setting.alternatives:
            told: dict[str, Any] = {}
            for name, other in floats.items():
                trial = told | {name: other}
                if subject.runs(trial | {setting.name: value}) or not told:
                    told = trial
            told |= {setting.name: value}
            if subject.runs(told):
                yield Configuration(subject.layout, told)


def check(
    subject: Subject, conf: Configuration, tally: Tally, thorough: bool = False
) -> None:
    """Compare every derivative of `conf`, by every route a tensor setting can take."""
    try:
        _check(subject, conf, tally, thorough)
    except Unusable as reason:
        tally.note(f"derivatives are not compared where the original stops: {reason}")


def check_briefly(subject: Subject, conf: Configuration, tally: Tally) -> None:
    """Compare derivatives of `conf` by one route, weights moved all together; where
    steps are slow, of one setting and the weights only."""
    original = Original(subject, conf, subject.problem(conf))
    try:
        with unrounded():
            started = time.thread_time()
            original.outcomes()
            slow = time.thread_time() - started > SLOW
            # zero may switch a part off that a tensor has on: a point for no trial
            leaves = [leaf for leaf in original.leaves() if leaf.value]
            leaves = leaves[:1] if slow else leaves
            oracle = original.finite_differences(leaves, parameters=())
            last = moments(conf.steps)[-2]
            Comparison(original, tally, oracle, kept=[last]).run(CONSTRUCTION, leaves)
    except Unusable:
        pass  # a trial that the original does not bear in double precision


def _check(subject: Subject, conf: Configuration, tally: Tally, thorough: bool) -> None:
    original = Original(subject, conf, subject.problem(conf))
    with unrounded() as asked:
        leaves = original.leaves()
        once = Comparison(original, tally, original.finite_differences(leaves))
        for leaf in leaves:
            slopes = once.oracle.settings[leaf][:-1]
            moves = any(s.value or not s.consistent for s in slopes)
            tally.seen(str(replace(leaf, group=None)), moves)
        once.run(CONSTRUCTION, leaves)
        changed = original.each_step(leaves)
        again = {leaf: found for leaf, found in changed.items() if found}
        tellable = [x for x in leaves if changed.get(x, True) is not None]
        oracle = original.again(tellable, once.oracle)
        if oracle is once.oracle:
            oracle = replace(oracle, settings={**oracle.settings, **again})
        replace(once, oracle=oracle).run(STEP, tellable)
        if thorough:
            once.run(USER, [leaf for leaf in leaves if leaf not in changed])
            for leaf in leaves:
                replace(once, kept=[conf.steps]).run(CONSTRUCTION, [leaf])
    _note(original, leaves, asked, tally)
    if not asked and (thorough or not conf.settings):
        short = replace(once, kept=[conf.steps], short=True)
        short.run(CONSTRUCTION, leaves)


def _note(
    original: Original, leaves: Sequence[Hyperparameter], asked: set[str], tally: Tally
) -> None:
    if asked:
        tally.note(
            f"converts to {', '.join(sorted(asked))} inside: derivatives are compared "
            "with that rounding left out of both"
        )
    for leaf in leaves:
        if derived := original.derived(leaf):
            tally.note(
                f"{leaf}: the constructor computes {', '.join(derived)} from it; "
                "an override moves it alone"
            )
