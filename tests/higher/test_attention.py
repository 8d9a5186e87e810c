"""Attention can be differentiated twice wherever it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import higher
from higher._attention import twice_differentiable


class Attention(nn.Module):
    """With four dimensions, for which torch has fused kernels."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.how = how
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, **self.how)


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x[0], x[0], x[0], need_weights=False)[0]


X = torch.randn(
    1, 2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
)
MASK = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(6, 6)
HOW: list[dict[str, Any]] = [
    {},
    {"is_causal": True},
    {"attn_mask": MASK > 0},
    {"attn_mask": MASK},
    {"scale": 0.3},
]


def loss(call: Callable[[Tensor], Tensor]) -> Tensor:
    return (call(X) - 0.3).square().mean()


def curvature(value: Tensor, params: list[Tensor]) -> list[Tensor]:
    """The Hessian times a vector, and that differentiated once more."""
    grads = torch.autograd.grad(value, params, create_graph=True)
    along = [torch.linspace(-1, 1, g.numel()).to(g).reshape(g.shape) for g in grads]
    dot = sum((g * v).sum() for g, v in zip(grads, along))
    products = torch.autograd.grad(dot, params, create_graph=True)
    third = torch.autograd.grad(sum(p.square().sum() for p in products), params)
    return [*grads, *products, *third]


def by_math(model: nn.Module) -> list[Tensor]:
    with sdpa_kernel(SDPBackend.MATH):
        return curvature(loss(model), list(model.parameters()))


@pytest.mark.parametrize("how", HOW, ids=lambda how: " ".join(how))
def test_after_test_mode(how: dict[str, Any]) -> None:
    model = Attention(**how)
    opt = torch.optim.SGD(model.parameters(), lr=0.0)
    with higher.innerloop_ctx(model, opt, track_higher_grads=False) as (fmodel, diff):
        diff.step(loss(fmodel))
        within = curvature(loss(fmodel), list(fmodel.parameters()))
        plain = curvature(loss(model), list(model.parameters()))
    after = curvature(loss(fmodel), list(fmodel.parameters()))
    for found in (within, plain, after):
        torch.testing.assert_close(found, by_math(model))


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("kind", [Attention, MultiHead])
def test_a_submodule_called_outside_of_any_context(kind: Any, track: bool) -> None:
    model = nn.Sequential(kind())
    fmodel = higher.monkeypatch(model, track_higher_grads=track)
    found = curvature(loss(fmodel[0]), list(fmodel.parameters()))
    torch.testing.assert_close(found, by_math(model))


def test_without_second_derivatives_the_fused_kernel_runs() -> None:
    """Both ways: its backward, in the graph, would be the math kernel's."""
    model = Attention()
    fmodel = higher.monkeypatch(model, track_higher_grads=False)
    with torch.profiler.profile() as profile:
        torch.autograd.grad(loss(fmodel), list(fmodel.parameters()))
    names = {event.key for event in profile.key_averages()}
    fused = {n for n in names if "_scaled_dot_product" in n}
    assert any(n.endswith("_backward") for n in fused), names
    assert "aten::_scaled_dot_product_attention_math" not in names


def test_query_and_key_that_are_one_tensor() -> None:
    x = X.clone().requires_grad_()
    with twice_differentiable:
        found = curvature(F.scaled_dot_product_attention(x, x, x).square().sum(), [x])
    with sdpa_kernel(SDPBackend.MATH):
        wanted = curvature(F.scaled_dot_product_attention(x, x, x).square().sum(), [x])
    torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore:.*lower_precision")
def test_autocast_and_dropout_and_checkpoints() -> None:
    model = Attention().float()
    x = X.float()
    with twice_differentiable, torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    params = list(model.parameters())
    grad, *_ = torch.autograd.grad(
        out.float().square().mean(), params, create_graph=True
    )
    assert torch.autograd.grad(grad.square().sum(), params)[0].isfinite().all()

    drop = Attention(dropout_p=0.5)
    params = list(drop.parameters())
    both = []
    for context in (twice_differentiable, sdpa_kernel(SDPBackend.MATH)):
        torch.manual_seed(3)
        with context:
            both.append(curvature(loss(drop), params))
    torch.testing.assert_close(*both)

    class Saving(Attention):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(super().forward, x, use_reentrant=False)
            return result

    model = Saving()
    fmodel = higher.monkeypatch(model, track_higher_grads=False)
    params = list(fmodel.parameters())
    found = torch.autograd.grad(loss(fmodel), params)
    with sdpa_kernel(SDPBackend.MATH):
        wanted = torch.autograd.grad(loss(model), list(model.parameters()))
    torch.testing.assert_close(found, wanted)


def test_transforms_and_what_is_no_plain_tensor_go_by() -> None:
    x = X.clone()
    with twice_differentiable:
        assert (
            F.scaled_dot_product_attention
            is not torch._C._nn.scaled_dot_product_attention
        )
        grad = torch.func.grad(lambda q: F.scaled_dot_product_attention(q, x, x).sum())(
            x
        )
        with torch.no_grad():
            F.scaled_dot_product_attention(x, x, x)
    own = X.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(
        F.scaled_dot_product_attention(own, x, x).sum(), own
    )
    torch.testing.assert_close(grad, wanted)
    assert F.scaled_dot_product_attention is torch._C._nn.scaled_dot_product_attention


def test_many_tasks_in_test_mode() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()
    opt = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.stack([X[0], 2 * X[0]])
    with higher.innerloop_ctx(layer, opt, tasks=2, track_higher_grads=False) as (f, d):
        d.step(f(x).square().mean((1, 2, 3)))
        found = f(x).square().mean((1, 2, 3)).detach()
    for k in range(2):
        with higher.innerloop_ctx(layer, opt, track_higher_grads=False) as (f, d):
            d.step(f(x[k]).square().mean())
            torch.testing.assert_close(f(x[k]).square().mean().detach(), found[k])
