"""An optimizer's settings, numbers among them, in a step that is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from higher._carry import mapped, packed


def same_leaves(a: Any, b: Any) -> bool:
    (a_layout, a_tensors), (b_layout, b_tensors) = packed(a), packed(b)
    return a_layout == b_layout and all(x is y for x, y in zip(a_tensors, b_tensors))


def with_numbers(groups: Any, numbers: Sequence[Tensor]) -> Any:
    left = iter(numbers)
    return mapped(groups, float, lambda x: next(left)) if numbers else groups


def floats(groups: Any) -> list[float]:
    found: list[float] = []
    mapped(groups, float, found.append)
    return found


def tensor(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)
