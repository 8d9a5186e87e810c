"""Does the translation go where the original goes?

The original trains in place on its default path for the CPU; its gradients are
recorded and given to the translation, step by step, so that an error shows as large as
it is instead of as large as the problem makes it. Weights are compared after every
step, state and settings at the end: bit for bit, else within `tolerance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from higher.ops import NothingConverted
from higher.optim.base import DifferentiableOptimizer

from ..lower.facts import FALSE_SETTINGS
from .compare import SAME, Difference, compare, snapshot, worst_of
from .configuration import Configuration
from .problem import SPARSE, Problem
from .report import Tally
from .settings import DISPATCH, variants
from .subject import Stopped, Subject, Unusable
from .tracing import Hits

#: Relative to the largest number of a tensor. float64 and float32 leave room for
#: another order of the same operations. bfloat16 keeps eight bits: half a unit in the
#: last place (2**-9) at each of eight steps; float16 eleven. complex64 computes in float32.
TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-6,
    torch.complex64: 1e-6,
    torch.bfloat16: 8 * 2.0**-9,
    torch.float16: 8 * 2.0**-12,
}
#: Other people's optimizers lean more on operations that have no out-of-place twin,
#: and keep sums that cancel in their state.
THIRD_PARTY: Mapping[torch.dtype, float] = {
    **TOLERANCES,
    torch.float64: 1e-7,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
}


BY_ACCIDENT = (
    "the original takes sparse gradients, of which its source knows nothing; the "
    "translation refuses them"
)


class Recording(NamedTuple):
    """What the original did: per step its gradients and the weights they led to."""

    grads: list[list[Tensor | None]]
    weights: list[list[Tensor]]
    state: list[list[Mapping[str, Any]]]
    groups: list[dict[str, Any]]


def configurations(subject: Subject, thorough: bool) -> Iterator[Configuration]:
    """Every way to run `subject`, as one flat sequence of grids."""
    pairs = 200 if thorough else 50
    labelled = list(variants(subject.settings, subject.runs, pairs))
    few = [settings for label, settings in labelled if label != "pair"]
    layout = subject.layout
    double, single = torch.float64, torch.float32
    for dtype in (double, single):
        for label, settings in labelled:
            if thorough or label != "pair" or dtype is double:
                yield Configuration(layout, settings, dtype=dtype)
            if thorough or label != "pair" or dtype is single:
                yield Configuration(layout, settings, dtype=dtype, warm=True)
    for dtype in (torch.bfloat16, torch.complex64):
        for settings in few:
            yield Configuration(layout, settings, dtype=dtype)
        yield Configuration(layout, dtype=dtype, warm=True)
    yield from _layouts(subject, few)
    yield from _as_users_do(subject, few)


def _layouts(subject: Subject, few: list[dict[str, Any]]) -> Iterator[Configuration]:
    """Groups, absent gradients, frozen and sparse parameters."""
    layout = subject.layout
    split = layout.with_("two groups", split=True)
    absent = layout.with_("gradients absent at times", intermittent=True)
    frozen = layout.with_("one parameter frozen", frozen=True)
    mixed = layout.with_(
        "two groups, gradients absent, one frozen",
        split=True,
        frozen=True,
        intermittent=True,
    )
    second = subject.second(few[-1], split)
    for warm in (False, True):
        for each in (split, absent, frozen):
            yield Configuration(each, second=second, warm=warm)
        for settings in few:
            yield Configuration(mixed, settings, second=second, warm=warm)
    if subject.takes_sparse:
        for settings in few:
            for dtype in (torch.float64, torch.float32):
                yield Configuration(SPARSE, settings, dtype=dtype)
            yield Configuration(SPARSE, settings, warm=True)


def _as_users_do(
    subject: Subject, few: list[dict[str, Any]]
) -> Iterator[Configuration]:
    """Dispatch flags and tensor settings of the user's, and test mode."""
    layout = subject.layout
    for warm in (False, True):
        for setting in subject.settings:
            if setting.name in DISPATCH:
                user = {setting.name: True}
                yield Configuration(layout, user=user, warm=warm)
                yield Configuration(layout, few[-1], user=user, warm=warm)
        for settings in (few[0], few[-1]):
            yield Configuration(layout, settings, warm=warm, track=False)
    for setting in subject.settings:
        if setting.takes_tensor and setting.kind == "float":
            for value in (setting.default, *setting.alternatives):
                told = {setting.name: torch.tensor(value, dtype=torch.float64)}
                yield Configuration(layout, told)
                yield Configuration(layout, few[-1] | told, warm=True)


def check(
    subject: Subject,
    conf: Configuration,
    tally: Tally,
    watched: bool = False,
    trial: bool = False,
) -> None:
    """Run `conf` on both and enter the outcome; refusals of the original are notes.

    watched: enter which lines ran, too. trial: refusals and numbers that are not finite
    are no news.
    """
    problem = Problem(conf.layout, conf.dtype)
    hits = (Hits(), Hits()) if watched else None
    try:
        recording = record(subject, conf, problem, hits)
        params, opt = branching_point(subject, conf, problem)
    except Unusable as refusal:
        # a ValueError is how a constructor says that settings do not go together
        if not (trial or str(refusal).startswith("ValueError")):
            tally.refuse(_gist(subject, conf), _first_line(refusal))
        if hits and isinstance(refusal, Stopped):
            _raise_alike(subject, conf, problem, refusal, hits)
        return
    finite = all(bool(w.isfinite().all()) for w in recording.weights[-1])
    if trial and not finite:
        return
    tally.run += 1
    before = snapshot(params, opt)
    try:
        with subject.coverage.watching(hits):
            weights, state = follow(subject, conf, problem, recording, params, opt)
    except NothingConverted as refusal:
        tally.run -= 1
        tally.note(f"refused at run time with {str(conf.dtype)[6:]}: {refusal}")
        return
    except Exception as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        if conf.layout.sparse and not subject.coverage.knows_sparse:
            tally.run -= 1
            tally.note(f"{BY_ACCIDENT}: {reason}")
            return
        tally.fail("error", conf, raised=reason)
        return
    effect = compare(before, snapshot(params, opt), "the user's optimizer")
    limit = (THIRD_PARTY if subject.third_party else TOLERANCES)[conf.dtype]
    if effect.size:
        tally.fail("side effect", conf, **effect.figures)
    elif weights.size > limit:
        tally.fail(weights.kind, conf, **weights.figures)
    elif state.size > limit * (1e3 if subject.third_party else 1):
        tally.fail(state.kind, conf, **state.figures)
    else:
        tally.follow(str(conf.dtype)[6:], max(weights.size, state.size))
        if hits and finite:
            subject.coverage.count(hits, conf)


