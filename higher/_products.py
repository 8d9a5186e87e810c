"""Products of matrices added to a tensor, whose factors may be tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from higher._scalars import Scalar, known


def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``."""
    scales = known(beta), known(alpha)
    if scales[0] is not None and scales[1] is not None:
        return torch.addmm(input, mat1, mat2, beta=scales[0], alpha=scales[1])
    return input * beta + (mat1 @ mat2) * alpha


def addmv(
    input: Tensor, mat: Tensor, vec: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Tensor:
    """``beta * input + alpha * (mat @ vec)``."""
    scales = known(beta), known(alpha)
    if scales[0] is not None and scales[1] is not None:
        return torch.addmv(input, mat, vec, beta=scales[0], alpha=scales[1])
    return input * beta + (mat @ vec) * alpha


def addr(
    input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``."""
    scales = known(beta), known(alpha)
    if scales[0] is not None and scales[1] is not None:
        return torch.addr(input, vec1, vec2, beta=scales[0], alpha=scales[1])
    return input * beta + torch.outer(vec1, vec2) * alpha


def addbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: Scalar = 1,
    alpha: Scalar = 1,
) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2)``, summed over the batch."""
    scales = known(beta), known(alpha)
    if scales[0] is not None and scales[1] is not None:
        return torch.addbmm(input, batch1, batch2, beta=scales[0], alpha=scales[1])
    return input * beta + torch.bmm(batch1, batch2).sum(0) * alpha


def baddbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: Scalar = 1,
    alpha: Scalar = 1,
) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2)``, batch by batch."""
    scales = known(beta), known(alpha)
    if scales[0] is not None and scales[1] is not None:
        return torch.baddbmm(input, batch1, batch2, beta=scales[0], alpha=scales[1])
    return input * beta + torch.bmm(batch1, batch2) * alpha
