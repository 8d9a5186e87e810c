"""Frozen weights stay frozen, large ones are not copied, and the original's don't change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from unroll import assert_same_unroll, regression

import higher


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    return model


def test_meta_gradient() -> None:
    assert_same_unroll(net(), regression())


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("copy", [True, False])
def test_same_and_frozen_after_steps(track: bool, copy: bool) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=copy, track_higher_grads=track
    ) as (fmodel, diff):
        for _ in range(2):
            diff.step(regression()(fmodel))
        for p, f in zip(model[0].parameters(), fmodel[0].parameters()):
            assert torch.equal(f, p) and not f.requires_grad
        assert fmodel[2].weight.requires_grad
        assert not torch.equal(fmodel[2].weight, model[2].weight)


def test_thawing_the_clone_leaves_the_model_frozen() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    fmodel[0].weight.requires_grad_()
    fmodel[0].requires_grad_()
    assert not model[0].weight.requires_grad


def test_integer_parameters() -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            levels = torch.tensor([[1, -2, 3], [0, 1, 1]], dtype=torch.int8)
            self.levels = nn.Parameter(levels, requires_grad=False)
            self.scale = nn.Parameter(torch.ones(2, 1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ (self.levels * self.scale).T)

    model = Quantized()
    assert_same_unroll(model, regression())
    for track in (True, False):
        opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        with higher.innerloop_ctx(model, opt, track_higher_grads=track) as (f, diff):
            diff.step(regression()(f))
            assert f.levels.dtype == torch.int8
            assert torch.equal(f.levels, model.levels)


def test_subclasses_of_parameter_keep_what_they_carry() -> None:
    class Scaled(nn.Parameter):
        scale: float

    weight = Scaled(torch.ones(2, 3), requires_grad=False)
    weight.scale = 0.5
    model = nn.Linear(3, 2)
    model.weight = weight
    fmodel = higher.monkeypatch(model)
    assert fmodel.weight is weight and fmodel.weight.scale == 0.5


def test_adapters_on_a_large_frozen_base_cost_the_adapters_only() -> None:
    """Memory of fresh storage made by entering and stepping, counted exactly; of the
    base the bias is small, and copied."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(512, 512).requires_grad_(False)
            self.down = nn.Linear(512, 2, bias=False)
            self.up = nn.Linear(2, 512, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = Adapted()
    own = {p.data_ptr() for p in model.parameters()}
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        fmodel,
        diff,
    ):
        diff.step(fmodel(torch.ones(1, 512)).sum())
        fresh = [
            p
            for t in (0, 1)
            for p in fmodel.parameters(time=t)
            if p.data_ptr() not in own
        ]
    assert sum(p.numel() for p in fresh) == 2 * 2 * 2 * 512 + 2 * 512


def test_everything_frozen() -> None:
    model = net().requires_grad_(False)
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        fmodel,
        diff,
    ):
        with pytest.raises(RuntimeError, match="No parameter requires grad"):
            diff.step(regression()(fmodel))


class Statistics(nn.Module):
    """Batch norm by statistics that are frozen parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(3, 4), nn.Linear(4, 1)
        self.mean = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.var = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(self.inside(x), self.mean, self.var, training=self.training)
        return self.out(h.tanh())


class Queue(nn.Module):
    """A memory bank, large, written into in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Linear(3, 64)
        bank = torch.randn(1200, 64, generator=torch.Generator().manual_seed(2))
        self.bank = nn.Parameter(bank, requires_grad=False)
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        keys = self.key(x)
        scores = keys @ self.bank[:20].T.clone()
        if self.training:
            at = int(self.at)
            self.bank[at : at + len(x)] = keys.detach() * 0.1 + self.bank[at]
            self.at += len(x)
        return scores.tanh()