def _raise_alike(
    subject: Subject,
    conf: Configuration,
    problem: Problem,
    stopped: Stopped,
    hits: tuple[Hits, Hits],
) -> None:
    """What only raises has been tried where both raise at the same step."""
    try:
        params, opt = branching_point(subject, conf, problem)
    except Unusable:
        return
    seen: list[int] = []

    def loss(fast: list[Tensor], step: int) -> Tensor:
        seen.append(step)
        return problem.loss(fast, step)

    try:
        with subject.coverage.watching(hits):
            subject.unroll(opt, params, loss, conf.steps, track=conf.track)
    except Exception:
        if len(seen) == stopped.step + 1:
            subject.coverage.count_raising(hits, conf)


def record(
    subject: Subject,
    conf: Configuration,
    problem: Problem,
    hits: tuple[Hits, Hits] | None = None,
) -> Recording:
    """Train the original and keep what it did. Raises `Unusable`."""
    params, opt = subject.used(conf, problem)
    grads, weights = [], []
    with subject.coverage.watching(hits):
        for step in range(conf.steps):
            try:
                grads.append(subject.advance(opt, params, problem, step))
            except Stopped as refusal:
                refusal.step = step
                raise
            weights.append([p.detach().clone() for p in params])
    told = (*conf.settings.values(), *conf.user.values())
    if any(isinstance(t, Tensor) for t in told):
        # a tensor divided by zero is no error as a number is: NaN tells nothing
        if not all(bool(w.isfinite().all()) for w in weights[-1]):
            raise Unusable("with a tensor setting it does not keep to finite numbers")
    state = [
        [opt.state.get(p, {}) for p in group["params"]] for group in opt.param_groups
    ]
    return Recording(grads, weights, state, opt.param_groups)


def branching_point(
    subject: Subject, conf: Configuration, problem: Problem
) -> tuple[list[Tensor], Optimizer]:
    """The user's weights and optimizer, with the flags and tensors only users set."""
    params, opt = subject.used(conf, problem)
    if not conf.user:
        return params, opt
    told = {**conf.settings, **conf.user}
    users = subject.build(params, conf.layout, told, {1: conf.second})
    users.state.update(opt.state)
    for group, present in zip(users.param_groups, opt.param_groups):
        group.update({**present, **conf.user})
    return params, users


def follow(
    subject: Subject,
    conf: Configuration,
    problem: Problem,
    recording: Recording,
    params: list[Tensor],
    opt: Optimizer,
) -> tuple[Difference, Difference]:
    """Run the translation on the recorded gradients; the worst difference of weights
    and of state."""

    def loss(fast: list[Tensor], step: int) -> Tensor:
        if conf.layout.sparse:
            return problem.loss(fast, step)  # only lookups have sparse gradients
        return problem.replay(fast, recording.grads[step])

    history, diffopt = subject.unroll(opt, params, loss, conf.steps, track=conf.track)
    if not conf.track and any(g.grad_fn for got in history for g in got):
        return Difference(math.inf, "trajectory", {"test mode": "keeps a graph"}), SAME
    worst = SAME
    for step, (expected, got) in enumerate(zip(recording.weights, history[1:])):
        for i, (e, g) in enumerate(zip(expected, got)):
            difference = compare(e, g, f"parameter {i}")
            difference.figures["step"] = step + 1
            worst = worst_of([worst, difference])
        if worst.size > 1e-3:
            break  # what comes after follows from this
    state = _state_difference(recording, diffopt)
    return worst, state if state.kind == "dtype" else state._replace(kind="state")


def _state_difference(
    recording: Recording, diffopt: DifferentiableOptimizer
) -> Difference:
    found = [
        compare(expected, diffopt.state[g][i], f"state[{g}][{i}]")
        for g, slots in enumerate(recording.state)
        for i, expected in enumerate(slots)
    ]
    # those an original's group may name, to no effect
    skip = {"params", *FALSE_SETTINGS, *diffopt._constructor_settings}
    for g, (settings, current) in enumerate(
        zip(recording.groups, diffopt.param_groups)
    ):
        expected = {k: v for k, v in settings.items() if k not in skip}
        got = {k: current.get(k) for k in expected}
        found.append(compare(expected, got, f"param_groups[{g}]"))
    return worst_of(found)


def _gist(subject: Subject, conf: Configuration) -> str:
    """What about `conf` a refusal is likely to be about."""
    if conf.dtype not in (torch.float64, torch.float32):
        return str(conf.dtype)[6:]
    told = ", ".join({**conf.settings, **conf.user})
    if conf.layout == subject.layout:
        return told or "defaults"
    return f"{told} with {conf.layout.name}" if told else conf.layout.name


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]
