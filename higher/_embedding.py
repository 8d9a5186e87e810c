"""Embeddings with ``max_norm``, which torch renormalizes in place.

A lookup writes into the weights, unseen by autograd: what comes after is computed from
the new rows. The gradient of a step is one by these, as in plain training; but a
derivative through the steps must go through the renormalization, too. So it is made
out of place here, as one of the latest fast weights.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from higher._second_order import OwnForward
from higher._weights import FastWeights, WeightDict

_functional: Any = torch.nn.functional


class EmbeddingForward(OwnForward):
    """With rows renormalized beforehand."""

    __slots__ = ()

    def __call__(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.module()
        weights = self.weights()
        limit, held = module.max_norm, module._parameters
        if limit is None or weights is None or not weights.track:
            return self.usual()(input, *args, **kwargs)
        if type(held) is not WeightDict or not held["weight"].requires_grad:
            return self.usual()(input, *args, **kwargs)
        renormalize(weights, held.index["weight"], input, limit, module.norm_type)
        try:
            module.max_norm = None
            return self.usual()(input, *args, **kwargs)
        finally:
            module.max_norm = limit


def renormalize(
    weights: FastWeights, index: int, input: Tensor, limit: float, norm_type: float
) -> None:
    """Puts a renormalized weight in the place of the latest, if a row is too long."""
    weight = weights.installed[index]
    found = _too_long(weight, input, limit, norm_type)
    if found is None:
        return
    if weights.tasks is not None:
        raise RuntimeError(
            "An embedding with max_norm can't be renormalized with tasks=. Set "
            "max_norm=None, and renormalize in the outer loop."
        )
    rows, values = found
    with torch.enable_grad():
        # behind the gate, where gradients of steps end
        old = weight[rows]
        norms = torch.linalg.vector_norm(old, norm_type, 1, keepdim=True)
        new = old * (limit / (norms + 1e-7))
        # torch's own values, which are rounded otherwise
        new = values + (new - new.detach())
        gate: Any = _Gate
        made = gate.apply(weakref.ref(weights), weight.index_copy(0, rows, new))
    weights.supersede(index, made)


def _too_long(
    weight: Tensor, input: Tensor, limit: float, norm_type: float
) -> tuple[Tensor, Tensor] | None:
    """Rows that a lookup renormalizes, and what they become."""
    rows = torch.unique(input.detach()).to(torch.long)
    before = weight.detach()[rows]
    after = before.clone()
    places = torch.arange(len(rows), device=rows.device)
    torch.embedding_renorm_(after, places, limit, norm_type)
    changed = (after != before).any(1)
    if not bool(changed.any()):
        return None
    return rows[changed], after[changed]


class _Gate(torch.autograd.Function):
    """Shut while a step takes its gradient: torch's does not go through."""

    @staticmethod
    def forward(ctx: Any, weights: Any, new: Tensor) -> Tensor:
        ctx.weights = weights
        return new.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weights = ctx.weights()
        return None, None if weights is not None and weights.stepping else grad


@functools.cache
def wrap_torch() -> None:
    """Watches what ``F.embedding`` and ``F.embedding_bag`` write by, whoever calls them."""
    write = getattr(_functional, "_no_grad_embedding_renorm_", None)
    if write is None:
        return

    @functools.wraps(write)
    def watched(
        weight: Tensor, input: Tensor, max_norm: float, norm_type: float
    ) -> Any:
        if weight.requires_grad and _is_fast(weight):
            if _too_long(weight, input, max_norm, norm_type) is not None:
                raise RuntimeError(_IN_PLACE)
            return None
        return write(weight, input, max_norm, norm_type)

    _functional._no_grad_embedding_renorm_ = watched


_watched: weakref.WeakSet[FastWeights] = weakref.WeakSet()


def watch(weights: FastWeights) -> None:
    _watched.add(weights)
    wrap_torch()


def _is_fast(weight: Tensor) -> bool:
    return any(
        weights.track and any(w is weight for w in weights.installed)
        for weights in list(_watched)
    )


def is_renormalized(module: nn.Module) -> bool:
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return isinstance(module, kinds) and module.max_norm is not None


_IN_PLACE = (
    "F.embedding with max_norm writes into a fast weight, and derivatives would not know. "
    "Use nn.Embedding(..., max_norm=...), which is renormalized in the graph, or make the "
    "weight's rows shorter before the call: weight * (max_norm / norm).clamp(max=1)."
)
