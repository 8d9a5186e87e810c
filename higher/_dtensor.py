"""Parameters that are DTensors: parts of one tensor on several ranks.

torch computes with them as with the whole. What it leaves to do is at the border to
tensors that each rank has by itself, as settings are.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_MODULE = "torch.distributed.tensor"
"""Not imported here: where it is not loaded, there are no DTensors."""


def is_distributed(t: object) -> bool:
    """Whether ``t`` is a DTensor."""
    module = sys.modules.get(_MODULE)
    return module is not None and isinstance(t, module.DTensor)


def whole(t: Tensor) -> Tensor:
    """All of ``t``, on each rank."""
    full: Any = getattr(t, "full_tensor", None)
    return full() if full is not None and is_distributed(t) else t


def differentiate_twice(weights: Iterable[Tensor]) -> None:
    """Lets inner gradients be differentiated where a module uses DTensors.

    Raises:
        NotImplementedError: ``weights`` are DTensors, and this torch is not known to be
            right about them.
    """
    if _MODULE in sys.modules and not _mended():
        if any(map(is_distributed, weights)):
            raise NotImplementedError(_ONCE)


@functools.cache
def _mended() -> bool:
    """Where a plain tensor becomes a DTensor, torch changes the placement of its gradient
    without a graph: second derivatives would be without what depends on that."""
    api = sys.modules.get(f"{_MODULE}._api")
    border: Any = getattr(api, "_FromTorchTensor", None)
    redistribution: Any = sys.modules.get(f"{_MODULE}._redistribute")
    if border is None or not hasattr(redistribution, "NestedRedistribute"):
        return False
    usual = border.backward

    @functools.wraps(usual)
    def backward(ctx: Any, grad: Any) -> Any:
        if grad is not None and torch.is_grad_enabled():
            placements = _gradient_placements(ctx)
            if tuple(grad.placements) != tuple(placements):
                mesh = ctx.forward_input_device_mesh
                grad = grad.redistribute(mesh, placements)
        return usual(ctx, grad)

    border.backward = staticmethod(backward)
    return True


def _gradient_placements(ctx: Any) -> Any:
    """Those that torch would choose: of a sum in parts, the gradient is the same on all
    ranks."""
    if getattr(ctx, "grad_placements", None) is not None:
        return ctx.grad_placements
    replicate: Any = sys.modules[_MODULE].Replicate
    return [replicate() if p.is_partial() else p for p in ctx.forward_input_placements]


def refuse_loss_parallel() -> None:
    """Refuses to make a differentiable gradient under torch's ``loss_parallel``, which
    computes the two backwards of a cross-entropy in the first of them: their values are
    right, and what they are differentiated to is not.

    Raises:
        RuntimeError: it is on.
    """
    module: Any = sys.modules.get(_MODULE)
    dispatcher = getattr(getattr(module, "DTensor", None), "_op_dispatcher", None)
    replaced = getattr(dispatcher, "_custom_op_handlers", ())
    if torch.ops.aten._log_softmax_backward_data.default in replaced:
        raise RuntimeError(_LOSS_PARALLEL)


def refuse_distributed(weights: Iterable[Tensor], why: str) -> None:
    """Refuses weights that are DTensors.

    Raises:
        ValueError: saying ``why``.
    """
    if any(map(is_distributed, weights)):
        raise ValueError(why)


# torch's redistribution takes the absence of a gradient for an error, not for zero
TRUNCATE = (
    "innerloop_ctx can't truncate where weights are DTensors. Pass truncate to "
    "higher.unroll instead, which can."
)
TASKS = (
    "tasks= can't give weights that are DTensors a dimension of tasks: torch's vmap has no "
    "rules for them. Run the inner loops one after the other."
)
FORWARD = (
    "mode='forward' can't carry derivatives of weights that are DTensors: torch has no "
    "forward-mode rules for them. Use memory='low'."
)


def norms_of(tensors: list[Tensor]) -> Sequence[Tensor]:
    """The norm of each, on each rank; of DTensors by one collective for each mesh."""
    if not any(map(is_distributed, tensors)):
        return torch._foreach_norm(tensors)
    found: dict[int, Tensor] = {}
    meshes: dict[Any, list[int]] = {}
    for i, t in enumerate(tensors):
        placements: Any = getattr(t, "placements", ()) if is_distributed(t) else ()
        if placements and not any(p.is_partial() for p in placements):
            local: Any = t
            meshes.setdefault(local.device_mesh, []).append(i)
        else:
            found[i] = whole(torch.linalg.vector_norm(t))
    for mesh, at in meshes.items():
        found.update(zip(at, _norms_on(mesh, [tensors[i] for i in at])))
    return [found[i] for i in range(len(tensors))]


def _norms_on(mesh: Any, tensors: Sequence[Any]) -> Tensor:
    """Norms of DTensors of one mesh, none of which is a sum in parts."""
    module: Any = sys.modules[_MODULE]
    squares = [
        torch.linalg.vector_norm(t._local_tensor).double().square()
        / math.prod(mesh.size(d) for d, p in enumerate(t.placements) if _is_same(p))
        for t in tensors
    ]
    parts = [module.Partial()] * mesh.ndim
    total: Tensor = module.DTensor.from_local(torch.stack(squares), mesh, parts)
    return whole(total).sqrt()


def _is_same(placement: Any) -> bool:
    """Whether ranks have all of it, each."""
    return bool(placement.is_replicate())


@contextmanager
def settings_on_each_rank(
    groups: Sequence[dict[str, Any]], optimizer: type
) -> Iterator[None]:
    """While entered, tensors among the settings may be used together with parameters
    that are DTensors, and get the same gradient on each rank, a tensor like themselves.

    Raises:
        RuntimeError: on leaving, if ``optimizer`` does with such a parameter what torch
            has no rule for.
    """
    if _MODULE not in sys.modules or not any(
        is_distributed(p) for g in groups for p in g["params"]
    ):
        yield
        return
    changed = [(g, k, v, _bordered(v)) for g in groups for k, v in _settings(g)]
    for group, name, _, inside in changed:
        group[name] = inside
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        raise RuntimeError(_NO_RULE.format(optimizer.__name__, error)) from error
    finally:
        for group, name, before, inside in changed:
            if group.get(name) is inside:
                group[name] = before


def _settings(group: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(k, v) for k, v in group.items() if k != "params"]


def _bordered(value: Any) -> Any:
    if isinstance(value, Tensor) and value.requires_grad and not is_distributed(value):
        border: Any = _Border
        return border.apply(value)
    if type(value) in (list, tuple):
        parts = [_bordered(v) for v in value]
        if any(a is not b for a, b in zip(parts, value)):
            return type(value)(parts)
    return value


class _Border(torch.autograd.Function):
    """The same tensor, whose gradient is a DTensor behind and not before."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return whole(grad)


_ONCE = (
    "This torch can't differentiate twice where DTensors are redistributed, which inner "
    "loops on them need. Use a torch that can (2.13 does), or keep weights whole: DDP, or "
    "fully_shard, which gathers them before the inner loop."
)
_LOSS_PARALLEL = (
    "torch's loss_parallel has a backward whose own derivative is wrong. Take inner steps "
    "outside of it, with the last layer's outputs whole on each rank "
    "(output_layouts=Replicate()), or pass order=1."
)
_NO_RULE = (
    "{} can't step a parameter that is a DTensor: {}\n"
    "torch.optim's own can. Or keep these parameters whole on each rank (DDP, or "
    "fully_shard, which gathers them before the inner loop)."
)
