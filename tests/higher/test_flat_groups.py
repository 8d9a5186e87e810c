"""Small parameters updated as one: the same as each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import higher
from higher._generated import DifferentiableAdam
from higher.optim import DifferentiableOptimizer, GroupedGrads, flat_groups

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 0.05, "amsgrad": True},
    "AdamW": {"lr": 0.05, "weight_decay": 0.1},
    "NAdam": {"lr": 0.05},
    "RAdam": {"lr": 0.05, "betas": (0.9, 0.99)},
    "RMSprop": {"lr": 0.02, "momentum": 0.5, "centered": True},
    "Adagrad": {"lr": 0.1},
    "Adadelta": {"lr": 1.0},
    "Adamax": {"lr": 0.05},
    "Rprop": {"lr": 0.02},
    "ASGD": {"lr": 0.05, "t0": 2},
    "Muon": {"lr": 0.02},
}
X = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many parameters each update of a flat group had."""
    seen: list[list[int]] = []
    optimizer = flat_groups.FlatGroups.optimizer

    def watched(self: Any, original: Any) -> Any:
        seen.append([len(u.positions) for u in self._units if len(u.positions) > 1])
        return optimizer(self, original)

    monkeypatch.setattr(flat_groups.FlatGroups, "optimizer", watched)
    return seen


@contextmanager
def each_by_itself() -> Iterator[None]:
    largest, flat_groups.LARGEST = flat_groups.LARGEST, 0
    try:
        yield
    finally:
        flat_groups.LARGEST = largest


