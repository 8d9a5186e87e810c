"""The fast weights of other times, as a step sees them and as they are found later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from higher._dropped import Dropped
from higher._later import Later


class StepHistory(list[Any]):
    """A module's history while a step of an unroll runs.

    Args:
        time: the number of steps that have been made.
        present: the weights that the step runs on.
        past: earlier weights, by their time, as far as they are at hand.
        used: takes down those that are asked for.
    """

    def __init__(
        self,
        time: int,
        present: list[Tensor],
        past: Mapping[int, Sequence[Tensor]],
        used: dict[int, Sequence[Tensor]],
    ) -> None:
        super().__init__([*[None] * time, present])
        self._past = past
        self._used = used

    def __getitem__(self, time: Any) -> Any:
        position = range(len(self))[time]
        if not isinstance(position, int):
            return [self[i] for i in position]
        if position == len(self) - 1:
            return super().__getitem__(position)
        weights = self._past.get(position)
        lost = isinstance(weights, Later) and not weights.kept
        if weights is None or lost or isinstance(weights, Dropped):
            raise RuntimeError(
                f"loss_fn asks for the fast weights of time {position}, which this "
                "unroll does not keep. Use mode='reverse', memory='full', without "
                "truncate and compile."
            )
        self._used[position] = weights
        return weights

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))
