"""The contract of ``DifferentiableOptimizer`` that optimizers are written against."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from handwritten import HandAdam, HandSGD
from torch import Tensor, nn
from torch.func import grad, vmap
from unroll import regression

import higher
from higher.optim import DifferentiableOptimizer, GroupedGrads
from higher.optim.state import copy_structure


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_steps_follow_the_original_from_its_present_state() -> None:
    """Groups in another order than the model's, a used optimizer."""
    model, loss = net(), regression()
    params = list(model.parameters())
    opt = torch.optim.Adam(
        [{"params": params[2:], "lr": 0.1}, {"params": params[:1]}], lr=0.01
    )
    for _ in range(2):
        opt.zero_grad()
        loss(model).backward()
        opt.step()
    fmodel = higher.monkeypatch(model)
    diff = HandAdam(opt, params, fmodel=fmodel)
    for _ in range(3):
        new = diff.step(loss(fmodel))
        opt.zero_grad()
        loss(model).backward()
        opt.step()
    torch.testing.assert_close(new, params)
    assert all(a is b for a, b in zip(new, fmodel.parameters()))


def test_parameters_that_the_optimizer_does_not_track_stay() -> None:
    model = net()
    opt = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        before = fmodel.fast_params
        after = diff.step(regression()(fmodel))
    same = [torch.equal(a, b) for a, b in zip(before, after)]
    assert same == [False, False, True, True]


def test_gradients_are_none_where_the_loss_does_not_depend() -> None:
    seen: list[Any] = []
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)).double()
    model[0].bias.requires_grad_(False)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        before = fmodel.fast_params
        diff.step(
            regression()(fmodel[0]), grad_callback=lambda g: (seen.append(g), g)[1]
        )
        assert [g is None for g in seen[0]] == [False, True, True, True]
        same = [torch.equal(a, b) for a, b in zip(before, fmodel.fast_params)]
        assert same == [False, True, True, True]
        assert before[1] is fmodel.fast_params[1]


class _Reluctant(torch.optim.SGD):
    """Steps a vector every other time; `after` makes the last parameter from the
    others' new values."""

    after = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        total = torch.zeros((), dtype=torch.float64)
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                if p.dim() == 1 and state["step"] % 2 and not self.after:
                    continue
                p.sub_(p.grad, alpha=group["lr"])
                if self.after:
                    p.add_(0.1 * total)
                    total = total + p.sum()


class _DiffReluctant(DifferentiableOptimizer):
    after = False

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        total = torch.zeros((), dtype=torch.float64)
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                state = self.state[g][i]
                state["step"] = state.get("step", 0) + 1
                if p.dim() == 1 and state["step"] % 2 and not self.after:
                    continue
                assert grad is not None
                group["params"][i] = p - group["lr"] * grad
                if self.after:
                    group["params"][i] = group["params"][i] + 0.1 * total
                    total = total + group["params"][i].sum()


@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("after", [False, True])
def test_inner_gradients_are_of_the_weights_as_they_are(
    after: bool, truncate: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a step leaves some as they were, or makes some from others."""
    monkeypatch.setattr(_Reluctant, "after", after)
    monkeypatch.setattr(_DiffReluctant, "after", after)
    model, loss = net(), regression()
    opt = _Reluctant(model.parameters(), lr=0.2)
    fmodel = higher.monkeypatch(model)
    params = list(model.parameters())
    diff = _DiffReluctant(opt, params, fmodel=fmodel, truncate=truncate)
    for _ in range(5):
        new = diff.step(loss(fmodel))
        opt.zero_grad()
        loss(model).backward()
        opt.step()
    torch.testing.assert_close(new, params)


class _Anchored(torch.optim.SGD):
    """Keeps the parameter itself, under another name."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("anchor", p.detach())
                p.sub_(p.grad + 0.5 * (p - state["anchor"]), alpha=group["lr"])


class _DiffAnchored(DifferentiableOptimizer):
    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                state = self.state[g][i]
                anchor = state.setdefault("anchor", p)
                new = p - group["lr"] * (grad + 0.5 * (p - anchor))
                if anchor is p:
                    state["anchor"] = new
                group["params"][i] = new


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"truncate": 2}, {"track_higher_grads": False}]
)
def test_state_that_is_a_parameter_stays_it(
    used: bool, options: dict[str, Any]
) -> None:
    model, loss = net(), regression()
    opt = _Anchored(model.parameters(), lr=0.2)
    if used:
        loss(model).backward()
        opt.step()
    fmodel = higher.monkeypatch(model)
    diff = _DiffAnchored(opt, list(model.parameters()), fmodel=fmodel, **options)
    for _ in range(4):
        new = diff.step(loss(fmodel))
        opt.zero_grad()
        loss(model).backward()
        opt.step()
    torch.testing.assert_close(new, list(model.parameters()))
    held = [s["anchor"] for s in diff.state[0].values()]
    assert all(a is b for a, b in zip(held, new))


