"""Schedulers of torch's drive the inner learning rate, as they would in plain training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import higher
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as lrs

STEPS = 9
MEMORY: list[Any] = [None, "full", "step", "low", 3]


class Growing(lrs.LRScheduler):
    """A user's own, with a state of its own."""

    def __init__(self, opt: torch.optim.Optimizer) -> None:
        self.factors: list[float] = []
        super().__init__(opt)

    def get_lr(self) -> list[Any]:
        self.factors.append(1 + 0.1 * self.last_epoch)
        return [base * self.factors[-1] for base in self.base_lrs]


class Wave:
    """A callable object, which a scheduler copies."""

    calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 1 / (1 + self.calls)


Make = Callable[[Any], Any]
MULTIPLYING: dict[str, Make] = {
    "lambda": lambda o: lrs.LambdaLR(o, lambda e: 0.9**e),
    "object": lambda o: lrs.LambdaLR(o, [Wave(), Wave()]),
    "multiplicative": lambda o: lrs.MultiplicativeLR(o, lambda e: 1 - 0.1 / e),
    "step": lambda o: lrs.StepLR(o, 2, 0.5),
    "multistep": lambda o: lrs.MultiStepLR(o, [1, 3, 4], 0.5),
    "constant": lambda o: lrs.ConstantLR(o, 0.25, 3),
    "linear": lambda o: lrs.LinearLR(o, 0.3, 1.0, 5),
    "exponential": lambda o: lrs.ExponentialLR(o, 0.7),
    "polynomial": lambda o: lrs.PolynomialLR(o, 12, 2.0),
    "cosine": lambda o: lrs.CosineAnnealingLR(o, 4, 0.01),
    "restarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 2, 2, 0.01),
    "cyclic": lambda o: lrs.CyclicLR(o, 0.1, 0.5, 2, 3, "triangular2"),
    "sequential": lambda o: lrs.SequentialLR(
        o, [lrs.LinearLR(o, 0.2, 1.0, 2), lrs.ExponentialLR(o, 0.8)], [2]
    ),
    "chained": lambda o: lrs.ChainedScheduler(
        [lrs.ConstantLR(o, 0.5, 3), lrs.ExponentialLR(o, 0.9)]
    ),
    "own": Growing,
}
ALL: dict[str, Make] = {
    **MULTIPLYING,
    "onecycle": lambda o: lrs.OneCycleLR(o, 0.4, total_steps=20),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(STEPS, 5, 3, generator=generator))


def loss_of(f: Any, x: Tensor) -> Tensor:
    x = x.to(next(iter(f.parameters())))
    loss: Tensor = (f(x) - x[:, :2].sin()).square().mean()
    return loss


