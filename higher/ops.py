"""Out-of-place tensor operations that accept numbers and tensors as settings.

With plain numbers every function calls exactly the kernel that ``torch.optim``
calls, so results are bit-identical. A setting may also be a 0-dim tensor that
carries gradient; the operation is then written out so that nothing is dropped.
Square roots and norms have finite derivatives at exactly zero.
"""

from __future__ import annotations

import copy as _copy
import functools
import math
from typing import Any, cast

import torch
from torch import Tensor

from higher._activations import (
    celu,
    elu,
    hardshrink,
    hardtanh,
    huber_loss,
    leaky_relu,
    nan_to_num,
    pad,
    softplus,
    softshrink,
    threshold,
)
from higher._creation import (
    arange,
    full,
    full_like,
    linspace,
    new_full,
    new_tensor,
    random_like,
    tensor,
)
from higher._elementary import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cbrt,
    clamp,
    complex,
    copysign,
    cos,
    cosh,
    degrees,
    erf,
    erfc,
    exp,
    exp2,
    expm1,
    fabs,
    fmod,
    fsum,
    hypot,
    lgamma,
    log,
    log1p,
    log2,
    log10,
    maximum,
    minimum,
    radians,
    sin,
    sinh,
    tan,
    tanh,
)
from higher._norms import cosine_similarity, norm, normalize
from higher._parts import (
    fill_diagonal,
    index_add,
    scatter,
    setitem,
    write_through,
    write_through_all,
)
from higher._products import addbmm, addmm, addmv, addr, baddbmm
from higher._scalars import (
    Scalar,
    as_tensor_like,
    is_transformed,
    is_transformed_tensor,
    known,
    number,
    of_one_element,
    tracked,
)
from higher._strides import copy, laid_out
from higher._tracing import is_tracing

__all__ = [
    "NothingConverted",
    "Scalar",
    "acos",
    "acosh",
    "add",
    "addbmm",
    "addcdiv",
    "addcmul",
    "addmm",
    "addmv",
    "addr",
    "arange",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "baddbmm",
    "cbrt",
    "celu",
    "clamp",
    "complex",
    "converted",
    "copy",
    "copysign",
    "cos",
    "cosh",
    "cosine_similarity",
    "deepcopy",
    "degrees",
    "div",
    "elu",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "fill_diagonal",
    "fmod",
    "fsum",
    "full",
    "full_like",
    "hardshrink",
    "hardtanh",
    "huber_loss",
    "hypot",
    "index_add",
    "is_below_one",
    "is_positive",
    "is_used",
    "laid_out",
    "leaky_relu",
    "lerp",
    "lgamma",
    "linspace",
    "log",
    "log10",
    "log1p",
    "log2",
    "maximum",
    "minimum",
    "nan_to_num",
    "new_full",
    "new_tensor",
    "norm",
    "normalize",
    "number",
    "pad",
    "pow",
    "quotient",
    "radians",
    "random_like",
    "rsqrt",
    "rsub",
    "scalar_dtype",
    "scatter",
    "setitem",
    "sin",
    "sinh",
    "softplus",
    "softshrink",
    "sqrt",
    "sub",
    "tan",
    "tanh",
    "tensor",
    "threshold",
    "tracked",
    "value",
    "where",
    "write_through",
    "write_through_all",
]


def value(x: Scalar) -> Scalar:
    """Python number of a one-element tensor, or the tensor itself, in double precision,
    where a derivative may flow through it.

    Replaces ``x.item()``, which cuts gradients.
    """
    if not isinstance(x, Tensor):
        return x
    if not tracked(x) and x.numel() == 1 and not is_tracing():
        return cast(float, x.item())
    x = x.reshape(()) if x.numel() == 1 else x
    return x.double() if x.is_floating_point() else x


def is_used(setting: Scalar, off: float = 0) -> bool:
    """``setting != off``, and True where a derivative may flow through it.

    Where it is off the update is the same either way, its derivative is not: that of
    a weight decay of 0 is the weight, not nothing.
    """
    return tracked(setting) or _any(setting != off)


def is_positive(setting: Scalar) -> bool:
    """``setting > 0``; at zero True, too, where a derivative may flow through it."""
    if is_transformed_tensor(setting):
        return True
    return _any(setting >= 0 if tracked(setting) else setting > 0)


def is_below_one(setting: Scalar) -> bool:
    """``setting < 1``; at one True, too, where a derivative may flow through it: a
    factor of one is off as a decay of zero is."""
    if is_transformed_tensor(setting):
        return True
    return _any(setting <= 1 if tracked(setting) else setting < 1)