def test_a_callback_sees_gradients_of_parameters_that_are_not_stepped() -> None:
    """Those of the weights as they are, not through earlier steps of the others."""
    model, loss = net(), regression()
    seen: list[list[Tensor]] = []
    opt = torch.optim.SGD(model[2].parameters(), lr=0.3)

    def look(grads: list[Any]) -> list[Any]:
        seen.append(list(grads))
        return grads

    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for _ in range(2):
            diff.step(loss(fmodel), grad_callback=look)
    for expected in seen:
        opt.zero_grad()
        model[0].zero_grad()
        loss(model).backward()
        torch.testing.assert_close(expected, [p.grad for p in model.parameters()])
        opt.step()


def test_grad_callback_at_construction_and_at_a_step() -> None:
    model = nn.Linear(3, 2).double()
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    diff = HandSGD(
        opt, model.parameters(), grad_callback=lambda gs: [0 * g for g in gs]
    )
    loss = regression()(model)
    kept = diff.step(loss, params=model.parameters())
    torch.testing.assert_close(kept, [p.detach() for p in model.parameters()])
    ones = diff.step(
        regression()(model),
        params=model.parameters(),
        grad_callback=lambda gs: (torch.ones_like(g) for g in gs),
    )
    torch.testing.assert_close(ones[0], model.weight.detach() - 1)


def test_higher_order_gradients_flow_through_the_callback() -> None:
    model = nn.Linear(3, 2).double()
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    diff = HandSGD(torch.optim.SGD(model.parameters(), lr=1.0), model.parameters())
    new = diff.step(
        regression()(model),
        params=model.parameters(),
        grad_callback=lambda gs: [scale * g for g in gs],
    )
    (got,) = torch.autograd.grad(new[1].sum(), [scale])
    (g,) = torch.autograd.grad(regression()(model), [model.bias])
    torch.testing.assert_close(got, -g.sum())


def test_new_parameters_have_a_grad_fn_also_under_no_grad() -> None:
    model = nn.Linear(3, 2).double()
    diff = HandSGD(torch.optim.SGD(model.parameters(), lr=1.0), model.parameters())
    loss = regression()(model)
    with torch.no_grad():
        new = diff.step(loss, params=model.parameters())
    assert all(p.grad_fn is not None for p in new)


class Pickling(DifferentiableOptimizer):
    """An optimizer that keeps all kinds of state."""

    _group_defaults = {"nu": 2.0}
    _carried = ("memory",)

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        self.shared["memory"]["calls"] += 1
        self.shared["k"] = self.shared.get("k", 0) + kwargs.get("by", 1)
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            group["counter"] = group.get("counter", 0) + 1
            for i, (p, d) in enumerate(zip(group["params"], grads)):
                state = self.state[g][i]
                if not state:
                    state["sides"] = [torch.zeros_like(p), deque([d], maxlen=2)]
                state["sides"][0] = state["sides"][0] + d
                state["sides"][1].append(d)
                group["params"][i] = p - group["nu"] * state["sides"][0]


def _pickling(model: nn.Module) -> Pickling:
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    opt.memory = {"calls": 0, "t": torch.ones(1)}  # type: ignore[attr-defined]
    opt.state["k"] = 5  # type: ignore[index]
    return Pickling(opt, model.parameters())


def test_defaults_carried_attributes_and_shared_state() -> None:
    model = nn.Linear(3, 2).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    opt.memory = {"calls": 0, "t": torch.ones(1)}  # type: ignore[attr-defined]
    opt.state["k"] = 5  # type: ignore[index]
    diff = Pickling(opt, model.parameters(), override={"nu": [3.0]})
    assert diff.param_groups[0]["nu"] == 3.0 and diff.defaults["lr"] == 0.1
    assert "nu" not in opt.param_groups[0]
    diff.step(regression()(model), params=model.parameters(), by=10)
    assert diff.shared["memory"]["calls"] == 1 and diff.shared["k"] == 15
    assert opt.memory["calls"] == 0 and opt.state["k"] == 5  # type: ignore


