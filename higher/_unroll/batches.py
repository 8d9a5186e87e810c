"""The batches of an unroll, asked for as it comes to them: a progress bar around them
moves with the steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from higher._weights import FastWeights


class Batches(Sequence[Any]):
    """Batches whose number is known, drawn one after the other and kept.

    Of an iterable that does not tell its length all are drawn at once.

    Args:
        source: what to draw from.
        weights: of the stateless module, which has none for ``source`` meanwhile.
        told: called with each batch.
    """

    def __init__(
        self,
        source: Iterable[Any],
        weights: FastWeights,
        told: Callable[[Any], None],
    ) -> None:
        # weakly: the graph holds this, and the module holds the graph
        self._weights = weakref.ref(weights)
        self._told = told
        known = hasattr(source, "__len__")
        batches = source if known else list(source)
        self._count = len(batches)  # type: ignore[arg-type]
        self._left = iter(batches)
        self._batches: list[Any] = []

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        self.draw(index + 1)
        return self._batches[index]

    def after(self, done: int) -> Iterator[Any]:
        """Those from a number on, for a plain loop."""
        for i in range(done, self._count):
            self._pull(i + 1)
            yield self._batches[i]

    def draw(self, count: int) -> None:
        """Asks for as many as make ``count`` in all, while the unroll is under way.

        Raises:
            ValueError: there are fewer than their length said, or more.
            RuntimeError: they look at the stateless module.
        """
        if count <= len(self._batches):
            return
        weights = self._weights()
        assert weights is not None  # an unroll under way has a module
        history, weights.history = weights.history, _UnderWay([None])
        try:
            self._pull(count)
        finally:
            weights.history = history

    def _pull(self, count: int) -> None:
        while len(self._batches) < count:
            batch = next(self._left, self)
            if batch is self:
                raise ValueError(_other_length(self._count, "fewer"))
            self._batches.append(batch)
            self._told(batch)
            if len(self._batches) == self._count and next(self._left, self) is not self:
                raise ValueError(_other_length(self._count, "more"))


class _UnderWay(list[Any]):
    """A history while the weights are unroll's own affair."""

    def __getitem__(self, index: Any) -> Any:
        raise RuntimeError(
            "batches look at the stateless module, whose weights unroll is still "
            "computing. Make them inside loss_fn, or use memory='full' without "
            "truncate."
        )


def _other_length(count: int, there: str) -> str:
    return (
        f"len(batches) is {count}, and there are {there}. Pass list(batches), or "
        "something that tells its length rightly (tqdm(batches, total=...), say)."
    )
