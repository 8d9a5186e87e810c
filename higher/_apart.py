"""Weights apart from their past in the graph.

An inner gradient is one of the weights as they are now. Where a step left a weight as
it was, the same tensor would be a weight of today and one of those that other weights
were made from in earlier steps: the gradient would run through these steps, too.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import Tensor

from higher._views import same


def apart(
    weights: Iterable[Tensor], only: Container[int] | None = None
) -> list[Tensor]:
    """Each weight (with an ``id`` among ``only``) as a node of its own."""
    result = list(weights)
    places = [
        k
        for k, w in enumerate(result)
        if w.requires_grad and (only is None or id(w) in only)
    ]
    for k, w in zip(places, same([result[k] for k in places])):
        result[k] = w
    return result


def given(weights: list[Tensor], times: Iterable[Iterable[Tensor]]) -> list[Tensor]:
    """Weights that somebody hands over, who may have made one from another.

    New leaves, and the weights of one earlier time, are apart as they are.
    """
    ids = {*map(id, weights)}
    if len(ids) == len(weights):
        if all(w.is_leaf for w in weights) or any(ids <= {*map(id, t)} for t in times):
            return weights
    return apart(weights)


def test_mode_leaf(new: Tensor, old: Tensor) -> Tensor:
    """A weight without a past, that requires grad as the one before it did."""
    if new is old and new.is_leaf:
        return new
    return new.detach().requires_grad_() if old.requires_grad else new.detach()
