"""``check=True``: the original beside every inner step passes what is right."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import higher
import pytest
import torch
from compiled import PATHS, compiled
from higher.optim import DifferentiableOptimizer, GroupedGrads
from shadowed import Elsewhere, Net, Plain, Right, train
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

SMALL = (torch.float64, torch.float32, torch.bfloat16)


def some_settings(path: str) -> Iterator[dict[str, Any]]:
    from codegen.verify.settings import variants

    subject = compiled(path)
    for label, settings in variants(subject.settings, subject.runs, 0):
        if label != "pair" and subject.accepts(settings):
            yield settings


def overridden(opt: Any, path: str, dtype: torch.dtype) -> dict[str, list[Any]]:
    """All float settings as tensors, but for zeros: there an update may jump."""
    kinds = {s.name: s.kind for s in compiled(path).settings}

    def tensor(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(tensor, value))
        return value.detach().to(dtype).requires_grad_()

    numbers = higher.optim.get_trainable_opt_params(opt).items()
    return {
        name: [*map(tensor, values)]
        for name, values in numbers
        if kinds.get(name) not in (None, "int") and opt.defaults[name] != 0
    }


@pytest.mark.parametrize("path", PATHS)
def test_all_of_torch_s_pass_with_all_of_their_settings(path: str) -> None:
    """In double precision; and in a short one, or as tensors in float32."""
    shapes = ((3, 5), (4, 2)) if path.endswith("Muon") else ((3, 5), (1,), (2, 2, 2))
    original: Any = compiled(path).original
    double, *short = [(d, None) for d in SMALL]
    others = [*short, (SMALL[0], SMALL[1])]
    for count, settings in enumerate(some_settings(path)):
        for dtype, tensors in (double, others[count % 3]):
            net = Net(shapes, dtype)
            if path.endswith("SparseAdam"):
                net = nn.Sequential(nn.Embedding(5, 2, sparse=True, dtype=dtype))
            first, *rest = net.parameters()
            groups = [{"params": [first]}, *([{"params": rest}] if rest else [])]
            opt = original(groups, **settings)
            told = overridden(opt, path, tensors) if tensors else None
            track = bool(count % 2 or tensors)
            with higher.innerloop_ctx(
                net, opt, override=told, track_higher_grads=track, check=True
            ) as (fmodel, diffopt):
                for t in range(2):
                    sparse = isinstance(net, nn.Sequential)
                    out = fmodel(torch.tensor([t, 1]) if sparse else t)
                    diffopt.step(out.double().square().mean())


@pytest.mark.parametrize("track", [True, False])
def test_groups_absent_gradients_callbacks_and_tensors_pass(track: bool) -> None:
    higher.register_optim(Plain, Right)
    net = Net()
    net.b.requires_grad_(False)
    opt = Plain([{"params": [net.a, net.b]}, {"params": [net.c]}], beta=0.5)
    lr = torch.tensor(0.1, requires_grad=True)
    beta = torch.tensor(0.5, requires_grad=True)
    with higher.innerloop_ctx(
        net,
        opt,
        override={"lr": [lr, torch.tensor(0.2)], "beta": [beta]},
        copy_initial_weights=False,
        track_higher_grads=track,
        check=True,
    ) as (fmodel, diffopt):
        diffopt.step(fmodel(), grad_callback=lambda gs: [gs[0], None, gs[2] * 0.5])
        diffopt.step(fmodel.c.square().sum())
        diffopt.step(fmodel(1), override={"lr": [0.3, lr]})
        assert diffopt._shadow is not None and diffopt._shadow.steps == 3


def test_what_the_user_does_between_steps_is_taken_over() -> None:
    higher.register_optim(Plain, Right)
    net = Net()
    with higher.innerloop_ctx(net, Plain(net.parameters()), check=True) as (f, d):
        start = d.snapshot()
        d.step(f())
        first = d.state_dict()
        f.update_params([p * 0.5 for p in f.parameters()])
        d.step(f())
        f.a = torch.ones(3, 5, dtype=torch.float64, requires_grad=True)
        d.state[0][1]["m"] = d.state[0][1]["m"] + 1
        d.param_groups[0]["lr"] = 0.2
        d.step(f())
        d.load_state_dict(first)
        d.step(f())
        d.restore(start)
        d.step(f())
        f.c.data.clamp_(-0.1, 0.1)
        d.step(f())
        f.float()
        d.state[0].clear()
        d.step(f())


def test_used_optimizers_pass_branched_off_twice() -> None:
    higher.register_optim(Plain, Right)
    net = Net()
    opt = Plain(net.parameters())
    for t in range(2):
        opt.zero_grad()
        net(t).backward()
        opt.step()
    with higher.innerloop_ctx(net, opt, check=True) as (f, d):
        with higher.innerloop_ctx(net, opt, check=True) as (g, e):
            for t in range(2):
                d.step(f(t))
                e.step(g(t + 1))
                net(t).backward()
                opt.step()
    twin = copy.deepcopy(d)
    twin.step(twin._fmodel(3))
    d.step(f(3))


def test_state_kept_by_other_names_passes() -> None:
    train(Elsewhere)


def test_an_original_that_fills_its_state_early_passes_with_override() -> None:
    net = Net()
    opt = torch.optim.Adagrad(net.parameters(), initial_accumulator_value=0.5)
    value = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    told = {"initial_accumulator_value": [value]}
    with higher.innerloop_ctx(net, opt, override=told, check=True) as (f, d):
        start = d.snapshot()
        d.step(f())
        d.restore(start)
        d.step(f(1))


def test_tensors_in_the_user_s_optimizer_pass() -> None:
    net = Net(dtype=torch.float32)
    for lr in (
        torch.tensor(0.1),
        torch.tensor([0.1]),
        torch.tensor(0.1).requires_grad_() * 2,
    ):
        opt = torch.optim.Adam(net.parameters(), lr=lr)
        with higher.innerloop_ctx(net, opt, check=True) as (f, d):
            for t in range(2):
                d.step(f(t))


def test_state_that_a_zero_has_kept_is_there_when_it_is_none_any_more() -> None:
    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    zero = torch.tensor(0.0, requires_grad=True)
    with higher.innerloop_ctx(net, opt, override={"momentum": [zero]}, check=True) as (
        f,
        d,
    ):
        for t in range(2):
            d.step(f(t))
        d.step(f(2), override={"momentum": [torch.tensor(0.5)]})
        d.step(f(3))


class Cached(Plain):
    """Keeps a list in its groups, which is the defaults', too, and buffers by setting."""

    def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(params, lr, beta)
        self.defaults["seen"] = seen = [None, None]
        for group in self.param_groups:
            group["seen"] = seen

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["seen"].append(1 - group["beta"] ** len(group["seen"]))
            for p in group["params"]:
                held = self.state[p].setdefault("by", {group["beta"]: p * 0})
                held[group["beta"]].mul_(group["beta"]).add_(p.grad)
                p.sub_(group["lr"] * held[group["beta"]] / group["seen"][-1])


