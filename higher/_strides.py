"""Values in the memory format of the tensor that they replace."""

from __future__ import annotations

import torch
from torch import Tensor

from higher._scalars import Scalar


def copy(input: Tensor, source: Scalar) -> Tensor:
    """What ``input.copy_(source)`` leaves in ``input``: the values of ``source`` in
    the shape, strides, dtype and device of ``input``."""
    if not isinstance(source, Tensor):
        return torch.full_like(input, source)
    source = source.to(dtype=input.dtype, device=input.device)
    if source.shape != input.shape:
        source = source.expand_as(input)
    return laid_out(input, source)


def laid_out(input: Tensor, value: Tensor) -> Tensor:
    """``value`` with the strides of ``input``, which has the same shape; ``value``
    itself where it has them, or where one of them is sparse."""
    if torch.strided is not input.layout or torch.strided is not value.layout:
        return value
    strides = input.stride()
    if value.stride() == strides or input.shape != value.shape:
        return value
    order = sorted(range(input.dim()), key=lambda d: (-strides[d], -input.shape[d]))
    back = sorted(range(input.dim()), key=lambda d: order[d])
    dense = value.permute(order).contiguous().permute(back)
    if dense.stride() == strides:
        return dense
    if any(n > 1 and s == 0 for n, s in zip(input.shape, strides)):
        return dense  # torch writes into no tensor that has an element twice
    return dense.new_empty_strided(input.shape, strides).copy_(dense)