def build(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    """Two groups, of different rates."""
    first, second = model[0].parameters(), model[2].parameters()  # type: ignore[index]
    groups = [{"params": first}, {"params": second, "lr": 2 * lr}]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def train(
    model: nn.Module, opt: torch.optim.Optimizer, scheduler: Any, batches: list[Tensor]
) -> list[Any]:
    """Plain training; the rates of each step."""
    rates = []
    for x in batches:
        rates.append([g["lr"] for g in opt.param_groups])
        opt.zero_grad()
        loss_of(model, x).backward()
        opt.step()
        scheduler.step()
    return rates


def inner(f: Any, d: Any, batches: list[Tensor], memory: Any) -> None:
    if memory is not None:
        higher.unroll(f, d, loss_of, batches, memory=memory)
        return
    for x in batches:
        d.step(loss_of(f, x))
        d.scheduler.step()


@pytest.mark.parametrize("memory, used", [(None, 0), ("full", 3), ("step", 3), (3, 0)])
@pytest.mark.parametrize("kind", ALL)
def test_the_trajectory_with_a_scheduler_is_that_of_plain_training(
    kind: str, memory: Any, used: int
) -> None:
    plain, model = net(), net()
    opt, inner_opt = build(plain), build(model)
    scheduler, branched = ALL[kind](opt), ALL[kind](inner_opt)
    train(plain, opt, scheduler, data()[:used])
    train(model, inner_opt, branched, data()[:used])
    before = copy.deepcopy([inner_opt.state_dict(), model.state_dict()])
    then = copy.deepcopy(branched.state_dict())
    train(plain, opt, scheduler, data()[used:])
    with higher.innerloop_ctx(model, inner_opt, scheduler=branched) as (f, d):
        inner(f, d, data()[used:], memory)
        weights = [p.detach() for p in f.parameters()]
        torch.testing.assert_close(
            weights, [p.detach() for p in plain.parameters()], rtol=0, atol=0
        )
        assert d.scheduler is not None
        assert d.scheduler.get_last_lr() == scheduler.get_last_lr()
        if kind != "chained":
            assert d.scheduler.last_epoch == scheduler.last_epoch
        if kind not in ("object", "lambda", "own", "multiplicative", "cyclic"):
            assert _comparable(d.scheduler) == _comparable(scheduler)
    assert [inner_opt.state_dict(), model.state_dict()][0].keys() == before[0].keys()
    assert inner_opt.state_dict()["param_groups"] == before[0]["param_groups"]
    assert _same_state(branched.state_dict(), then)


def _comparable(scheduler: Any) -> Any:
    return {k: v for k, v in scheduler.state_dict().items() if k != "_schedulers"}


def _same_state(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)


def by_hand(kind: str, values: list[float], used: int = 0) -> list[float]:
    """The factor of each group's base rate at each step, by the original's own."""
    parameters = [torch.zeros(1, requires_grad=True) for _ in values]
    groups = [{"params": [p], "lr": v} for p, v in zip(parameters, values)]
    opt = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = MULTIPLYING[kind](opt)
    rates = []
    for _ in range(STEPS):
        rates.append([float(g["lr"]) for g in opt.param_groups])
        opt.step()
        scheduler.step()
    return rates  # type: ignore[return-value]


def outer_by_rates(rates: Any) -> Tensor:
    """The outer loss of a loop by hand whose steps have these rates."""
    model = net().double()
    params = [p.detach().requires_grad_() for p in model.parameters()]
    held: list[Tensor] = []
    f = _Functional(params)
    for t, x in enumerate(data()):
        grads = torch.autograd.grad(loss_of(f, x), f.params, create_graph=True)
        held = [0.9 * b + g for b, g in zip(held, grads)] if held else list(grads)
        lr = [rates[t][0]] * 2 + [rates[t][1]] * 2
        f.params = [p - r * b for p, r, b in zip(f.params, lr, held)]
    return loss_of(f, data()[0])


class _Functional:
    def __init__(self, params: list[Tensor]) -> None:
        self.params = params

    def parameters(self) -> list[Tensor]:
        return self.params

    def __call__(self, x: Tensor) -> Tensor:
        w, b, v, c = self.params
        return torch.tanh(x @ w.T + b) @ v.T + c


NOT_ALONE = ("cyclic",)  # it moves momentum, too


@pytest.mark.parametrize("memory", [None, "step", 3])
@pytest.mark.parametrize("kind", [k for k in MULTIPLYING if k not in NOT_ALONE])
def test_derivatives_by_tensors_as_base_rates(kind: str, memory: Any) -> None:
    """Against central differences of plain training's schedules, in float64."""
    base = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.1, 0.2)
    ]
    model = net().double()
    opt = build(model, lr=0.7)  # another, which override replaces
    scheduler = MULTIPLYING[kind](opt)
    override = {"lr": base}
    with higher.innerloop_ctx(model, opt, override=override, scheduler=scheduler) as (
        f,
        d,
    ):
        inner(f, d, data(), memory)
        outer = loss_of(f, data()[0])
    found = torch.autograd.grad(outer, base)
    with torch.enable_grad():
        wanted = outer_by_rates(by_hand(kind, [0.1, 0.2]))
        torch.testing.assert_close(outer, wanted, rtol=1e-12, atol=0)
        for i, g in enumerate(found):
            up, down = [0.1, 0.2], [0.1, 0.2]
            up[i] += 1e-6
            down[i] -= 1e-6
            slope = outer_by_rates(by_hand(kind, up)) - outer_by_rates(
                by_hand(kind, down)
            )
            torch.testing.assert_close(g, slope.detach() / 2e-6, rtol=1e-5, atol=1e-9)


