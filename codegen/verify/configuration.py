"""One way to run an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .problem import Layout


@dataclass(frozen=True)
class Configuration:
    """One way to run an optimizer.

    settings: constructor arguments off their defaults; second: those of a second
    parameter group; user: dispatch flags that only the user's optimizer has. start:
    what a used optimizer's counters of steps are put to.
    """

    layout: Layout
    settings: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)
    user: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    warm: bool = False
    steps: int = 8
    track: bool = True
    start: int = 0

    def __str__(self) -> str:
        told = ", ".join(f"{k}={_short(v)}" for k, v in self.settings.items())
        parts = [told or "defaults", str(self.dtype).removeprefix("torch.")]
        parts.append(self.layout.name)
        if self.user:
            parts.append("user sets " + ", ".join(f"{k}" for k in self.user))
        parts.append("branching off a used optimizer" if self.warm else "cold start")
        parts += [f"at step {self.start}"] if self.start else []
        parts += [] if self.track else ["test mode"]
        return "; ".join(parts)


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        grad = ", requires_grad=True" if value.requires_grad else ""
        return f"tensor({value.item():g}{grad})"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_short, value))})"
    return str(value)
