"""Weights of a time that is past, found when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor


class Later(Sequence[Tensor]):
    """Weights of another time, looked for when somebody asks for them.

    Args:
        count: how many they are.
        find: finds them.
        kept: whether they are at hand as long as the graph is.
    """

    def __init__(
        self, count: int, find: Callable[[], list[Tensor]], kept: bool = False
    ) -> None:
        self.kept = kept
        self._count = count
        self._find: Callable[[], list[Tensor]] | None = find
        self._found: list[Tensor] | None = None

    @property
    def at_hand(self) -> bool:
        """Whether no step runs again to find them."""
        return self.kept or self._found is not None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if self._found is None:
            if self._find is None:
                raise RuntimeError(_FREED)
            self._found = self._find()
        return self._found[index]

    def forget(self) -> None:
        """Backward has freed the graph: what weights are found from goes as well."""
        self._find = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self[:])

    def __reduce__(self) -> Any:
        return list, (self[:],)


_FREED = (
    "The fast weights of this time are not kept, and backward has freed what they are "
    "computed from. Ask for them before, or call it with retain_graph=True."
)
