"""Weights apart from their past in the graph.

An inner gradient is one of the weights as they are now. Where a step left a weight as
it was, the same tensor would be a weight of today and one of those that other weights
were made from in earlier steps: the gradient would run through these steps, too.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor

_alias: Any = torch.ops.aten.alias.default
"""A view of the whole, whose backward takes any gradient, sparse ones too."""


def apart(
    weights: Iterable[Tensor], only: Container[int] | None = None
) -> list[Tensor]:
    """Each weight (with an ``id`` among ``only``) as a node of its own."""
    return [
        _alias(w) if w.requires_grad and (only is None or id(w) in only) else w
        for w in weights
    ]


def given(weights: list[Tensor], times: Iterable[Iterable[Tensor]]) -> list[Tensor]:
    """Weights that somebody hands over, who may have made one from another.

    New leaves, and the weights of one earlier time, are apart as they are.
    """
    ids = {*map(id, weights)}
    if len(ids) == len(weights):
        if all(w.is_leaf for w in weights) or any(ids <= {*map(id, t)} for t in times):
            return weights
    return apart(weights)
