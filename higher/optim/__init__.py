"""Differentiable optimizers.

``DifferentiableSGD``, ``DifferentiableAdam`` and the others are compiled from
``torch.optim``; they are loaded when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from higher import _intact

_intact.check()

from higher._classic import (
    _add,
    _addcdiv,
    _addcmul,
    _get_mask_closure,
    _GradCallbackType,
    _GradClosureType,
    _GroupedGradsType,
    _maybe_mask,
    _OverrideType,
    _StateType,
)
from higher._write_back import write_state as write_back
from higher.optim.base import DifferentiableOptimizer, GroupedGrads
from higher.optim.learned import Settings
from higher.optim.registry import (
    _generated_optimizers,
    _opt_mapping,
    create_diff_optim,
    get_diff_optim,
    register_optim,
)
from higher.optim.settings import apply_trainable_opt_params, get_trainable_opt_params

__all__ = [
    "DifferentiableOptimizer",
    "GroupedGrads",
    "Settings",
    "_GradCallbackType",
    "_GradClosureType",
    "_GroupedGradsType",
    "_OverrideType",
    "_StateType",
    "_add",
    "_addcdiv",
    "_addcmul",
    "_get_mask_closure",
    "_maybe_mask",
    "_opt_mapping",
    "apply_trainable_opt_params",
    "create_diff_optim",
    "get_diff_optim",
    "get_trainable_opt_params",
    "register_optim",
    "write_back",
]


if TYPE_CHECKING:
    from higher.optim._compiled import *
else:  # hidden from type checkers, which would take any name for one of these
    _ALL = __all__
    del __all__

    def __getattr__(name: str) -> Any:
        if name == "__all__":  # of the star: compiled optimizers, too
            return [*_ALL, *_compiled_names()]
        if name.startswith("Differentiable"):
            generated = importlib.import_module("higher._generated")
            if hasattr(generated, name):
                return getattr(generated, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "__all__", *_compiled_names()})


def _compiled_names() -> list[str]:
    return [place.partition(":")[2] for place in _generated_optimizers().values()]
