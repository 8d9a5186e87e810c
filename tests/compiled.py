"""The compiled optimizers under test: all that `generated` registers."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import Any

from higher import _generated as generated
import torch
from codegen.verify.subject import Subject, subject
from codegen.verify.surroundings import undisturbed

#: Dotted paths of the originals; a new optimizer in `generated` is tested by itself.
#: Those that the installed torch lacks are left out: Muon came with 2.9.
PATHS = sorted(
    path
    for path in generated.OPTIMIZERS
    if hasattr(torch.optim, path.rpartition(".")[2])
)


@functools.cache
def compiled(path: str) -> Subject:
    """Original and translation, and what is known about running the original."""
    package, _, name = path.rpartition(".")
    module, _, twin = generated.OPTIMIZERS[path].partition(":")
    original = getattr(importlib.import_module(package), name)
    with undisturbed():
        return subject(original, getattr(importlib.import_module(module), twin))


def build(path: str, params: Iterable[Any]) -> torch.optim.Optimizer:
    """The original of `path` on `params`, at its defaults."""
    original: Any = compiled(path).original
    made: torch.optim.Optimizer = original(params)
    return made


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers between 0.1 and 0.5 in size of either sign, float64."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.rand(shape, generator=random, dtype=torch.float64) - 0.5
    return numbers.sign() * (0.1 + 0.8 * numbers.abs())
