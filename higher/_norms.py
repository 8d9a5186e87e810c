"""Norms with finite derivatives at zero, whose settings may be tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from higher._elementary import clamp
from higher._scalars import Scalar, as_tensor_like, known, tracked


def norm(
    x: Tensor,
    p: Scalar | str = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``torch.norm``, whose first and second derivatives at exactly zero are zero."""
    if isinstance(p, Tensor):
        number = known(p)
        if number is None:
            return _norm_of_any_order(x, p, dim, keepdim, dtype)
        p = number
    if x.is_sparse and dim is None:
        x = x.coalesce().values()
    plain = _norm_of(x, p, dim, keepdim, dtype)
    if not tracked(x):
        return plain
    zero = (plain == 0).detach()
    spread = zero if dim is None or keepdim else _norm_of(x, p, dim, True, dtype) == 0
    safe = _norm_of(x.masked_fill(spread, 1), p, dim, keepdim, dtype)
    return safe.masked_fill(zero, 0)


def _norm_of(
    x: Tensor,
    p: float | str,
    dim: int | Sequence[int] | None,
    keepdim: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    result: Tensor = torch.norm(x, p, dim, keepdim, dtype=dtype)
    return result


def _norm_of_any_order(
    x: Tensor,
    p: Tensor,
    dim: int | Sequence[int] | None,
    keepdim: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    """A norm whose order carries gradient, and is finite and positive."""
    x = x if dtype is None else x.to(dtype)
    order = as_tensor_like(p, x)
    zero = x == 0
    powers = (x.abs().masked_fill(zero, 1) ** order).masked_fill(zero, 0)
    dims = [dim] if isinstance(dim, int) else [*(dim or range(x.dim()))]
    total = torch.sum(powers, dims, keepdim) if x.dim() else powers
    nothing = total == 0
    return (total.masked_fill(nothing, 1) ** (1 / order)).masked_fill(nothing, 0)


def normalize(
    input: Tensor, p: Scalar = 2.0, dim: int = 1, eps: Scalar = 1e-12
) -> Tensor:
    """``torch.nn.functional.normalize`` that keeps the gradients of its settings."""
    order, least = known(p), known(eps)
    if order is not None and least is not None:
        return torch.nn.functional.normalize(input, order, dim, least)
    length = norm(input, p, dim, keepdim=True)
    return input / cast(Tensor, clamp(length, min=eps))


def cosine_similarity(
    x1: Tensor, x2: Tensor, dim: int = 1, eps: Scalar = 1e-8
) -> Tensor:
    """``torch.cosine_similarity`` that keeps the gradient of ``eps``."""
    number = known(eps)
    if number is not None:
        return torch.cosine_similarity(x1, x2, dim, number)
    lengths = (cast(Tensor, clamp(norm(x, dim=dim), min=eps)) for x in (x1, x2))
    return (x1 * x2).sum(dim) / math.prod(lengths)
