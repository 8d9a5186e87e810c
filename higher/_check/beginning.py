"""How a check begins, and one for each of several tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from higher._carry import mapped
from higher._check.errors import CheckError
from higher._check.original import CannotCheck
from higher._check.shadow import Shadow

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


class Shadows:
    """The original optimizer once for each task. Every tensor is 0-dim, and shared by
    all tasks, or has a leading dimension of tasks."""

    def __init__(
        self,
        optimizer: DifferentiableOptimizer,
        original: Optimizer,
        names: Sequence[str],
        tasks: int,
    ) -> None:
        self._each = [
            Shadow(_of_task(optimizer, t), original, names, walks=False)
            for t in range(tasks)
        ]

    def begins(
        self,
        optimizer: DifferentiableOptimizer,
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> None:
        """See :meth:`Shadow.begins`."""
        for t, shadow in enumerate(self._each):
            shadow.begins(_of_task(optimizer, t), _at(t, params), _at(t, grads))

    def ends(
        self,
        optimizer: DifferentiableOptimizer,
        params: Sequence[Tensor],
        kwargs: Mapping[str, Any] = {},
    ) -> None:
        """See :meth:`Shadow.ends`."""
        for t, shadow in enumerate(self._each):
            own = mapped(dict(kwargs), Tensor, lambda x: _element(t, x))
            try:
                shadow.ends(_of_task(optimizer, t), _at(t, params), own)
            except CheckError as error:
                error.args = (f"{error.args[0]} This is task {t}.",)
                raise


def _of_task(optimizer: DifferentiableOptimizer, task: int) -> DifferentiableOptimizer:
    twin = copy.copy(optimizer)
    twin._tasks = None
    held = [optimizer.param_groups, optimizer.state, optimizer.shared]
    own = mapped(held, Tensor, lambda x: _element(task, x))
    twin.param_groups, twin.state, twin.shared = own
    return twin


def _element(task: int, x: Tensor) -> Tensor:
    return x[task] if x.dim() else x


def _at(task: int, tensors: Sequence[Any]) -> list[Any]:
    return [t if t is None else t[task] for t in tensors]


def shadow_of(
    optimizer: DifferentiableOptimizer,
    module: nn.Module,
    original: Optimizer | None = None,
) -> Shadow | Shadows:
    """A shadow of an optimizer of all of ``module``'s parameters.

    Raises:
        CannotCheck: the original can't be made again, can't be stepped so, or is gone.
    """
    if original is None:
        original = optimizer._original()
    if original is None:
        raise CannotCheck(
            "check=True: the optimizer that this one was made from is gone. Keep a "
            "reference to it, or check from innerloop_ctx on."
        )
    names = [name for name, _ in module.named_parameters()]
    if optimizer._tasks is not None:
        return Shadows(optimizer, original, names, optimizer._tasks)
    return Shadow(optimizer, original, names)


def having(
    optimizer: DifferentiableOptimizer, held: Any, each: list[Tensor]
) -> DifferentiableOptimizer:
    """``optimizer`` with what is ``held`` of ``each`` parameter in a step of an unroll."""
    twin = copy.copy(optimizer)
    twin.param_groups = [{**g, "params": []} for g in held.groups]
    twin.state, twin.shared = held.each_state(each), held.shared
    return twin


@contextmanager
def checked(optimizer: DifferentiableOptimizer, module: nn.Module) -> Iterator[None]:
    """Within, a shadow is beside ``optimizer``."""
    optimizer._shadow = shadow_of(optimizer, module)
    try:
        yield
    finally:
        optimizer._shadow = None
