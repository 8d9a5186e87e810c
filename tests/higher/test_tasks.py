"""``tasks=``: many inner loops at once, against a loop over them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from many_tasks import (
    MEMORY,
    OPTIMIZERS,
    Optimize,
    TASKS,
    assert_same,
    at_once,
    data,
    derivatives,
    in_a_loop,
    loss_fn,
    net,
    optimizer,
    sgd,
)
from torch import Tensor, nn

import higher


@pytest.fixture
def exact_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Muon without its rounding, which magnifies the order of sums."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_all_tasks_as_the_loop_does(
    name: str, memory: Any, exact_muon: None
) -> None:
    make = optimizer(name)
    assert_same(at_once(make, memory), in_a_loop(make))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "RAdam", "Adafactor"])
def test_a_setting_may_differ_from_task_to_task(name: str, memory: Any) -> None:
    lr = torch.tensor([0.1, 0.02, 0.05], dtype=torch.float64, requires_grad=True)
    make = optimizer(name)
    found = at_once(make, memory, {"lr": [lr]}, [lr])
    assert_same(found, in_a_loop(make, lambda i: {"lr": [lr[i]]}, [lr]))


def test_a_setting_inside_a_tuple_may_differ_from_task_to_task() -> None:
    beta = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    make = optimizer("NAdam")
    found = at_once(make, "full", {"betas": [(beta, 0.99)]}, [beta])
    wanted = in_a_loop(make, lambda i: {"betas": [(beta[i], 0.99)]}, [beta])
    assert_same(found, wanted)


@pytest.mark.parametrize("name", ["Adam", "Adafactor"])
def test_one_setting_for_all_tasks_gets_the_sum_of_gradients(name: str) -> None:
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    make = optimizer(name)
    found = at_once(make, "low", {"lr": [lr]}, [lr])
    assert_same(found, in_a_loop(make, lambda i: {"lr": [lr]}, [lr]))


def test_a_plain_loop_is_given_the_losses_of_all_tasks() -> None:
    model, (*inner, (x, y)) = net(), data()
    with higher.innerloop_ctx(
        model, sgd(model), copy_initial_weights=False, tasks=TASKS
    ) as (f, diffopt):
        for a, b in inner:
            new = diffopt.step((f(a) - b).square().mean((1, 2)))
            assert all(w.shape[0] == TASKS for w in new)
        losses = (f(x) - y).square().mean((1, 2))
        buffers = [b.clone() for b in f.buffers()]
    found = [losses, *derivatives(losses, list(model.parameters())), *buffers]
    assert_same(found, in_a_loop(sgd))


def test_state_goes_on_from_that_of_the_original() -> None:
    def warm(name: str) -> Optimize:
        def make(m: nn.Module) -> torch.optim.Optimizer:
            opt = optimizer(name)(m)
            start = copy.deepcopy(m.state_dict())
            loss_fn(m, [t[0] for t in data()[0]]).backward()
            opt.step()
            opt.zero_grad()
            m.load_state_dict(start)
            return opt

        return make

    for name in ("Adam", "Adafactor"):
        assert_same(at_once(warm(name)), in_a_loop(warm(name)))


@pytest.mark.parametrize("memory", MEMORY)
def test_gradients_are_called_back_task_by_task(memory: Any) -> None:
    def clipped(grads: list[Tensor]) -> list[Tensor]:
        assert [g.shape for g in grads] == [(6, 3), (2, 6)]
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        return [g * (0.05 / norm).clamp(max=1.0) for g in grads]

    found = at_once(sgd, memory, grad_callback=clipped)
    assert_same(found, in_a_loop(sgd, grad_callback=clipped))


def test_forward_mode_has_the_derivatives_and_losses_of_reverse_mode() -> None:
    results = []
    for mode in ("reverse", "forward"):
        lr = torch.tensor([0.1, 0.02, 0.05], dtype=torch.float64, requires_grad=True)
        decay = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        model, (*inner, outer) = net(), data()
        with higher.innerloop_ctx(
            model,
            sgd(model),
            override={"lr": [lr], "weight_decay": [decay]},
            tasks=TASKS,
        ) as (f, diffopt):
            losses = higher.unroll(f, diffopt, loss_fn, inner, mode=mode)
            losses.append(higher.map_tasks(f, loss_fn, outer))
        total = torch.stack(losses)
        results.append([total, *derivatives(total.sum(0), [lr, decay])])
    assert_same(*results)


@pytest.mark.parametrize("options", [{"truncate": 2}, {"order": 1}])
@pytest.mark.parametrize("memory", ["full", "low"])
def test_truncation_and_first_order_are_those_of_the_loop(
    options: dict[str, int], memory: Any
) -> None:
    results = []
    for tasks in (TASKS, None):
        model, (*inner, outer) = net(), data()
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        losses = []
        for i in range(1 if tasks else TASKS):
            own = [b if tasks else [t[i] for t in b] for b in [*inner, outer]]
            with higher.innerloop_ctx(
                model, sgd(model), override={"lr": [lr]}, tasks=tasks
            ) as (f, diffopt):
                higher.unroll(f, diffopt, loss_fn, own[:-1], memory=memory, **options)
                losses.append(
                    higher.map_tasks(f, loss_fn, own[-1])
                    if tasks
                    else loss_fn(f, own[-1])
                )
        outer_losses = losses[0] if tasks else torch.stack(losses)
        results.append([outer_losses, *derivatives(outer_losses, [lr])])
    assert_same(*results)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_loss_of_one_task_finds_its_own_earlier_weights(memory: Any) -> None:
    def near_the_start(f: Any, batch: Any) -> Tensor:
        start = f.parameters(time=0)
        moved = sum((a - b).square().sum() for a, b in zip(f.parameters(), start))
        return loss_fn(f, batch) + moved

    found = at_once(sgd, memory, loss_fn=near_the_start)
    assert_same(found, in_a_loop(sgd, loss_fn=near_the_start))


@pytest.mark.parametrize("memory", MEMORY)
def test_what_a_loss_captures_gets_its_gradient(memory: Any) -> None:
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)

    def weighted(f: Any, batch: Any) -> Tensor:
        return (weight * (f(batch[0]) - batch[1]).square()).mean()

    found = at_once(sgd, memory, loss_fn=weighted, sources=[weight])
    assert_same(found, in_a_loop(sgd, loss_fn=weighted, sources=[weight]))


def test_test_mode_keeps_no_graph() -> None:
    model, batches = net(), data()
    with higher.innerloop_ctx(
        model, sgd(model), track_higher_grads=False, tasks=TASKS
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, batches[:-1])
        assert all(p.is_leaf and p.shape[0] == TASKS for p in f.parameters())
        losses = higher.map_tasks(f, loss_fn, batches[-1])
    assert_same([losses.detach()], [in_a_loop(sgd)[0].detach()])


def test_frozen_weights_are_shared_in_memory() -> None:
    model = net()
    model[0].requires_grad_(False)
    opt = torch.optim.SGD(model[3].parameters(), lr=0.1)
    *inner, outer = data()
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False, tasks=TASKS) as (
        f,
        diffopt,
    ):
        frozen = f[0].weight
        assert frozen.shape == (TASKS, 6, 3)
        assert frozen.stride(0) == 0
        higher.unroll(f, diffopt, loss_fn, inner, memory="step")
        losses = higher.map_tasks(f, loss_fn, outer)
        (found,) = torch.autograd.grad(losses.sum(), model[3].weight)
    wanted = 0
    for i in range(TASKS):
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            higher.unroll(f, d, loss_fn, [[t[i] for t in b] for b in inner])
            loss = loss_fn(f, [t[i] for t in outer])
            wanted = wanted + torch.autograd.grad(loss, model[3].weight)[0]
    torch.testing.assert_close(found, wanted)


def test_a_state_dict_goes_back_and_an_originals_is_stacked() -> None:
    model, (x, y) = net(), data()[0]
    opt = optimizer("Adam")(model)
    loss_fn(model, (x[0], y[0])).backward()
    opt.step()
    with higher.innerloop_ctx(model, opt, tasks=TASKS) as (f, diffopt):
        diffopt.step(higher.map_tasks(f, loss_fn, (x, y)))
        saved = diffopt.state_dict()
        diffopt.load_state_dict(opt.state_dict())
        assert diffopt.state[0][0]["exp_avg"].shape == (TASKS, 6, 3)
        diffopt.load_state_dict(saved)
        assert int(diffopt.state[0][0]["step"]) == 2
        diffopt.step(higher.map_tasks(f, loss_fn, (x, y)))
    with higher.innerloop_ctx(model, opt, tasks=2) as (_, other):
        with pytest.raises(ValueError, match="tasks=3"):
            other.load_state_dict(saved)


def test_an_optimizer_that_is_made_for_the_module_has_its_tasks() -> None:
    model, (x, y) = net(), data()[0]
    f = higher.monkeypatch(model, tasks=TASKS)
    diffopt = higher.create_diff_optim(torch.optim.Muon, {"lr": 0.1}, fmodel=f)
    new = diffopt.step(higher.map_tasks(f, loss_fn, (x, y)))
    assert [w.shape for w in new] == [(TASKS, 6, 3), (TASKS, 2, 6)]


class OneCounter(torch.optim.Optimizer):
    """Its state has one element, in a dimension of its own."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})