def test_forward_mode_differentiates_through_a_schedule() -> None:
    def run(mode: str) -> Tensor:
        base = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        model = net().double()
        opt = build(model)
        scheduler = lrs.CosineAnnealingLR(opt, 4, 0.01)
        with higher.innerloop_ctx(
            model, opt, override={"lr": [base]}, scheduler=scheduler
        ) as (f, d):
            higher.unroll(f, d, loss_of, data(), mode=mode)  # type: ignore[call-overload]
            return torch.autograd.grad(loss_of(f, data()[0]), base)[0]

    torch.testing.assert_close(run("forward"), run("reverse"), rtol=1e-10, atol=0)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_schedule_that_is_learned_has_a_gradient(memory: Any) -> None:
    decay = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    model = net().double()
    opt = build(model)
    make: Make = lambda o: lrs.LambdaLR(o, lambda epoch: decay**epoch)
    with higher.innerloop_ctx(model, opt, scheduler=make(opt)) as (f, d):
        inner(f, d, data(), memory)
        outer = loss_of(f, data()[0])
    (found,) = torch.autograd.grad(outer, decay)

    def at(value: Any) -> Tensor:
        return outer_by_rates([[0.1 * value**t, 0.2 * value**t] for t in range(STEPS)])

    slope = (at(0.9 + 1e-6) - at(0.9 - 1e-6)) / 2e-6
    torch.testing.assert_close(found, slope.detach(), rtol=1e-5, atol=0)


def test_a_schedule_that_began_before_goes_on_from_the_override() -> None:
    """The override is the base rate, the present one is what it has become."""
    model = net()
    opt = build(model)
    scheduler = lrs.ExponentialLR(opt, 0.5)
    train(model, opt, scheduler, data()[:2])
    base = torch.tensor(0.8, requires_grad=True)
    with higher.innerloop_ctx(
        model, opt, override={"lr": [base]}, scheduler=scheduler
    ) as (f, d):
        assert d.scheduler is not None
        torch.testing.assert_close(d.scheduler.get_last_lr(), [base * 0.25] * 2)
        d.step(loss_of(f, data()[0]))
        d.scheduler.step()
        torch.testing.assert_close(d.scheduler.get_last_lr(), [base * 0.125] * 2)


def test_one_cycle_of_tensors_is_told_by_its_own_settings() -> None:
    model = net()
    opt = build(model)
    scheduler = lrs.OneCycleLR(opt, 0.4, total_steps=20)
    highest = torch.tensor(0.4, requires_grad=True)
    with pytest.raises(ValueError, match="initial_lr to max_lr"):
        with higher.innerloop_ctx(
            model, opt, override={"lr": [0.1]}, scheduler=scheduler
        ):
            pass
    with higher.innerloop_ctx(
        model, opt, override={"max_lr": [highest]}, scheduler=scheduler
    ) as (f, d):
        inner(f, d, data(), "step")
        (found,) = torch.autograd.grad(loss_of(f, data()[0]), highest)
    assert found != 0


