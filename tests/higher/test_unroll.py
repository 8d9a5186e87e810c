"""``higher.unroll`` against the plain loop, in float64."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import higher
import pytest
import torch
import torch.nn.functional as F
from codegen.verify.surroundings import unrounded
from higher._generated import OPTIMIZERS
from handwritten import HandAdam, HandSGD
from higher.optim import DifferentiableOptimizer, GroupedGrads
from torch import Tensor, nn

MODES: list[Any] = ["step", "low", 3]
PATHS = sorted(set(OPTIMIZERS) - {"torch.optim.SparseAdam"})
K = 18  # more than 16: "low" makes segments


def net() -> nn.Module:
    """Without a bias before the norm: its gradient would be rounding errors."""
    return nn.Sequential(
        nn.Linear(3, 5, bias=False),
        nn.BatchNorm1d(5),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(5, 4, bias=False),
    ).double()


def data(steps: int = K) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 6, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (steps, 6), generator=generator)
    return list(zip(x, y))


def loss_fn(f: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(f(batch[0]), batch[1])


def looped(
    f: Any, diffopt: Any, loss: Any, batches: Any, **kwargs: Any
) -> list[Tensor]:
    """The oracle: the plain loop."""
    losses = []
    for batch in batches:
        losses.append(loss(f, batch))
        diffopt.step(losses[-1], **kwargs)
    return losses


def by(memory: Any) -> Callable[..., list[Tensor]]:
    def unroll(*args: Any, **kwargs: Any) -> list[Tensor]:
        return higher.unroll(*args, memory=memory, **kwargs)

    return unroll


def outer_of(f: Any, losses: list[Tensor]) -> Tensor:
    """Uses the last weights and some between, buffers, and a loss on the way."""
    times = [0, 1, 5, 5, 10, len(losses) - 1, len(losses)]
    weights = [p for t in times for p in f.parameters(time=t)]
    x, y = data(1)[0]
    return (
        F.cross_entropy(f(x), y)
        + sum(p.square().sum() for p in weights)
        + 3 * losses[2]
        + losses[-1]
    )


def result(
    unroll: Callable[..., list[Tensor]],
    build: Callable[[nn.Module], torch.optim.Optimizer],
    override: dict[str, Any] | None = None,
    meta: list[Tensor] = [],
    loss: Any = loss_fn,
    batches: Any = None,
    model: nn.Module | None = None,
    **kwargs: Any,
) -> list[Tensor]:
    """Everything that comes out: outer loss, gradients, buffers, state, randomness."""
    torch.manual_seed(3)
    model = net() if model is None else model
    opt = build(model)
    leaves = [*model.parameters(), *_tensors(override), *meta]
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, override=override
    ) as (f, diffopt):
        losses = unroll(f, diffopt, loss, batches or data(), **kwargs)
        outer = outer_of(f, losses)
        state = sum(
            t.double().sum()
            for states in diffopt.state
            for slots in states.values()
            for t in slots.values()
            if isinstance(t, Tensor) and t.dim()
        )
        outer = outer + 0.1 * torch.as_tensor(state)
        buffers = [b.detach().clone() for b in f.buffers()]
        found = torch.autograd.grad(outer, leaves, allow_unused=True)
    after = [torch.rand(3)]
    # None and zeros say the same
    grads = [torch.zeros_like(p) if g is None else g for g, p in zip(found, leaves)]
    assert any(g.abs().max() > 1e-6 for g in grads)
    assert len(list(f.buffers())) == len(buffers)
    for now, then in zip(f.buffers(), buffers):
        torch.testing.assert_close(now, then, rtol=0, atol=0)
    return [outer.detach(), *grads, *buffers, *after]


def _tensors(override: dict[str, Any] | None) -> list[Tensor]:
    leaves = higher.utils.flatten(override or {})
    return [t for t in leaves if isinstance(t, Tensor) and t.is_leaf]


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        scale = float(b.abs().max()) if b.is_floating_point() else 0.0
        torch.testing.assert_close(
            a, b, rtol=1e-10, atol=1e-10 * scale, msg=lambda m: f"result {i}: {m}"
        )


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def build(path: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
    cls: Any = getattr(torch.optim, path.rsplit(".", 1)[1])
    if path.endswith("Muon"):
        return lambda m: cls([p for p in m.parameters() if p.dim() == 2], lr=0.02)
    return lambda m: cls(m.parameters(), lr=0.02)


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_every_optimizer(path: str, memory: Any) -> None:
    if not hasattr(torch.optim, path.rsplit(".", 1)[1]):
        pytest.skip("this torch has no such optimizer")

    def run(unroll: Any) -> list[Tensor]:
        return result(unroll, build(path), {"lr": [scalar(0.02)]})

    # some keep float32 counters or compute in bfloat16: there, order of sums shows
    with unrounded():
        same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_settings_of_groups(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        def groups(m: nn.Module) -> torch.optim.Optimizer:
            first, *rest = m.parameters()
            return torch.optim.AdamW([{"params": rest}, {"params": [first]}], lr=0.01)

        raw = scalar(-4.0)
        override = {
            "lr": [raw.exp(), scalar(0.03)],
            "betas": [(0.8, scalar(0.99)), (scalar(0.7), 0.9)],
            "weight_decay": [scalar(0.0)],
        }
        return result(unroll, groups, override, [raw])

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_override_and_callback_of_the_call(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        limit, lr = scalar(0.3), scalar(0.2)

        def clip(grads: list[Tensor]) -> list[Tensor]:
            norm = torch.stack([g.norm() for g in grads]).norm()
            return [g * limit / (limit + norm) for g in grads]

        kwargs: dict[str, Any] = {"grad_callback": clip, "override": {"lr": [lr * 2]}}
        return result(
            unroll,
            lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9),
            meta=[limit, lr],
            **kwargs,
        )

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_an_optimizer_that_has_stepped_and_goes_on(memory: Any) -> None:
    def used(m: nn.Module) -> torch.optim.Optimizer:
        opt = torch.optim.NAdam(m.parameters(), lr=0.02)
        loss_fn(m, data(1)[0]).backward()
        opt.step()
        return opt

    def twice(*args: Any) -> list[Tensor]:
        f, diffopt, loss, batches = args
        losses = by(memory)(f, diffopt, loss, batches[:7])
        losses += looped(f, diffopt, loss, batches[7:9])
        return losses + by(memory)(f, diffopt, loss, batches[9:])

    same(result(twice, used), result(looped, used))


@pytest.mark.parametrize("memory", ["full", *MODES])
@pytest.mark.parametrize("cls", [HandSGD, HandAdam])
def test_a_subclass_of_a_user(cls: type[DifferentiableOptimizer], memory: Any) -> None:
    plain = torch.optim.SGD if cls is HandSGD else torch.optim.Adam

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        f = higher.monkeypatch(model, copy_initial_weights=False)
        lr: Tensor = scalar(0.05)
        diffopt = cls(
            plain(model.parameters(), lr=0.1),
            list(model.parameters()),
            fmodel=f,
            override={"lr": [lr]},
        )
        losses = unroll(f, diffopt, loss_fn, data())
        return list(torch.autograd.grad(outer_of(f, losses), [lr, *model.parameters()]))

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_what_the_loss_captures(memory: Any) -> None:
    """Learned losses, data weights, distilled images, computed or not."""

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(5)
        weights = torch.rand(K, 6, dtype=torch.float64, requires_grad=True)
        images = torch.randn(K, 6, 3, dtype=torch.float64, requires_grad=True)
        critic = nn.Linear(4, 1).double()
        batches = [(images[i] * 2, data()[i][1], w) for i, w in enumerate(weights)]

        def loss(f: Any, batch: Any) -> Tensor:
            x, y, w = batch
            out = f(x)
            return (
                F.cross_entropy(out, y, reduction="none") * w.exp()
            ).mean() + critic(out).mean().square()

        meta = [weights, images, *critic.parameters()]
        opt = lambda m: torch.optim.Adam(m.parameters(), lr=0.02)  # noqa: E731
        return result(unroll, opt, meta=meta, loss=loss, batches=batches)

    same(run(by(memory)), run(looped))


class Named(NamedTuple):
    x: Tensor
    y: Tensor
    w: Tensor


@dataclass
class Data:
    x: Tensor
    y: Tensor
    w: Tensor


@dataclass(slots=True)
class Slots:
    x: Tensor
    y: Tensor
    w: Tensor


KINDS: list[Any] = [Named, Data, Slots, SimpleNamespace]


@pytest.mark.parametrize("kind", KINDS)
def test_computed_tensors_in_batches(kind: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        raw = torch.zeros(K, dtype=torch.float64, requires_grad=True)
        batches = [
            OrderedDict(one=kind(x=x, y=y, w=w))
            for (x, y), w in zip(data(), raw.exp().unbind())
        ]

        def loss(f: Any, batch: Any) -> Tensor:
            one = batch["one"]
            return F.cross_entropy(f(one.x), one.y) * one.w

        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
        return result(unroll, sgd, meta=[raw], loss=loss, batches=batches)

    same(run(by("step")), run(looped))


def test_one_tensor_is_named() -> None:
    def run(unroll: Any, **kwargs: Any) -> list[Tensor]:
        raw = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        scale = raw.exp()
        kwargs = {"meta_params": scale} if kwargs else {}

        def loss(f: Any, batch: Any) -> Tensor:
            return F.cross_entropy(f(batch[0]) * scale, batch[1])

        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
        return result(unroll, sgd, meta=[raw], loss=loss, **kwargs)

    same(run(by("step"), named=True), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_computed_and_named_beside_what_it_was_computed_from(memory: Any) -> None:
    """The path through the named tensor must not count twice."""

    def run(unroll: Any, **kwargs: Any) -> list[Tensor]:
        raw = scalar(0.3)
        scale = raw.exp()
        square = scale * scale
        named = {"meta_params": [scale, square]} if kwargs else {}

        def loss(f: Any, batch: Any) -> Tensor:
            return loss_fn(f, batch) * scale + (square + raw) * f(batch[0]).mean()

        return result(
            unroll,
            lambda m: torch.optim.SGD(m.parameters(), 0.1),
            meta=[raw],
            loss=loss,
            **named,
        )

    same(run(by(memory), named=True), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_a_pull_to_the_initial_weights(memory: Any) -> None:
    """They are captured as the fast weights of time 0, and as the model's own."""

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(2)
        model = net()

        def loss(f: Any, batch: Any) -> Tensor:
            pairs = zip(f.parameters(), f.parameters(time=0), model.parameters())
            return loss_fn(f, batch) + sum(
                (p - q).square().sum() + (p * r).sum() for p, q, r in pairs
            )

        return result(
            unroll,
            lambda m: torch.optim.SGD(m.parameters(), 0.05),
            loss=loss,
            model=model,
        )

    same(run(by(memory)), run(looped))


