"""The differentiable optimizer as the user's code finds it while a step of an unroll runs.

``loss_fn`` and ``grad_callback`` may read settings and state, and write them, as they may
in a plain loop: they find those of the step, and what they write counts from there on.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from higher._carry import tensors_in
from higher.optim.base import DifferentiableOptimizer
from higher.optim.schedule import Schedule, groups_of
from higher.optim.state import copy_structure, settings_of


class Optimizers(NamedTuple):
    """What an optimizer has besides parameters. No state if nobody asked for it."""

    groups: list[dict[str, Any]]
    state: Any
    shared: dict[str, Any]
    schedule: Schedule | None = None


class Handed:
    """Hands out the settings and state of a step in the place of those that the
    optimizer has, and takes back what was written.

    Args:
        diffopt: held weakly: the graph holds this, and the optimizer the graph.
        twin: stands for it when it is gone.

    Attributes:
        asked: whether somebody has asked for the state of a step.
    """

    def __init__(
        self, diffopt: DifferentiableOptimizer, twin: DifferentiableOptimizer
    ) -> None:
        self._diffopt = weakref.ref(diffopt)
        self._twin = twin
        self.asked = False

    @contextmanager
    def out(
        self,
        held: Optimizers,
        params: Sequence[Tensor],
        override: Mapping[str, Any] | None = None,
    ) -> Iterator[_Loan]:
        """While entered, the optimizer has what is ``held``, and ``override`` on top.

        Args:
            held: settings, what finds the state, and shared state.
            params: the parameters.
            override: as for ``step``.
        """
        diffopt = self._diffopt() or copy.copy(self._twin)
        before = {name: getattr(diffopt, name) for name in _ATTRIBUTES}

        def state() -> Any:
            self.asked = True
            return held.state()

        loan = _Loan(diffopt, held._replace(state=state))
        try:
            diffopt.param_groups = [
                {**settings, "params": [params[k] for k in positions]}
                for settings, positions in zip(
                    loan.groups, diffopt._group_to_param_list
                )
            ]
            diffopt.state, diffopt.shared = loan.state, loan.shared
            if held.schedule is not None:
                diffopt.scheduler = held.schedule.on(groups_of(diffopt))
            if override is not None:
                diffopt.defaults = dict(diffopt.defaults)
                diffopt._apply_override(override)
            yield loan
        finally:
            for name, value in before.items():
                setattr(diffopt, name, value)


_ATTRIBUTES = ("param_groups", "state", "shared", "defaults", "scheduler")


class _Loan:
    """What was handed out."""

    def __init__(self, diffopt: DifferentiableOptimizer, held: Optimizers) -> None:
        self._diffopt = diffopt
        self._held = held
        self.groups = [_lent(settings) for settings in held.groups]
        self.shared = copy_structure(held.shared)
        self.state = _State(held.state, len(held.groups))
        self._versions = [
            (t, t._version) for t in tensors_in([self.groups, self.shared])
        ]

    def written(self) -> Optimizers | None:
        """What the optimizer has now; None if that is what was handed out.

        Raises:
            RuntimeError: something was written that a step can't be run again with.
        """
        groups = self._settings()
        state: list[Any] | None = None
        if self._diffopt.state is not self.state or self.state.is_changed():
            state = list(self._diffopt.state)
        held = self._held
        shared = self._diffopt.shared
        if state is None and _same([groups, shared], [held.groups, held.shared]):
            return None
        return Optimizers(groups, state, shared)

    def _settings(self) -> list[dict[str, Any]]:
        groups = [settings_of(g) for g in self._diffopt.param_groups]
        if len(groups) != len(self.groups):
            raise RuntimeError(
                "loss_fn changed the number of parameter groups. Do it before unroll."
            )
        changed = [t for t, version in self._versions if t._version != version]
        if any(t.requires_grad for t in changed):
            raise RuntimeError(_IN_PLACE)
        for now, lent, own in zip(groups, self.groups, self._held.groups):
            for name, value in lent.items():
                # a copy that comes back as it was
                if now.get(name) is value and not any(t is value for t in changed):
                    now[name] = own[name]
        return groups


def _lent(settings: dict[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = copy_structure(settings)
    for name, value in copied.items():
        # schedulers write into these; those that carry gradient can't be written into
        if isinstance(value, Tensor) and not value.requires_grad:
            copied[name] = value.clone()
    return copied


class _State(list[Any]):
    """State that is looked for when somebody asks for it."""

    def __init__(self, find: Callable[[], list[Any]], groups: int) -> None:
        super().__init__([None] * groups)
        self._find = find
        self._found: list[Any] | None = None
        self._versions: list[tuple[Tensor, int]] = []

    def _fill(self) -> None:
        if self._found is None:
            self._found = self._find()
            self._versions = [(t, t._version) for t in tensors_in(self._found)]
            super().__setitem__(slice(None), copy_structure(self._found))

    def is_changed(self) -> bool:
        """
        Raises:
            RuntimeError: a tensor was written into.
        """
        if any(t._version != version for t, version in self._versions):
            raise RuntimeError(_IN_PLACE)
        return self._found is not None and not _same(list(self), self._found)

    def __getitem__(self, index: Any) -> Any:
        self._fill()
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._fill()
        super().__setitem__(index, value)

    def __iter__(self) -> Iterator[Any]:
        self._fill()
        return super().__iter__()


def _same(a: Any, b: Any) -> bool:
    """Whether nested containers hold the very same."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) in (int, float, bool, str, complex) and bool(a == b)


_IN_PLACE = (
    "loss_fn or grad_callback wrote into a setting or state of the optimizer in place. "
    "A step that runs again could not put it back: assign a new one, for example "
    "diffopt.param_groups[0]['lr'] = diffopt.param_groups[0]['lr'] * 0.9."
)