def test_a_plateau_is_found_as_in_plain_training() -> None:
    plain, model = net(), net()
    opt, inner_opt = build(plain), build(model)
    make: Make = lambda o: lrs.ReduceLROnPlateau(o, patience=0, factor=0.5)
    scheduler, branched = make(opt), make(inner_opt)
    metrics = [3.0, 2.0, 2.5, 2.6, 1.0, 4.0, 4.0, 4.0, 4.0]
    for x, metric in zip(data(), metrics):
        opt.zero_grad()
        loss_of(plain, x).backward()
        opt.step()
        scheduler.step(metric)
    with higher.innerloop_ctx(model, inner_opt, scheduler=branched) as (f, d):
        assert d.scheduler is not None
        for x, metric in zip(data(), metrics):
            d.step(loss_of(f, x))
            d.scheduler.step(torch.tensor(metric, requires_grad=True))
        weights = [p.detach() for p in f.parameters()]
        torch.testing.assert_close(
            weights, [p.detach() for p in plain.parameters()], rtol=0, atol=0
        )
        assert d.scheduler.num_bad_epochs == scheduler.num_bad_epochs
        with pytest.raises(ValueError, match="needs a metric"):
            higher.unroll(f, d, loss_of, data())
    base = torch.tensor(0.1, requires_grad=True)
    with higher.innerloop_ctx(
        model, inner_opt, override={"lr": [base]}, scheduler=branched
    ) as (f, d):
        assert d.scheduler is not None
        with pytest.raises(RuntimeError, match="gradient would be lost"):
            for metric in metrics:
                d.scheduler.step(metric)


def test_a_tensor_that_the_optimizer_was_given() -> None:
    """torch writes into it; a branch does not."""
    plain, model = net(), net()
    rates = [torch.tensor(0.1), torch.tensor(0.1)]
    opt = torch.optim.SGD(plain.parameters(), lr=rates[0])
    inner_opt = torch.optim.SGD(model.parameters(), lr=rates[1])
    scheduler, branched = lrs.ExponentialLR(opt, 0.7), lrs.ExponentialLR(inner_opt, 0.7)
    train(plain, opt, scheduler, data())
    with higher.innerloop_ctx(model, inner_opt, scheduler=branched) as (f, d):
        inner(f, d, data(), "step")
        weights = [p.detach() for p in f.parameters()]
    torch.testing.assert_close(weights, [p.detach() for p in plain.parameters()])
    assert rates[1] == torch.tensor(0.1)


@pytest.mark.parametrize("memory", ["full", "step"])
def test_unroll_steps_it_alone(memory: Any) -> None:
    model = net()
    opt = build(model)
    scheduler = lrs.ExponentialLR(opt, 0.7)
    with higher.innerloop_ctx(model, opt, scheduler=scheduler) as (f, d):

        def loss_fn(f: Any, x: Tensor) -> Tensor:
            assert d.scheduler is not None
            d.scheduler.step()
            return loss_of(f, x)

        with pytest.raises(RuntimeError, match="leave out diffopt.scheduler.step"):
            higher.unroll(f, d, loss_fn, data(), memory=memory)
        seen = []
        higher.unroll(
            f,
            d,
            lambda f, x: (seen.append(d.scheduler.last_epoch), loss_of(f, x))[1],  # type: ignore[union-attr]
            data(),
            memory=memory,
        )
        assert seen == list(range(STEPS))
        d.scheduler.step()  # type: ignore[union-attr]
        assert math.isclose(d.param_groups[0]["lr"], 0.1 * 0.7 ** (STEPS + 1))


def test_the_originals_scheduler_inside_a_context_is_told() -> None:
    model = net()
    opt = build(model)
    scheduler = lrs.ExponentialLR(opt, 0.7)
    with higher.innerloop_ctx(model, opt) as (f, d):
        d.step(loss_of(f, data()[0]))
        opt.step()  # torch, too, asks for it first
        scheduler.step()
        with pytest.warns(UserWarning, match="scheduler=scheduler"):
            d.step(loss_of(f, data()[0]))
        d.step(loss_of(f, data()[0]))  # once
        scheduler.step()
    d.step(loss_of(f, data()[0]))  # outside, it is nobody's business


