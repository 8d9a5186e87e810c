"""``check=True`` names the first wrong step, and says what it can't be beside."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import higher
import pytest
import torch
from higher._check import CannotCheck
from higher.optim import DifferentiableOptimizer, GroupedGrads
from shadowed import (
    DropsGradient,
    DropsSetting,
    Net,
    Plain,
    Right,
    Writes,
    WritesInside,
    WrongState,
    WrongWeight,
    train,
)
from torch import Tensor


def test_a_wrong_weight_is_named_at_its_first_step() -> None:
    with pytest.raises(higher.CheckError) as caught:
        train(WrongWeight)
    error = caught.value
    assert (error.parameter, error.step, error.key) == ("b", 3, "")
    assert error.size == pytest.approx(1e-3)
    assert "parameter 'b' (group 1, shape (5,))" in str(error)
    assert "off by 0.001 at [" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.step, again.size) == (str(error), 3, error.size)


@pytest.mark.parametrize("told", [{}, {"track_higher_grads": False}, {"truncate": 1}])
def test_a_wrong_state_is_named_before_a_weight_goes_wrong(told: Any) -> None:
    with pytest.raises(higher.CheckError, match="'m' is off by") as caught:
        train(WrongState, **told)
    assert (caught.value.parameter, caught.value.step, caught.value.key) == (
        "a",
        1,
        "m",
    )


@pytest.mark.parametrize(
    "how",
    [
        {"memory": "full"},
        {"memory": "step"},
        {"memory": "low"},
        {"memory": 2},
        {"truncate": 2},
        {"mode": "forward"},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [WrongWeight, Right])
def test_every_memory_mode_checks_every_step_once(how: Any, cls: type[Right]) -> None:
    higher.register_optim(Plain, cls)
    net = Net()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def run(track: bool = True) -> None:
        opt = Plain(net.parameters())
        with higher.innerloop_ctx(net, opt, override={"lr": [lr]}) as (f, d):
            higher.unroll(f, d, lambda f, t: f(t), range(6), check=True, **how)
            assert d._shadow is None
            f(6).backward()

    if cls is Right:
        run()
        return
    with pytest.raises(higher.CheckError) as caught:
        run()
    assert (caught.value.parameter, caught.value.step) == ("b", 3)


def test_unroll_goes_on_from_the_present_state() -> None:
    higher.register_optim(Plain, Right)
    net = Net()
    opt = Plain(net.parameters())
    with higher.innerloop_ctx(net, opt) as (f, d):
        d.step(f())
        net().backward()
        opt.step()
        higher.unroll(f, d, lambda f, t: f(t), range(3), memory="step", check=True)


def test_a_wrong_task_is_named() -> None:
    class WrongTask(Right):
        def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
            large = (grad.abs().sum() > 1.35).to(p)
            return super().one(p, grad, state, group) + 1e-3 * large

    higher.register_optim(Plain, WrongTask)
    net = Net(((2,),))
    opt = Plain(net.parameters())
    shift = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    with pytest.raises(higher.CheckError, match="This is task 2"):
        with higher.innerloop_ctx(net, opt, tasks=3, check=True) as (f, d):
            losses = higher.map_tasks(f, lambda f, s: f(s), shift)
            d.step(losses)


@pytest.mark.parametrize(
    "cls, match",
    [
        (Writes, "'m' of 'a' in place"),
        (WritesInside, "in place into what ExpBackward0 needs"),
        (DropsSetting, "no gradient flows to 'beta'"),
        (DropsGradient, "no gradient flows to the gradient of 'b'"),
    ],
)
def test_right_values_with_wrong_gradients_are_told(cls: Any, match: str) -> None:
    beta = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    with pytest.raises(higher.CheckError, match=match):
        train(cls, override={"beta": [beta]})


class Swaps(Plain):
    """The parameter shares memory with a state from the first step on."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            z = self.state[p].setdefault("z", p.clone())
            z.sub_(p.grad)
            p.mul_(0.5)
            p.data = z


class DifferentiableSwaps(DifferentiableOptimizer):
    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        group = self.param_groups[0]
        for i, (p, grad) in enumerate(zip(group["params"], grouped_grads[0])):
            z = self.state[0][i].get("z", p) - grad
            group["params"][i] = self.state[0][i]["z"] = z


def test_memory_that_the_original_shares_stays_shared() -> None:
    higher.register_optim(Swaps, DifferentiableSwaps)
    net = Net()
    with pytest.raises(higher.CheckError) as caught:
        with higher.innerloop_ctx(net, Swaps(net.parameters()), check=True) as (f, d):
            for t in range(3):
                d.step(f(t))
    assert caught.value.step == 2


def test_a_zero_that_turns_a_jump_on_is_explained() -> None:
    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1, dampening=0.5)
    zero = torch.tensor(0.0, requires_grad=True)
    told: Mapping[str, Any] = {"momentum": [zero]}
    with pytest.raises(higher.CheckError, match="start from a small value instead"):
        with higher.innerloop_ctx(net, opt, override=told, check=True) as (f, d):
            for t in range(2):
                d.step(f(t))


class Closing(Plain):
    def step(self, closure: Any) -> None:  # type: ignore[override]
        raise AssertionError


class Holding(Plain):
    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.source = (i for i in range(3))


@pytest.mark.parametrize(
    "cls, match", [(Closing, "needs a closure"), (Holding, "attribute 'source'")]
)
def test_what_cannot_be_made_again_is_told_at_entry(cls: Any, match: str) -> None:
    higher.register_optim(cls, Right)
    net = Net()
    with pytest.raises(CannotCheck, match=match):
        with higher.innerloop_ctx(net, cls(net.parameters()), check=True):
            raise AssertionError


def test_a_setting_that_is_no_number_is_told_at_entry() -> None:
    higher.register_optim(Plain, Right)
    net = Net(((3,),))
    told = {"lr": [torch.ones(3, requires_grad=True)]}
    opt = Plain(net.parameters())
    with pytest.raises(CannotCheck, match="'lr' is a tensor of shape"):
        with higher.innerloop_ctx(net, opt, override=told, check=True):
            raise AssertionError


def test_a_gradient_that_the_original_cannot_have_is_told() -> None:
    higher.register_optim(Plain, Right)
    net = Net(dtype=torch.float32)
    opt = Plain(net.parameters())
    with higher.innerloop_ctx(net, opt, check=True) as (f, d):
        with pytest.raises(CannotCheck, match="a gradient in float64 of a weight in"):
            d.step(f(), grad_callback=lambda gs: [g.double() for g in gs])


def test_an_original_that_is_gone_is_told_at_entry() -> None:
    net = Net()
    fmodel = higher.monkeypatch(net)
    diffopt = higher.create_diff_optim(torch.optim.SGD, {"lr": 0.1}, fmodel=fmodel)
    with pytest.raises(CannotCheck, match="is gone"):
        higher.unroll(fmodel, diffopt, lambda f, t: f(t), range(2), check=True)
