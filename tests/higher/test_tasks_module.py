"""``tasks=``: the module of many tasks, and that of one of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from many_tasks import TASKS, data, loss_fn, net, sgd
from torch import Tensor, nn

import higher


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


def test_a_loop_within_is_one_of_a_single_task() -> None:
    model, (x, y) = net(), data()[0]
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        with pytest.raises(TypeError, match=r"fmodel.task\(i\)"):
            higher.monkeypatch(f)
        one = f.task(1)
        with higher.innerloop_ctx(one, sgd(model)) as (inside, diffopt):
            diffopt.step(loss_fn(inside, (x[1], y[1])))
            assert not torch.equal(inside[0].weight, one[0].weight)


def test_hooks_of_a_module_see_one_task() -> None:
    model, (x, _) = net(), data()[0]
    shapes: list[Any] = []
    model[0].register_forward_hook(lambda m, a, out: shapes.append(out.shape))
    model.register_forward_hook(lambda m, a, out: out * 2)
    with higher.innerloop_ctx(model, sgd(model), tasks=TASKS) as (f, _):
        out = f(x)
    assert shapes == [(5, 6)]
    torch.testing.assert_close(out[0], model(x[0]))
