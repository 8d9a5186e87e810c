"""Tensors made out of numbers that may be tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from higher._scalars import Scalar, as_tensor_like, known, number


def full_like(input: Tensor, fill_value: Scalar, **options: Any) -> Tensor:
    """``torch.full_like`` that keeps the gradient of ``fill_value``."""
    number = known(fill_value)
    if number is not None:
        return torch.full_like(input, number, **options)
    return _filled(torch.zeros_like(input, **options), fill_value)


def _filled(zeros: Tensor, fill_value: Scalar) -> Tensor:
    return zeros + as_tensor_like(fill_value, zeros)


def full(size: Sequence[int], fill_value: Scalar, **options: Any) -> Tensor:
    """``torch.full`` that keeps the gradient of ``fill_value``."""
    number = known(fill_value)
    if number is not None:
        return torch.full(tuple(size), number, **options)
    return _filled(torch.zeros(tuple(size), **options), fill_value)


def new_full(
    input: Tensor, size: Sequence[int], fill_value: Scalar, **options: Any
) -> Tensor:
    """``input.new_full`` that keeps the gradient of ``fill_value``."""
    number = known(fill_value)
    if number is not None:
        return input.new_full(tuple(size), number, **options)
    return _filled(input.new_zeros(tuple(size), **options), fill_value)


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


def new_tensor(
    input: Tensor,
    data: Any,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``input.new_tensor`` that keeps the gradient of ``data``."""
    return tensor(data, dtype=dtype or input.dtype, device=device or input.device)


def arange(
    start: Scalar, end: Scalar | None = None, step: Scalar = 1, **options: Any
) -> Tensor:
    """``torch.arange`` that keeps the gradients of ``start`` and ``step``."""
    if end is None:
        start, end = 0, start
    bounds = [known(x) for x in (start, end, step)]
    if None not in bounds:
        return torch.arange(*bounds, **options)  # type: ignore[arg-type]
    count = math.ceil((number(end) - number(start)) / number(step))
    options.setdefault("dtype", torch.get_default_dtype())
    steps = torch.arange(count, **options)
    return as_tensor_like(start, steps) + steps * as_tensor_like(step, steps)


def linspace(start: Scalar, end: Scalar, steps: int, **options: Any) -> Tensor:
    """``torch.linspace`` that keeps the gradients of ``start`` and ``end``."""
    bounds = known(start), known(end)
    if bounds[0] is not None and bounds[1] is not None:
        return torch.linspace(bounds[0], bounds[1], steps, **options)
    parts = torch.linspace(0, 1, steps, **options)
    low, high = as_tensor_like(start, parts), as_tensor_like(end, parts)
    return low + (high - low) * parts


def random_like(
    input: Tensor, distribution: str, *args: Scalar, **options: Any
) -> Tensor:
    """What ``input.normal_(…)``, ``input.uniform_(…)`` … leave in ``input``: the same
    numbers from the same random stream, and no gradient but that of settings.

    Raises:
        NotImplementedError: this distribution does not keep its settings' gradients.
    """
    empty = torch.empty_like(input)
    words = {k: options.pop(k) for k in _SETTINGS.get(distribution, ()) if k in options}
    names = _SETTINGS.get(distribution, ())
    given = {**dict(zip(names, args)), **words}
    if not any(known(x) is None for x in given.values() if x is not None):
        plain = [known(x) if isinstance(x, Tensor) else x for x in args]
        words = {k: known(x) if isinstance(x, Tensor) else x for k, x in words.items()}
        sample: Tensor = getattr(empty, distribution)(*plain, **words, **options)
        return sample
    if distribution not in _DEFAULTS:
        raise NotImplementedError(
            f"{distribution} does not keep the gradients of settings"
        )
    first, second = ({**_DEFAULTS[distribution], **given}[name] for name in names)
    low, high = as_tensor_like(first, input), as_tensor_like(second, input)
    if distribution == "uniform_":
        return low + (high - low) * empty.uniform_(**options)
    standard = empty.normal_(**options)
    return (
        low + high * standard
        if distribution == "normal_"
        else (low + high * standard).exp()
    )


_SETTINGS = {
    "normal_": ("mean", "std"),
    "log_normal_": ("mean", "std"),
    "uniform_": ("from", "to"),
    "exponential_": ("lambd",),
    "cauchy_": ("median", "sigma"),
    "geometric_": ("p",),
    "bernoulli_": ("p",),
}
_DEFAULTS: dict[str, dict[str, Scalar]] = {
    "normal_": {"mean": 0.0, "std": 1.0},
    "log_normal_": {"mean": 1.0, "std": 2.0},
    "uniform_": {"from": 0.0, "to": 1.0},
}
