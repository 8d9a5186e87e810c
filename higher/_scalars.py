"""Numbers that may be tensors, and whether a derivative may flow through them."""

from __future__ import annotations

from typing import TypeAlias, cast

import torch
from torch import Tensor

from higher._tracing import is_tracing

Scalar: TypeAlias = "float | Tensor"
"""A Python number, or a 0-dim tensor."""

is_transformed = torch._C._functorch.is_functorch_wrapped_tensor


def tracked(x: object) -> bool:
    """Whether a derivative may flow through ``x``.

    True for tensors in a graph, for dual numbers of forward-mode AD and for
    tensors inside ``torch.func`` transforms, whose values can't be read.
    """
    if not isinstance(x, Tensor):
        return False
    if x.requires_grad and torch.is_grad_enabled():
        return True
    return is_transformed(x) or _is_dual(x)


def _is_dual(x: Tensor) -> bool:
    level: int = torch.autograd.forward_ad._current_level
    if level < 0:
        return False
    unpacked = torch.autograd.forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    return unpacked.tangent is not None


def known(x: Scalar) -> float | None:
    """``x`` as the number a kernel takes, or None where that would cut a gradient."""
    if not isinstance(x, Tensor):
        return x
    # reading a tensor on an accelerator would wait for it
    unread = tracked(x) or is_tracing()
    if unread or x.device.type != "cpu" or x.numel() != 1:
        return None
    return cast(float, x.item())


def number(x: Scalar) -> float:
    """The number that ``x`` is, for what only decides and has no derivative."""
    return float(x.detach()) if isinstance(x, Tensor) else x


def of_one_element(x: Scalar) -> Scalar:
    """A factor that kernels take as a number: of one element, whatever its shape."""
    if isinstance(x, Tensor) and x.dim() and x.numel() == 1:
        return x.reshape(())
    return x


def is_transformed_tensor(x: object) -> bool:
    return isinstance(x, Tensor) and is_transformed(x)


def as_tensor_like(x: Scalar, like: Tensor) -> Tensor:
    """``x`` in the dtype of ``like``, as a number counts; beside integers as it is."""
    if isinstance(x, Tensor):
        whole = not like.is_floating_point() and not like.is_complex()
        return x.to(dtype=x.dtype if whole else like.dtype, device=like.device)
    return torch.full((), x, dtype=like.dtype, device=like.device)
