"""Inner gradients are of the weights as they are, whoever made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unroll import regression

import higher

SGD = torch.optim.SGD
Look = Callable[[list[Any]], list[Any]]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def trained(model: nn.Module, turns: list[torch.optim.Optimizer]) -> list[Tensor]:
    for optimizer in turns:
        model.zero_grad()
        regression()(model).backward()
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("memory", [None, "full", "step", 2])
def test_two_optimizers_of_one_model_in_turn(memory: Any) -> None:
    model, loss = net(), regression()
    halves = [SGD(model[k].parameters(), lr=0.3) for k in (0, 2)]
    fmodel = higher.monkeypatch(model)
    twins = [
        higher.get_diff_optim(half, model.parameters(), fmodel=fmodel)
        for half in halves
    ]
    for k in range(4):
        if memory is None:
            twins[k % 2].step(loss(fmodel))
        else:
            higher.unroll(
                fmodel, twins[k % 2], lambda m, _: loss(m), [k], memory=memory
            )
    expected = trained(model, [halves[k % 2] for k in range(4)])
    torch.testing.assert_close(list(fmodel.parameters()), expected)


def clipped(grads: list[Any]) -> list[Any]:
    norm = torch.sqrt(sum((g**2).sum() for g in grads if g is not None))
    return [None if g is None else g * (0.05 / norm) for g in grads]


@pytest.mark.parametrize("memory", ["full", "step", "low", 1, 2])
def test_clipping_by_the_norm_of_what_is_not_stepped(memory: Any) -> None:
    model, loss = net(), regression()
    opt = SGD(model[2].parameters(), lr=0.3)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        higher.unroll(
            fmodel,
            diff,
            lambda m, _: loss(m),
            range(4),
            memory=memory,
            grad_callback=clipped,
        )
        loss(fmodel).backward()
        got = [p.detach() for p in fmodel.parameters()]
    for _ in range(4):
        model.zero_grad()
        loss(model).backward()
        total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        for p in model.parameters():
            p.grad.mul_(0.05 / total)
        opt.step()
    torch.testing.assert_close(got, list(model.parameters()))


@pytest.mark.parametrize("memory", ["full", 2])
def test_weights_put_back_in_part(memory: Any) -> None:
    model, loss = net(), regression()
    opt = SGD(model.parameters(), lr=0.3)
    start = [p.detach().clone() for p in model.parameters()]
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for _ in range(2):
            higher.unroll(fmodel, diff, lambda m, _: loss(m), range(2), memory=memory)
            body, head = list(fmodel.parameters()), list(fmodel.parameters(time=0))
            fmodel.update_params([*body[:2], *head[2:]])
    for _ in range(2):
        trained(model, [opt, opt])
        with torch.no_grad():
            for p, first in list(zip(model.parameters(), start))[2:]:
                p.copy_(first)
    torch.testing.assert_close(list(fmodel.parameters()), list(model.parameters()))


def test_initial_weights_that_one_tensor_makes() -> None:
    loss = regression()
    seed = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()
    first = (0.5 * seed).reshape(2, 3)
    made = [first, first.sum(1)]
    model = nn.Linear(3, 2).double()
    opt = SGD(model.parameters(), lr=0.2)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        fmodel.update_params(made)
        for _ in range(3):
            diff.step(loss(fmodel))
        got = [p.detach() for p in fmodel.parameters()]
        assert torch.autograd.grad(loss(fmodel), seed)[0].abs().sum() > 0
    with torch.no_grad():
        for p, new in zip(model.parameters(), made):
            p.copy_(new)
    torch.testing.assert_close(got, trained(model, [opt] * 3))


def test_a_loss_of_weights_that_are_past_is_refused() -> None:
    model = net()
    opt = SGD(model[2].parameters(), lr=0.3)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        first, second = regression()(fmodel), regression()(fmodel)
        diff.step(first)
        with pytest.raises(RuntimeError, match="after the previous step"):
            diff.step(second)


@pytest.mark.parametrize("track", [True, False])
def test_a_callback_may_write_into_gradients_that_are_one_tensor(track: bool) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.b = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def halved(grads: list[Any]) -> list[Any]:
        for g in grads:
            g.mul_(0.5)
        return grads

    model = Both()
    opt = SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, track_higher_grads=track) as (f, diff):
        new = diff.step(((f.a + f.b) ** 2).sum(), grad_callback=halved)
    expected = torch.full((3,), 1 - 0.1 * 0.5 * 4, dtype=torch.float64)
    torch.testing.assert_close([p.detach() for p in new], [expected, expected])


def test_a_parameter_twice_in_an_optimizer_is_refused() -> None:
    model = net()
    params = list(model.parameters())
    with pytest.warns(UserWarning, match="duplicate"):
        opt = SGD([*params, params[0]], lr=0.1)
    with pytest.raises(ValueError, match="is there twice"):
        higher.get_diff_optim(opt, params)


def test_a_setting_that_would_change_a_weights_shape_is_refused() -> None:
    model = nn.Linear(3, 1).double()
    opt = SGD(model.parameters(), lr=0.1)
    lr = torch.full((8, 1), 0.1, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="does not fit parameter 0 of group 0"):
        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}):
            pass
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        diff.param_groups[0]["lr"] = lr
        with pytest.raises(ValueError, match="several elements"):
            diff.step(fmodel(torch.ones(2, 3, dtype=torch.float64)).sum())


def test_the_plain_loop_asks_for_a_batch_when_it_comes_to_it() -> None:
    model, loss = net(), regression()
    opt = SGD(model.parameters(), lr=0.1)
    seen: list[float] = []

    with higher.innerloop_ctx(model, opt) as (fmodel, diff):

        def batches() -> Iterator[int]:
            for k in range(3):
                seen.append(loss(fmodel).item())
                yield k

        higher.unroll(fmodel, diff, lambda m, _: loss(m), batches())
    assert len({*seen}) == 3


def test_data_that_loss_fn_assigns_is_refused_where_weights_are_not_kept() -> None:
    model, loss = net(), regression()
    opt = SGD(model.parameters(), lr=0.1)

    def normalised(m: nn.Module, _: int) -> Tensor:
        for p in m.parameters():
            p.data = p.data / 2
        return loss(m)

    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        with pytest.raises(RuntimeError, match="changed the fast weights"):
            higher.unroll(fmodel, diff, normalised, range(3), memory="step")


def test_forward_mode_with_truncate_finds_the_initial_weights() -> None:
    found = []
    for mode in ("reverse", "forward"):
        model, loss = net(), regression()
        opt = SGD(model.parameters(), lr=0.1)
        lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

        def near(m: Any, _: int) -> Tensor:
            first = [w.detach() for w in m.parameters(time=0)]
            pairs = zip(m.parameters(), first)
            return loss(m) + 0.1 * sum(((p - q) ** 2).sum() for p, q in pairs)

        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diff):
            higher.unroll(f, diff, near, range(5), mode=mode, truncate=2)
            found.append(torch.autograd.grad(loss(f), lr)[0])
    torch.testing.assert_close(found[0], found[1])
