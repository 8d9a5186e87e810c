"""``tasks=``: many inner loops at once, against a loop over them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

import higher

TASKS, STEPS = 3, 3
MEMORY: list[Any] = ["full", "step", "low", 2]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": dict(lr=0.05, amsgrad=True),
    "AdamW": dict(lr=0.05),
    "NAdam": dict(lr=0.05),
    "RAdam": dict(lr=0.05, betas=(0.9, 0.6)),
    "Adagrad": dict(lr=0.1, initial_accumulator_value=0.1),
    "Adadelta": dict(lr=1.0),
    "Adamax": dict(lr=0.05),
    "ASGD": dict(lr=0.1, lambd=0.1, t0=1),
    "RMSprop": dict(lr=0.01, centered=True, momentum=0.5),
    "Rprop": dict(lr=0.05),
    "Adafactor": dict(lr=0.1),
    "Muon": dict(lr=0.1),
}
Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Linear(3, 6, bias=False),
        nn.BatchNorm1d(6, affine=False),
        nn.Tanh(),
        nn.Linear(6, 2, bias=False),
    ]
    return nn.Sequential(*layers).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Batches of all steps and the outer one, stacked over tasks."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(STEPS + 1, TASKS, 5, n, generator=g).to(dtype) for n in (3, 2))
    return list(zip(x, y))


def loss_fn(f: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.mse_loss(f(x), y)


def optimizer(name: str) -> Optimize:
    return lambda m: getattr(torch.optim, name)(m.parameters(), **OPTIMIZERS[name])


def sgd(m: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)


def derivatives(losses: Tensor, sources: list[Tensor]) -> list[Tensor]:
    weights = torch.arange(1.0, TASKS + 1, dtype=losses.dtype)
    return list(torch.autograd.grad((losses * weights).sum(), sources))


def in_a_loop(
    make: Optimize,
    override: Callable[[int], Mapping[str, Any]] | None = None,
    sources: list[Tensor] = [],
    model: nn.Module | None = None,
    loss_fn: Callable[..., Tensor] = loss_fn,
    **kwargs: Any,
) -> list[Tensor]:
    """Outer losses, derivatives and buffers by one inner loop a task."""
    model = net() if model is None else model
    *inner, outer = data()
    losses, buffers = [], []
    for i in range(TASKS):
        with higher.innerloop_ctx(
            model,
            make(model),
            copy_initial_weights=False,
            override=None if override is None else override(i),
        ) as (f, diffopt):
            for x, y in inner:
                diffopt.step(loss_fn(f, (x[i], y[i])), **kwargs)
            losses.append(loss_fn(f, [t[i] for t in outer]))
            buffers.append([b.clone() for b in f.buffers()])
    grads = derivatives(torch.stack(losses), [*model.parameters(), *sources])
    return [torch.stack(losses), *grads, *(torch.stack(b) for b in zip(*buffers))]


def at_once(
    make: Optimize,
    memory: Any = "full",
    override: Mapping[str, Any] | None = None,
    sources: list[Tensor] = [],
    model: nn.Module | None = None,
    loss_fn: Callable[..., Tensor] = loss_fn,
    **kwargs: Any,
) -> list[Tensor]:
    """The same by one for all."""
    model = net() if model is None else model
    *inner, outer = data()
    with higher.innerloop_ctx(
        model, make(model), copy_initial_weights=False, override=override, tasks=TASKS
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, inner, memory=memory, **kwargs)
        losses = higher.map_tasks(f, loss_fn, outer)
        buffers = [b.clone() for b in f.buffers()]
    grads = derivatives(losses, [*model.parameters(), *sources])
    return [losses, *grads, *buffers]


def assert_same(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-9) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        a, b = a.detach(), b.detach()
        off = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6)
        assert off < rtol, f"{i}: {off}"


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


def test_a_setting_of_another_number_of_tasks_is_refused() -> None:
    model = net()
    with pytest.raises(ValueError, match="'lr'.*first dimension of 3"):
        with higher.innerloop_ctx(
            model, sgd(model), override={"lr": [torch.ones(4)]}, tasks=TASKS
        ):
            pass


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
def test_truncation_and_first_order(options: dict[str, int], memory: Any) -> None:
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


def test_a_task_is_a_module_of_its_own() -> None:
    model, (*inner, (x, y)) = net(), data()
    with higher.innerloop_ctx(
        model, sgd(model), copy_initial_weights=False, tasks=TASKS
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, inner)
        f.eval()
        all_losses = higher.map_tasks(f, loss_fn, (x, y))
        for i in range(TASKS):
            one = f.task(i)
            assert type(one[0]) is nn.Linear and one[0].weight.shape == (6, 3)
            assert torch.equal(one[1].running_mean, f[1].running_mean[i])
            start = list(one.parameters(time=0))
            assert all(torch.equal(a, b) for a, b in zip(start, model.parameters()))
            torch.testing.assert_close(loss_fn(one, (x[i], y[i])), all_losses[i])
        meta = torch.autograd.grad(loss_fn(f.task(-1), (x[2], y[2])), model[0].weight)
        assert meta[0].abs().max() > 0
        with pytest.raises(IndexError, match="0 to 2, not 3"):
            f.task(3)


def test_a_models_own_attribute_called_task_stays() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.task = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.task(x)

    model = Own()
    with higher.innerloop_ctx(model, sgd(model), tasks=2) as (f, _):
        assert isinstance(f.task, nn.Linear)
        assert f(torch.ones(2, 5, 3)).shape == (2, 5, 2)


def test_shared_inputs_and_other_arguments() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor, scale: float, extra: Any = None) -> Any:
            out = self.linear(x) * scale
            return {"out": out + extra["bias"] if extra else out, "scale": scale}

    model = Scaled()
    x = torch.randn(5, 3)
    bias = torch.arange(4.0).view(4, 1, 1)
    with higher.innerloop_ctx(model, sgd(model), tasks=4) as (f, _):
        shared = f(x[None], 2.0, extra={"bias": bias})
        own = f(x.expand(4, 5, 3), scale=2.0, extra={"bias": bias})
        assert shared["scale"] == 2.0
        wanted = model(x, 2.0)["out"] + bias
        torch.testing.assert_close(shared["out"], wanted)
        torch.testing.assert_close(own["out"], wanted)
        with pytest.raises(ValueError, match="its first dimension must be 4"):
            f(x, 2.0)


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


def test_assigned_weights_are_those_of_all_tasks() -> None:
    model, (x, y) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, diffopt):
        scale = torch.arange(1.0, TASKS + 1, dtype=torch.float64).view(-1, 1, 1)
        f[3].weight = f[3].weight * scale
        torch.testing.assert_close(f(x)[1], f.task(1)(x[1]))
        f(x, params=[w * 0 for w in f.parameters()])
        assert f(x).abs().max() == 0


class Pieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(3))

    def encode(self, x: Tensor) -> Tensor:
        return self.first(x)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = 0.5 * self.seen + x.detach().mean(0)
        return self.second(self.encode(x).tanh())


def test_submodules_called_outside_are_refused_and_mapped_by_map_tasks() -> None:
    model = Pieces()
    x = torch.randn(TASKS, 5, 3)
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        with pytest.raises(RuntimeError, match="map_tasks"):
            f.encode(x)
        found = higher.map_tasks(f, lambda f, x: f.encode(x), x)
        torch.testing.assert_close(found, model.first(x))


def test_buffers_that_are_replaced_are_those_of_each_task() -> None:
    model = Pieces()
    x = torch.randn(TASKS, 5, 3)
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        f(x), f(x)
        torch.testing.assert_close(f.seen, 1.5 * x.mean(1))
    assert torch.equal(model.seen, torch.zeros(3))


def test_copies_and_pickles_keep_their_tasks() -> None:
    model, (x, _) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        wanted = f.eval()(x)
        for twin in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
            torch.testing.assert_close(twin(x), wanted)
            assert twin.task(1)[0].weight.shape == (6, 3)


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


def branching(f: Any, batch: Any) -> Tensor:
    loss = loss_fn(f, batch)
    if loss > 0:  # a branch
        loss = loss * 2
    return loss


def reading(f: Any, batch: Any) -> Tensor:
    return loss_fn(f, batch) * loss_fn(f, batch).item()  # a number


def selecting(f: Any, batch: Any) -> Tensor:
    out = f(batch[0])
    return out[out > 0].sum()  # another shape


@pytest.mark.parametrize("function", [branching, reading, selecting])
@pytest.mark.parametrize("memory", ["full", "low"])
def test_what_cant_be_mapped_is_refused_with_the_line(
    function: Any, memory: Any
) -> None:
    with pytest.raises(RuntimeError, match=r"test_tasks.py:\d+: `.*can't be mapped"):
        at_once(sgd, memory, loss_fn=function)


def test_a_callback_or_an_optimizer_that_branches_is_refused_with_the_line() -> None:
    def clipped(grads: list[Tensor]) -> list[Tensor]:
        return [g / 2 if g.norm() > 1 else g for g in grads]

    with pytest.raises(RuntimeError, match=r"test_tasks.py.*g.norm\(\) > 1"):
        at_once(sgd, grad_callback=clipped)
    beta = torch.tensor([0.9, 0.99, 0.999], requires_grad=True)
    with pytest.raises(RuntimeError, match="rho_t > 5.*can't be mapped"):
        at_once(optimizer("RAdam"), override={"betas": [(0.9, beta)]})


def test_other_losses_are_refused() -> None:
    model, (x, y) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, diffopt):
        with pytest.raises(ValueError, match=r"of shape \(3,\), not \(\)"):
            diffopt.step(F.mse_loss(f(x), y))
        with pytest.raises(ValueError, match="returns a scalar"):
            higher.unroll(f, diffopt, lambda f, b: f(b[0]), [(x, y)])


def test_sparse_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 1))
    opt = torch.optim.SparseAdam(model.parameters())
    with higher.innerloop_ctx(model, opt, tasks=2) as (f, diffopt):
        with pytest.raises(RuntimeError, match="sparse|dense"):
            diffopt.step(f(torch.zeros(2, 3, dtype=torch.int64)).mean((1, 2)))


def test_checkpointing_inside_is_refused() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(
                self.linear, x, use_reentrant=False
            )

    model = Checkpointed()
    with higher.innerloop_ctx(model, sgd(model), tasks=2) as (f, _):
        with pytest.raises(RuntimeError, match="memory='low'"):
            f(torch.ones(2, 4, 3))


def test_a_tensor_that_a_module_keeps_in_an_attribute_is_refused() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.last: Any = None

        def forward(self, x: Tensor) -> Tensor:
            out = self.linear(x) + (0 if self.last is None else self.last)
            self.last = out.detach()
            return out

    model = Keeps()
    with higher.innerloop_ctx(model, sgd(model), tasks=2) as (f, _):
        with pytest.raises(RuntimeError, match="'last'.*register_buffer"):
            f(torch.ones(2, 4, 3))


def test_arguments_that_hide_tensors_are_refused() -> None:
    class Box:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    model = net()
    with higher.innerloop_ctx(model, sgd(model), tasks=2) as (f, diffopt):
        with pytest.raises(TypeError, match="Box.*holds tensors"):
            higher.unroll(
                f, diffopt, lambda f, b: f(b.x).sum(), [Box(torch.ones(2, 4, 3))]
            )
        with pytest.raises(TypeError, match="returns a Box"):
            x = torch.ones(2, 4, 3, dtype=torch.float64)
            higher.map_tasks(f, lambda f, x: Box(f(x)), x)


def test_weights_cant_be_assigned_inside() -> None:
    def assigning(f: Any, batch: Any) -> Tensor:
        f[0].weight = f[0].weight * 2
        return loss_fn(f, batch)

    with pytest.raises(RuntimeError, match="can't be assigned to"):
        at_once(sgd, loss_fn=assigning)


def test_settings_cant_be_assigned_inside() -> None:
    model, batch = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, diffopt):

        def assigning(f: Any, batch: Any) -> Tensor:
            loss = loss_fn(f, batch)
            diffopt.param_groups[0]["lr"] = loss.detach() * 0.1
            return loss

        losses = higher.map_tasks(f, assigning, batch)
        with pytest.raises(RuntimeError, match="assigned to inside"):
            diffopt.step(losses)


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


def test_an_error_of_the_program_is_its_own_and_leaves_the_module_whole() -> None:
    model, (x, y) = net(), data()[0]

    def broken(f: Any, batch: Any) -> Tensor:
        raise KeyError("mine")

    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        with pytest.raises(KeyError, match="mine"):
            higher.map_tasks(f, broken, x)
        assert f[0].weight.shape == (TASKS, 6, 3)
        assert f(x).shape == (TASKS, 5, 2)
        with pytest.raises(RuntimeError, match="mat1 and mat2|size"):
            f(x[..., :2])


@pytest.mark.parametrize("tasks", [0, -1, 2.0, True])
def test_tasks_is_a_positive_number(tasks: Any) -> None:
    model = net()
    with pytest.raises(ValueError, match="positive number"):
        with higher.innerloop_ctx(model, sgd(model), tasks=tasks):
            pass


def test_a_loop_within_is_one_of_a_single_task() -> None:
    model, (x, y) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        with pytest.raises(TypeError, match=r"fmodel.task\(i\)"):
            higher.monkeypatch(f)
        one = f.task(1)
        with higher.innerloop_ctx(one, sgd(model)) as (inside, diffopt):
            diffopt.step(loss_fn(inside, (x[1], y[1])))
            assert not torch.equal(inside[0].weight, one[0].weight)


def test_map_tasks_needs_tasks() -> None:
    model = net()
    with higher.innerloop_ctx(model, sgd(model)) as (f, _):
        with pytest.raises(ValueError, match="tasks="):
            higher.map_tasks(f, loss_fn, data()[0])
        assert not hasattr(f, "task")


def test_one_task_is_no_special_case() -> None:
    model, (x, y) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=1) as (f, diffopt):
        diffopt.step(higher.map_tasks(f, loss_fn, (x[:1], y[:1])))
        found = f(x[:1])
    with higher.innerloop_ctx(model, sgd(model)) as (f, diffopt):
        diffopt.step(loss_fn(f, (x[0], y[0])))
        torch.testing.assert_close(found[0], f(x[0]))


def test_hooks_of_a_module_see_one_task() -> None:
    model, (x, _) = net(), data()[0]
    shapes: list[Any] = []
    model[0].register_forward_hook(lambda m, a, out: shapes.append(out.shape))
    model.register_forward_hook(lambda m, a, out: out * 2)
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        out = f(x)
    assert shapes == [(5, 6)]
    torch.testing.assert_close(out[0], model(x[0]))
