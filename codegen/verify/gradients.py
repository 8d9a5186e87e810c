"""Are the derivatives of the translation those of the original?

The translation is unrolled with every float setting a 0-dim tensor that requires grad,
told by each route there is, and differentiated by autograd with respect to them and to
the initial weights; the `oracle` says what should come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from higher.optim.base import DifferentiableOptimizer
from torch import Tensor
from torch.optim import Optimizer

from .differences import Slope
from .leaves import EACH_STEP, WRITE, Leaf, Move, overridden
from .oracle import Oracle, Original, moments
from .problem import SPARSE, Problem
from .report import Tally
from .settings import Setting, elements, farther, sampled, together
from .subject import Configuration, Override, Subject, Unusable
from .surroundings import unrounded

TOLERANCE = 1e-5
SHORT_TOLERANCE = 1e-4  # where counters and products of betas are float32

CONSTRUCTION = "override at construction"
STEP = "override in step"
USER = "tensor in the user's optimizer"


class Gradients(NamedTuple):
    """Of the outer loss at one of the `moments`: to leaves, to initial weights."""

    moment: int
    value: float
    settings: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]


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
            original.outcomes([Move(leaf, number * 1.001, WRITE)])[:-1] != here
            for place, number in elements(value)
            for leaf in [Leaf(setting.name, place, None, number, value)]
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
    except Unusable:
        pass  # the notes on trajectories say so


def _check(subject: Subject, conf: Configuration, tally: Tally, thorough: bool) -> None:
    original = Original(subject, conf, subject.problem(conf))
    with unrounded() as asked:
        leaves = original.leaves()
        once = Comparison(original, tally, original.consult(leaves))
        for leaf in leaves:
            slopes = once.oracle.settings[leaf][:-1]
            moves = any(s.value or not s.consistent for s in slopes)
            tally.seen(str(replace(leaf, group=None)), moves)
        once.run(CONSTRUCTION, leaves)
        changed = original.each_step(leaves)
        again = {leaf: found for leaf, found in changed.items() if found}
        tellable = [x for x in leaves if changed.get(x, True) is not None]
        oracle = replace(
            once.oracle,
            values=original.outcomes([Move(x, x.value, EACH_STEP) for x in tellable]),
            settings={**once.oracle.settings, **again},
        )
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
    original: Original, leaves: Sequence[Leaf], asked: set[str], tally: Tally
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


@dataclass(frozen=True)
class Comparison:
    """One configuration of the translation, to be held against its oracle."""

    original: Original
    tally: Tally
    oracle: Oracle
    kept: Sequence[int] = ()  # all moments
    short: bool = False
    anomaly: bool = False  # let autograd raise at a NaN on its way

    def run(self, route: str, leaves: Sequence[Leaf]) -> None:
        """Unroll with `leaves` as tensors told by `route`, and compare all slopes."""
        label = f"{self.original.conf}; {route}"
        label += ", float32 counters" if self.short else ""
        try:
            found = self.differentiate(route, leaves)
        except Unusable:
            raise
        except Exception as error:
            self.tally.hypergradients_run += len(leaves) + 1
            reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
            self.tally.fail("error", label, raised=reason)
            return
        at = [moments(self.original.conf.steps).index(f.moment) for f in found]
        steps = [each.moment for each in found]
        if self._moved_otherwise(label, [self.oracle.values[j] for j in at], found):
            return
        for i, leaf in enumerate(leaves):
            slopes = [self.oracle.settings[leaf][j] for j in at]
            got = [_number(each.settings[i]) for each in found]
            if self._wrong(slopes, got) and self._is_limit(
                leaf, leaves, route, at, got
            ):
                slopes = [Slope(g, 0.0, True) for g in got]
            self._judge("hypergradient", str(leaf), label, steps, slopes, got)
        slopes, got = [], []
        for direction, row in zip(self.oracle.directions, self.oracle.weights):
            slopes += [row[j] for j in at]
            got += [_along(direction, each.weights) for each in found]
        steps = steps * len(self.oracle.directions)
        self._judge("meta-gradient", "initial weights", label, steps, slopes, got)

    def _moved_otherwise(
        self, label: str, expected: Sequence[float], found: Sequence[Gradients]
    ) -> bool:
        """Whether tensors for settings lead elsewhere than numbers, which is a failure:
        where a zero switches a part of the update off, a tensor may have it on."""
        limit = 1e-4 if self.short else 1e-6
        for value, each in zip(expected, found):
            error = abs(value - each.value) / max(abs(value), 1e-6)
            if not error <= limit:
                self.tally.hypergradients_run += 1
                figures = {
                    "with tensors for settings, steps": each.moment,
                    "expected loss": value,
                    "got": each.value,
                    "relative error": error,
                }
                self.tally.fail("trajectory", label, **figures)
                return True
        return False

    def _is_limit(
        self,
        leaf: Leaf,
        leaves: Sequence[Leaf],
        route: str,
        at: Sequence[int],
        got: Sequence[float],
    ) -> bool:
        """Whether `got` is what the derivative jumps to as another setting, which is
        zero and a tensor here, too, leaves zero."""
        way = EACH_STEP if route == STEP else self.original.telling(leaf)
        for other, found in self.original.limits(leaf, leaves, way):
            slopes = [found[j] for j in at]
            if not replace(self, short=True)._wrong(slopes, got):
                self.tally.note(
                    f"{leaf}: its derivative jumps where {other} leaves zero; with "
                    "tensors for both it is the limit from there"
                )
                return True
        return False

    def _wrong(self, expected: Sequence[Slope], got: Sequence[float]) -> list[int]:
        """Where `got` is none of what is `expected`."""
        limit = SHORT_TOLERANCE if self.short else TOLERANCE
        return [
            j
            for j, (e, g) in enumerate(zip(expected, got))
            if g - g != 0 or (e.consistent and e.error(g) > limit)
        ]

    def differentiate(self, route: str, leaves: Sequence[Leaf]) -> list[Gradients]:
        """Gradients of the outer loss after each kept number of steps."""
        subject, conf = self.original.subject, self.original.conf
        problem = self.original.problem
        params, opt = subject.used(conf, problem)
        tensors = [
            torch.tensor(leaf.value, dtype=torch.float64, requires_grad=True)
            for leaf in leaves
        ]
        values = overridden(opt, leaves, tensors)
        if route == USER:
            opt = self._users(params, opt, values)
        history, diffopt = subject.unroll(
            opt,
            params,
            problem.loss,
            conf.steps,
            values if route == CONSTRUCTION else None,
            values if route == STEP else None,
        )
        start = [p for p in history[0] if p.requires_grad]
        found = []
        for k in self.kept or self._moments(leaves):
            outer = problem.outer(history[k]) if k else _of_state(problem, diffopt)
            with torch.autograd.set_detect_anomaly(self.anomaly):
                gradients = _gradients(outer, [*tensors, *start])
            n = len(tensors)
            value = float(outer.detach())
            found.append(Gradients(k, value, gradients[:n], gradients[n:]))
        return found

    def _moments(self, leaves: Sequence[Leaf]) -> Sequence[int]:
        """All moments; without the last state where a zero switches off a slot, that
        a tensor of the same value has to keep."""
        everything = moments(self.original.conf.steps)
        switched_off = any(leaf.value == 0 for leaf in leaves)
        return everything[:-1] if switched_off else everything

    def _users(
        self, params: Sequence[Tensor], opt: Optimizer, values: Override
    ) -> Optimizer:
        """The user's optimizer, built with tensors that require grad if its constructor
        takes them, else with them put in its groups."""
        conf = self.original.conf
        if len(opt.param_groups) == 1 and not conf.warm:
            told = {**conf.settings, **{k: v[0] for k, v in values.items()}}
            try:
                return self.original.subject.build(params, conf.layout, told)
            except Unusable:
                pass
        for name, given in values.items():
            for group, value in zip(opt.param_groups, given):
                if name in group:
                    group[name] = value
        return opt

    def _judge(
        self,
        kind: str,
        what: str,
        label: str,
        steps: Sequence[int],
        expected: Sequence[Slope],
        got: Sequence[float],
    ) -> None:
        """Enter one derivative, right after every number of steps or not."""
        judged = [j for j, slope in enumerate(expected) if slope.consistent]
        errors = [_nan_is_wrong(e.error(g)) for e, g in zip(expected, got)]
        wrong = self._wrong(expected, got)
        if len(judged) < len(got) and not wrong:
            self.tally.note(
                f"{what}: finite differences of the original do not converge in "
                f"{len(got) - len(judged)} of {len(got)} cases, not judged [{label}]"
            )
        self.tally.hypergradients_run += bool(judged or wrong)
        if not wrong:
            self.tally.hypergradients_right += bool(judged)
            if not self.short:
                worst = max((errors[j] for j in judged), default=0.0)
                self.tally.worst_gradient = max(self.tally.worst_gradient, worst)
            return
        j = max(wrong, key=lambda j: errors[j])
        figures = {
            "of": what,
            "steps" if steps[j] else "in": steps[j] or "the final state",
            "found": got[j],
            "finite difference": expected[j].value,
            "noise": expected[j].noise,
            "relative error": errors[j],
        }
        self.tally.fail(kind, label, **figures)


def _of_state(problem: Problem, diffopt: DifferentiableOptimizer) -> Tensor:
    groups = zip(diffopt.param_groups, diffopt.state)
    state = [states[i] for g, states in groups for i in range(len(g["params"]))]
    return problem.of_state(state)


def _gradients(outer: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not outer.requires_grad:
        return [None] * len(inputs)
    return torch.autograd.grad(outer, inputs, retain_graph=True, allow_unused=True)


def _number(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient)


def _along(direction: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> float:
    pairs = zip(direction, gradients)
    return sum(float((d * g).sum()) for d, g in pairs if g is not None)


def _nan_is_wrong(error: float) -> float:
    return error if error == error else float("inf")
