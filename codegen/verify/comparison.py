"""One configuration of a translation, held against the derivatives of its original."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from higher.optim.base import DifferentiableOptimizer

from .differences import Slope
from .hyperparameters import EACH_STEP, Hyperparameter, overridden
from .oracle import Oracle, Original, moments
from .problem import SPARSE, Problem
from .report import Tally
from .subject import Override, Unusable
from .tracing import Hits

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


class SparseBackward(Exception):
    """Torch can't differentiate an operation whose result's gradient is sparse: loudly,
    and whatever the translation."""


@dataclass(frozen=True)
class Comparison:
    """One configuration of the translation, to be held against its oracle."""

    original: Original
    tally: Tally
    oracle: Oracle
    kept: Sequence[int] = ()  # all moments
    short: bool = False
    anomaly: bool = False  # let autograd raise at a NaN on its way

    def run(self, route: str, leaves: Sequence[Hyperparameter]) -> None:
        """Unroll with `leaves` as tensors told by `route`, and compare all slopes."""
        label = f"{self.original.conf}; {route}"
        label += ", float32 counters" if self.short else ""
        try:
            found = self.differentiate(route, leaves)
        except Unusable:
            raise
        except SparseBackward as error:
            self.tally.note(f"torch stops on the way back [{label}]: {error}")
            return
        except Exception as error:
            if where := undefined_in(error):
                self._leave_undefined(where)
                return
            subject, sparse = self.original.subject, self.original.conf.layout.sparse
            if sparse and not subject.coverage.knows_sparse:
                return  # noted where values were compared
            self.tally.hypergradients_run += len(leaves) + 1
            reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
            self.tally.fail("error", label, raised=reason)
            return
        if self._undefined(route, leaves, found):
            return
        moment = moments(self.original.conf.steps).index
        at = [moment(f.moment) for f in found]
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

    def _undefined(
        self, route: str, leaves: Sequence[Hyperparameter], found: Sequence[Gradients]
    ) -> bool:
        """Whether gradients are NaN because torch leaves the derivative of a matrix
        decomposition undefined here, whatever the translation."""
        gradients = (g for each in found for g in (*each.settings, *each.weights))
        if self.anomaly or not any(
            g is not None and g.isnan().any() for g in gradients
        ):
            return False
        try:
            replace(self, anomaly=True).differentiate(route, leaves)
        except Exception as error:
            where = undefined_in(error)
            if where:
                self._leave_undefined(where)
            return bool(where)
        return False

    def _leave_undefined(self, decomposition: str) -> None:
        self.tally.leave_undefined(place_of(self.original, decomposition))

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
                    "with tensors for settings": _when(each.moment),
                    "expected loss": value,
                    "got": each.value,
                    "relative error": error,
                }
                self.tally.fail("trajectory", label, **figures)
                return True
        return False

    def _is_limit(
        self,
        leaf: Hyperparameter,
        leaves: Sequence[Hyperparameter],
        route: str,
        at: Sequence[int],
        got: Sequence[float],
    ) -> bool:
        """Whether `got` is what the derivative jumps to as another setting, which is
        zero and a tensor here, too, leaves zero."""
        way = EACH_STEP if route == STEP else self.original.injection(leaf)
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

    def differentiate(
        self, route: str, leaves: Sequence[Hyperparameter]
    ) -> list[Gradients]:
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
        hits = (Hits(), Hits())
        with subject.coverage.watching(hits):
            history, diffopt = subject.unroll(
                opt,
                params,
                problem.loss,
                conf.steps,
                values if route == CONSTRUCTION else None,
                values if route == STEP else None,
            )
        subject.coverage.differentiated.add(hits[1])
        start = [p for p in history[0] if p.requires_grad]
        found = []
        moment = moments(conf.steps).index
        for k in self.kept or self._moments(leaves):
            # where the original breaks down there is nothing to compare with
            if not math.isfinite(self.oracle.values[moment(k)]):
                continue
            outer = problem.outer(history[k]) if k else _of_state(problem, diffopt)
            with torch.autograd.set_detect_anomaly(self.anomaly):
                gradients = self._gradients(outer, [*tensors, *start])
            n = len(tensors)
            value = float(outer.detach())
            found.append(Gradients(k, value, gradients[:n], gradients[n:]))
        return found

    def _gradients(
        self, outer: Tensor, inputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        try:
            return _gradients(outer, inputs)
        except RuntimeError as error:
            # a sparse gradient comes back to an operation that has no derivative for it
            if self.original.conf.layout is SPARSE and "parse" in str(error):
                raise SparseBackward(str(error).strip()[:300]) from error
            raise

    def _moments(self, leaves: Sequence[Hyperparameter]) -> Sequence[int]:
        """All moments; without the last state where it may lack slots: a zero switches
        some off, that a tensor keeps, and a parameter never moved may have none yet."""
        conf = self.original.conf
        lacking = conf.layout.frozen or any(leaf.value == 0 for leaf in leaves)
        return moments(conf.steps)[:-1] if lacking else moments(conf.steps)

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

    def _at_a_kink(self, got: Sequence[float]) -> bool:
        """Whether a gradient is exactly zero here, as signs and absolute values have
        kinks there. Those of torch's own are known not to matter."""
        conf, third_party = self.original.conf, self.original.subject.third_party
        return third_party and bool(conf.layout.zero) and all(map(math.isfinite, got))

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
        if wrong and self._at_a_kink(got):
            self.tally.note(
                f"{what}: where a gradient is exactly zero, the update has a kink, and "
                f"one of its derivatives there is returned [{label}]"
            )
            return
        self.tally.hypergradients_run += bool(judged or wrong)
        if not wrong:
            self.tally.hypergradients_right += bool(judged)
            if not self.short:
                worst = max((errors[j] for j in judged), default=0.0)
                self.tally.worst_gradient = max(self.tally.worst_gradient, worst)
            return
        j = max(wrong, key=lambda j: errors[j])
        figures = {
            "of": f"{what} {_when(steps[j])}",
            "found": got[j],
            "finite difference": expected[j].value,
            "noise": expected[j].noise,
            "relative error": errors[j],
        }
        self.tally.fail(kind, label, **figures)