def test_earlier_weights_in_the_loss() -> None:
    def loss(f: Any, batch: Any) -> Tensor:
        time = max(0, (len(f._fast_params) - 1) // 2)
        pairs = zip(f.parameters(), f.parameters(time=time), f.parameters(time=-1))
        return loss_fn(f, batch) + sum((p * q * r).sum() for p, q, r in pairs)

    def run(unroll: Any) -> list[Tensor]:
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.05)  # noqa: E731
        return result(unroll, sgd, loss=loss)

    same(run(by("step")), run(looped))
    with pytest.raises(RuntimeError, match="time 1, which this unroll does not keep"):
        run(by("low"))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("memory", MODES)
def test_buffers_that_carry_gradient(memory: Any, order: int) -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 4, bias=False)
            self.register_buffer("hidden", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x) + self.hidden
            self.hidden = torch.tanh(out.mean(0))
            return out

    def run(unroll: Any) -> list[Tensor]:
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9)  # noqa: E731
        return result(unroll, sgd, model=Remembers().double(), order=order)

    torch.manual_seed(0)
    first = run(by(memory))
    torch.manual_seed(0)
    same(first, run(by("full")))


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("affine", [False, True])
def test_eval_mode_in_between(affine: bool, memory: Any) -> None:
    """What torch saved of running statistics is not overwritten by a later step."""

    def run(unroll: Any) -> list[Tensor]:
        def loss(f: Any, batch: Any) -> Tensor:
            f.train(bool(batch[0].sum() > 0))
            return loss_fn(f, batch)

        model = net()
        model[1] = nn.BatchNorm1d(5, affine=affine).double()
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
        return result(unroll, sgd, loss=loss, model=model)

    torch.manual_seed(0)
    first = run(by(memory))
    torch.manual_seed(0)
    same(first, run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_modes_and_weights_may_change_before_backward(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            unroll(f, d, loss_fn, data())
            f.eval()
            outer = loss_fn(f, data(1)[0])
            f.update_params([torch.zeros_like(p) for p in f.parameters()])
            torch.rand(100)
        return list(torch.autograd.grad(outer, list(model.parameters())))

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_backward_as_well_as_grad_and_more_than_once(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            losses = unroll(f, d, loss_fn, data())
        outer = outer_of(f, losses)
        outer.backward(retain_graph=True)
        outer.backward()
        with pytest.raises(RuntimeError, match="second time"):
            outer.backward()
        grads = [p.grad for p in model.parameters()]
        return [g for g in grads if g is not None]

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_the_module_may_be_gone_when_backward_comes(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            unroll(f, d, loss_fn, data())
            outer = loss_fn(f, data(1)[0])
        del f, d
        return list(torch.autograd.grad(outer, list(model.parameters())))

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_nothing_outlives_the_last_reference(memory: Any) -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=0.02)
    gc.collect()
    gc.disable()
    try:
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            higher.unroll(f, d, loss_fn, data(), memory=memory)
            gone = weakref.ref(f), weakref.ref(next(iter(f.parameters())))
            del f, d
        assert [r() for r in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("memory", MODES)
def test_activation_checkpoints_inside(memory: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.net, x, use_reentrant=False)

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
        # as everywhere, statistics advance again with a checkpoint: no batch norm
        model = Checkpointed()
        model.net[1] = nn.Identity()
        return result(unroll, sgd, model=model)

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_autocast(memory: Any) -> None:
    """What is computed in bfloat16 the first time is so again."""

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(x.float(), y) for x, y in data()]
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            with torch.autocast("cpu", torch.bfloat16):
                unroll(f, d, loss_fn, batches)
                assert f(batches[0][0]).dtype == torch.bfloat16
                outer = loss_fn(f, batches[0])
        return list(torch.autograd.grad(outer, list(model.parameters())))

    for a, b in zip(run(by(memory)), run(looped)):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))


def test_test_mode_keeps_nothing() -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        opt = torch.optim.Adam(model.parameters(), lr=0.02)
        with higher.innerloop_ctx(model, opt, track_higher_grads=False) as (f, d):
            unroll(f, d, loss_fn, data())
            assert len(f._fast_params) == 1
            return [p.detach() for p in f.parameters()]

    same(run(by("low")), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_unequal_parameters(memory: Any) -> None:
    """Frozen, unused and complex ones, and one in two places."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4, bias=False)
            self.b = self.a
            self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(2))
            self.phase = nn.Parameter(torch.ones(4, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Any:
            return (self.a(x) + self.b(x).tanh()) * self.frozen + self.phase.abs()

    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = Odd().double()
        model.phase = nn.Parameter(model.phase.to(torch.complex128) * (1 + 1j))
        params = [p for p in model.parameters() if p.requires_grad]
        opt = torch.optim.Adam(params, lr=0.02)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            losses = unroll(f, d, loss_fn, data())
            outer = loss_fn(f, data(1)[0]) + losses[3]
        grads = torch.autograd.grad(outer, params, allow_unused=True)
        return [torch.zeros(()) if g is None else g for g in grads]

    same(run(by(memory)), run(looped))


class Lists(DifferentiableOptimizer):
    """State in a list, and some that belongs to no parameter."""

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                if grad is None:
                    continue
                sides = self.state[g][i].setdefault("sides", [torch.zeros_like(p)] * 2)
                sides[0] = 0.5 * sides[0] + grad
                self.shared["total"] = self.shared.get("total", 0) + sides[0].sum()
                group["params"][i] = (
                    p - group["lr"] * (sides[0] + sides[1]) * self.shared["total"].cos()
                )
                sides[1] = sides[0] * grad


@pytest.mark.parametrize("memory", MODES)
def test_state_in_containers(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(3)
        model = net()
        f = higher.monkeypatch(model, copy_initial_weights=False)
        opt = torch.optim.SGD(model.parameters(), lr=0.05)
        diffopt = Lists(opt, list(model.parameters()), fmodel=f)
        unroll(f, diffopt, loss_fn, data())
        outer = loss_fn(f, data(1)[0]) + diffopt.shared["total"]
        return list(torch.autograd.grad(outer, list(model.parameters())))

    same(run(by(memory)), run(looped))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("memory", MODES)
def test_sparse_gradients(memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 3, sparse=True)).double()
        opt = torch.optim.SparseAdam(list(model.parameters()), lr=0.1)
        rows, lr = torch.randint(7, (K, 4)), scalar(0.1)
        with higher.innerloop_ctx(
            model, opt, copy_initial_weights=False, override={"lr": [lr]}
        ) as (f, diffopt):

            def loss(f: Any, row: Tensor) -> Tensor:
                out: Tensor = f(row).square().mean()
                return out

            unroll(f, diffopt, loss, list(rows))
            outer = loss(f, rows[0])
        found = torch.autograd.grad(outer, [lr, *model.parameters()])
        return [g.to_dense() if g.is_sparse else g for g in found]

    same(run(by(memory)), run(looped))


@pytest.mark.parametrize("memory", MODES)
def test_hooks_of_captured_tensors_see_the_sum(memory: Any) -> None:
    def run(unroll: Any, named: bool = False) -> list[Tensor]:
        torch.manual_seed(3)
        raw, factor = scalar(0.3), scalar(1.2)
        scale = raw.exp()
        scale.retain_grad()
        calls: list[Tensor] = []

        def double(g: Tensor) -> Tensor:
            calls.append(g)
            return 2 * g

        for t in (raw, scale, factor):
            t.register_hook(double)

        def loss(f: Any, batch: Any) -> Tensor:
            return loss_fn(f, batch) * scale * factor + raw * f(batch[0]).mean()

        model = net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, sgd) as (f, diffopt):
            more = {"meta_params": [scale]} if named else {}
            unroll(f, diffopt, loss, data(), **more)
            loss_fn(f, data(1)[0]).backward(retain_graph=True)
            loss_fn(f, data(1)[0]).backward()
        assert len(calls) == 6
        return [t.grad for t in (raw, scale, factor) if t.grad is not None]

    same(run(by(memory), named=True), run(looped))


class Scaled(torch.autograd.Function):
    """Its backward uses what is no input of its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: list[Tensor]) -> Tensor:
        ctx.factor = factor[0]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.factor, None


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("by_hook", [False, True])
def test_what_only_gradients_capture(by_hook: bool, memory: Any) -> None:
    def run(unroll: Any) -> list[Tensor]:
        factor = scalar(0.7)

        def loss(f: Any, batch: Any) -> Tensor:
            x, y = batch
            hidden = f[0](x)
            if by_hook and not x.equal(data()[0][0]):
                hidden.register_hook(lambda g: g * factor)
            elif not by_hook:
                hidden = Scaled.apply(hidden, [factor])
            return F.cross_entropy(f[4](f[2](hidden)), y)

        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.5)  # noqa: E731
        found = result(unroll, sgd, meta=[factor], loss=loss)
        assert found[5].abs() > 1e-3
        return found

    register = Tensor.register_hook
    same(run(by(memory)), run(looped))
    assert Tensor.register_hook is register


@pytest.mark.parametrize("memory", MODES)
def test_a_callback_that_writes_into_gradients(memory: Any) -> None:
    def halve(grads: list[Tensor]) -> list[Tensor]:
        for g in grads:
            g.mul_(0.5)
        return grads

    def run(unroll: Any) -> list[Tensor]:
        sgd = lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9)  # noqa: E731
        return result(unroll, sgd, grad_callback=halve)

    same(run(by(memory)), run(looped))


def test_settings_of_less_precision() -> None:
    """Segments come out equal to the last bit, though no number is exact."""

    def run(unroll: Any) -> list[Tensor]:
        lr, beta = (torch.tensor(v, requires_grad=True) for v in (0.02, 0.9))
        override = {"lr": [lr], "betas": [(beta, 0.99)]}
        return result(unroll, lambda m: torch.optim.Adam(m.parameters()), override)

    for a, b in zip(run(by("low")), run(looped), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