class DifferentiableOneCounter(higher.optim.DifferentiableOptimizer):
    _elementwise = True

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                state = self.state[g][i]
                state["count"] = state.get("count", torch.zeros(1)) + 1
                group["params"][i] = p - group["lr"] / state["count"] * grad


def test_state_of_one_element_in_a_dimension_is_each_tasks_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = higher.optim.registry._registered
    monkeypatch.setitem(registry, OneCounter, DifferentiableOneCounter)
    make: Optimize = lambda m: OneCounter(m.parameters())
    assert_same(at_once(make), in_a_loop(make))


def test_accumulated_gradients_and_settings_of_each_step() -> None:
    results = []
    for tasks in (TASKS, None):
        losses = []
        for i in range(1 if tasks else TASKS):
            model, (*inner, outer) = net(), data()
            own = [b if tasks else [t[i] for t in b] for b in [*inner, outer]]
            with higher.innerloop_ctx(model, sgd(model), tasks=tasks) as (f, diffopt):
                mapped = (
                    (lambda b: higher.map_tasks(f, loss_fn, b))
                    if tasks
                    else (lambda b: loss_fn(f, b))
                )
                weights = list(f.parameters())
                grads = torch.autograd.grad(
                    mapped(own[0]).sum(), weights, create_graph=True
                )
                diffopt.step(grads=grads)
                rates = [{"lr": [0.1]}, {"lr": [0.2]}]
                higher.unroll(
                    f, diffopt, loss_fn, own[1:3], memory="low", override=rates
                )
                losses.append(mapped(own[3]))
        results.append(losses[0] if tasks else torch.stack(losses))
    assert_same([results[0]], [results[1]])


def test_one_task_is_no_special_case() -> None:
    model, (x, y) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=1) as (f, diffopt):
        diffopt.step(higher.map_tasks(f, loss_fn, (x[:1], y[:1])))
        found = f(x[:1])
    with higher.innerloop_ctx(model, sgd(model)) as (f, diffopt):
        diffopt.step(loss_fn(f, (x[0], y[0])))
        torch.testing.assert_close(found[0], f(x[0]))
