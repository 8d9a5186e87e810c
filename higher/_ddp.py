"""Inner loops and ``DistributedDataParallel``.

DDP synchronizes the gradients of what ran in its own forward. An inner loop on the
module that it holds, run by itself, is right on each rank and leaves the ranks apart.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

from higher.utils import flatten

_held: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""What DDP was given: nothing in a module tells of the DDP around it."""


def _remember(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
    if name == "module" and isinstance(module, DistributedDataParallel):
        if submodule is not None:
            _held.add(submodule)


register_module_module_registration_hook(_remember)


def warn_outside(
    model: nn.Module, copied: bool, override: Mapping[str, Any] | None
) -> None:
    """Warns where the gradient of an outer loss would stay on this rank.

    Args:
        model: the module of an inner loop that begins now.
        copied: whether its initial weights are copies, out of the outer loss's reach.
        override: its settings.
    """
    if not _held or not torch.distributed.is_initialized():
        return
    if torch.distributed.get_world_size() == 1 or _in_forward():
        return
    if torch.is_grad_enabled() and _is_held(model):
        outer = flatten(dict(override or {}))
        if not copied:
            outer += model.parameters()
        if any(isinstance(t, Tensor) and t.requires_grad for t in outer):
            warnings.warn(_OUTSIDE, stacklevel=4)


def _in_forward() -> bool:
    # a torch that doesn't tell is taken to be in one: no false alarms
    active: Any = getattr(DistributedDataParallel, "_active_ddp_module", _held)
    return active is not None


def _is_held(model: nn.Module) -> bool:
    return any(m is model for held in list(_held) for m in held.modules())


_OUTSIDE = (
    "This module is inside DistributedDataParallel, and its inner loop runs outside of "
    "that one's forward: the gradient of the outer loss will not be synchronized, and "
    "ranks will drift apart. Run the inner loop in the forward of the module that DDP "
    "wraps. Or average the gradients over ranks yourself, as DDP does: after backward, "
    "torch.distributed.all_reduce(p.grad) and p.grad /= world_size, for each p; then "
    "this warning may be filtered out."
)
