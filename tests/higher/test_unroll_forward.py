"""``unroll(..., mode="forward")`` against reverse mode, in float64."""

from __future__ import annotations

from typing import Any

import higher
import pytest
import torch
from codegen.verify.surroundings import unrounded
from higher._generated import OPTIMIZERS
from torch import Tensor, nn

PATHS = sorted(set(OPTIMIZERS) - {"torch.optim.SparseAdam"})
K = 6


class Net(nn.Module):
    """Attention, both norms, dropout; frozen and unused parameters."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(
            4, 2, dropout=dropout, bias=False, batch_first=True
        )
        self.batch_norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(dropout)
        self.unused = nn.Linear(2, 2)
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.inner(x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.dropout(self.batch_norm(x.flatten(0, 1)))
        return out


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


WEIGHT_DECAY: Any = "weight_decay", scalar(0.01)


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(K, 3, 5, 4, generator=generator, dtype=torch.float64))


def loss_fn(f: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.mse_loss(f(x), x.flatten(0, 1).sin())


def derivatives(
    path: str, settings: dict[str, Any], reverse: bool, more: int = 1, **kwargs: Any
) -> list[Tensor]:
    """After an unroll and ``more`` steps."""
    torch.manual_seed(0)
    model = Net().double()
    cls: Any = getattr(torch.optim, path.rsplit(".", 1)[1], None)
    if cls is None:
        pytest.skip("this torch has no such optimizer")
    params = [p for p in model.parameters() if p.dim() == 2 or "Muon" not in path]
    opt = cls(params, lr=0.02)
    leaves = [t for t in higher.utils.flatten(settings) if isinstance(t, Tensor)]
    with higher.innerloop_ctx(model, opt, override=settings) as (f, diffopt):
        mode = "reverse" if reverse else "forward"
        losses = higher.unroll(f, diffopt, loss_fn, data(), mode=mode, **kwargs)
        for x in data()[1 : 1 + more]:
            diffopt.step(loss_fn(f, x))
        outer = loss_fn(f, data()[0]) + losses[-2]
        return [
            outer.detach(),
            *torch.autograd.grad(outer, leaves),
            *(b.clone() for b in f.buffers()),
            torch.rand(3),
        ]


def same(path: str, settings: dict[str, Any], **kwargs: Any) -> None:
    forward = derivatives(path, settings, False, **kwargs)
    reverse = derivatives(path, settings, True, **kwargs)
    assert forward[1].abs() > 1e-9
    for a, b in zip(forward, reverse, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("path", PATHS)
def test_forward_mode_is_right_for_every_optimizer(path: str) -> None:
    other = ("etas", (0.5, scalar(1.1))) if "Rprop" in path else WEIGHT_DECAY
    with unrounded():
        same(path, {"lr": [scalar(0.02)], other[0]: [other[1]]})


def test_settings_in_tuples_have_derivatives_in_forward_mode() -> None:
    same("torch.optim.NAdam", {"betas": [(scalar(0.8), scalar(0.99))]})


def test_truncated_forward_mode_wants_the_outer_loss_at_once() -> None:
    same("torch.optim.Adam", {"lr": [scalar(0.02)]}, truncate=3, more=0)
    lr = {"lr": [scalar(0.02)]}
    with pytest.raises(RuntimeError, match="right after unroll"):
        derivatives("torch.optim.Adam", lr, False, truncate=3, more=1)


def test_the_graph_of_forward_mode_does_not_grow_with_steps() -> None:
    def nodes(steps: int) -> int:
        torch.manual_seed(0)
        model = Net().double()
        opt = torch.optim.Adam(model.parameters())
        override = {"lr": [scalar(0.01)]}
        with higher.innerloop_ctx(model, opt, override=override) as (f, diffopt):
            higher.unroll(f, diffopt, loss_fn, data()[:steps], mode="forward")
            seen: set[Any] = set()
            found: list[Any] = [loss_fn(f, data()[0]).grad_fn]
            while found:
                node = found.pop()
                if node not in seen:
                    seen.add(node)
                    found += [n for n, _ in node.next_functions if n is not None]
            return len(seen)

    assert nodes(2) == nodes(6)


def attempt(model: nn.Module, loss: Any = loss_fn, copy: bool = True) -> None:
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=copy, override={"lr": [scalar(0.1)]}
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss, data(), mode="forward")


def test_what_would_get_no_gradient_is_refused() -> None:
    weight = scalar(1.0)
    with pytest.raises(RuntimeError, match="would be lost"):
        attempt(Net().double(), lambda f, x: loss_fn(f, x) * weight)

    def hooked(f: Any, x: Tensor) -> Tensor:
        hidden = f.inner(x)
        hidden.register_hook(lambda g: g * weight)
        out: Tensor = hidden.square().mean()
        return out

    with pytest.raises(RuntimeError, match="would be lost"):
        attempt(Net().double(), hooked)
    with pytest.raises(RuntimeError, match="copy_initial_weights=True"):
        attempt(Net().double(), copy=False)


def test_wrong_arguments_of_forward_mode_are_errors() -> None:
    model = Net().double()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        with pytest.raises(RuntimeError, match="none of this optimizer's requires"):
            higher.unroll(f, diffopt, loss_fn, data(), mode="forward")
        with pytest.raises(ValueError, match="second order"):
            higher.unroll(f, diffopt, loss_fn, data(), mode="forward", order=1)
        with pytest.raises(ValueError, match="mode must be"):
            higher.unroll(f, diffopt, loss_fn, data(), mode="sideways")


def test_times_are_kept_and_second_derivatives_refused_in_forward_mode() -> None:
    model, lr = Net().double(), scalar(0.1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, data(), mode="forward")
        assert list(f.parameters(time=0)) and list(f.parameters(time=K))
        with pytest.raises(ValueError, match="mode='forward'"):
            list(f.parameters(time=2))
        outer = loss_fn(f, data()[0])
        (grad,) = torch.autograd.grad(outer, lr, create_graph=True)
        with pytest.raises(RuntimeError, match="memory='full'"):
            torch.autograd.grad(grad, lr, retain_graph=True)
        with pytest.raises(RuntimeError, match="memory='full'"):
            grad.backward()


class Reversal(torch.autograd.Function):
    """Not the gradient of anything: the inner problem is a game."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -0.5 * grad


