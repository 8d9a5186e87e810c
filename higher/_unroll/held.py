"""What one step of an unroll hands to the next, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from higher._carry import Carry, tensors_in, unpacked
from higher._unroll.handed import Optimizers
from higher.optim.flat_groups import FlatGroups
from higher.optim.schedule import Schedule


class Played(NamedTuple):
    """What a step computed: the next carry, in the step's graph, and its loss; norms
    of the gradient and, if the user's code made one of it, of the update; and pairs, a
    tensor of the carry and the user's own that was written into the optimizer."""

    carry: Carry
    loss: Tensor
    norms: list[Tensor]
    given: list[tuple[Tensor, Tensor]]


Grads = list["Tensor | None"]
Buffers = dict[tuple[int, str], Tensor]

Flags = list[tuple[torch.Size, bool]]
"""Shape of each tensor of a carry, and whether it requires grad."""


class Held(NamedTuple):
    """What a carry holds: parameters, joined where there are flat groups, the optimizer's
    settings, state and shared state, its flat groups, its schedule, and buffers."""

    params: list[Tensor]
    groups: list[dict[str, Any]]
    state: list[defaultdict[int, dict[str, Any]]]
    shared: dict[str, Any]
    flat_groups: FlatGroups | None
    schedule: Schedule | None
    buffers: Buffers

    @staticmethod
    def by(layout: Any, tensors: Sequence[Any]) -> Held:
        return Held(*unpacked(layout, tensors))

    def each(self) -> list[Any]:
        """The parameters, each by itself."""
        return (
            self.params
            if self.flat_groups is None
            else self.flat_groups.apart(self.params)
        )

    def each_state(self, each: Sequence[Tensor]) -> list[Any]:
        """The state of each of these."""
        if self.flat_groups is None:
            return self.state
        return self.flat_groups.state_apart(self.state, self.params, each)

    def optimizer(self, each: Sequence[Tensor]) -> Optimizers:
        """What the user's code finds in the optimizer, whose parameters are these."""
        return Optimizers(
            self.groups, lambda: self.each_state(each), self.shared, self.schedule
        )

    def scheduled(self) -> Held:
        """The same after the scheduler's step, if there is one."""
        if self.schedule is None:
            return self
        groups, schedule = self.schedule.stepped(self.groups)
        return self._replace(groups=groups, schedule=schedule)

    def written(self, written: Optimizers | None, each: list[Tensor]) -> Held:
        """The same after something was written into the optimizer."""
        if written is None:
            return self
        held = self._replace(groups=written.groups, shared=written.shared)
        state = written.state
        if self.flat_groups is None:
            return held if state is None else held._replace(state=state)
        if state is None and all(t.numel() == 1 for t in tensors_in(written.groups)):
            return held
        state = self.each_state(each) if state is None else state
        return held._replace(params=each, state=state, flat_groups=None)


FLAT_GROUPS = Held._fields.index("flat_groups")