class DifferentiableCached(DifferentiableOptimizer):
    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for group, grads, states in zip(self.param_groups, grouped_grads, self.state):
            beta = group["beta"]
            group["seen"].append(1 - beta ** len(group["seen"]))
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                held = states[i].setdefault("by", {beta: p * 0})
                held[beta] = held[beta] * beta + grad
                group["params"][i] = p - group["lr"] * held[beta] / group["seen"][-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_in_groups_and_settings_as_keys_pass(dtype: torch.dtype) -> None:
    higher.register_optim(Cached, DifferentiableCached)
    net = Net()
    beta = torch.tensor(0.99, dtype=dtype, requires_grad=True)
    opt = Cached(net.parameters())
    with higher.innerloop_ctx(net, opt, override={"beta": [beta]}, check=True) as (
        f,
        d,
    ):
        for t in range(4):
            d.step(f(t))
    assert opt.param_groups[0]["seen"] == [None, None]


class Noisy(Plain):
    """Draws from three generators, and keeps a count of its own."""

    count = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count += 1
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad + torch.randn_like(p) * random.random() / self.count)


class DifferentiableNoisy(DifferentiableOptimizer):
    _carried = ("count",)

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        self.shared["count"] += 1
        group = self.param_groups[0]
        for i, (p, grad) in enumerate(zip(group["params"], grouped_grads[0])):
            assert grad is not None
            noise = torch.randn_like(p) * random.random() / self.shared["count"]
            group["params"][i] = p - (grad + noise)


def test_random_numbers_are_drawn_once() -> None:
    higher.register_optim(Noisy, DifferentiableNoisy)

    def final(check: bool) -> tuple[Any, ...]:
        torch.manual_seed(3)
        random.seed(3)
        net = Net()
        opt = Noisy(net.parameters())
        with higher.innerloop_ctx(net, opt, check=check) as (f, d):
            for t in range(3):
                d.step(f(t))
        return [*f.parameters()], torch.rand(2), random.random()

    plain, checked = final(False), final(True)
    assert all(map(torch.equal, plain[0], checked[0]))
    assert torch.equal(plain[1], checked[1]) and plain[2] == checked[2]


def test_nothing_of_the_user_s_is_changed() -> None:
    net = Net()
    opt = torch.optim.Adam(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1)
    net().backward()
    opt.step()
    scheduler.step()
    ran: list[int] = []
    handles = [
        opt.register_step_post_hook(lambda *_: ran.append(1)),
        register_optimizer_step_post_hook(lambda *_: ran.append(2)),
    ]
    before = copy.deepcopy([opt.state_dict(), net.state_dict(), [net.a.grad]])
    with higher.innerloop_ctx(net, opt, check=True) as (f, d):
        for t in range(2):
            d.step(f(t))
    for handle in handles:
        handle.remove()
    after = [opt.state_dict(), net.state_dict(), [net.a.grad]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not ran and opt._opt_called  # type: ignore[attr-defined]
