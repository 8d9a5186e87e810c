"""Lists of tensors that a graph is handed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from higher._carry import tensors_in, unpacked


def repeated(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Which of them are others again."""
    first: dict[int, int] = {}
    places = ((i, first.setdefault(id(t), i)) for i, t in enumerate(tensors))
    return [(i, k) for i, k in places if i != k]


def in_slots(layout: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those in a part of a layout, each once."""
    return tensors_in(unpacked(layout, tensors))


def split(tensors: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[list[Tensor]]:
    """Runs of given lengths."""
    at = 0
    for size in sizes:
        yield list(tensors[at : at + size])
        at += size


def put(batch: Any, stands: Mapping[int, Tensor]) -> Any:
    """A batch with other tensors in its containers."""
    leaves, form = tree_flatten(batch)
    return tree_unflatten([stands.get(id(v), v) for v in leaves], form)
