"""What ``higher.unroll`` is held against: the plain loop, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import higher
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODES: list[Any] = ["step", "low", 3]
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
