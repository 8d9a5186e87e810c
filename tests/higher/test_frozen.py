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


def test_the_meta_gradient_beside_frozen_weights_is_right() -> None:
    assert_same_unroll(net(), regression())


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("copy", [True, False])
def test_frozen_weights_are_the_same_after_steps(track: bool, copy: bool) -> None:
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


def test_integer_parameters_stay_as_they_are() -> None:
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


def test_a_step_where_everything_is_frozen_is_an_error() -> None:
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
    """What changes from step to step are counters, plain tensors, a list and a tuple."""

    calls = 0
    scale: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen = torch.zeros(2, dtype=torch.float64)
        self.scale = None
        self.log: list[float] = []
        self.hidden: tuple[Tensor, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.hidden:
            h = h + self.hidden[0] + 0.1 * len(self.log)
        if self.training:
            self.hidden = (h.detach().mean(0).tanh(),)
            self.log.append(float(h.detach().sum()))
            self.features = h  # of this step, with its graph
            self.calls += 1
            self.scale = h.detach().std() if self.scale is None else self.scale * 0.9
            self.seen += h.detach().mean(0) * self.scale
        return (h - self.seen).tanh() * (1 + 0.1 * self.calls)


MEMORY: list[Any] = [None, "full", "step", "low", 2]


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("kind", [Statistics, Queue])
def test_what_the_forward_writes_into_frozen_weights_leaves_the_originals(
    kind: type[nn.Module], memory: Any
) -> None:
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


def test_what_a_checkpointed_forward_writes_is_written_once() -> None:
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
        assert not model.log and not model.hidden
        return [outer, f.seen, f.scale, torch.tensor(f.calls), f.log, *f.hidden, *grads]

    torch.testing.assert_close(run(memory), run("full"), rtol=1e-9, atol=1e-12)


class MomentumEncoder(nn.Module):
    """torch's own layers, frozen, that a forward around them writes into."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(3, width)
        self.key = nn.Linear(3, width).requires_grad_(False)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._move()
        out: Tensor = self.out((self.query(x) - self.key(x)).tanh())
        return out / self.out.in_features

    @torch.no_grad()
    def _move(self) -> None:
        for key, query in zip(self.key.parameters(), self.query.parameters()):
            key.lerp_(query, 0.1)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("width", [4, 30_000])
def test_layers_that_a_forward_around_them_writes_into(width: int, memory: Any) -> None:
    torch.manual_seed(0)
    model = MomentumEncoder(width).double()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    wanted = written_by_hand(model, 3)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
        if memory is None:
            for x in inputs(3):
                d.step(f(x).square().mean())
        else:
            higher.unroll(
                f, d, lambda f, x: f(x).square().mean(), inputs(3), memory=memory
            )
        f.eval()
        outer = f(inputs(1)[0] + 1).square().sum()
        initial = [p for p in model.parameters() if p.requires_grad]
        found = [outer, *f.key.parameters(), *torch.autograd.grad(outer, initial)]
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


class Counting(nn.Module):
    """Divides by a counter and by a frozen scale, which it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(3, 4), nn.Linear(4, 1)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.scale = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
            self.scale.mul_(1.1)
        return self.out(self.inside(x).tanh() * self.scale) / self.count


@pytest.mark.parametrize("memory", MEMORY)
def test_what_graphs_have_saved_may_be_changed_by_later_steps(memory: Any) -> None:
    """Against central differences of ordinary training."""

    def plain(shift: float) -> Tensor:
        torch.manual_seed(0)
        model = Counting().double()
        with torch.no_grad():
            model.inside.weight[0, 0] += shift
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for x in inputs(4):
            opt.zero_grad()
            model(x).square().mean().backward()
            opt.step()
        return model(inputs(1)[0]).square().sum().detach()

    torch.manual_seed(0)
    model = Counting().double()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
        if memory is None:
            for x in inputs(4):
                d.step(f(x).square().mean())
        else:
            higher.unroll(
                f, d, lambda f, x: f(x).square().mean(), inputs(4), memory=memory
            )
        outer = f(inputs(1)[0]).square().sum()
        assert f.count == 5
        (found,) = torch.autograd.grad(outer, model.inside.weight)
    torch.testing.assert_close(outer.detach(), plain(0.0), rtol=1e-12, atol=0)
    slope = (plain(1e-6) - plain(-1e-6)) / 2e-6
    torch.testing.assert_close(found[0, 0], slope, rtol=1e-6, atol=1e-9)
    assert model.count == 0 and bool((model.scale == 1).all())


def test_a_buffer_that_somebody_else_holds_stays() -> None:
    class Listed(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.stats = [self.count]

        def forward(self, x: Tensor) -> Tensor:
            self.stats[0] += 1
            return self.inside(x) * self.count.item()

    model = Listed()
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        f,
        d,
    ):
        for _ in range(3):
            d.step(f(torch.ones(1, 3)).sum())
        assert f.count is f.stats[0] and f.count == 3
