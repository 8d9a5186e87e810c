"""Settings that an unroll is given: once, or for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, TypeAlias

Override: TypeAlias = Mapping[str, Any]
OverrideOfSteps: TypeAlias = (
    "Override | Callable[[int], Override | None] | Sequence[Override | None] | None"
)


class Overrides:
    """What a step begins with.

    Args:
        given: a dict for the first step, a function of the step's number, or a dict for
            each step; None is one that changes nothing.
        batches: of the unroll.

    Raises:
        ValueError: there is not one for each step.
        TypeError: it is none of these.
    """

    def __init__(self, given: OverrideOfSteps, batches: Iterable[Any]) -> None:
        self._of: Callable[[int], Override | None]
        self.listed: Sequence[Any] = ()
        if given is None or isinstance(given, Mapping):
            self._of = lambda step: given if step == 0 else None
        elif callable(given):
            self._of = given
        elif isinstance(given, Sequence) and not isinstance(given, str):
            self.listed = list(given)
            self._of = self.listed.__getitem__
            if isinstance(batches, Sized):
                self.check_count(len(batches))
        else:
            raise TypeError(
                "override must be a dict, one dict for each step, or a function of the "
                f"step's number that returns one, not {type(given).__name__}."
            )

    def at(self, step: int) -> Override | None:
        """For this step, from 0 on."""
        if self.listed and step >= len(self.listed):
            raise ValueError(_count(len(self.listed), f"more than {step}"))
        override = self._of(step)
        if override is not None and not isinstance(override, Mapping):
            raise TypeError(
                f"override gives {type(override).__name__} for step {step}, not a dict "
                "of settings or None."
            )
        return override

    def check_count(self, steps: int) -> None:
        """
        Raises:
            ValueError: a list is of another length.
        """
        if self.listed and len(self.listed) != steps:
            raise ValueError(_count(len(self.listed), str(steps)))


def _count(listed: int, steps: str) -> str:
    return f"override has settings for {listed} steps, and there are {steps} batches."
