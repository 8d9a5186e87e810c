"""Tensors that share memory with others and are no views for autograd.

torch refuses ``detach_()`` on a view, and what a step hands out is the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from higher._tracing import is_tracing

_alias: Any = torch.ops.aten.alias.default
"""A view of the whole, whose backward takes any gradient, sparse ones too."""

in_functorch: Any = torch._C._are_functorch_transforms_active
"""Whether this is inside of a ``torch.func`` transform."""


def same(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor as a node of its own, without a copy."""
    if in_transform() or any(type(t) not in _KINDS for t in tensors):
        return [_alias(t) for t in tensors]
    if not torch.is_grad_enabled():
        return [t.detach() for t in tensors]
    node: Any = _Same
    return list(node.apply(*tensors)) if tensors else []


def parts(
    whole: Tensor, shapes: Sequence[torch.Size], copied: bool = False
) -> list[Tensor]:
    """What ``whole``, which is flat, is made of, in this order.

    Args:
        whole: see there.
        shapes: of the parts.
        copied: whether they have memory of their own: one that is written into is
            then no other's concern.
    """
    if in_transform():
        return _split(whole, shapes, copied)
    if whole.requires_grad and torch.is_grad_enabled():
        node: Any = _Parts
        return list(node.apply(whole, shapes, copied))
    made = [t.detach() for t in _split(whole, shapes, copied)]
    if not copied:
        _wholes[made[0]] = whole.detach()
    return made


def whole_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """The tensor of which these are all the :func:`parts`, in this order, if they
    still are what they were."""
    node: Any = tensors[0].grad_fn
    # with the node goes what it keeps: a part that is detached lets go of the graph
    kept = getattr(node, "higher_whole", None)
    whole = _wholes.get(tensors[0]) if node is None else kept
    if not isinstance(whole, Tensor):
        return None
    end = whole.data_ptr()
    for t in tensors:
        if (
            t.grad_fn is not node
            or t.requires_grad != whole.requires_grad
            or t.data_ptr() != end
            or t.dtype != whole.dtype
            or not t.is_contiguous()
        ):
            return None
        end += t.numel() * t.element_size()
    size = whole.numel() * whole.element_size()
    return whole if end == whole.data_ptr() + size else None


_KINDS = (Tensor, torch.nn.Parameter)

_wholes: Any = WeakIdKeyDictionary()
"""The whole by its first part, where there is no graph."""


def in_transform() -> bool:
    """Whether the nodes below would need rules of their own; users don't see what is
    made there."""
    return (
        in_functorch()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.compiler.is_compiling()
        or is_tracing()
    )


def _split(whole: Tensor, shapes: Sequence[torch.Size], copied: bool) -> list[Tensor]:
    split: Any = torch.ops.aten.split_with_sizes_copy if copied else Tensor.split
    pieces = split(whole, [s.numel() for s in shapes])
    return [t.view(s) for t, s in zip(pieces, shapes)]


class _Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(t.detach() for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return grads


class _Parts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, whole: Tensor, shapes: Sequence[torch.Size], copied: bool
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shapes = shapes
        ctx.higher_whole = None if copied else whole
        return tuple(t.detach() for t in _split(whole, shapes, copied))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        like = next((g for g in grads if g is not None), None)
        if like is None:
            return None, None, None
        flat = [
            like.new_zeros(s.numel()) if g is None else g.reshape(-1)
            for g, s in zip(grads, ctx.shapes)
        ]
        return torch.cat(flat), None, None