def test_pure_update_changes_nothing_it_is_given() -> None:
    model = nn.Linear(3, 2).double()
    diff = _pickling(model)
    params, loss = list(model.parameters()), regression()
    grads = list(torch.autograd.grad(loss(model), params))
    start = diff.snapshot()
    one, after_one = diff.update(params, grads, start)
    two, after_two = diff.update(one, grads, after_one)
    assert diff.shared == {"memory": diff.shared["memory"], "k": 5}
    assert start.state == [{}] and start.shared["k"] == 5
    assert after_one.shared["k"] == 6 and after_two.shared["k"] == 7
    assert len(after_one.state[0][0]["sides"][1]) == 2
    assert after_one.groups[0]["counter"] == 1 and "counter" not in start.groups[0]
    # the same from the same, and the same as two steps
    again, _ = diff.update(one, grads, after_one)
    torch.testing.assert_close(again, two)
    for _ in range(2):
        params = (
            diff.step(loss(model), params=[*params], grad_callback=lambda _: grads)
            if params is not two and False
            else diff._updated(params, grads, {})
        )
    torch.testing.assert_close(params, two)


def test_snapshot_and_restore() -> None:
    model = nn.Linear(3, 2).double()
    diff = _pickling(model)
    params = list(model.parameters())
    before = diff.snapshot()
    first = diff.step(regression()(model), params=params)
    diff.restore(before)
    second = diff.step(regression()(model), params=params)
    torch.testing.assert_close(first, second)
    assert before.shared["k"] == 5 and diff.shared["k"] == 6


def test_pure_update_under_vmap() -> None:
    """Tasks in a batch: the reason for keeping updates pure."""
    opt = torch.optim.Adam([torch.zeros(3, requires_grad=True)], lr=0.1)
    diff = HandAdam(opt, opt.param_groups[0]["params"])
    start = diff.snapshot()
    target = torch.randn(4, 3)

    def task(goal: Tensor) -> Tensor:
        params, state = [torch.zeros(3)], start
        for _ in range(3):
            g = grad(lambda p: (p - goal).square().sum())(params[0])
            params, state = diff.update(params, [g], state)
        return params[0]

    together = vmap(task)(target)
    torch.testing.assert_close(together, torch.stack([task(t) for t in target]))


def test_dtypes_are_pinned() -> None:
    """0-dim float32 tensors would be promoted by float64 settings."""

    class Promoting(DifferentiableOptimizer):
        def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
            (group,), (grads,) = self.param_groups, grouped_grads
            state = self.state[0][0]
            state.setdefault("mean", torch.zeros(()))
            state["mean"] = state["mean"] * group["lr"]
            group["params"][0] = group["params"][0] - group["lr"] * grads[0]

    p = nn.Parameter(torch.tensor(1.0))
    opt = torch.optim.SGD([p], lr=0.1)
    opt.state[p]["mean"] = torch.zeros(())
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    diff = Promoting(opt, [p], override={"lr": [lr]})
    (new,) = diff.step(p * p, params=[p])
    assert new.dtype == torch.float32 and diff.state[0][0]["mean"].dtype == new.dtype
    assert torch.autograd.grad(new, lr)[0].dtype == torch.float64


def test_state_moves_to_the_device_but_counters_stay() -> None:
    model = nn.Linear(3, 2)
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    diff = HandAdam(opt, model.parameters(), device="meta")
    state = diff.state[0][0]
    assert state["exp_avg"].device.type == "meta" and state["step"].device.type == "cpu"
    assert opt.state[model.weight]["exp_avg"].device.type == "cpu"


def test_structure_is_copied_and_tensors_are_shared() -> None:
    t = torch.ones(1)
    value = {"a": [t, (t, {"b": deque([t], maxlen=3)})]}
    copied = copy_structure(value)
    assert copied["a"][0] is t and copied["a"] is not value["a"]
    inner = copied["a"][1][1]["b"]
    assert inner[0] is t and inner.maxlen == 3
    inner.append(1)
    assert len(value["a"][1][1]["b"]) == 1


@pytest.mark.parametrize("track", [True, False])
def test_the_returned_list_is_the_caller_s(track: bool) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, track_higher_grads=track) as (fmodel, diff):
        new = diff.step(regression()(fmodel))
        new.clear()
        assert len(fmodel.fast_params) == 4


def test_gradients_have_the_strides_of_their_parameters() -> None:
    class Asks(DifferentiableOptimizer):
        def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
            self.seen = [
                g.stride() for gs in grouped_grads for g in gs if g is not None
            ]

    model = nn.Module()
    model.w = nn.Parameter(torch.rand(3, 2))
    model.v = nn.Parameter(torch.rand(2, 3).t())
    model.forward = lambda: (model.w.t().contiguous() ** 2).sum() + model.v.sum()  # type: ignore[assignment]
    model().backward()
    diff = Asks(torch.optim.SGD(model.parameters(), lr=0.1), list(model.parameters()))
    diff.step(model(), params=list(model.parameters()))
    assert diff.seen == [p.grad.stride() for p in (model.w, model.v)]
