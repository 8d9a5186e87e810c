"""The validator finds what is wrong, says which figure is off, and accuses nobody."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest
import torch
from codegen.verify import (
    Failure,
    Missed,
    Report,
    Share,
    gradients,
    stability,
    trajectory,
    verify,
)
from codegen.verify.differences import slopes
from codegen.verify.report import Tally
from codegen.verify.settings import settings_of
from codegen.verify.subject import subject
from codegen.verify.surroundings import undisturbed
from higher import ops
from higher.optim.base import DifferentiableOptimizer, GroupedGrads
from reference_optimizers import (
    ByParameter,
    Group,
    ReferenceAdam,
    ReferenceSGD,
    Slots,
)
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer


class DetachedBeta2(ReferenceAdam):
    def betas(self, group: Group) -> tuple[Any, Any]:
        beta1, beta2 = group["betas"]
        return beta1, ops.value(beta2.detach() if _is_tensor(beta2) else beta2)


class NumberInBiasCorrection(ReferenceAdam):
    def root(self, correction: Any) -> Any:
        return math.sqrt(float(correction))


class EpsInsideRoot(ReferenceAdam):
    def denominator(self, squares: Tensor, root: Any, eps: Any) -> Tensor:
        denominator: Tensor = torch.sqrt(squares + eps * eps) / root
        return denominator


class PlainRoot(ReferenceAdam):
    def denominator(self, squares: Tensor, root: Any, eps: Any) -> Tensor:
        denominator: Tensor = torch.sqrt(squares) / root + eps
        return denominator


class LostFirstMoment(ReferenceAdam):
    def moved(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        kept = state["exp_avg"]
        result = super().moved(param, grad, state, group)
        state["exp_avg"] = kept
        return result


class ShortMoment(ReferenceAdam):
    def moved(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        result = super().moved(param, grad, state, group)
        rounded = state["exp_avg"].to(torch.float32).to(state["exp_avg"].dtype)
        state["exp_avg"] = rounded
        return result


class LongState(ReferenceAdam):
    def start(self, param: Tensor, state: Slots, group: Group) -> None:
        super().start(param, state, group)
        if param.dtype is torch.float32:
            state["exp_avg_sq"] = state["exp_avg_sq"].double()


class AlwaysMinimizes(ReferenceAdam):
    def signed(self, grad: Tensor, group: Group) -> Tensor:
        return grad


class CutParameter(ReferenceAdam):
    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        return super().one((param + param.detach()) / 2, grad, state, group)


class MutatedState(ReferenceAdam):
    def moved(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        state["exp_avg_sq"].mul_(1)
        return super().moved(param, grad, state, group)


class ZeroDecayIsOff(ReferenceSGD):
    def decayed(self, param: Tensor, grad: Tensor, group: Group) -> Tensor:
        if group["weight_decay"] != 0:
            return ops.add(grad, param, alpha=group["weight_decay"])
        return grad


class AnotherUpdateForTensors(ReferenceSGD):
    def decayed(self, param: Tensor, grad: Tensor, group: Group) -> Tensor:
        if _is_tensor(group["weight_decay"]):
            grad = grad * 1.01
        return super().decayed(param, grad, group)


class DetachedFirstMomentum(ReferenceSGD):
    def first(self, grad: Tensor) -> Tensor:
        return grad.detach()


class NumberForLearningRate(ReferenceSGD):
    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        return super().one(param, grad, state, {**group, "lr": float(group["lr"])})


class ShiftedIndices(ReferenceSGD):
    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            present = [(p, d) for p, d in zip(group["params"], grads) if d is not None]
            for i, (param, grad) in enumerate(present):
                at = next(j for j, p in enumerate(group["params"]) if p is param)
                moved = self.one(param, grad, self.state[g][i], group)
                group["params"][at] = moved


class FirstGroupForAll(ReferenceSGD):
    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        told = {k: v for k, v in self.param_groups[0].items() if k != "params"}
        for group in self.param_groups:
            group.update(told)
        super()._update(grouped_grads, **kwargs)


class DeafToStepOverride(ReferenceSGD):
    def step(
        self, loss: Tensor, params: Any = None, override: Any = None, *_: Any, **__: Any
    ) -> list[Tensor]:
        return super().step(loss, params=params)


class Meddler(ReferenceSGD):
    def __init__(self, other: Optimizer, *args: Any, **kwargs: Any) -> None:
        super().__init__(other, *args, **kwargs)
        for p in other.state:
            other.state[p].clear()


class Crash(ReferenceSGD):
    def first(self, grad: Tensor) -> Tensor:
        raise KeyError("momentum_buffer")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


@pytest.mark.parametrize(
    "original, wrong, kind, told",
    [
        (Adam, DetachedBeta2, "hypergradient", "of betas[1]"),
        (Adam, NumberInBiasCorrection, "hypergradient", "of betas[1]"),
        (Adam, EpsInsideRoot, "trajectory", "relative error"),
        (Adam, LostFirstMoment, "trajectory", "step 2"),
        (Adam, ShortMoment, "state", "float64"),
        (Adam, LongState, "dtype", "['exp_avg_sq'], expected torch.float32"),
        (Adam, AlwaysMinimizes, "trajectory", "maximize=True"),
        (Adam, CutParameter, "meta-gradient", "initial weights"),
        (Adam, MutatedState, "error", "modified by an inplace operation"),
        (SGD, ZeroDecayIsOff, "hypergradient", "of weight_decay"),
        (SGD, DetachedFirstMomentum, "meta-gradient", "of initial weights"),
        (SGD, NumberForLearningRate, "hypergradient", "of lr"),
        (SGD, ShiftedIndices, "error", "gradients absent"),
        (SGD, FirstGroupForAll, "trajectory", "two groups"),
        (SGD, DeafToStepOverride, "hypergradient", "override in step"),
        (SGD, Meddler, "side effect", "the user's optimizer"),
        (SGD, Crash, "error", "KeyError: 'momentum_buffer'"),
    ],
)
def test_a_mutation_shows_in_the_figure_it_spoils(
    original: type[Optimizer],
    wrong: type[DifferentiableOptimizer],
    kind: str,
    told: str,
) -> None:
    derivatives = kind.endswith("gradient") or "inplace" in told
    part = gradients if derivatives else trajectory
    failures = first_failures(part, original, wrong)
    text = "\n".join(map(str, failures))
    assert kind in {failure.kind for failure in failures}, text
    assert told in text


def first_failures(
    part: ModuleType, original: type[Optimizer], wrong: type[DifferentiableOptimizer]
) -> list[Failure]:
    """What `part` of a verification says of the first configuration that fails."""
    found, tally = subject(original, wrong), Tally()
    with undisturbed():
        for conf in part.configurations(found, thorough=False):
            part.check(found, conf, tally)
            if tally.failures:
                break
    return tally.failures


def test_tensors_for_settings_lead_where_numbers_do() -> None:
    first, *_ = first_failures(gradients, SGD, AnotherUpdateForTensors)
    assert first.kind == "trajectory"
    assert "with tensors for settings" in str(first)


def test_a_mutated_translation_fails_the_verification() -> None:
    report = verify(SGD, NumberForLearningRate, stop_after=1)
    assert not report.ok
    assert report.followed == report.run > 100
    assert "of lr" in str(report)


def test_plain_square_root_is_found_where_a_gradient_is_zero() -> None:
    found, tally = subject(Adam, PlainRoot), Tally()
    with undisturbed():
        for conf in stability.configurations(found, thorough=False):
            stability.check(found, conf, tally)
            assert "gradient zero" in str(conf)
            assert any("nan" in str(f).lower() for f in tally.failures), str(conf)


@pytest.mark.parametrize(
    "original, right", [(SGD, ReferenceSGD), (Adam, ReferenceAdam)]
)
def test_a_right_translation_passes(
    original: type[Optimizer], right: type[DifferentiableOptimizer]
) -> None:
    report = verify(original, right)
    assert report.ok, str(report)
    assert report.followed == report.run > 100
    assert all(error < 1e-15 for error in report.worst_trajectory.values())
    assert report.hypergradients_right == report.hypergradients_run > 80
    assert report.worst_gradient < 1e-5


class Noisy(SGD):
    """Gradient descent with noise, drawn once for each parameter."""

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    noise = torch.randn_like(p)
                    p.data.add_(p.grad + 0.1 * noise, alpha=-group["lr"])


class DifferentiableNoisy(ByParameter):
    draws = 1

    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        for _ in range(self.draws):
            noise = torch.randn_like(param)
        return ops.add(param, grad + 0.1 * noise, alpha=-group["lr"])


class DrawsTwice(DifferentiableNoisy):
    draws = 2


def test_random_stream_is_the_original_s() -> None:
    assert not first_failures(trajectory, Noisy, DifferentiableNoisy)
    assert not first_failures(gradients, Noisy, DifferentiableNoisy)
    assert first_failures(trajectory, Noisy, DrawsTwice)


class Stepped(Optimizer):
    """Gradient descent whose `coarse` acts through its first three decimals only."""

    def __init__(self, params: Iterable[Tensor], coarse: float = 0.0125) -> None:
        super().__init__(params, {"coarse": coarse})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            size = math.floor(group["coarse"] * 2e6) / 2e6
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-size)


class DifferentiableStepped(ByParameter):
    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        size = ops.value(group["coarse"])
        size = float(size.detach()) if isinstance(size, Tensor) else size
        return ops.add(param, grad, alpha=-math.floor(size * 2e6) / 2e6)


def test_what_cannot_be_judged_is_noted_not_passed_over() -> None:
    found, tally = subject(Stepped, DifferentiableStepped), Tally()
    with undisturbed():
        for conf in gradients.configurations(found, thorough=False):
            gradients.check(found, conf, tally)
    assert any("coarse: finite differences" in note for note in tally.notes)


class Unrunnable(SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise RuntimeError("needs a closure")


def test_original_that_cannot_run_is_a_failure() -> None:
    report = verify(Unrunnable, ReferenceSGD)
    assert not report.ok
    assert "needs a closure" in str(report)


def test_verification_leaves_no_trace() -> None:
    convert, threads = Tensor.float, torch.get_num_threads()
    torch.manual_seed(3)
    random.seed(3)
    stream, python = torch.get_rng_state(), random.getstate()
    verify(Noisy, DifferentiableNoisy)  # draws random numbers itself
    assert Tensor.float is convert
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(torch.get_rng_state(), stream)
    assert random.getstate() == python


def test_a_report_says_what_failed_in_words() -> None:
    failure = Failure("hypergradient", "defaults", {"of": "lr", "found": 0.25})
    worst = {"float64": 0.0, "float32": 1e-7}
    report = Report("Adam", 9, 9, 8, 4, 3, worst, 2e-7, 1.25, (failure,), ("one note",))
    assert str(failure) == "hypergradient [defaults]: of lr, found 0.25"
    assert report.row() == (
        "Adam",
        "9/9",
        "8",
        "3/4",
        "0/0",
        "float32 1e-07",
        "2e-07",
        "1.2",
    )
    assert not report.ok
    assert "note: one note" in str(report)


def right_report(*missed: Missed, **more: Any) -> Report:
    share = Share(39, 41, missed)
    return Report("NAdam", 9, 9, 8, 4, 4, {}, 2e-7, 1.25, original=share, **more)


def test_summary_says_what_no_comparison_ran() -> None:
    report = right_report(Missed("nadam.py", 212), Missed("nadam.py", 230))
    assert report.summary == "right; 2 lines of 41 not run: nadam.py:212, :230"
    further = (Missed("nadam.py", n, one_way=n == 9) for n in (3, 4, 9))
    told = right_report(*further).summary
    assert told == (
        "right; 2 lines of 41 not run: nadam.py:3-4; one way only: nadam.py:9"
    )
    assert right_report().summary == "right"
    assert right_report(undefined=("p = 0",)).summary == "right, undefined at p = 0"


def test_summary_of_what_is_wrong_is_the_first_failure() -> None:
    failure = Failure("hypergradient", "defaults", {"of": "lr", "found": 0.25})
    assert right_report(failures=(failure,)).summary == f"WRONG: {failure}"


def test_report_survives_being_written_down() -> None:
    failure = Failure("trajectory", "defaults", {"relative error": 0.25})
    missed = (Missed("nadam.py", 212), Missed("nadam.py", 230, one_way=True))
    report = right_report(*missed, failures=(failure,), notes=("one",))
    assert Report.from_json(report.to_json()) == report
    for damaged in ("", "{}", report.to_json()[:-9], "[]"):
        with pytest.raises(ValueError):
            Report.from_json(damaged)


class Chooser(SGD):
    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        mode: str = "fast",
        rounds: int = 5,
        decay: float = 0,
        foreach: bool | None = None,
        report: Callable[[], None] | None = None,
    ) -> None:
        if mode not in ("fast", "careful"):
            raise ValueError(mode)
        super().__init__(params, lr)


def test_settings_are_read_from_signature_and_source() -> None:
    found = {s.name: s for s in settings_of(Chooser)}
    assert {name: s.kind for name, s in found.items()} == {
        "lr": "float",
        "betas": "tuple",
        "mode": "choice",
        "rounds": "int",
        "decay": "float",
        "foreach": "dispatch",
        "report": "other",
    }
    assert found["lr"].required
    assert found["mode"].alternatives == ("careful",)
    assert found["decay"].alternatives == (0.1,)


def test_differences_know_their_error() -> None:
    smooth, kink, jump, one_sided = slopes(
        lambda x: [math.sin(x), abs(x - 0.5), float(x > 0.5), max(x - 0.5, 0.0)],
        0.5,
        1.0,
        lambda x: True,
    )
    assert smooth.consistent and smooth.error(math.cos(0.5)) < 1e-10
    assert smooth.error(math.cos(0.5) * (1 + 1e-4)) > 5e-5
    assert not kink.consistent and not jump.consistent and not one_sided.consistent


def test_differences_stay_in_the_domain() -> None:
    (slope,) = slopes(lambda x: [math.sqrt(x + 1)], 0.0, 1.0, lambda x: x >= 0)
    assert slope.consistent and slope.error(0.5) < 1e-9
