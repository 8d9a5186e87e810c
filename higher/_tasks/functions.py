"""What torch's functions are replaced by while a program is mapped over tasks: those
without a batching rule, and those whose rule is wrong, from others whose rules hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from higher._tasks.norms import NORMS
from higher._tasks.recurrent import RECURRENT

_embedding: Any = F.embedding


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``F.embedding``. torch's rule forgets ``padding_idx``: its row is a constant."""
    if max_norm is not None:
        raise RuntimeError(
            "vmap: Batching rule not implemented for aten::embedding_renorm_. "
            "(max_norm writes into the weight)"
        )
    if sparse:
        raise RuntimeError(
            "vmap: Batching rule not implemented for aten::embedding_sparse_backward. "
            "(sparse=True)"
        )
    if padding_idx is not None:
        rows = torch.arange(weight.shape[0], device=weight.device)
        padding = (rows == padding_idx % weight.shape[0]).unsqueeze(1)
        weight = torch.where(padding, weight.detach(), weight)
    found: Tensor = _embedding(input, weight, scale_grad_by_freq=scale_grad_by_freq)
    return found


def bilinear(
    input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    result = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return result if bias is None else result + bias


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    if log_target:
        loss = target.exp() * (target - input)
    else:
        loss = torch.xlogy(target, target) - target * input
    if reduction == "batchmean":
        return loss.sum() / input.shape[0] if input.dim() else loss.sum()
    return _reduced(loss, reduction, size_average, reduce)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Without torch's check that no variance is negative, which would read them."""
    if not isinstance(var, Tensor):
        var = torch.full_like(input, var)
    if var.shape == input.shape[:-1]:
        var = var.unsqueeze(-1)
    with torch.no_grad():
        floor = var.clamp(min=eps) - var
    var = var + floor
    loss = 0.5 * (torch.log(var) + (input - target).square() / var)
    loss = loss + 0.5 * math.log(2 * math.pi) if full else loss
    return _reduced(loss, reduction, None, None)


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    loss = (-target * (input1 - input2) + margin).clamp(min=0)
    return _reduced(loss, reduction, size_average, reduce)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    loss = F.softplus(-target * input)
    return _reduced(loss, reduction, size_average, reduce)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    near = F.pairwise_distance(anchor, positive, p, eps)
    far = F.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, F.pairwise_distance(positive, negative, p, eps))
    loss = (margin + near - far).clamp(min=0)
    return _reduced(loss, reduction, size_average, reduce)


def _reduced(
    loss: Tensor, reduction: str, size_average: bool | None, reduce: bool | None
) -> Tensor:
    if size_average is not None or reduce is not None:
        # the legacy names
        mean = "sum" if size_average is False else "mean"
        reduction = "none" if reduce is False else mean
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return loss if reduction == "none" else getattr(loss, reduction)()


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **NORMS,
    **RECURRENT,
    F.embedding: embedding,
    F.bilinear: bilinear,
    torch.bilinear: bilinear,
    F.kl_div: kl_div,
    F.gaussian_nll_loss: gaussian_nll_loss,
    F.margin_ranking_loss: margin_ranking_loss,
    F.soft_margin_loss: soft_margin_loss,
    F.triplet_margin_loss: triplet_margin_loss,
}


class Replaced(TorchFunctionMode):
    """While entered, torch's functions are those of :data:`FUNCTIONS`."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return FUNCTIONS.get(function, function)(*args, **(kwargs or {}))
