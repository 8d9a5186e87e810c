"""Small helpers for code that works with lists of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from higher._classic import (
    _copy_tensor,
    _find_param_in_list,
    _get_param_mapping,
    _is_container,
    _recursive_copy_and_cast,
    _recursive_map,
)

__all__ = [
    "_copy_tensor",
    "_find_param_in_list",
    "_get_param_mapping",
    "_is_container",
    "_recursive_copy_and_cast",
    "_recursive_map",
    "flatten",
    "get_func_params",
]


def flatten(x: Any) -> list[Any]:
    """Leaves of nested lists, tuples, sets and dicts, in order.

    Anything else is a leaf: ``flatten(3) == [3]``. Dicts give their values.

    Examples:
        >>> higher.utils.flatten([1, (2, {"a": 3})])
        [1, 2, 3]
    """
    if isinstance(x, Mapping):
        x = list(x.values())
    if not isinstance(x, (list, tuple, set)):
        return [x]
    return [leaf for item in x for leaf in flatten(item)]


def get_func_params(
    module: nn.Module,
    device: torch.device | str | None = None,
    safe_copy: bool = True,
) -> list[Tensor]:
    """Detached copies of the module's parameters, in the order of ``parameters()``.

    A copy requires grad where the original does. With ``safe_copy=False`` the
    tensors share memory with the module's parameters where the device allows.

    Examples:
        >>> layer = torch.nn.Linear(2, 1)
        >>> copies = higher.utils.get_func_params(layer)
        >>> [p.requires_grad for p in copies], copies[0] is layer.weight
        ([True, True], False)
    """
    return [
        detached_copy(p, device) if safe_copy else _detached(p, device)
        for p in module.parameters()
    ]


def detached_copy(t: Tensor, device: torch.device | str | None = None) -> Tensor:
    """A leaf with the values of ``t`` in memory of its own."""
    copy = t.detach().clone() if device is None else t.detach().to(device, copy=True)
    return copy.requires_grad_() if t.requires_grad else copy


def _detached(t: Tensor, device: torch.device | str | None) -> Tensor:
    leaf = t.detach() if device is None else t.detach().to(device)
    return leaf.requires_grad_(t.requires_grad)