_DECOMPOSITION = re.compile(
    r"Function '((?:Linalg)?(?:Eigh?|Svd|Qr|Lu|LuFactorEx|CholeskyEx?))Backward\d* ?' "
    "returned nan values"
)


def undefined_in(error: Exception) -> str:
    """The matrix decomposition that has no derivative, by torch's formula, where two
    eigenvalues or singular values are equal, or a matrix is singular; "" for any other
    error."""
    found = _DECOMPOSITION.search(str(error))
    return found[1].removeprefix("Linalg").lower() if found else ""


def place_of(original: Original, decomposition: str) -> str:
    """What a report calls a point at which a derivative is undefined."""
    zero = original.conf.layout.zero
    where = "a gradient of exactly zero" if zero else "matrices of deficient rank"
    return f"{where} (torch.linalg.{decomposition})"


def _of_state(problem: Problem, diffopt: DifferentiableOptimizer) -> Tensor:
    groups = zip(diffopt.param_groups, diffopt.state)
    state = [states[i] for g, states in groups for i in range(len(g["params"]))]
    return problem.of_state(state)


def _gradients(outer: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not outer.requires_grad:
        return [None] * len(inputs)
    return torch.autograd.grad(outer, inputs, retain_graph=True, allow_unused=True)


def _when(moment: int) -> str:
    return f"after {moment} steps" if moment else "in the final state"


def _number(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient)


def _along(direction: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> float:
    pairs = zip(direction, gradients)
    return sum(float((d * g).sum()) for d, g in pairs if g is not None)


def _nan_is_wrong(error: float) -> float:
    return error if error == error else float("inf")
