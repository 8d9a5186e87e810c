"""torch's normalizations, written out from primitives.

Their kernels' batching rules don't hold in every composition of transforms: where
``torch.func.grad`` is inside ``vmap``, the second derivative of those with a weight is
wrong without a word. Sums, products and square roots are right in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` (Ioffe & Szegedy 2015); input (N, C, ...)."""
    dims = [0, *range(2, input.dim())]
    x = _accumulated(input)
    if training or running_mean is None or running_var is None:
        if training and input.numel() == input.shape[1]:
            raise ValueError(
                "Expected more than 1 value per channel when training, got input size "
                f"{tuple(input.shape)}"
            )
        mean, var = _moments(x, dims)
        _take_down(running_mean, running_var, mean, var, x, dims, momentum)
    else:
        # copies: later steps write into the running statistics
        shape = [1, -1, *[1] * (input.dim() - 2)]
        mean = running_mean.clone().view(shape)
        var = running_var.clone().view(shape)
    return _scaled(x, mean, var, eps, _channels(weight, x), _channels(bias, x), input)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.instance_norm`` (Ulyanov et al. 2016); input (N, C, ...)."""
    if not use_input_stats:
        return batch_norm(
            input, running_mean, running_var, weight, bias, False, momentum, eps
        )
    if input.shape[2:].numel() == 1:
        raise ValueError(
            "Expected more than 1 spatial element when training, got input size "
            f"{tuple(input.shape)}"
        )
    dims = list(range(2, input.dim()))
    x = _accumulated(input)
    mean, var = _moments(x, dims)
    _take_down(running_mean, running_var, mean, var, x, dims, momentum)
    return _scaled(x, mean, var, eps, _channels(weight, x), _channels(bias, x), input)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``F.layer_norm`` (Ba et al. 2016)."""
    _check_shape(input, normalized_shape)
    x = _accumulated(input)
    mean, var = _moments(x, list(range(-len(normalized_shape), 0)))
    return _scaled(x, mean, var, eps, weight, bias, input, _single(input))


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``F.group_norm`` (Wu & He 2018); input (N, C, ...)."""
    if input.shape[1] % num_groups:
        raise RuntimeError(
            f"{input.shape[1]} channels can't be divided into {num_groups} groups."
        )
    x = _accumulated(input)
    grouped = x.reshape(input.shape[0], num_groups, -1)
    mean, var = _moments(grouped, [2])
    normal = ((grouped - mean) * torch.rsqrt(var + eps)).reshape(input.shape)
    dtype = torch.float32 if _single(input) else input.dtype
    return _affine(normal, _channels(weight, x), _channels(bias, x)).to(dtype)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``F.rms_norm`` (Zhang & Sennrich 2019)."""
    _check_shape(input, normalized_shape)
    x = _accumulated(input)
    if eps is None:
        eps = torch.finfo(x.dtype).eps
    square = x.square().mean(list(range(-len(normalized_shape), 0)), keepdim=True)
    return _affine(x * torch.rsqrt(square + eps), weight, None).to(input.dtype)


def _accumulated(x: Tensor) -> Tensor:
    """In the dtype in which kernels take sums."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _single(x: Tensor) -> bool:
    """Whether autocast gives the result in single precision."""
    return x.is_cuda and torch.is_autocast_enabled("cuda")


def _moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    mean = x.mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def _scaled(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    input: Tensor,
    single: bool = False,
) -> Tensor:
    normal = _affine((x - mean) * torch.rsqrt(var + eps), weight, bias)
    return normal.to(torch.float32 if single else input.dtype)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _channels(t: Tensor | None, x: Tensor) -> Tensor | None:
    return None if t is None else t.view(-1, *[1] * (x.dim() - 2))


def _take_down(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    x: Tensor,
    dims: list[int],
    momentum: float,
) -> None:
    """Updates running statistics, that of the variance without bias, in place."""
    count = x.numel() // mean.numel()
    with torch.no_grad():
        for running, new, factor in (
            (running_mean, mean, 1.0),
            (running_var, var, count / max(1, count - 1)),
        ):
            if running is not None:
                # of instances, the mean over the batch
                value = new.mean(0).reshape(-1) * factor
                running.mul_(1 - momentum).add_(value.to(running.dtype) * momentum)


def _check_shape(input: Tensor, shape: Sequence[int]) -> None:
    if list(input.shape[input.dim() - len(shape) :]) != list(shape):
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape "
            f"[*, {', '.join(map(str, shape))}], but got input of size "
            f"{tuple(input.shape)}"
        )


def _torch_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    return batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )


def _torch_instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    return instance_norm(
        *(input, running_mean, running_var, weight, bias),
        use_input_stats,
        momentum,
        eps,
    )


def _torch_layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return layer_norm(input, normalized_shape, weight, bias, eps)


def _torch_group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    return group_norm(input, num_groups, weight, bias, eps)


NORMS: dict[Any, Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
    F.group_norm: group_norm,
    F.rms_norm: rms_norm,
    torch.batch_norm: _torch_batch_norm,
    torch.instance_norm: _torch_instance_norm,
    torch.layer_norm: _torch_layer_norm,
    torch.group_norm: _torch_group_norm,
    torch.rms_norm: rms_norm,
}
