"""What happens to an original optimizer while a context is open."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor


class OriginalSettings:
    """Those of an original optimizer that schedulers write, since a context was entered.

    Inner steps have branched off, and don't follow.
    """

    def __init__(self, opt: torch.optim.Optimizer) -> None:
        self._opt = weakref.ref(opt)
        self._then = _scheduled(opt)

    def look(self) -> None:
        """Warns once if they have changed."""
        opt = self._opt()
        if opt is None:
            return
        now = _scheduled(opt)
        if now != self._then:
            self._then = now
            warnings.warn(_CHANGED, UserWarning, stacklevel=3)


def _scheduled(opt: torch.optim.Optimizer) -> list[Any]:
    return [
        tuple(map(_mark, (group.get(name) for name in ("lr", "momentum", "betas"))))
        for group in opt.param_groups
    ]


def _mark(value: Any) -> Any:
    # one that requires grad is the inner optimizer's, too
    if isinstance(value, Tensor):
        return None if value.requires_grad else (id(value), value._version)
    if isinstance(value, (tuple, list)):
        return tuple(map(_mark, value))
    return value


_CHANGED = (
    "The original optimizer's learning rate or momentum has changed inside innerloop_ctx, "
    "by a scheduler's step(), say. Inner steps don't follow: they have branched off. Pass "
    "the scheduler, innerloop_ctx(..., scheduler=scheduler), and call "
    "diffopt.scheduler.step(); or set diffopt.param_groups[0]['lr']."
)
