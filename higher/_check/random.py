"""Random numbers for two that draw the same, and for the user as if one had drawn."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

_Generator = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How to ask for a generator's state, and how to set it."""


class Generators:
    """The generators from which an optimizer's step may draw."""

    def __init__(
        self, cls: type[Optimizer], devices: Iterable[torch.device] = ()
    ) -> None:
        self._generators: list[_Generator] = [
            (torch.get_rng_state, torch.set_rng_state)
        ]
        for device in devices:
            self._generators.append(_of_device(device))
        if not _draws_from_torch_alone(cls):
            self._generators.append((random.getstate, random.setstate))
            numpy: Any = sys.modules.get("numpy")
            if numpy is not None:
                self._generators.append(
                    (numpy.random.get_state, numpy.random.set_state)
                )

    def states(self) -> list[Any]:
        return [get() for get, _ in self._generators]

    @contextmanager
    def at(self, states: list[Any]) -> Iterator[None]:
        """Goes back to ``states``; at the end to what was before."""
        present = self.states()
        self._set(states)
        try:
            yield
        finally:
            self._set(present)

    def _set(self, states: list[Any]) -> None:
        for (_, put), state in zip(self._generators, states):
            put(state)


def _of_device(device: torch.device) -> _Generator:
    module: Any = torch.get_device_module(device)
    return (
        lambda: module.get_rng_state(device),
        lambda state: module.set_rng_state(state, device),
    )


def _draws_from_torch_alone(cls: type) -> bool:
    """torch's own optimizers do; asking NumPy takes as long as a short step."""
    return all(c.__module__.startswith(("torch.", "builtins")) for c in cls.__mro__)
