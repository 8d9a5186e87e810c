"""Derivatives of a function that can only be evaluated, with an honest error bar.

Differences at three or four step sizes, each half the last, are extrapolated to step
zero (Richardson), once assuming an error in even powers of the step and once in all
powers; several magnitudes of step are tried until the error bar is small. Central
differences where the function is defined on both sides, one-sided ones elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

EPSILON = 2.0**-52
#: Largest step of each attempt, relative to the width of the argument.
ATTEMPTS = (4e-3, 2e-4, 1e-5, 5e-7, 1e-9)

Evaluate = Callable[[float], Sequence[float]]


@dataclass(frozen=True)
class Slope:
    """A derivative, the size of the error it may have, and whether it exists.

    value, noise: derivative per unit of the argument. consistent: step sizes agree and
    both sides do; where they don't, the function has a kink or a jump here. settled:
    smaller steps would not help.
    """

    value: float
    noise: float
    consistent: bool
    settled: bool = False

    def error(self, candidate: float) -> float:
        """Relative error of `candidate`, which the noise of this slope can excuse:
        below 1e-5 exactly if it is within 1e-5 or within the noise."""
        size = max(abs(self.value), abs(candidate), self.noise * 1e5)
        return abs(candidate - self.value) / size if size else 0.0


def slopes(
    evaluate: Evaluate, at: float, width: float, allowed: Callable[[float], bool]
) -> list[Slope]:
    """Derivative at `at` of each component of `evaluate`.

    width: the argument's natural size; steps are at most 4e-3 of it. allowed: whether
    an argument is in the domain. Non-finite results count as outside, too.
    """
    middle = evaluate(at)
    best = [Slope(0.0, math.inf, False)] * len(middle)
    for relative in ATTEMPTS:
        found = _attempt(evaluate, at, relative * width, middle, allowed)
        if found:
            best = [min(b, f, key=_noise) for b, f in zip(best, found)]
        if all(s.settled for s in best):
            break
    return best


def _noise(slope: Slope) -> float:
    return slope.noise if slope.consistent else math.inf


def _attempt(
    evaluate: Evaluate,
    at: float,
    step: float,
    middle: Sequence[float],
    allowed: Callable[[float], bool],
) -> list[Slope]:
    """Slopes from steps of at most `step`; none where neither side can be evaluated."""

    def side(sign: int, count: int) -> list[Sequence[float]] | None:
        places = [at + sign * step / 2**j for j in range(count)]
        if not all(map(allowed, places)):
            return None
        values = [evaluate(place) for place in places]
        finite = all(math.isfinite(v) for value in values for v in value)
        return values if finite else None

    above, below = side(+1, 3), side(-1, 3)
    if above and below:
        return [
            _central(step, m, [a[i] for a in above], [b[i] for b in below])
            for i, m in enumerate(middle)
        ]
    sign = 1 if above else -1
    values = side(sign, 4) if above or below else None
    return [
        _one_sided(sign * step, m, [v[i] for v in values])
        for i, m in enumerate(middle)
        if values
    ]


def _central(
    step: float, middle: float, above: list[float], below: list[float]
) -> Slope:
    rough = [(a - b) / (2 * step / 2**j) for j, (a, b) in enumerate(zip(above, below))]
    value, spread = min(_extrapolated(rough, 2), _extrapolated(rough, 1), key=_second)
    smallest = step / 2 ** (len(rough) - 1)
    rounding = _rounding(middle, smallest)
    # the jump from the slope on one side to the slope on the other, at each step size
    jumps = [
        abs(a + b - 2 * middle) / (step / 2**j)
        for j, (a, b) in enumerate(zip(above, below))
    ]
    persists = jumps[-1] > 0.5 * jumps[0] and jumps[-1] > 1e-4 * abs(value)
    kink = persists and jumps[-1] > 10 * rounding
    return _slope(value, spread, rounding, kink)


def _one_sided(step: float, middle: float, values: list[float]) -> Slope:
    rough = [(v - middle) / (step / 2**j) for j, v in enumerate(values)]
    value, spread = _extrapolated(rough, 1)
    smallest = abs(step) / 2 ** (len(rough) - 1)
    return _slope(value, spread, 4 * _rounding(middle, smallest), False)


def _slope(value: float, spread: float, rounding: float, kink: bool) -> Slope:
    diverges = spread > 1e-3 * abs(value) and spread > 100 * rounding
    settled = not kink and spread <= max(1e-6 * abs(value), rounding)
    return Slope(value, 3 * spread + rounding, not (diverges or kink), settled)


def _rounding(size: float, step: float) -> float:
    """What rounding alone does to a difference quotient."""
    return 8 * EPSILON * max(abs(size), 1e-3) / step


def _extrapolated(rough: list[float], power: int) -> tuple[float, float]:
    """Limit of quotients at halved steps, errors in multiples of `power`; its spread."""
    rows = [[r] for r in rough]
    for k in range(1, len(rows)):
        for m in range(1, k + 1):
            gain = (rows[k][m - 1] - rows[k - 1][m - 1]) / (2 ** (power * m) - 1)
            rows[k].append(rows[k][m - 1] + gain)
    last, before = rows[-1], rows[-2]
    return last[-1], max(abs(last[-1] - before[-1]), abs(last[-1] - last[-2]))


def _second(pair: tuple[float, float]) -> float:
    return pair[1]
