"""Are the derivatives finite, and right, where a gradient is exactly zero?

Parameter 0's gradient is zero from the start, from the third step on, or (stationary)
zero at the present weights with a curvature there, so that a square root of its square
is at its kink. First derivatives must equal finite differences of the original, second
ones must be finite, and autograd's anomaly mode must find nothing. At that kink with
defaults, guards of 1e-8 and less, derivatives are as large as 1e8 to the power of the
steps; no difference can show that, and first ones are held to be finite, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .comparison import CONSTRUCTION, Comparison, place_of, undefined_in
from .configuration import Configuration
from .hyperparameters import Hyperparameter, overridden
from .oracle import Original
from .report import Tally
from .settings import sampled, together
from .subject import Subject, Unusable
from .surroundings import unrounded

STEPS = 6  # some optimizers change over at the sixth
KINDS = ("start", "later", "stationary")


def configurations(subject: Subject, thorough: bool) -> Iterator[Configuration]:
    """Each kind of zero, at the defaults and with floats and each flag at work."""
    if subject.layout.sparse:
        return  # a row that is not looked up has no gradient rather than a zero one
    floats = sampled(subject.settings, subject.runs)
    everything = together(subject.settings, subject.runs)
    flags = [
        floats | {s.name: value}
        for s in subject.settings
        if s.kind == "bool"
        for value in s.alternatives
        if subject.runs(floats | {s.name: value})
    ]
    for zero in KINDS:
        layout = subject.layout.zeroed(zero)
        yield Configuration(layout, steps=STEPS)
        yield Configuration(layout, floats, steps=STEPS)
        if thorough or zero == "stationary":
            yield Configuration(layout, everything, steps=STEPS)
        if thorough:
            yield Configuration(layout, floats, steps=STEPS, warm=True)
            for settings in flags:
                yield Configuration(layout, settings, steps=STEPS)


def check(subject: Subject, conf: Configuration, tally: Tally) -> None:
    """First derivatives against the original's, all of both orders for being finite."""
    original = Original(subject, conf, subject.problem(conf))
    try:
        with unrounded():
            leaves = original.leaves()
            if conf.settings or conf.layout.zero != "stationary":
                oracle = original.finite_differences(leaves, parameters=[0])
                kept = (1, STEPS)
                first = Comparison(original, tally, oracle, kept, anomaly=True)
                first.run(CONSTRUCTION, leaves)
            _all_finite(original, leaves, tally)
    except Unusable as reason:
        tally.note(f"derivatives are not compared where the original stops: {reason}")


def _all_finite(
    original: Original, leaves: Sequence[Hyperparameter], tally: Tally
) -> None:
    tally.hypergradients_run += 1
    try:
        orders = derivatives(original, leaves)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
        if decomposition := undefined_in(error):
            tally.hypergradients_run -= 1
            tally.leave_undefined(place_of(original, decomposition))
            return
        if original.subject.third_party:
            tally.hypergradients_run -= 1
            tally.note(
                "second derivatives do not exist where a gradient is exactly zero "
                f"[{original.conf}]: {reason}"
            )
            return
        tally.fail("error", original.conf, raised=reason)
        return
    names = [*map(str, leaves), *(f"parameter {i}" for i in range(len(orders[0])))]
    broken = [
        f"{order} derivative of {name}"
        for order, gradients in zip(("first", "second"), orders)
        for name, g in zip(names, gradients)
        if g is not None and not g.isfinite().all()
    ]
    if broken and (decomposition := _undefined(original, leaves)):
        tally.hypergradients_run -= 1
        tally.leave_undefined(place_of(original, decomposition))
    elif broken:
        tally.fail("zero gradient", original.conf, **{"not finite": ", ".join(broken)})
    else:
        tally.hypergradients_right += 1


def _undefined(original: Original, leaves: Sequence[Hyperparameter]) -> str:
    """The decomposition that first derivatives are undefined at, if one is."""
    try:
        with torch.autograd.set_detect_anomaly(True):
            derivatives(original, leaves)
    except Exception as error:
        return undefined_in(error)
    return ""


def derivatives(
    original: Original, leaves: Sequence[Hyperparameter]
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """Gradients of the outer loss to leaves and weights, and of a weighted sum of
    those gradients."""
    subject, conf, problem = original.subject, original.conf, original.problem
    params, opt = subject.used(conf, problem)
    tensors = [
        torch.tensor(leaf.value, dtype=torch.float64, requires_grad=True)
        for leaf in leaves
    ]
    override = overridden(opt, leaves, tensors)
    history, _ = subject.unroll(opt, params, problem.loss, conf.steps, override)
    inputs = [*tensors, *(p for p in history[0] if p.requires_grad)]
    outer = problem.outer(history[-1])
    first = torch.autograd.grad(outer, inputs, create_graph=True, allow_unused=True)
    terms = [g.sum() * (i + 1) for i, g in enumerate(first) if g is not None]
    total = torch.stack(terms).sum()
    if not total.requires_grad:
        return first, []
    with torch.autograd.set_detect_anomaly(True):
        return first, torch.autograd.grad(total, inputs, allow_unused=True)