def _any(where: Tensor | bool) -> bool:
    """Whether it is so for an element: of a setting with one for each of a parameter."""
    return bool(where.any() if isinstance(where, Tensor) else where)


def scalar_dtype() -> torch.dtype:
    """The dtype in which torch's optimizers keep counters: float32, or float64
    where that is the default dtype."""
    if torch.get_default_dtype() == torch.float64:
        return torch.float64
    return torch.float32


def add(input: Tensor, other: Tensor | float, *, alpha: Scalar = 1) -> Tensor:
    """``input + alpha * other``."""
    number = known(alpha)
    if number is not None:
        return torch.add(input, other, alpha=number)
    return _scaled_sum(input, other, of_one_element(alpha))


def rsub(input: Tensor, other: Tensor | float, *, alpha: Scalar = 1) -> Tensor:
    """``other - alpha * input``."""
    number = known(alpha)
    if number is not None:
        return torch.rsub(input, other, alpha=number)
    return other - input * as_tensor_like(alpha, input)


def sub(input: Tensor, other: Tensor | float, *, alpha: Scalar = 1) -> Tensor:
    """``input - alpha * other``."""
    number = known(alpha)
    if number is not None:
        return torch.sub(input, other, alpha=number)
    return _scaled_sum(input, other, -of_one_element(alpha))


def addcmul(
    input: Tensor, tensor1: Tensor, tensor2: Tensor | float, *, value: Scalar = 1
) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    number = known(value)
    if number is not None and isinstance(tensor2, Tensor):
        return torch.addcmul(input, tensor1, tensor2, value=number)
    wide, dtype = _precision(input, tensor1, tensor2)
    product = tensor1.to(wide) * tensor2
    return _scaled_sum(input, product, of_one_element(value)).to(dtype)


def addcdiv(
    input: Tensor, tensor1: Tensor, tensor2: Tensor | float, *, value: Scalar = 1
) -> Tensor:
    """``input + value * tensor1 / tensor2``."""
    number = known(value)
    if number is not None and isinstance(tensor2, Tensor):
        return torch.addcdiv(input, tensor1, tensor2, value=number)
    wide, dtype = _precision(input, tensor1, tensor2)
    quotient = tensor1.to(wide) / tensor2
    return _scaled_sum(input, quotient, of_one_element(value)).to(dtype)


def lerp(input: Tensor, end: Tensor, weight: Scalar) -> Tensor:
    """``input + weight * (end - input)``; ``weight`` may also be elementwise."""
    if not isinstance(weight, Tensor):
        return torch.lerp(input, end, weight)
    if weight.dim() > 0:
        return torch.lerp(input, end, weight.to(input.dtype))
    number = known(weight)
    if number is not None:
        return torch.lerp(input, end, number)
    wide, dtype = _precision(input, end)
    return _scaled_sum(input, end.to(wide) - input, weight).to(dtype)


def _scaled_sum(input: Tensor, other: Tensor | float, factor: Scalar) -> Tensor:
    """``input + other * factor``, in one pass over memory if their kinds allow."""
    if isinstance(other, Tensor) and isinstance(factor, Tensor):
        if _kind(input) == _kind(other) == _kind(factor):
            return torch.addcmul(input, other, factor)
    wide, dtype = _precision(input, other)
    if isinstance(other, Tensor):
        other = other.to(wide)
    result = input + other * factor
    # a factor in double precision promotes a scalar, which a number would not
    complex_ = isinstance(factor, Tensor) and factor.is_complex()
    return result if complex_ else result.to(dtype)