def by_mode(mode: str, loss: Any) -> Tensor:
    torch.manual_seed(0)
    model, lr = Net(0.0).double(), scalar(0.1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diffopt):
        higher.unroll(f, diffopt, loss, data(), mode=mode)
        return torch.autograd.grad(loss_fn(f, data()[0]), lr)[0]


def test_a_pull_to_the_initial_weights() -> None:
    def loss(f: Any, x: Tensor) -> Tensor:
        pairs = zip(f.parameters(), f.parameters(time=0))
        return (
            loss_fn(f, x)
            + torch.stack([(p - q).square().sum() for p, q in pairs]).sum()
        )

    found, wanted = by_mode("forward", loss), by_mode("reverse", loss)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("by_hook", [False, True])
def test_gradients_that_are_none_or_hooked_are_right_in_forward_mode(
    by_hook: bool,
) -> None:
    def reversed_(x: Tensor) -> Tensor:
        if by_hook:
            x = x * 1
            x.register_hook(lambda g: -0.5 * g)
            return x
        result: Tensor = Reversal.apply(x)
        return result

    def game(f: Any, x: Tensor) -> Tensor:
        hidden = f.inner(x)
        return (
            hidden.square().mean()
            + f.attention.out_proj(reversed_(hidden)).tanh().sum()
        )

    def by(mode: str) -> Tensor:
        torch.manual_seed(0)
        model, lr = Net(0.0).double(), scalar(0.1)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diffopt):
            higher.unroll(f, diffopt, game, data(), mode=mode)
            return torch.autograd.grad(game(f, data()[0]), lr)[0]

    torch.testing.assert_close(by("forward"), by("reverse"), rtol=1e-10, atol=0)
