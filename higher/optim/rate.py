"""Tensors that schedulers take for numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _tensor(value: Any) -> Any:
    return value.tensor if isinstance(value, Rate) else value


class _Times(torch.autograd.Function):
    """By a number, or divided by it. A backward frees nothing here: what the rates of
    one window are made from, those of the next are, too."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, factor: float, divided: bool) -> Tensor:
        ctx.factor, ctx.divided = factor, divided
        return t / factor if divided else t * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad / ctx.factor if ctx.divided else grad * ctx.factor, None, None


class Rate:
    """A tensor that schedulers take for a number: they write into tensors."""

    __slots__ = ("tensor",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __float__(self) -> float:
        return float(self.tensor.detach())

    def __repr__(self) -> str:
        return repr(float(self))

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __add__(self, other: Any) -> Rate:
        return Rate(self.tensor + _tensor(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Rate:
        return Rate(self.tensor - _tensor(other))

    def __rsub__(self, other: Any) -> Rate:
        return Rate(_tensor(other) - self.tensor)

    def __mul__(self, other: Any) -> Rate:
        if isinstance(other, (int, float)):
            return Rate(_Times.apply(self.tensor, other, False))  # type: ignore[no-untyped-call]
        return Rate(self.tensor * _tensor(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Rate:
        if isinstance(other, (int, float)):
            return Rate(_Times.apply(self.tensor, other, True))  # type: ignore[no-untyped-call]
        return Rate(self.tensor / _tensor(other))

    def __rtruediv__(self, other: Any) -> Rate:
        return Rate(_tensor(other) / self.tensor)

    def __pow__(self, other: Any) -> Rate:
        return Rate(self.tensor ** _tensor(other))

    def __rpow__(self, other: Any) -> Rate:
        return Rate(_tensor(other) ** self.tensor)

    def __neg__(self) -> Rate:
        return Rate(-self.tensor)

    def __abs__(self) -> Rate:
        return Rate(self.tensor.abs())

    def __eq__(self, other: object) -> bool:
        return bool(float(self) == number(other))

    def __lt__(self, other: Any) -> bool:
        return bool(float(self) < number(other))

    def __le__(self, other: Any) -> bool:
        return bool(float(self) <= number(other))

    def __gt__(self, other: Any) -> bool:
        return bool(float(self) > number(other))

    def __ge__(self, other: Any) -> bool:
        return bool(float(self) >= number(other))

    def clone(self) -> Rate:
        return self

    def item(self) -> float:
        return float(self)


def number(value: Any) -> Any:
    """``value`` as a number, if it is a tensor or stands for one."""
    if isinstance(value, Tensor):
        value = value.detach()
    return float(value) if isinstance(value, (Rate, Tensor)) else value