class Net(nn.Module):
    """Weights of many kinds, some of them left out in some steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.now_and_then = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.single = nn.Parameter(torch.randn(1))
        self.across = nn.Parameter(torch.randn(4, 3).t())
        self.short = nn.Parameter(torch.randn(4, dtype=torch.float32))
        self.other_short = nn.Parameter(torch.randn(4, dtype=torch.float32))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        for p in self.parameters():
            if p is not self.short and p is not self.other_short:
                p.data = p.data.double()

    def forward(self, x: Tensor, step: int = 0) -> Tensor:
        h = torch.tanh(self.first(x) * self.scale + x @ self.across + self.frozen)
        h = h + self.short * self.single - self.other_short
        if step % 3 == 1:
            h = h * self.now_and_then
        return self.last(h)


def meta_gradients(
    name: str, options: dict[str, Any], unroll: Callable[..., Any]
) -> list[Tensor]:
    model = Net()
    chosen = [p for p in model.parameters() if name != "Muon" or p.dim() == 2]
    groups = [{"params": chosen[::2]}, {"params": chosen[1::2], "lr": 0.03}]
    opt = getattr(torch.optim, name)(groups, **options)
    lr = torch.tensor(0.04, dtype=torch.float64, requires_grad=True)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, override={"lr": [lr]}
    ) as (f, d):
        unroll(f, d)
        loss = f(X).square().sum() + sum(p.double().sum() for p in f.parameters())
        slots = [v for s in d.state for i in sorted(s) for v in s[i].values()]
    sources = [lr, *(p for p in model.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss, sources, materialize_grads=True)
    return [loss, *found, *f.parameters(), *filter(torch.is_tensor, slots)]


def plain(f: Any, d: Any) -> None:
    for step in range(5):
        d.step(f(X, step).square().mean())


def unrolled(**kwargs: Any) -> Callable[[Any, Any], None]:
    def run(f: Any, d: Any) -> None:
        loss = lambda f, step: f(X, step).square().mean()
        higher.unroll(f, d, loss, range(5), **kwargs)

    return run


LOOPS = {
    "plain": plain,
    "step": unrolled(memory="step"),
    "segments": unrolled(memory=3),
    "truncated": unrolled(memory="step", truncate=3),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if hasattr(torch.optim, n)])
def test_it_comes_to_the_same(name: str, loop: str, joined: list[list[int]]) -> None:
    """Two groups, tensors of two dtypes, frozen and transposed ones, of one element,
    and one that has a gradient in some steps only: its counter lags behind."""
    found = meta_gradients(name, OPTIMIZERS[name], LOOPS[loop])
    # ASGD's counters depend on the learning rate, each by itself
    assert bool(joined) or name in ("Muon", "ASGD")
    with each_by_itself():
        wanted = meta_gradients(name, OPTIMIZERS[name], LOOPS[loop])
    assert any(t.abs().max() > 1e-6 for t in wanted[1:])
    torch.testing.assert_close(found, wanted)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 3)), min_size=2, max_size=5),
    st.sampled_from(["full", "step", 2, 3]),
    st.sampled_from(["Adam", "SGD", "RMSprop"]),
)
def test_whichever_parameters_have_gradients(
    left_out: list[set[int]], memory: Any, name: str
) -> None:
    """Some are left out by the loss, others by the callback, differently each step."""

    def run() -> list[Tensor]:
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(n).double()) for n in (2, 3, 4, 2, 3)]
        model = nn.ParameterList(weights)
        opt = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])

        def loss(f: Any, step: int) -> Tensor:
            total = f[4].sum().sin()
            for k in {*range(4)} - left_out[step]:
                total = total + f[k].sum() * f[4].square().sum()
            return total

        def callback(grads: list[Any]) -> list[Any]:
            few = [grads[0] is None, grads[1] is None]
            return [grads[0], *(None if all(few) else g for g in grads[1:4]), grads[4]]

        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            steps, options = range(len(left_out)), {"grad_callback": callback}
            higher.unroll(f, d, loss, steps, memory=memory, **options)
            outer = sum((p.square().sum() for p in f.parameters()), torch.zeros(()))
        found = torch.autograd.grad(outer, weights, materialize_grads=True)
        return [*f.parameters(), *found]

    found = run()
    with each_by_itself():
        torch.testing.assert_close(found, run())


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def opened(model: nn.Module, **kwargs: Any) -> Any:
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    return higher.innerloop_ctx(model, opt, copy_initial_weights=False, **kwargs)


@pytest.mark.parametrize("change", ["in the graph", "no_grad", "data", "state"])
def test_weights_and_state_may_be_written_into(
    change: str, joined: list[list[int]]
) -> None:
    def run() -> list[Tensor]:
        model = small()
        with opened(model) as (f, d):
            for _ in range(4):
                d.step(f(X).square().mean())
                if change == "in the graph":
                    f[0].bias.mul_(0.5)
                elif change == "data":
                    f[0].bias.data.mul_(0.5)
                elif change == "no_grad":
                    with torch.no_grad():
                        f[0].bias.mul_(0.5)
                else:
                    d.state[0][2]["exp_avg"] = d.state[0][2]["exp_avg"] * 0.5
                    d.state[0][1]["step"].add_(1)
            outer = f(X).square().mean()
        return [outer, *torch.autograd.grad(outer, list(model.parameters()))]

    found = run()
    assert joined
    with each_by_itself():
        torch.testing.assert_close(found, run())


def test_state_goes_back_into_the_original(joined: list[list[int]]) -> None:
    """Each parameter has a counter of its own, as torch counts in place."""
    model = small()
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, track_higher_grads=False) as (f, d):
        for _ in range(3):
            d.step(f(X).square().mean())
        model.load_state_dict(f.state_dict())
        opt.load_state_dict(d.state_dict())
        assert joined == [[4], [4]]
        for _ in range(2):
            d.step(f(X).square().mean())
            opt.zero_grad()
            model(X).square().mean().backward()
            opt.step()
    torch.testing.assert_close(list(model.parameters()), list(f.parameters()))


def test_what_is_joined_and_what_is_not(joined: list[list[int]]) -> None:
    model = nn.ParameterList(
        torch.ones(n) for n in (2, 3, flat_groups.LARGEST + 1, 1, 0)
    )
    model.append(nn.Parameter(torch.ones(2, dtype=torch.float64)))
    with opened(model) as (f, d):
        for _ in range(2):
            d.step(sum((p.double().square().sum() for p in f), torch.zeros(())))
    assert joined == [[2]]


class Scaled(DifferentiableAdam):
    """Not by element, though what it is derived from is."""

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        scaled = [
            [g if g is None else g / g.norm() for g in grads] for grads in grouped_grads
        ]
        super()._update(scaled, **kwargs)


def test_a_derived_class_does_not_inherit_the_claim(joined: list[list[int]]) -> None:
    model = small()
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    f = higher.monkeypatch(model)
    d: DifferentiableOptimizer = Scaled(opt, model.parameters(), fmodel=f)
    for _ in range(3):
        d.step(f(X).square().mean())
    assert not joined


def test_a_setting_of_several_elements_joins_nothing(joined: list[list[int]]) -> None:
    """One that fits each of two parameters is no longer the same for both."""

    def run() -> list[Tensor]:
        model = nn.ParameterList(torch.ones(2) for _ in range(2))
        override = {"lr": [torch.tensor([0.1, 0.5], requires_grad=True)]}
        with opened(model, override=override) as (f, d):
            for _ in range(3):
                d.step(f[0].sum() * f[1].square().sum())
        return list(f.parameters())

    found = run()
    assert not joined
    assert found[0][0] != found[0][1]


def test_an_update_that_fails_changes_nothing(
    joined: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    with opened(model) as (f, d):
        d.step(f(X).square().mean())
        before, state = f.fast_params, d.snapshot().state
        with monkeypatch.context() as patch:
            patch.setattr(torch, "zeros_like", None)
            patch.setattr("higher.ops.lerp", None)
            with pytest.raises(TypeError):
                d.step(f(X).square().mean())
        assert joined == [[4]]
        assert all(a is b for a, b in zip(before, f.fast_params))
        torch.testing.assert_close(d.state, state)
        d.step(f(X).square().mean())
