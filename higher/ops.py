"""Out-of-place tensor operations that accept numbers and tensors as settings.

With plain numbers every function calls exactly the kernel that ``torch.optim``
calls, so results are bit-identical. A setting may also be a 0-dim tensor that
carries gradient; the operation is then written out so that nothing is dropped.
Square roots and norms have finite derivatives at exactly zero.
"""

from __future__ import annotations

import builtins
import copy as _copy
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from higher._tracing import is_tracing

Scalar: TypeAlias = "float | Tensor"
"""A Python number, or a 0-dim tensor."""

_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor


def tracked(x: object) -> bool:
    """Whether a derivative may flow through ``x``.

    True for tensors in a graph, for dual numbers of forward-mode AD and for
    tensors inside ``torch.func`` transforms, whose values can't be read.
    """
    if not isinstance(x, Tensor):
        return False
    if x.requires_grad and torch.is_grad_enabled():
        return True
    return _is_transformed(x) or _is_dual(x)


def _is_dual(x: Tensor) -> bool:
    level: int = torch.autograd.forward_ad._current_level
    if level < 0:
        return False
    unpacked = torch.autograd.forward_ad.unpack_dual(x)  # type: ignore[no-untyped-call]
    return unpacked.tangent is not None


def _number(x: Scalar) -> float | None:
    """``x`` as the number a kernel takes, or None where that would cut a gradient."""
    if not isinstance(x, Tensor):
        return x
    # reading a tensor on an accelerator would wait for it
    unread = tracked(x) or is_tracing()
    if unread or x.device.type != "cpu" or x.numel() != 1:
        return None
    return cast(float, x.item())


def _scalar(x: Scalar) -> Scalar:
    """A factor that kernels take as a number: of one element, whatever its shape."""
    if isinstance(x, Tensor) and x.dim() and x.numel() == 1:
        return x.reshape(())
    return x


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


def number(x: Scalar) -> float:
    """The number that ``x`` is, for what only decides and has no derivative."""
    return float(x.detach()) if isinstance(x, Tensor) else x


def is_used(setting: Scalar, off: float = 0) -> bool:
    """``setting != off``, and True where a derivative may flow through it.

    Where it is off the update is the same either way, its derivative is not: that of
    a weight decay of 0 is the weight, not nothing.
    """
    return tracked(setting) or _any(setting != off)


def is_positive(setting: Scalar) -> bool:
    """``setting > 0``; at zero True, too, where a derivative may flow through it."""
    if _is_transformed_tensor(setting):
        return True
    return _any(setting >= 0 if tracked(setting) else setting > 0)


def is_below_one(setting: Scalar) -> bool:
    """``setting < 1``; at one True, too, where a derivative may flow through it: a
    factor of one is off as a decay of zero is."""
    if _is_transformed_tensor(setting):
        return True
    return _any(setting <= 1 if tracked(setting) else setting < 1)


def _any(where: Tensor | bool) -> bool:
    """Whether it is so for an element: of a setting with one for each of a parameter."""
    return bool(where.any() if isinstance(where, Tensor) else where)


def _is_transformed_tensor(x: object) -> bool:
    return isinstance(x, Tensor) and _is_transformed(x)


def scalar_dtype() -> torch.dtype:
    """The dtype in which torch's optimizers keep counters: float32, or float64
    where that is the default dtype."""
    if torch.get_default_dtype() == torch.float64:
        return torch.float64
    return torch.float32


def add(input: Tensor, other: Tensor | float, *, alpha: Scalar = 1) -> Tensor:
    """``input + alpha * other``."""
    number = _number(alpha)
    if number is not None:
        return torch.add(input, other, alpha=number)
    return _scaled_sum(input, other, _scalar(alpha))


def sub(input: Tensor, other: Tensor | float, *, alpha: Scalar = 1) -> Tensor:
    """``input - alpha * other``."""
    number = _number(alpha)
    if number is not None:
        return torch.sub(input, other, alpha=number)
    return _scaled_sum(input, other, -_scalar(alpha))


def addcmul(
    input: Tensor, tensor1: Tensor, tensor2: Tensor | float, *, value: Scalar = 1
) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    number = _number(value)
    if number is not None and isinstance(tensor2, Tensor):
        return torch.addcmul(input, tensor1, tensor2, value=number)
    return _scaled_sum(input, tensor1 * tensor2, _scalar(value))


def addcdiv(
    input: Tensor, tensor1: Tensor, tensor2: Tensor | float, *, value: Scalar = 1
) -> Tensor:
    """``input + value * tensor1 / tensor2``."""
    number = _number(value)
    if number is not None and isinstance(tensor2, Tensor):
        return torch.addcdiv(input, tensor1, tensor2, value=number)
    return _scaled_sum(input, tensor1 / tensor2, _scalar(value))


def lerp(input: Tensor, end: Tensor, weight: Scalar) -> Tensor:
    """``input + weight * (end - input)``; ``weight`` may also be elementwise."""
    if not isinstance(weight, Tensor):
        return torch.lerp(input, end, weight)
    if weight.dim() > 0:
        return torch.lerp(input, end, weight.to(input.dtype))
    number = _number(weight)
    if number is not None:
        return torch.lerp(input, end, number)
    return _scaled_sum(input, end - input, weight)


