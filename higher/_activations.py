"""Activation functions whose settings may be tensors that carry gradient.

With plain numbers each calls the kernel of its name in ``torch.nn.functional``. A tensor
counts in the dtype of the input, as a number does, and keeps its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from higher._scalars import Scalar, as_tensor_like, known


def elu(input: Tensor, alpha: Scalar = 1.0) -> Tensor:
    """``x`` where it is positive, ``alpha * (exp(x) - 1)`` elsewhere."""
    number = known(alpha)
    if number is not None:
        return F.elu(input, number)
    below = as_tensor_like(alpha, input) * torch.expm1(input.clamp(max=0))
    return torch.where(input > 0, input, below)


def celu(input: Tensor, alpha: Scalar = 1.0) -> Tensor:
    """``x`` where it is positive, ``alpha * (exp(x / alpha) - 1)`` elsewhere."""
    number = known(alpha)
    if number is not None:
        return F.celu(input, number)
    scale = as_tensor_like(alpha, input)
    return torch.where(
        input > 0, input, scale * torch.expm1(input.clamp(max=0) / scale)
    )


def leaky_relu(input: Tensor, negative_slope: Scalar = 0.01) -> Tensor:
    """``x`` where it is positive, ``negative_slope * x`` elsewhere."""
    number = known(negative_slope)
    if number is not None:
        return F.leaky_relu(input, number)
    return torch.where(input > 0, input, input * as_tensor_like(negative_slope, input))


def hardtanh(input: Tensor, min_val: Scalar = -1.0, max_val: Scalar = 1.0) -> Tensor:
    """``x`` between the bounds, the nearer bound outside them."""
    low, high = known(min_val), known(max_val)
    if low is not None and high is not None:
        return F.hardtanh(input, low, high)
    least, most = as_tensor_like(min_val, input), as_tensor_like(max_val, input)
    return torch.where(input <= least, least, torch.where(input >= most, most, input))


def threshold(input: Tensor, threshold: Scalar, value: Scalar) -> Tensor:
    """``x`` where it is above the threshold, ``value`` elsewhere."""
    bound, other = known(threshold), known(value)
    if bound is not None and other is not None:
        return F.threshold(input, bound, other)
    above = input > as_tensor_like(threshold, input)
    return torch.where(above, input, as_tensor_like(value, input))


def hardshrink(input: Tensor, lambd: Scalar = 0.5) -> Tensor:
    """``x`` where it is further than ``lambd`` from zero, zero elsewhere."""
    number = known(lambd)
    if number is not None:
        return F.hardshrink(input, number)
    return input.masked_fill(input.abs() <= as_tensor_like(lambd, input), 0)


def softshrink(input: Tensor, lambd: Scalar = 0.5) -> Tensor:
    """``x``, ``lambd`` nearer to zero; zero where it would change its sign.

    Raises:
        RuntimeError: ``lambd`` is negative, as far as its value can be read.
    """
    number = known(lambd)
    if number is not None:
        return F.softshrink(input, number)
    width = as_tensor_like(lambd, input)
    above, below = input > width, input < -width
    return torch.where(
        above, input - width, torch.where(below, input + width, 0 * input)
    )


def softplus(input: Tensor, beta: Scalar = 1.0, threshold: Scalar = 20.0) -> Tensor:
    """``log(1 + exp(beta * x)) / beta``, and ``x`` where ``beta * x`` is above the
    threshold."""
    numbers = known(beta), known(threshold)
    if numbers[0] is not None and numbers[1] is not None:
        return F.softplus(input, numbers[0], numbers[1])
    scale, bound = as_tensor_like(beta, input), as_tensor_like(threshold, input)
    scaled = input * scale
    linear = scaled > bound
    curved = torch.log1p(torch.exp(scaled.masked_fill(linear, 0))) / scale
    return torch.where(linear, input, curved)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: Scalar = 1.0
) -> Tensor:
    """Half the squared error up to ``delta``, and linear in the error beyond."""
    number = known(delta)
    if number is not None:
        return F.huber_loss(input, target, reduction=reduction, delta=number)
    error = (input - target).abs()
    width = as_tensor_like(delta, error)
    loss = torch.where(error < width, error * error / 2, width * (error - width / 2))
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def nan_to_num(
    input: Tensor,
    nan: Scalar | None = 0.0,
    posinf: Scalar | None = None,
    neginf: Scalar | None = None,
) -> Tensor:
    """``torch.nan_to_num`` that keeps the gradients of what it puts in."""
    given = [None if x is None else known(x) for x in (nan, posinf, neginf)]
    result = torch.nan_to_num(input, *given)
    for where, x in (
        (input.isnan(), nan),
        (input == torch.inf, posinf),
        (input == -torch.inf, neginf),
    ):
        if x is not None and known(x) is None:
            result = torch.where(where, as_tensor_like(x, input), result)
    return result


def pad(
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: Scalar | None = None,
) -> Tensor:
    """``torch.nn.functional.pad`` that keeps the gradient of ``value``."""
    number = None if value is None else known(value)
    if value is None or number is not None:
        return F.pad(input, list(pad), mode, number)
    inside = F.pad(torch.ones_like(input, dtype=torch.bool), list(pad), mode)
    filled = as_tensor_like(cast(Tensor, value), input)
    return torch.where(inside, F.pad(input, list(pad), mode), filled)
