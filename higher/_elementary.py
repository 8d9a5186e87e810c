"""Python's math, ``max`` and ``min`` for numbers that may be tensors."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from higher._scalars import Scalar, as_tensor_like, is_transformed, known
from higher._tracing import is_tracing


def _elementary(
    on_number: Callable[[float], float],
    on_tensor: Callable[[Tensor], Tensor],
    name: str = "",
) -> Callable[[Scalar], Scalar]:
    def function(x: Scalar) -> Scalar:
        return on_tensor(x) if isinstance(x, Tensor) else on_number(x)

    function.__name__ = name or on_number.__name__
    function.__doc__ = f"``math.{function.__name__}`` that keeps a tensor's gradient."
    return function


exp = _elementary(math.exp, torch.exp)
exp2 = _elementary(lambda x: 2.0**x, torch.exp2, "exp2")
log1p = _elementary(math.log1p, torch.log1p)
log2 = _elementary(math.log2, torch.log2)
log10 = _elementary(math.log10, torch.log10)
expm1 = _elementary(math.expm1, torch.expm1)
cos = _elementary(math.cos, torch.cos)
sin = _elementary(math.sin, torch.sin)
tan = _elementary(math.tan, torch.tan)
acos = _elementary(math.acos, torch.acos)
asin = _elementary(math.asin, torch.asin)
atan = _elementary(math.atan, torch.atan)
cosh = _elementary(math.cosh, torch.cosh)
sinh = _elementary(math.sinh, torch.sinh)
tanh = _elementary(math.tanh, torch.tanh)
acosh = _elementary(math.acosh, torch.acosh)
asinh = _elementary(math.asinh, torch.asinh)
atanh = _elementary(math.atanh, torch.atanh)
erf = _elementary(math.erf, torch.erf)
erfc = _elementary(math.erfc, torch.erfc)
lgamma = _elementary(math.lgamma, torch.lgamma)
degrees = _elementary(math.degrees, torch.rad2deg)
radians = _elementary(math.radians, torch.deg2rad)
fabs = _elementary(math.fabs, torch.abs)


def cbrt(x: Scalar) -> Scalar:
    """``math.cbrt`` that keeps a tensor's gradient."""
    if isinstance(x, Tensor):
        return x.sign() * x.abs() ** (1 / 3)
    return math.copysign(abs(x) ** (1 / 3), x)


def log(x: Scalar, base: Scalar | None = None) -> Scalar:
    """``math.log``, to a base or the natural one, that keeps a tensor's gradient."""
    if base is not None and (isinstance(x, Tensor) or isinstance(base, Tensor)):
        return log(x) / log(base)
    if isinstance(x, Tensor):
        return torch.log(x)
    return math.log(x) if base is None else math.log(x, base)


def _of_two(
    on_numbers: Callable[[float, float], float],
    on_tensors: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Scalar, Scalar], Scalar]:
    def function(x: Scalar, y: Scalar) -> Scalar:
        if isinstance(x, Tensor):
            return on_tensors(x, as_tensor_like(y, x))
        if isinstance(y, Tensor):
            return on_tensors(as_tensor_like(x, y), y)
        return on_numbers(x, y)

    function.__name__ = on_numbers.__name__
    function.__doc__ = f"``math.{on_numbers.__name__}`` that keeps tensors' gradients."
    return function


atan2 = _of_two(math.atan2, torch.atan2)
copysign = _of_two(math.copysign, torch.copysign)
fmod = _of_two(math.fmod, torch.fmod)


def hypot(*coordinates: Scalar) -> Scalar:
    """``math.hypot`` that keeps tensors' gradients; its derivative at zero is zero."""
    if not any(isinstance(x, Tensor) for x in coordinates):
        return math.hypot(*cast("tuple[float, ...]", coordinates))
    squares = cast(Tensor, sum(x * x for x in coordinates))
    zero = squares == 0
    return torch.sqrt(squares.masked_fill(zero, 1)).masked_fill(zero, 0)


def fsum(items: Iterable[Scalar]) -> Scalar:
    """``math.fsum`` that keeps tensors' gradients."""
    found = list(items)
    if any(isinstance(x, Tensor) for x in found):
        return cast(Tensor, sum(found))
    return math.fsum(cast("list[float]", found))


def maximum(*values: Scalar) -> Scalar:
    """Python's ``max`` of numbers and 0-dim tensors: the value, and the derivative, of
    the first of the greatest."""
    return _extremum(max, torch.gt, values)


def minimum(*values: Scalar) -> Scalar:
    """Python's ``min`` of numbers and 0-dim tensors: the value, and the derivative, of
    the first of the least."""
    return _extremum(min, torch.lt, values)


def _extremum(
    on_numbers: Callable[..., Any],
    better: Callable[[Tensor, Tensor], Tensor],
    values: Sequence[Any],
) -> Scalar:
    items = list(values[0] if len(values) == 1 else values)
    if not any(isinstance(item, Tensor) for item in items):
        return cast(float, on_numbers(items))
    like = next(item for item in items if isinstance(item, Tensor))
    result: Tensor | None = None
    for item in items:
        tensor = item if isinstance(item, Tensor) else like.new_tensor(item)
        result = tensor if result is None else _pick(better, tensor, result)
    assert result is not None
    return result


def _pick(
    better: Callable[[Tensor, Tensor], Tensor], new: Tensor, old: Tensor
) -> Tensor:
    """``new`` where it is better. Where it can be read, only the one that is picked
    stays in the graph: an infinite derivative of the other would give NaN."""
    chosen = better(new, old)
    readable = chosen.device.type == "cpu" and not is_transformed(chosen)
    if readable and not is_tracing():
        return new if bool(chosen) else old
    return torch.where(chosen, new, old)


def clamp(
    x: Scalar, min: Scalar | None = None, max: Scalar | None = None
) -> Scalar:  # the names are torch.clamp's
    """``torch.clamp`` whose bounds may each be a number or a tensor."""
    if not isinstance(x, Tensor):
        return _clamp_number(x, min, max)
    low = None if min is None else known(min)
    high = None if max is None else known(max)
    if (low is None) == (min is None) and (high is None) == (max is None):
        return torch.clamp(x, min=low, max=high)
    if min is not None:
        x = torch.maximum(x, as_tensor_like(min, x))
    if max is not None:
        x = torch.minimum(x, as_tensor_like(max, x))
    return x


def _clamp_number(x: float, low: Scalar | None, high: Scalar | None) -> Scalar:
    result: Scalar = x
    if low is not None:
        result = maximum(result, low)
    if high is not None:
        result = minimum(result, high)
    return result


def complex(real: Scalar, imag: Scalar) -> Any:
    """``complex(real, imag)`` that keeps gradients."""
    if not isinstance(real, Tensor) and not isinstance(imag, Tensor):
        return builtins.complex(real, imag)
    return real + imag * 1j