def test_what_is_no_scheduler_of_this_optimizer() -> None:
    model = net()
    opt, other = build(model), build(model)
    with pytest.raises(ValueError, match="another optimizer's"):
        with higher.innerloop_ctx(model, opt, scheduler=lrs.ExponentialLR(other, 0.7)):
            pass
    with pytest.raises(TypeError, match="must be a scheduler"):
        with higher.innerloop_ctx(model, opt, scheduler=3):
            pass


def test_of_an_optimizer_that_is_made() -> None:
    model = net()
    with higher.innerloop_ctx(
        model,
        lambda params: torch.optim.SGD(params, lr=0.1),
        scheduler=lambda opt: lrs.ExponentialLR(opt, 0.5),
    ) as (f, d):
        inner(f, d, data()[:2], "full")
        assert d.param_groups[0]["lr"] == 0.025


def test_copies_are_driven_by_their_own() -> None:
    model = net()
    opt = build(model)
    with higher.innerloop_ctx(model, opt, scheduler=lrs.ExponentialLR(opt, 0.5)) as (
        f,
        d,
    ):
        twin = copy.deepcopy(d)
        assert twin.scheduler is not None and d.scheduler is not None
        twin.scheduler.step()
        assert twin.param_groups[0]["lr"] == 0.05 and d.param_groups[0]["lr"] == 0.1
        scheduler = lrs.ExponentialLR(build(model), 0.5)
        scheduler.load_state_dict(twin.scheduler.state_dict())
        assert scheduler.last_epoch == 1 and d.scheduler.last_epoch == 0


@pytest.mark.parametrize("memory", [None, "full"])
def test_windows_with_a_backward_each_see_all_of_the_schedule(memory: Any) -> None:
    """Through the last steps alone, but through all of the schedule."""
    base = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    model = net().double()
    opt = build(model)
    scheduler = lrs.ExponentialLR(opt, 0.8)
    with higher.innerloop_ctx(
        model, opt, override={"lr": [base]}, scheduler=scheduler, truncate=3
    ) as (f, d):
        for window in range(3):
            inner(f, d, data()[3 * window : 3 * window + 3], memory)
            base.grad = None
            loss_of(f, data()[0]).backward()
            wanted = _by_hand_in_windows(3 * window + 3, 3 * window)
            torch.testing.assert_close(base.grad, wanted, rtol=1e-9, atol=0)
        f.detach_()
        d.detach_()
        assert d.param_groups[0]["lr"].requires_grad


def _by_hand_in_windows(made: int, cut: int) -> Tensor:
    base = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    f = _Functional([p.detach().requires_grad_() for p in net().double().parameters()])
    held: list[Tensor] = []
    for t, x in enumerate(data()[:made]):
        if t == cut:
            f.params = [p.detach().requires_grad_() for p in f.params]
            held = [b.detach() for b in held]
        grads = torch.autograd.grad(loss_of(f, x), f.params, create_graph=True)
        held = [0.9 * b + g for b, g in zip(held, grads)] if held else list(grads)
        f.params = [p - base * 0.8**t * b for p, b in zip(f.params, held)]
    return torch.autograd.grad(loss_of(f, data()[0]), base)[0]


@pytest.mark.parametrize("kwargs", [{"memory": "step"}, {"memory": "full"}])
def test_truncation_that_would_cut_the_schedule_is_refused(kwargs: Any) -> None:
    base = torch.tensor(0.1, requires_grad=True)
    model = net()
    opt = build(model)
    scheduler = lrs.ExponentialLR(opt, 0.8)
    with higher.innerloop_ctx(
        model, opt, override={"lr": [base]}, scheduler=scheduler
    ) as (f, d):
        with pytest.raises(ValueError, match="steps that are cut off"):
            higher.unroll(f, d, loss_of, data(), truncate=3, **kwargs)
    with higher.innerloop_ctx(model, opt, scheduler=scheduler) as (f, d):
        higher.unroll(f, d, loss_of, data(), truncate=3, **kwargs)
