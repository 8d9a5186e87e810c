"""Names that programs written for the classic ``higher`` import or read.

Nothing here is used by this library. Attributes kept for the same reason are
``_fmodel``, ``_grad_callback``, ``_track_higher_grads``, ``_group_to_param_list``
and ``_apply_override`` of a differentiable optimizer, ``_fast_params`` of a
stateless module, and ``_MonkeyPatchBase`` and ``_internal_attrs`` of
``higher.patch``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

_GroupedGradsType: TypeAlias = list[list[Tensor]]
_StateType: TypeAlias = list[defaultdict[int, Any]]
_GradCallbackType: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
_OverrideType: TypeAlias = dict[str, list[Any]]


def _add(
    tensor: Tensor, a1: float | Tensor, a2: float | Tensor | None = None
) -> Tensor:
    """``tensor + a1``, or ``tensor + a1 * a2`` with a second operand."""
    return tensor + (a1 if a2 is None else a1 * a2)
