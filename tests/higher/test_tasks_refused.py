"""``tasks=``: what can't be mapped over tasks is refused, with its line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from many_tasks import TASKS, at_once, data, loss_fn, net, optimizer, sgd
from torch import Tensor, nn

import higher


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
    with pytest.raises(
        RuntimeError, match=r"test_tasks_refused.py:\d+: `.*can't be mapped"
    ):
        at_once(sgd, memory, loss_fn=function)


def test_a_callback_or_an_optimizer_that_branches_is_refused_with_the_line() -> None:
    def clipped(grads: list[Tensor]) -> list[Tensor]:
        return [g / 2 if g.norm() > 1 else g for g in grads]

    with pytest.raises(RuntimeError, match=r"test_tasks_refused.py.*g.norm\(\) > 1"):
        at_once(sgd, grad_callback=clipped)
    beta = torch.tensor([0.9, 0.99, 0.999], requires_grad=True)
    with pytest.raises(RuntimeError, match="rho_t > 5.*can't be mapped"):
        at_once(optimizer("RAdam"), override={"betas": [(0.9, beta)]})


def test_a_setting_of_another_number_of_tasks_is_refused() -> None:
    model = net()
    with pytest.raises(ValueError, match="'lr'.*first dimension of 3"):
        with higher.innerloop_ctx(
            model, sgd(model), override={"lr": [torch.ones(4)]}, tasks=TASKS
        ):
            pass


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


def test_map_tasks_needs_tasks() -> None:
    model = net()
    with higher.innerloop_ctx(model, sgd(model)) as (f, _):
        with pytest.raises(ValueError, match="tasks="):
            higher.map_tasks(f, loss_fn, data()[0])
        assert not hasattr(f, "task")
