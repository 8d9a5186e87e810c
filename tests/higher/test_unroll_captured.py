"""What losses, batches and gradients capture has its gradient in every memory mode."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import higher
import pytest
import torch
import torch.nn.functional as F
from looped import K, MODES, by, data, looped, loss_fn, net, result, same, scalar
from torch import Tensor, nn


@pytest.mark.parametrize("memory", ["full", *MODES])
def test_what_the_loss_captures_gets_its_derivative_in_every_memory_mode(
    memory: Any,
) -> None:
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
def test_computed_tensors_in_batches_are_differentiated_through(kind: Any) -> None:
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


def test_one_captured_tensor_may_be_named_alone() -> None:
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
def test_a_named_tensor_beside_what_it_was_computed_from_counts_once(
    memory: Any,
) -> None:
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
def test_a_pull_to_the_initial_weights_reaches_them_by_both_their_names(
    memory: Any,
) -> None:
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


def test_earlier_weights_in_the_loss_count_or_are_refused_where_they_are_not_kept() -> (
    None
):
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
def test_what_only_gradients_capture_gets_its_derivative(
    by_hook: bool, memory: Any
) -> None:
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
