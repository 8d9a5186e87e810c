"""What is written into the optimizer while an unroll is under way, and settings for each
step: the same in the plain loop and in every memory mode, against loops by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import higher
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

K = 8
MEMORY: list[Any] = [None, "full", "step", "low", 3]
LOW: list[Any] = ["step", "low", 3]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def data() -> list[tuple[int, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(K, 5, 3, generator=generator, dtype=torch.float64)
    return list(enumerate(x))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def loss_of(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return (f(x).sin() - x[:, :2]).square().mean()


Rate = Callable[[int, list[Tensor]], Any]
"""The learning rate of a step, given momentum buffers."""


def by_hand(
    rate: Rate,
    leaves: list[Tensor],
    buffers: Callable[[int, list[Tensor]], list[Tensor]] = lambda t, b: b,
    extra: Callable[[list[Tensor]], Any] = lambda b: 0.0,
    cut: int = 0,
) -> list[Tensor]:
    """SGD with momentum 0.9: the outer loss and its gradients."""
    model = net()
    names, initial = zip(*model.named_parameters())
    params = [p.clone() for p in initial]
    held: list[Tensor] = []
    for t, x in data():
        if t == cut and cut:
            params = [p.detach().requires_grad_() for p in params]
            held = [b.detach() for b in held]
        held = buffers(t, held)
        loss = loss_of(lambda x: functional_call(model, dict(zip(names, params)), x), x)
        loss = loss + extra(held)
        grads = torch.autograd.grad(loss, params, create_graph=True)
        held = [0.9 * b + g for b, g in zip(held, grads)] if held else list(grads)
        lr = rate(t, held)
        params = [p - lr * b for p, b in zip(params, held)]
    x = data()[0][1]
    outer = loss_of(lambda x: functional_call(model, dict(zip(names, params)), x), x)
    wanted = [*initial, *leaves]
    grads = torch.autograd.grad(outer, wanted, allow_unused=True)
    return [outer, *_filled(grads, wanted)]


def _filled(grads: Any, like: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, like)]


def by_higher(
    memory: Any,
    leaves: list[Tensor],
    write: Callable[[Any, int], None] = lambda d, t: None,
    extra: Callable[[Any], Any] = lambda d: 0.0,
    lr: float = 0.1,
    **kwargs: Any,
) -> list[Tensor]:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):

        def loss_fn(f: Any, batch: tuple[int, Tensor]) -> Tensor:
            write(d, batch[0])
            return loss_of(f, batch[1]) + extra(d)

        if memory is None:
            for batch in data():
                d.step(loss_fn(f, batch))
        else:
            higher.unroll(f, d, loss_fn, data(), memory=memory, **kwargs)
        outer = loss_of(f, data()[0][1])
        wanted = [*model.parameters(), *leaves]
        grads = torch.autograd.grad(outer, wanted, allow_unused=True)
    assert opt.param_groups[0]["lr"] == lr and not opt.state
    return [outer, *_filled(grads, wanted)]


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_learning_rate_of_each_step_written_in_the_loss(memory: Any) -> None:
    rates = [number(0.05 + 0.01 * t) for t in range(K)]

    def write(d: Any, t: int) -> None:
        d.param_groups[0]["lr"] = rates[t]

    same(by_higher(memory, rates, write), by_hand(lambda t, b: rates[t], rates))


@pytest.mark.parametrize("memory", MEMORY)
def test_one_written_once_holds_from_there_on(memory: Any) -> None:
    raw = number(-3.0)

    def write(d: Any, t: int) -> None:
        if t == 3:
            d.param_groups[0]["lr"] = raw.exp()

    wanted = by_hand(lambda t, b: raw.exp() if t >= 3 else 0.1, [raw])
    same(by_higher(memory, [raw], write), wanted)


@pytest.mark.parametrize("memory", MEMORY)
def test_numbers_that_decay_are_those_of_each_step(memory: Any) -> None:
    def write(d: Any, t: int) -> None:
        d.param_groups[0]["lr"] *= 0.8

    same(by_higher(memory, [], write), by_hand(lambda t, b: 0.1 * 0.8 ** (t + 1), []))


def test_numbers_that_decay_in_forward_mode() -> None:
    """The derivative by momentum, against central differences of the loop by hand."""

    def run(momentum: Tensor | float, **kwargs: Any) -> Tensor:
        model = net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with higher.innerloop_ctx(model, opt) as (f, d):

            def loss_fn(f: Any, batch: Any) -> Tensor:
                d.param_groups[0]["lr"] *= 0.8
                return loss_of(f, batch[1])

            override = {"momentum": [momentum]}
            higher.unroll(f, d, loss_fn, data(), override=override, **kwargs)
            return loss_of(f, data()[0][1])

    momentum = number(0.9)
    outer = run(momentum, mode="forward")
    same([outer], by_hand(lambda t, b: 0.1 * 0.8 ** (t + 1), [])[:1])
    slope = (run(0.9 + 1e-5) - run(0.9 - 1e-5)) / 2e-5
    (found,) = torch.autograd.grad(outer, momentum)
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=0)


def test_a_setting_in_the_loss_is_refused_in_forward_mode() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, override={"lr": [number(0.1)]}) as (f, d):

        def loss_fn(f: Any, batch: Any) -> Tensor:
            lr: Tensor = d.param_groups[0]["lr"]
            return loss_of(f, batch[1]) * lr

        with pytest.raises(RuntimeError, match="uses another tensor that requires"):
            higher.unroll(f, d, loss_fn, data(), mode="forward")


class Scaled(higher.optim.DifferentiableOptimizer):
    """Its steps shrink by a number that all parameters share."""

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        self.shared["scale"] = scale = self.shared.get("scale", 1.0) * 0.9
        for group, grads in zip(self.param_groups, grouped_grads):
            for i, (p, g) in enumerate(zip(group["params"], grads)):
                group["params"][i] = p - group["lr"] * scale * g


@pytest.mark.parametrize("memory", MEMORY)
def test_shared_state_that_the_loss_writes(memory: Any) -> None:
    model, start = net(), number(1.0)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    f = higher.monkeypatch(model, copy_initial_weights=False)
    d = Scaled(opt, model.parameters(), f)

    def loss_fn(f: Any, batch: tuple[int, Tensor]) -> Tensor:
        if batch[0] % 4 == 1:
            d.shared["scale"] = d.shared["scale"] * start
        return loss_of(f, batch[1])

    if memory is None:
        for batch in data():
            d.step(loss_fn(f, batch))
    else:
        higher.unroll(f, d, loss_fn, data(), memory=memory)
    outer = loss_of(f, data()[0][1])
    found = torch.autograd.grad(outer, [start, *model.parameters()])

    model = net()
    names, initial = zip(*model.named_parameters())
    params: Any = initial
    for t, x in data():
        loss = loss_of(lambda x: functional_call(model, dict(zip(names, params)), x), x)
        grads = torch.autograd.grad(loss, params, create_graph=True)
        lr = 0.1 * 0.9 ** (t + 1) * start ** ((t + 3) // 4)
        params = [p - lr * g for p, g in zip(params, grads)]
    x = data()[0][1]
    outer = loss_of(lambda x: functional_call(model, dict(zip(names, params)), x), x)
    same(list(found), list(torch.autograd.grad(outer, [start, *initial])))


@pytest.mark.parametrize("memory", MEMORY)
def test_state_that_the_loss_reads_is_the_steps_own(memory: Any) -> None:
    def extra(d: Any) -> Any:
        held = (s["momentum_buffer"] for s in d.state[0].values() if s)
        return sum(b.square().sum() for b in held)

    def by_hand_extra(buffers: list[Tensor]) -> Any:
        return sum(b.square().sum() for b in buffers)

    # constants of the inner gradient, but not of the outer one
    wanted = by_hand(lambda t, b: 0.1, [], extra=by_hand_extra)
    same(by_higher(memory, [], extra=extra), wanted)


@pytest.mark.parametrize("memory", MEMORY)
def test_state_that_the_loss_writes(memory: Any) -> None:
    scale = number(0.5)

    def write(d: Any, t: int) -> None:
        if t in (3, 4):
            for slots in d.state[0].values():
                slots["momentum_buffer"] = slots["momentum_buffer"] * scale

    def buffers(t: int, held: list[Tensor]) -> list[Tensor]:
        return [b * scale for b in held] if t in (3, 4) else held

    wanted = by_hand(lambda t, b: 0.1, [scale], buffers)
    same(by_higher(memory, [scale], write), wanted)


@pytest.mark.parametrize("memory", MEMORY)
def test_state_that_is_cleared_starts_again(memory: Any) -> None:
    def write(d: Any, t: int) -> None:
        if t == 4:
            d.state[0].clear()

    wanted = by_hand(lambda t, b: 0.1, [], lambda t, b: [] if t == 4 else b)
    same(by_higher(memory, [], write), wanted)


@pytest.mark.parametrize("memory", LOW)
def test_a_callback_that_writes(memory: Any) -> None:
    rate = number(0.3)

    def run(memory: Any) -> list[Tensor]:
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):

            def callback(grads: list[Any]) -> list[Any]:
                weights = d.param_groups[0]["params"]
                size = sum(w.square().sum() for w in weights)
                d.param_groups[0]["lr"] = rate / (1 + size)
                return grads

            higher.unroll(
                f,
                d,
                lambda f, b: loss_of(f, b[1]),
                data(),
                memory=memory,
                grad_callback=callback,
            )
            outer = loss_of(f, data()[0][1])
            return list(torch.autograd.grad(outer, [rate, *model.parameters()]))

    # "full" is the plain loop, which calls it in step
    same(run(memory), run("full"))


@pytest.mark.parametrize("memory", LOW)
@pytest.mark.parametrize("what", ["lr", "state"])
def test_what_is_written_in_place_is_refused(memory: Any, what: str) -> None:
    def write(d: Any, t: int) -> None:
        with torch.no_grad():
            if what == "lr":
                d.param_groups[0]["lr"].mul_(0.5)
            elif t:
                d.state[0][0]["momentum_buffer"].zero_()

    with pytest.raises(RuntimeError, match="in place.*assign"):
        by_higher(memory, [], write, override={"lr": [number(0.1)]})


@pytest.mark.parametrize("memory", LOW)
def test_a_tensor_without_gradient_may_be_written_into(memory: Any) -> None:
    """As schedulers do."""

    def write(d: Any, t: int) -> None:
        d.param_groups[0]["lr"].mul_(0.8)

    lr = torch.tensor(0.1, dtype=torch.float64)
    found = by_higher(memory, [], write, override={"lr": [lr]})
    same(found, by_hand(lambda t, b: 0.1 * 0.8 ** (t + 1), []))
    assert lr.item() == 0.1


@pytest.mark.parametrize("memory", MEMORY[1:])
def test_override_as_a_function_tells_each_step_its_own(memory: Any) -> None:
    lr, decay = number(0.1), number(0.9)
    found = by_higher(
        memory, [lr, decay], override=lambda step: {"lr": [lr * decay**step]}
    )
    same(found, by_hand(lambda t, b: lr * decay**t, [lr, decay]))


@pytest.mark.parametrize("memory", MEMORY[1:])
def test_override_as_a_list_tells_each_step_its_own(memory: Any) -> None:
    """Of tensors that were computed before."""
    logs = [number(-3.0 - 0.1 * t) for t in range(K)]
    override: list[Any] = [{"lr": [log.exp()]} for log in logs]
    override[2] = None
    found = by_higher(memory, logs, override=override)
    same(found, by_hand(lambda t, b: logs[1 if t == 2 else t].exp(), logs))


@pytest.mark.parametrize("memory", MEMORY[1:])
def test_override_as_numbers_leaves_other_derivatives_right(memory: Any) -> None:
    """Also of Adam, whose small weights are updated as one."""
    lr = number(0.01)

    def run(memory: Any) -> list[Tensor]:
        model = net()
        opt = torch.optim.Adam(model.parameters())
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            if memory is None:
                for t, x in data():
                    loss = loss_of(f, x)
                    d.step(
                        loss, override={"betas": [(0.9 - 0.05 * t, 0.99)], "lr": [lr]}
                    )
            else:
                higher.unroll(
                    f,
                    d,
                    lambda f, b: loss_of(f, b[1]),
                    data(),
                    memory=memory,
                    override=lambda t: {"betas": [(0.9 - 0.05 * t, 0.99)], "lr": [lr]},
                )
            outer = loss_of(f, data()[0][1])
            return [outer, *torch.autograd.grad(outer, [lr, *model.parameters()])]

    same(run(memory), run(None))


@pytest.mark.parametrize("memory", ["full", "step"])
def test_override_that_does_not_fit(memory: Any) -> None:
    with pytest.raises(ValueError, match="for 2 steps, and there are 8"):
        by_higher(memory, [], override=[{"lr": [0.1]}] * 2)
    with pytest.raises(TypeError, match="not a dict of settings"):
        by_higher(memory, [], override=lambda step: 0.1)
    with pytest.raises(TypeError, match="one dict for each step"):
        by_higher(memory, [], override=0.1)
    with pytest.raises(ValueError, match="no setting of this optimizer"):
        by_higher(memory, [], override=lambda step: {"beta": [0.1]})


def test_override_as_a_list_for_batches_of_unknown_number() -> None:
    model = net()
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        f,
        d,
    ):
        for count in (2, 20):
            with pytest.raises(ValueError, match=f"for {count} steps"):
                higher.unroll(
                    f,
                    d,
                    lambda f, b: loss_of(f, b[1]),
                    iter(data()),
                    override=[{"lr": [0.1]}] * count,
                )


@pytest.mark.parametrize("memory", MEMORY[1:])
def test_settings_written_before_a_cut_are_no_constants(memory: Any) -> None:
    """Settings that were written before the cut are no constants."""
    raw = number(-3.0)

    def write(d: Any, t: int) -> None:
        if t == 1:
            d.param_groups[0]["lr"] = raw.exp()

    wanted = by_hand(lambda t, b: raw.exp() if t else 0.1, [raw], cut=K - 3)
    found = by_higher(memory, [raw], write, truncate=3)
    same(found[5:], wanted[5:])
    assert not any(g.any() for g in found[1:5])


@pytest.mark.parametrize("memory", LOW)
def test_truncated_where_one_that_was_written_once_would_be_cut_off(
    memory: Any,
) -> None:
    raw = number(-3.0)

    def write(d: Any, t: int) -> None:
        if t == 1:
            d.param_groups[0]["lr"] = raw.exp()

    with pytest.raises(RuntimeError, match="Write it in each step"):
        by_higher(memory, [raw], write, truncate=K)


@pytest.mark.parametrize("memory", MEMORY[1:])
def test_truncated_where_each_step_writes(memory: Any) -> None:
    raw = number(-3.0)

    def write(d: Any, t: int) -> None:
        d.param_groups[0]["lr"] = raw.exp()

    wanted = by_hand(lambda t, b: raw.exp(), [raw])
    same(by_higher(memory, [raw], write, truncate=K), wanted)
