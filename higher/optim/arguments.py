"""What steps and optimizers are given, checked; and what to say where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from higher._fsdp import is_shard
from higher._tasks import optimizer as tasked
from higher.optim.state import memory_of

GradCallback: TypeAlias = Callable[[list[Any]], Iterable[Any]]


def checked_order(order: int) -> int:
    if order not in (1, 2) or isinstance(order, bool):
        raise ValueError(f"order must be 1 or 2, not {order!r}.")
    return order


def checked_truncate(steps: int) -> int:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(
            f"truncate must be a positive number of steps or None, not {steps!r}."
        )
    return steps


def positions_in(
    other: torch.optim.Optimizer, reference: Sequence[Tensor]
) -> list[list[int]]:
    """Where each parameter of each group is among the reference parameters."""
    index = {id(p): k for k, p in enumerate(reference)}
    seen: set[int] = set()
    for g, group in enumerate(other.param_groups):
        for i, p in enumerate(group["params"]):
            if id(p) in seen:
                raise ValueError(
                    f"Parameter {i} of group {g} of the optimizer (shape "
                    f"{tuple(p.shape)}) is there twice, which steps it twice. Leave "
                    "one out."
                )
            seen.add(id(p))
            if id(p) not in index:
                raise ValueError(
                    f"Parameter {i} of group {g} of the optimizer (shape "
                    f"{tuple(p.shape)}) is not among the model's parameters. Make "
                    + (_OF_GATHERED if is_shard(p) else _OF_THE_MODEL)
                )
    return [[index[id(p)] for p in g["params"]] for g in other.param_groups]


_OF_THE_MODEL = (
    "the optimizer from the parameters of the model that you pass; for a stateless one, "
    "from those of the original model, or pass what makes it: lambda params: "
    "torch.optim.SGD(params, lr=0.1)."
)
_OF_GATHERED = (
    "the inner optimizer in forward, where fully_shard has gathered the weights: this "
    "one has the parts of them that this rank keeps."
)


def no_gradient(loss: Tensor, targets: list[Tensor]) -> str:
    if not targets:
        return "No parameter requires grad: there is nothing to step."
    return (
        "The loss does not depend on the parameters that this optimizer steps. "
        "Compute it with the stateless module (fmodel), not with the original "
        "model, with gradients enabled, and after the previous step."
    )


def other_shape(new: Tensor, old: Tensor) -> str:
    return (
        f"A step gave a parameter of shape {tuple(old.shape)} the shape "
        f"{tuple(new.shape)}: a setting in override is a tensor of several elements "
        "that does not fit it. Pass a tensor of one element, for each group its own."
    )


def called_back(
    callback: GradCallback, grads: list[Tensor | None], tasks: int | None = None
) -> list[Tensor | None]:
    seen: set[tuple[Any, ...]] = set()
    for k, g in enumerate(grads):
        # a callback may write into each by itself
        memory = None if g is None else memory_of(g)
        if g is not None and memory in seen:
            grads[k] = g.clone()
        elif memory is not None:
            seen.add(memory)
    if tasks is not None:
        result = tasked.called_back_per_task(callback, grads, tasks)
    else:
        result = list(callback(grads))
    if len(result) != len(grads):
        raise ValueError(
            f"grad_callback returned {len(result)} gradients for {len(grads)}."
        )
    return result