def written_by_hand(model: nn.Module, steps: int) -> list[Tensor]:
    """Outer loss, frozen weights after the steps, and the meta-gradient, where the
    parameters that a forward writes into are tensors of one's own."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    initial = [dict(model.named_parameters())[n] for n in names]
    held = {n: t.detach().clone() for n, t in model.state_dict().items()}
    params = [p.clone() for p in initial]
    for x in inputs(steps):
        held.update(zip(names, params))
        loss = functional_call(model, held, (x,)).square().mean()
        grads = torch.autograd.grad(loss, params, create_graph=True)
        params = [p - 0.1 * g for p, g in zip(params, grads)]
    held.update(zip(names, params))
    frozen = [t for n, t in held.items() if n not in names]
    model.eval()
    outer = functional_call(model, held, (inputs(1)[0] + 1,)).square().sum()
    model.train()
    return [outer, *frozen, *torch.autograd.grad(outer, initial)]


def inputs(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(steps, 5, 3, generator=generator, dtype=torch.float64))


class Attributes(nn.Module):
    """What changes from step to step is a counter and a plain tensor."""

    calls = 0
    scale: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen = torch.zeros(2, dtype=torch.float64)
        self.scale = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.training:
            self.calls += 1
            self.scale = h.detach().std() if self.scale is None else self.scale * 0.9
            self.seen += h.detach().mean(0) * self.scale
        return (h - self.seen).tanh() * (1 + 0.1 * self.calls)


MEMORY: list[Any] = [None, "full", "step", "low", 2]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("kind", [Statistics, Queue])
def test_written_into_by_the_forward(kind: type[nn.Module], memory: Any) -> None:
    model = kind().double()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    wanted = written_by_hand(model, 5)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, diffopt):
        if memory is None:
            for x in inputs(5):
                diffopt.step(f(x).square().mean())
        else:
            higher.unroll(
                f, diffopt, lambda f, x: f(x).square().mean(), inputs(5), memory=memory
            )
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        frozen = [t for n, t in f.state_dict().items() if n not in names]
        f.eval()
        outer = f(inputs(1)[0] + 1).square().sum()
        initial = [p for p in model.parameters() if p.requires_grad]
        found = [outer, *frozen, *torch.autograd.grad(outer, initial)]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_written_into_and_checkpointed() -> None:
    class Checkpointed(Statistics):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(super().forward, x, use_reentrant=False)
            return found

    model, plain = Checkpointed().double(), Statistics().double()
    model.load_state_dict(plain.state_dict())
    wanted = written_by_hand(plain, 3)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, diffopt):
        for x in inputs(3):
            diffopt.step(f(x).square().mean())
        f.eval()
        outer = f(inputs(1)[0] + 1).square().sum()
        initial = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(outer, initial)
    torch.testing.assert_close(outer, wanted[0])
    torch.testing.assert_close(list(found), wanted[3:])


def test_a_large_layer_that_the_user_writes_into_is_told() -> None:
    model = nn.Sequential(nn.Linear(300, 300).requires_grad_(False), nn.Linear(300, 1))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        f[0].weight.mul_(2)
        with pytest.raises(RuntimeError, match="clone it before the write"):
            diffopt.step(f(torch.ones(2, 300)).sum())
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        then = model[0].weight.clone()
        f[0].weight = f[0].weight.clone()
        f[0].weight.mul_(2)
        diffopt.step(f(torch.ones(2, 300)).sum())
        assert torch.equal(f[0].weight, 2 * then) and torch.equal(model[0].weight, then)


def test_a_small_one_is_the_fast_weights_own() -> None:
    model = net()
    then = model[0].weight.clone()
    f = higher.monkeypatch(model)
    f[0].weight.zero_()
    assert torch.equal(model[0].weight, then)


@pytest.mark.parametrize("memory", MEMORY[2:])
def test_attributes_that_change_in_a_forward(memory: Any) -> None:
    def run(memory: Any) -> list[Any]:
        torch.manual_seed(0)
        model = Attributes().double()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            higher.unroll(
                f, d, lambda f, x: f(x).square().mean(), inputs(5), memory=memory
            )
            f.eval()
            outer = f(inputs(1)[0] + 1).square().sum()
            grads = torch.autograd.grad(outer, list(model.parameters()))
        assert model.calls == 0 and model.scale is None and not model.seen.any()
        return [outer, f.seen, f.scale, torch.tensor(f.calls), *grads]

    torch.testing.assert_close(run(memory), run("full"), rtol=1e-9, atol=1e-12)
