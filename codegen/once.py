"""Compiles a class, or takes from the cache what was compiled before."""

from __future__ import annotations

import torch

from codegen import cache
from codegen.loading import load_text
from higher.optim.base import DifferentiableOptimizer


def compile_once(
    optimizer: type[torch.optim.Optimizer], verify: bool
) -> type[DifferentiableOptimizer]:
    """The class, compiled and verified at most once for its sources.

    Raises:
        CodegenError: it is no optimizer's class, can't be translated, or is wrong.
    """
    _check(optimizer)
    place = cache.place_of(optimizer, verify)
    entry = None if place is None else cache.find(place)
    if entry is None:
        from codegen.memory import compiled

        entry = compiled(optimizer, verify)
        if place is not None:
            cache.store(place, entry)
    cls = load_text(entry.text, entry.target, entry.class_name)
    if entry.summary:
        doc = (cls.__doc__ or "").rstrip()
        cls.__doc__ = f"{doc}\n\n    Verified: {entry.summary}.\n    "
    return cls


def _check(optimizer: object) -> None:
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return
    from codegen.diagnostics import misuse

    raise misuse(
        f"{optimizer!r} is no optimizer class",
        "pass a subclass of torch.optim.Optimizer, not an instance",
    )
