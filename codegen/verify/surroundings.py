"""What a verification sets up around itself, and restores: one thread, a known random
stream, silence, and for derivatives arithmetic that rounds to nothing below float64."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor

SEED = 20240229
LOWER = (torch.bfloat16, torch.float16, torch.float32)


@contextmanager
def undisturbed() -> Iterator[None]:
    """One thread (the tensors are tiny), warnings and prints off, and every random
    stream and thread count as it was on leaving."""
    threads, stream = torch.get_num_threads(), random.getstate()
    torch.set_num_threads(1)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(stream)


def reseed() -> None:
    """Put every random stream an optimizer may draw from at one known place."""
    torch.default_generator.manual_seed(SEED)  # torch.manual_seed seeds GPUs, slowly
    random.seed(SEED)


@contextmanager
def unrounded() -> Iterator[set[str]]:
    """float64 throughout, so that finite differences see a smooth function: it is the
    default dtype (step counters and products of betas follow it), a float64 tensor
    converted to a shorter float stays what it is, and what is made as a shorter one
    (state beside longer weights) is made as float64. Yields the dtypes that were asked
    for, filled in as it happens."""
    asked: set[str] = set()
    wrapped: list[tuple[Any, str, _Wrapper]] = []
    wrapped += [(Tensor, name, _keeping_float64) for name in _CONVERSIONS]
    wrapped += [(Tensor, name, _making_float64) for name in _METHODS]
    wrapped += [(torch, name, _making_float64) for name in _FACTORIES]
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in wrapped]
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    for (holder, name, wrap), (*_, plain) in zip(wrapped, kept):
        setattr(holder, name, wrap(plain, asked))
    try:
        yield asked
    finally:
        torch.set_default_dtype(dtype)
        for holder, name, plain in kept:
            setattr(holder, name, plain)


_Wrapper = Callable[[Callable[..., Tensor], "set[str]"], Callable[..., Tensor]]
_CONVERSIONS = ("bfloat16", "half", "float", "to")
_METHODS = ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor")
_FACTORIES = (
    *("zeros", "ones", "full", "empty", "tensor", "eye", "as_tensor", "rand", "randn"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
)
kept_to = Tensor.to


def _making_float64(
    make: Callable[..., Tensor], asked: set[str]
) -> Callable[..., Tensor]:
    def made(*args: Any, **kwargs: Any) -> Tensor:
        dtype = kwargs.get("dtype")
        if dtype in LOWER:
            asked.add(str(dtype).removeprefix("torch."))
            kwargs["dtype"] = torch.float64
        return make(*args, **kwargs)

    return made


def _keeping_float64(
    convert: Callable[..., Tensor], asked: set[str]
) -> Callable[..., Tensor]:
    def converted(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = convert(self, *args, **kwargs)
        if result.dtype not in LOWER or self.dtype in LOWER:
            return result
        if not self.is_floating_point():
            asked.add(str(result.dtype).removeprefix("torch."))
            return kept_to(result, torch.float64)
        asked.add(str(result.dtype).removeprefix("torch."))
        return self.clone()  # a conversion never aliases

    return converted
