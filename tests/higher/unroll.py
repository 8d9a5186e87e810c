"""The oracle of the runtime's tests: inner loops by ``torch.func.functional_call``.

Nothing here uses ``higher``, except for ``fast_unroll``, which is what is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import higher

LR = 0.1

Loss = Callable[[Callable[..., Any]], Tensor]
"""Given a callable in the model's place, a scalar."""


def reference_unroll(
    model: nn.Module, loss: Loss, steps: int = 2, lr: Any = LR
) -> tuple[Tensor, list[Tensor | None]]:
    """Outer loss and meta-gradient of SGD, the inner loop written by hand."""
    initial = {n: p for n, p in model.named_parameters() if p.requires_grad}
    params = {n: p.clone() for n, p in initial.items()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    with sdpa_kernel(SDPBackend.MATH):
        for _ in range(steps):
            value = loss(_on(model, {**params, **buffers}))
            grads = torch.autograd.grad(
                value, list(params.values()), create_graph=True, allow_unused=True
            )
            params = {
                n: p if g is None else p - lr * g
                for (n, p), g in zip(params.items(), grads)
            }
        outer = loss(_on(model, {**params, **buffers}))
        meta = torch.autograd.grad(outer, list(initial.values()), allow_unused=True)
    return outer.detach(), list(meta)


def _on(model: nn.Module, tensors: dict[str, Tensor]) -> Callable[..., Any]:
    return lambda *args, **kwargs: functional_call(model, tensors, args, kwargs)


def fast_unroll(
    model: nn.Module, loss: Loss, steps: int = 2, lr: Any = LR
) -> tuple[Tensor, list[Tensor | None]]:
    """The same by ``innerloop_ctx``."""
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (fmodel, diff):
        for _ in range(steps):
            diff.step(loss(fmodel))
        outer = loss(fmodel)
    initial = [p for p in model.parameters() if p.requires_grad]
    return outer.detach(), list(torch.autograd.grad(outer, initial, allow_unused=True))


def assert_same_unroll(
    model: nn.Module,
    loss: Loss,
    steps: int = 2,
    reference: nn.Module | None = None,
    **tolerance: float,
) -> None:
    """Both agree, the meta-gradient is no trivial one, and the model is untouched."""
    before = {n: t.clone() for n, t in model.state_dict().items()}
    outer, meta = fast_unroll(model, loss, steps)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    wanted_outer, wanted_meta = reference_unroll(reference or model, loss, steps)
    assert any(g is not None and g.abs().max() > 1e-6 for g in wanted_meta)
    torch.testing.assert_close(outer, wanted_outer, **tolerance)
    for i, (g, wanted) in enumerate(zip(meta, wanted_meta, strict=True)):
        # None and zeros say the same
        g = torch.zeros(()) if g is None else g
        wanted = torch.zeros(()) if wanted is None else wanted
        torch.testing.assert_close(
            g.expand_as(wanted) if wanted.dim() else g.sum(),
            wanted,
            **tolerance,
            msg=lambda m: f"meta-gradient {i}: {m}",
        )


def regression(in_features: int = 3, out_features: int = 2, batch: int = 5) -> Loss:
    """Mean square error on fixed random data, float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, in_features, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, out_features, generator=generator, dtype=torch.float64)
    return lambda model: (model(x) - y).square().mean()
