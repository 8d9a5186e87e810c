"""What is said of a difference."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from higher._check.values import ABSENT, Gap, Size


class CheckError(RuntimeError):
    """A differentiable step went elsewhere than the original optimizer's.

    Attributes:
        parameter: its name in the model; "" for what belongs to none.
        step: number of the step since the check began, from 1 on.
        key: of the state or setting that differs; "" for the parameter itself.
        size: the largest absolute difference; inf where there is no number for it.
    """

    def __init__(
        self,
        message: str,
        parameter: str = "",
        step: int = 0,
        key: str = "",
        size: float = math.inf,
    ) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.step = step
        self.key = key
        self.size = size

    def __reduce__(self) -> Any:
        told = self.args[0], self.parameter, self.step, self.key, self.size
        return type(self), told


class Where(NamedTuple):
    """The parameter that something belongs to; without a name, to none."""

    name: str
    group: int = 0
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.name:
            return "the optimizer"
        return f"parameter {self.name!r} (group {self.group}, shape {self.shape})"


def difference(gap: Gap, measured: Size, more: int) -> str:
    """``"'exp_avg' is off by 0.1 at [0]: 0.3 instead of 0.2, and 2 more values differ"``."""
    what = repr(gap.key) if gap.key else "the new value"
    others = f", and {more} more value{'s' * (more > 1)} differ{'s' * (more == 1)}"
    return f"{what} {_told(gap, measured)}{others if more else ''}"


def _told(gap: Gap, measured: Size) -> str:
    if gap.expected is ABSENT:
        return "is none that the original has"
    if gap.got is ABSENT:
        return "is missing"
    if not measured.limit:
        return f"is {_shown(gap.got)} instead of {_shown(gap.expected)}"
    at = measured.at
    place = f" at {list(at)}" if at else ""
    e, g = (_element(x, at) for x in (gap.expected, gap.got))
    return f"is off by {measured.off:.3g}{place}: {g:.10g} instead of {e:.10g}"


def _element(x: Any, at: tuple[int, ...]) -> Any:
    if not isinstance(x, Tensor):
        return x
    x = x.detach()
    x = x.to_dense() if x.layout is not torch.strided else x
    return x[at].item() if x.dim() == len(at) else x.reshape(-1)[0].item()


def _shown(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
    return repr(x)[:80]


ADVICE = (
    "Gradients through this step are those of another optimizer. If its class was "
    "compiled, this is a bug of the compiler: please report it with the optimizer's "
    "source. If it was written by hand, its _update is not the original's step."
)
ZEROS = (
    "A setting that is a tensor is zero here: its branch of the update is on, which the "
    "original leaves off at zero. Where the update jumps there (momentum that turns "
    "dampening on), start from a small value instead."
)
