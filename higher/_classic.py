"""Names that programs written for the classic ``higher`` import or read.

Nothing here is used by this library. Attributes kept for the same reason are
``_fmodel``, ``_grad_callback``, ``_track_higher_grads``, ``_group_to_param_list``
and ``_apply_override`` of a differentiable optimizer, ``_fast_params``,
``_track_higher_grads`` and ``_param_mapping`` of a stateless module,
``_MonkeyPatchBase`` and ``_internal_attrs`` of ``higher.patch``, and ``_opt_mapping``
of ``higher.optim``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

_GroupedGradsType: TypeAlias = list[list[Tensor]]
_StateType: TypeAlias = list[defaultdict[int, Any]]
_GradClosureType: TypeAlias = Callable[[Tensor], Tensor]
_GradCallbackType: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
_OverrideType: TypeAlias = dict[str, list[Any]]
_BufferType: TypeAlias = dict[str, "Tensor | None"]

_Number: TypeAlias = "float | Tensor"


# of higher.optim


def _add(tensor: Tensor, a1: _Number, a2: _Number | None = None) -> Tensor:
    """``tensor + a1``, or ``tensor + a1 * a2`` with a second operand."""
    return tensor + (a1 if a2 is None else a1 * a2)


def _addcmul(
    tensor: Tensor, a1: _Number, a2: Tensor, a3: Tensor | None = None
) -> Tensor:
    """``tensor + a1 * a2``, or ``tensor + a1 * a2 * a3``."""
    return tensor + (a1 * a2 if a3 is None else a1 * a2 * a3)


def _addcdiv(
    tensor: Tensor, a1: _Number, a2: Tensor, a3: Tensor | None = None
) -> Tensor:
    """``tensor + a1 / a2``, or ``tensor + a1 * (a2 / a3)``."""
    return tensor + (a1 / a2 if a3 is None else a1 * (a2 / a3))


def _get_mask_closure(mask: Tensor) -> _GradClosureType:
    """A hook that makes a gradient zero where ``mask`` is true, and the gradient of
    that gradient in turn: for what has no finite derivative there."""

    def masked(grad: Tensor) -> Tensor:
        kept = grad.masked_fill(mask, 0)
        _maybe_mask(kept, mask)
        return kept

    return masked


def _maybe_mask(tensor: Tensor, mask: Tensor) -> None:
    """Hangs :func:`_get_mask_closure` on a tensor that requires grad."""
    if tensor.requires_grad:
        tensor.register_hook(_get_mask_closure(mask))  # type: ignore[no-untyped-call]


# of higher.utils


def _copy_tensor(
    t: Tensor, safe_copy: bool, device: torch.device | str | None = None
) -> Tensor:
    """A leaf with the values of ``t``, in memory of its own with ``safe_copy``."""
    leaf = t.detach().clone() if safe_copy else t.detach()
    if device is not None:
        leaf = leaf.to(device)
    return leaf.requires_grad_(t.requires_grad)


def _is_container(target: Any) -> bool:
    return isinstance(target, (list, tuple, dict, set))


def _recursive_map(target: Any, map_fn: Callable[[Any], Any]) -> Any:
    """``target`` with ``map_fn`` of each leaf of its lists, tuples, dicts and sets."""
    if isinstance(target, dict):
        items = ((k, _recursive_map(v, map_fn)) for k, v in target.items())
        return type(target)(items)
    if _is_container(target):
        return type(target)([_recursive_map(v, map_fn) for v in target])
    return map_fn(target)


def _recursive_copy_and_cast(
    target: Any, device: torch.device | str | None = None
) -> Any:
    """``target`` with copies, as leaves, in the place of its tensors."""
    return _recursive_map(
        target, lambda x: _copy_tensor(x, True, device) if torch.is_tensor(x) else x
    )


def _find_param_in_list(param: Tensor, l: Iterable[Tensor]) -> int | None:
    """The position of this very tensor, or None."""
    return next((i for i, p in enumerate(l) if p is param), None)


def _get_param_mapping(
    module: nn.Module, seen: list[Tensor], mapping: list[int]
) -> list[int]:
    """Appends to ``mapping``, for each place of a parameter in the tree, its position
    in ``seen``, to which new ones are appended."""
    for param in module._parameters.values():
        if param is not None:
            index = _find_param_in_list(param, seen)
            mapping.append(len(seen) if index is None else index)
            if index is None:
                seen.append(param)
    for child in module._modules.values():
        if child is not None:
            _get_param_mapping(child, seen, mapping)
    return mapping


# of higher.patch


@contextmanager
def _modify_internally(fmodule: nn.Module) -> Iterator[None]:
    """Nothing has to be made ready for that."""
    yield
