"""Weights of a time that is not kept, in a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Dropped(Sequence[Tensor]):
    """Weights of a time that is not kept, in a history."""

    def __init__(self, count: int, why: str = "") -> None:
        self._count = count
        self._why = why or _CUT_OFF

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        raise ValueError(self._why)

    def __deepcopy__(self, memo: Any) -> Dropped:
        return self


_CUT_OFF = (
    "With truncate=k the fast weights of all but the last k steps are not kept, except "
    "for the initial ones (time=0)."
)


def drop(history: list[Any], last: int, why: str = "") -> None:
    """Drops weights of times up to ``last``, but the first."""
    for time in range(last, 0, -1):
        if isinstance(history[time], Dropped):
            break
        history[time] = Dropped(len(history[time]), why)
