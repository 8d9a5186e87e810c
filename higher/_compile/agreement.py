"""Whether a graph computes what the step does that it was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def close(a: Tensor, b: Tensor, eps: float) -> bool:
    """Whether a loss or a weight is the other to rounding, of ``eps`` at most."""
    limit = max(torch.finfo(a.dtype).eps ** 0.5, 1e4 * eps)
    scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
    return torch.allclose(a, b, limit, limit * scale, equal_nan=True)


def derivatives(made: Sequence[Tensor], by: Sequence[Tensor]) -> list[Tensor]:
    """Of a sum of everything that was ``made``, with weights that differ, by those that
    require grad."""
    total = sum(
        (t * torch.arange(t.numel(), device=t.device).to(t).cos().view_as(t)).sum()
        for t in made
        if t.requires_grad
    )
    leaves = [t for t in by if t.requires_grad]
    if not isinstance(total, Tensor) or not leaves:
        return []
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found)]


def check_alike(
    found: Sequence[Sequence[Tensor]], wanted: Sequence[Sequence[Tensor]], limit: float
) -> None:
    """Compares groups of tensors; those of a group together, for what one is by itself may
    be rounding alone.

    Raises:
        RuntimeError: a group differs by more than ``limit`` of what it should be.
    """
    for ours, theirs in zip(found, wanted):
        pairs = [
            (a.detach().double(), b.detach().double()) for a, b in zip(ours, theirs)
        ]
        off = sum(float((a - b).square().sum()) for a, b in pairs)
        size = sum(float(b.square().sum()) for _, b in pairs)
        # of what has no number in a plain step nothing can be told
        if math.isfinite(size) and not off <= limit**2 * size:
            raise RuntimeError(_MISCOMPILED)


_MISCOMPILED = (
    "compile=True: the graph that torch's compiler made of this step computes something "
    "else than the step does, by far more than rounding: an error of that compiler. "
    "Leave out compile=True, or try another version of torch."
)
