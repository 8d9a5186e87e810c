"""Inner gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from higher._dtensor import refuse_loss_parallel
from higher._strides import laid_out
from higher._tasks import optimizer as tasked
from higher._weights import fast_weights
from higher.optim.arguments import no_gradient

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


def gradients(
    optimizer: DifferentiableOptimizer,
    loss: Tensor,
    params: list[Tensor],
    create_graph: bool,
    retain_graph: bool | None = None,
    earlier: Sequence[tuple[int, Tensor]] = (),
) -> list[Tensor | None]:
    """Gradient of ``loss`` with respect to each parameter that requires grad, also
    where it was ``earlier`` another tensor.

    Raises:
        TypeError: the loss is no tensor.
        RuntimeError: it does not depend on what the optimizer steps.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must be a tensor, not {type(loss).__name__}.")
    targets = [p for p in params if p.requires_grad]
    if not loss.requires_grad or not targets:
        raise RuntimeError(no_gradient(loss, targets))
    if create_graph:
        refuse_loss_parallel()
    weights = fast_weights(optimizer._fmodel) if earlier and optimizer._fmodel else None
    with nullcontext() if weights is None else weights.taking_step():
        found = torch.autograd.grad(
            loss,
            [*targets, *(t for _, t in earlier)],
            (
                None
                if optimizer._tasks is None
                else tasked.ones_of(loss, optimizer._tasks)
            ),
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=True,
        )
    left = iter(found)
    grads = [next(left) if p.requires_grad else None for p in params]
    for (k, _), g in zip(earlier, left):
        there = grads[k]
        grads[k] = there if g is None else g if there is None else there + g
    # as autograd leaves it in `p.grad`
    grads = [g if g is None else laid_out(p, g) for p, g in zip(params, grads)]
    stepped = {k for positions in optimizer._group_to_param_list for k in positions}
    if all(grads[k] is None for k in stepped):
        raise RuntimeError(no_gradient(loss, targets))
    return grads
