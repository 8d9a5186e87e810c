"""Attention by torch's fused kernels that can be differentiated twice.

The fused kernels have a backward and no derivative of it. In test mode they are worth
having, and who then asks for second derivatives (of the loss at a solution, say, as
implicit gradients do) gets them from the math kernel, which is run when backward is to
be differentiated, and only then.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from higher._object_graph import code_names
from higher._second_order import OwnForward, _ProcessWide, math_attention
from higher._views import in_functorch, in_transform
from higher._weights import FastWeights

_functional: Any = functional
_plain: Any = functional.scaled_dot_product_attention
_alias: Any = torch.ops.aten.alias.default


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention``."""
    tensors = [query, key, value, attn_mask]
    how = {"is_causal": is_causal, **kwargs}
    if torch.compiler.is_compiling() or not (in_functorch() or _needs_it(tensors)):
        return _call(tensors, dropout_p=dropout_p, **how)
    if dropout_p or in_functorch():
        # what is drawn by one kernel is not what another draws; nor can all be mapped
        with math_attention:
            return _call(tensors, dropout_p=dropout_p, **how)
    kind = query.device.type
    if not torch.is_autocast_enabled(kind):
        return _Fused.apply(how, *tensors)  # type: ignore[no-any-return,no-untyped-call]
    dtype = torch.get_autocast_dtype(kind)
    cast = [t.to(dtype) if t is not None and _is_float(t) else t for t in tensors]
    with torch.autocast(kind, enabled=False):
        return _Fused.apply(how, *cast)  # type: ignore[no-any-return,no-untyped-call]


def _call(tensors: list[Any], **kwargs: Any) -> Tensor:
    query, key, value, mask = tensors
    result: Tensor = _plain(query, key, value, attn_mask=mask, **kwargs)
    return result


def _needs_it(tensors: list[Any]) -> bool:
    given = [t for t in tensors if t is not None]
    return (
        torch.is_grad_enabled()
        and all(type(t) in (Tensor, nn.Parameter) for t in given)
        and all(t.layout is torch.strided for t in given)
        and any(t.requires_grad for t in given)
        and not in_transform()
    )


# whether backward was asked to retain the graph
_kept: Any = torch._C._autograd._get_current_graph_task_keep_graph


def _is_float(t: Tensor) -> bool:
    return t.is_floating_point() and t.dtype is not torch.float64


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: dict[str, Any], *tensors: Tensor | None) -> Tensor:
        ctx.how = how
        ctx.save_for_backward(*tensors)
        with torch.enable_grad():
            leaves = [
                None if t is None else t.detach().requires_grad_(t.requires_grad)
                for t in tensors
            ]
            out = _call(leaves, **how)
        ctx.graph = out, leaves
        return out.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved: tuple[Any, ...] = ctx.saved_tensors
        inputs: Sequence[Any]
        again = torch.is_grad_enabled()
        if again:
            # apart: a query may be the key, too
            inputs = [None if t is None else _alias(t) for t in saved]
            with math_attention:
                out = _call(inputs, **ctx.how)
        else:
            out, inputs = ctx.graph
        places = [i for i, t in enumerate(inputs) if t is not None and t.requires_grad]
        found = torch.autograd.grad(
            out,
            [inputs[i] for i in places],
            grad,
            retain_graph=True,
            create_graph=again,
            allow_unused=True,
        )
        if not _kept():
            ctx.graph = None
        result: list[Tensor | None] = [None] * len(inputs)
        for i, g in zip(places, found):
            result[i] = g
        return (None, *result)


twice_differentiable = _ProcessWide(
    lambda: (_functional.scaled_dot_product_attention,),
    lambda f: setattr(_functional, "scaled_dot_product_attention", f),
    (attention,),
)
"""While entered, torch's attention is :func:`attention`."""


class AttentionForward(OwnForward):
    """Of a module that calls attention itself: outside of a context, and without the
    root that enters one, its second derivatives are right, too."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.usual()(*args, **kwargs)
        with math_attention if self.tracked() else twice_differentiable:
            return self.usual()(*args, **kwargs)


def attention_forward(
    module: nn.Module, weights: FastWeights
) -> AttentionForward | None:
    """The ``forward`` that ``module`` needs in a stateless module, if any."""
    found = isinstance(module, nn.MultiheadAttention) or _names_it(type(module))
    return AttentionForward(module, weights) if found else None


_known: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def _names_it(cls: type[nn.Module]) -> bool:
    if cls not in _known:
        code = getattr(inspect.unwrap(cls.forward), "__code__", None)
        names = set() if code is None else code_names(code)
        _known[cls] = "scaled_dot_product_attention" in names
    return _known[cls]