def _scaled_sum(input: Tensor, other: Tensor | float, factor: Scalar) -> Tensor:
    """``input + other * factor``, in one pass over memory if their kinds allow."""
    if isinstance(other, Tensor) and isinstance(factor, Tensor):
        if _kind(input) == _kind(other) == _kind(factor):
            return torch.addcmul(input, other, factor)
    result = input + other * factor
    if result.dim() or not isinstance(factor, Tensor) or factor.is_complex():
        return result
    # a factor in double precision promotes a scalar, which a number would not
    return result.to(torch.result_type(input, other))


def _kind(x: Tensor) -> tuple[torch.dtype, torch.device, torch.layout]:
    return x.dtype, x.device, x.layout


def _zeros(x: Tensor) -> Tensor | None:
    """Where ``x`` is exactly zero; None if that is nowhere, as far as it can be told
    without waiting for an accelerator."""
    readable = x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter)
    compiling = is_tracing() or torch.compiler.is_compiling()
    if readable and not _is_transformed(x) and not compiling:
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
    if not _is_transformed_tensor(denominator):
        single = not isinstance(denominator, Tensor) or denominator.numel() == 1
        if single and bool(denominator == 0):
            raise ZeroDivisionError("division by zero")
    return numerator / denominator


def norm(
    x: Tensor,
    p: float | str = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``torch.norm``, whose first and second derivatives at exactly zero are zero."""
    if x.is_sparse and dim is None:
        x = x.coalesce().values()
    plain = _norm_of(x, p, dim, keepdim, dtype)
    if not tracked(x):
        return plain
    zero = (plain == 0).detach()
    spread = zero if dim is None or keepdim else _norm_of(x, p, dim, True, dtype) == 0
    safe = _norm_of(x.masked_fill(spread, 1), p, dim, keepdim, dtype)
    return safe.masked_fill(zero, 0)


def _norm_of(
    x: Tensor,
    p: float | str,
    dim: int | Sequence[int] | None,
    keepdim: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    result: Tensor = torch.norm(x, p, dim, keepdim, dtype=dtype)
    return result


def cosine_similarity(
    x1: Tensor, x2: Tensor, dim: int = 1, eps: Scalar = 1e-8
) -> Tensor:
    """``torch.cosine_similarity`` that keeps the gradient of ``eps``."""
    number = _number(eps)
    if number is not None:
        return torch.cosine_similarity(x1, x2, dim, number)
    lengths = (cast(Tensor, clamp(norm(x, dim=dim), min=eps)) for x in (x1, x2))
    return (x1 * x2).sum(dim) / math.prod(lengths)


def _elementary(
    on_number: Callable[[float], float], on_tensor: Callable[[Tensor], Tensor]
) -> Callable[[Scalar], Scalar]:
    def function(x: Scalar) -> Scalar:
        return on_tensor(x) if isinstance(x, Tensor) else on_number(x)

    function.__name__ = on_number.__name__
    function.__doc__ = f"``math.{on_number.__name__}`` that keeps a tensor's gradient."
    return function


exp = _elementary(math.exp, torch.exp)
log = _elementary(math.log, torch.log)
log1p = _elementary(math.log1p, torch.log1p)
expm1 = _elementary(math.expm1, torch.expm1)
cos = _elementary(math.cos, torch.cos)
sin = _elementary(math.sin, torch.sin)
tanh = _elementary(math.tanh, torch.tanh)
fabs = _elementary(math.fabs, torch.abs)


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
    readable = chosen.device.type == "cpu" and not _is_transformed(chosen)
    if readable and not is_tracing():
        return new if bool(chosen) else old
    return torch.where(chosen, new, old)


def clamp(
    x: Scalar, min: Scalar | None = None, max: Scalar | None = None
) -> Scalar:  # the names are torch.clamp's
    """``torch.clamp`` whose bounds may each be a number or a tensor."""
    if not isinstance(x, Tensor):
        return _clamp_number(x, min, max)
    low = None if min is None else _number(min)
    high = None if max is None else _number(max)
    if (low is None) == (min is None) and (high is None) == (max is None):
        return torch.clamp(x, min=low, max=high)
    if min is not None:
        x = torch.maximum(x, _as_tensor_like(min, x))
    if max is not None:
        x = torch.minimum(x, _as_tensor_like(max, x))
    return x


def _clamp_number(x: float, low: Scalar | None, high: Scalar | None) -> Scalar:
    result: Scalar = x
    if low is not None:
        result = maximum(result, low)
    if high is not None:
        result = minimum(result, high)
    return result


def _as_tensor_like(x: Scalar, like: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x.to(dtype=like.dtype, device=like.device)
    return torch.full((), x, dtype=like.dtype, device=like.device)


def full_like(input: Tensor, fill_value: Scalar, **options: Any) -> Tensor:
    """``torch.full_like`` that keeps the gradient of ``fill_value``."""
    number = _number(fill_value)
    if number is not None:
        return torch.full_like(input, number, **options)
    return torch.zeros_like(input, **options) + fill_value


def full(size: Sequence[int], fill_value: Scalar, **options: Any) -> Tensor:
    """``torch.full`` that keeps the gradient of ``fill_value``."""
    number = _number(fill_value)
    if number is not None:
        return torch.full(tuple(size), number, **options)
    return torch.zeros(tuple(size), **options) + fill_value


def tensor(
    data: Any,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``torch.tensor`` and ``torch.as_tensor`` that keep the gradient of ``data``."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype or data.dtype, device=device or data.device)
    if isinstance(data, (list, tuple)) and any(isinstance(x, Tensor) for x in data):
        return torch.stack([tensor(x, dtype=dtype, device=device) for x in data])
    return torch.tensor(data, dtype=dtype, device=device)


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


def copy(input: Tensor, source: Scalar) -> Tensor:
    """What ``input.copy_(source)`` leaves in ``input``: the values of ``source`` in
    the shape, dtype and device of ``input``."""
    if not isinstance(source, Tensor):
        return torch.full_like(input, source)
    source = source.to(dtype=input.dtype, device=input.device)
    return source if source.shape == input.shape else source.expand_as(input)


def setitem(input: Tensor, index: Any, value: Scalar) -> Tensor:
    """What ``input[index] = value`` leaves in ``input``."""
    masks = isinstance(index, Tensor) and index.dtype == torch.bool
    if masks and (not isinstance(value, Tensor) or value.dim() == 0):
        if isinstance(value, Tensor):
            value = value.to(dtype=input.dtype, device=input.device)
        mask = index.reshape(index.shape + (1,) * (input.dim() - index.dim()))
        if not isinstance(value, Tensor):
            return input.masked_fill(mask, value)
        return torch.where(mask, value, input)
    result = input.clone()
    result[index] = value
    return result


def complex(real: Scalar, imag: Scalar) -> Any:
    """``complex(real, imag)`` that keeps gradients."""
    if not isinstance(real, Tensor) and not isinstance(imag, Tensor):
        return builtins.complex(real, imag)
    return real + imag * 1j


def deepcopy(x: Any) -> Any:
    """``copy.deepcopy`` that clones tensors inside the graph."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, dict):
        return type(x)((k, deepcopy(v)) for k, v in x.items())
    if isinstance(x, (list, tuple)):
        return type(x)(deepcopy(v) for v in x)
    return _copy.deepcopy(x)


def random_like(input: Tensor, distribution: str, *args: Any, **options: Any) -> Tensor:
    """What ``input.normal_(…)``, ``input.uniform_(…)`` … leave in ``input``: the same
    numbers from the same random stream, and no gradient."""
    sample: Tensor = getattr(torch.empty_like(input), distribution)(*args, **options)
    return sample


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return _storage_of(a) == _storage_of(b)


def _storage_of(x: Tensor) -> int:
    while _is_transformed(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.untyped_storage().data_ptr()


def write_through(base: Tensor, view: Tensor, new: Tensor) -> Tensor:
    """``base`` after its part ``view`` was overwritten with ``new``; ``base`` itself
    where ``view`` shows nothing of it.

    Raises:
        RuntimeError: ``view`` reaches beyond ``base``.
    """
    if view.dtype != base.dtype or not _share_memory(base, view):
        return base
    offset = int(view.storage_offset() - base.storage_offset())
    if offset == 0 and view.size() == base.size() and view.stride() == base.stride():
        return new
    # torch.as_strided_scatter would do, but for its derivative: it lets the gradient
    # of what is overwritten through
    places = _places(base, view, offset).to(base.device)
    flat = base.reshape(-1).scatter(0, places, new.expand_as(view).reshape(-1))
    return flat.reshape(base.size())


def write_through_all(
    bases: Sequence[Tensor], view: Tensor, new: Tensor
) -> list[Tensor]:
    """:func:`write_through` for each; those that are one tensor stay one."""
    written = {id(base): write_through(base, view, new) for base in bases}
    return [written[id(base)] for base in bases]


def _places(base: Tensor, view: Tensor, offset: int) -> Tensor:
    """Where in ``base.flatten()`` each element of ``view.flatten()`` is."""
    reach = max(_reach(base), offset + _reach(view))
    owners = torch.full((reach,), -1)
    owned = owners.as_strided(base.size(), base.stride())
    owned.copy_(torch.arange(base.numel()).view(base.size()))
    places = owners.as_strided(view.size(), view.stride(), offset).reshape(-1)
    if bool((places < 0).any()):
        raise RuntimeError(
            "A part of a tensor that is written reaches beyond the tensor itself: "
            "write each by itself."
        )
    return places


def _reach(x: Tensor) -> int:
    """How far into memory ``x`` reaches from its first element."""
    if x.numel() == 0:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(x.size(), x.stride()))


def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1
) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``."""
    scales = _number(beta), _number(alpha)
    if scales[0] is not None and scales[1] is not None:
        return torch.addmm(input, mat1, mat2, beta=scales[0], alpha=scales[1])
    return input * beta + (mat1 @ mat2) * alpha