def _precision(*operands: Tensor | float) -> tuple[torch.dtype, torch.dtype]:
    """The dtype in which torch's kernels compute with these, and that of the result:
    a factor multiplies what has been promoted, and short floats are rounded once."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if len({x.dtype for x in tensors}) == 1 and tensors[0].dtype not in _SHORT:
        if tensors[0].is_floating_point():
            return tensors[0].dtype, tensors[0].dtype
    strong = [x for x in tensors if x.dim()] or tensors
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in strong))
    for weak in operands:
        # numbers, and tensors without dimensions, promote integers to floats at most
        kind = weak.dtype if isinstance(weak, Tensor) else torch.result_type(weak, weak)
        if _rank(kind) > _rank(dtype):
            dtype = torch.promote_types(dtype, kind)
    return (torch.float32 if dtype in _SHORT else dtype), dtype


def _rank(dtype: torch.dtype) -> int:
    return 2 if dtype.is_complex else int(dtype.is_floating_point)


_SHORT = (torch.float16, torch.bfloat16)


def _kind(x: Tensor) -> tuple[torch.dtype, torch.device, torch.layout]:
    return x.dtype, x.device, x.layout


def _zeros(x: Tensor) -> Tensor | None:
    """Where ``x`` is exactly zero; None if that is nowhere, as far as it can be told
    without waiting for an accelerator."""
    readable = x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter)
    compiling = is_tracing() or torch.compiler.is_compiling()
    if readable and not is_transformed(x) and not compiling:
        if bool(x.all()):
            return None
    return x == 0


def sqrt(x: Scalar) -> Scalar:
    """Square root whose derivative at exactly zero is zero instead of infinite.

    Adam's ``m / (sqrt(v) + eps)`` has a finite derivative where the gradient
    is zero; the chain rule through a plain square root gives ``0 * inf``.
    """
    if not isinstance(x, Tensor):
        return math.sqrt(x)
    if not tracked(x):
        return torch.sqrt(x)
    zero = _zeros(x)
    if zero is None:
        return torch.sqrt(x)
    return torch.sqrt(x.masked_fill(zero, 1)).masked_fill(zero, 0)


def rsqrt(x: Tensor) -> Tensor:
    """Reciprocal square root; infinite, with derivative zero, at exactly zero."""
    if not tracked(x):
        return torch.rsqrt(x)
    zero = _zeros(x)
    if zero is None:
        return torch.rsqrt(x)
    return torch.rsqrt(x.masked_fill(zero, 1)).masked_fill(zero, math.inf)


def pow(x: Scalar, exponent: Scalar) -> Scalar:
    """``x ** exponent``; where ``x`` is exactly zero and the exponent below one,
    the derivative is zero instead of infinite."""
    if not isinstance(x, Tensor) or not (tracked(x) or tracked(exponent)):
        return x**exponent
    if not isinstance(exponent, Tensor) and exponent >= 1:
        return x**exponent
    zero = _zeros(x)
    if zero is None:
        return x**exponent
    at_zero = torch.zeros_like(x) ** exponent
    return torch.where(zero, at_zero.detach(), x.masked_fill(zero, 1) ** exponent)


def div(numerator: Scalar, denominator: Scalar) -> Any:
    """``numerator / denominator``; where the denominator is exactly zero, with
    derivatives zero instead of infinite."""
    if not isinstance(denominator, Tensor) or not (
        tracked(numerator) or tracked(denominator)
    ):
        return numerator / denominator
    zero = _zeros(denominator)
    if zero is None:
        return numerator / denominator
    finite = numerator / denominator.masked_fill(zero, 1)
    return torch.where(zero, (numerator / denominator).detach(), finite)


def quotient(numerator: Scalar, denominator: Scalar) -> Any:
    """``numerator / denominator`` of numbers, any of which may be a tensor.

    Raises:
        ZeroDivisionError: the denominator is zero, as it does for numbers.
    """
    if not is_transformed_tensor(denominator):
        single = not isinstance(denominator, Tensor) or denominator.numel() == 1
        if single and bool(denominator == 0):
            raise ZeroDivisionError("division by zero")
    return numerator / denominator


def where(condition: Tensor, input: Scalar, other: Scalar) -> Tensor:
    """``torch.where`` of two settings, each a number or a tensor: in the default dtype,
    as it is of two numbers."""
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        return torch.where(condition, input, other)
    like = torch.zeros((), dtype=torch.get_default_dtype(), device=condition.device)
    return torch.where(
        condition, as_tensor_like(input, like), as_tensor_like(other, like)
    )


class NothingConverted(RuntimeError):
    """A conversion made no tensor of its own, where an optimizer writes into that."""


def converted(input: Tensor, dtype: torch.dtype) -> Tensor:
    """``input.to(dtype)`` that is written into afterwards.

    Raises:
        NothingConverted: ``input`` has that dtype, and would be written into itself.
    """
    result = input.to(dtype)
    if result is input:
        raise NothingConverted(
            f"This optimizer converts a tensor to {dtype} and writes into the result. "
            "One that has this dtype already it changes itself, which isn't translated. "
            "Keep weights and gradients in another dtype."
        )
    return result


def deepcopy(x: Any) -> Any:
    """``copy.deepcopy`` that clones tensors inside the graph."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, dict):
        return type(x)((k, deepcopy(v)) for k, v in x.items())
    if isinstance(x, (list, tuple)):
        return type(x)(deepcopy(v) for v in x)
    return _copy.deepcopy(x)
