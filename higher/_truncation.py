"""Gradients through the last k steps of a plain loop only.

After each step its results pass a boundary, a node that changes nothing. Once k more
steps are made the boundary is shut: nothing flows back through it, and what the graph
of the step before it had saved is let go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from higher._carry import Carry, packed, tensors_in, unpacked

_Node: Any = Any  # torch's nodes have attributes that its types don't know


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


class Truncation:
    """The boundaries of the last ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._open: deque[_Boundary] = deque()
        self._before: list[_Node] = []
        self._kept: set[int] = set()

    def step_begins(self, held: Any) -> None:
        """Takes down what weights, settings and state are before a step."""
        tensors = [t for t in tensors_in(held) if t.requires_grad]
        self._kept = {id(t) for t in tensors}
        if not self._open:
            self._before = [get_gradient_edge(t).node for t in tensors]

    def step_taken(self, made: Any) -> Any:
        """``made`` behind a boundary, as far as the step changed it."""
        layout, tensors = packed(made)
        changed = [
            i
            for i, t in enumerate(tensors)
            if t.requires_grad and id(t) not in self._kept
        ]
        boundary = _Boundary()
        gate: Any = _Gate
        if changed:
            for i, t in zip(changed, gate.apply(boundary, *_at(tensors, changed))):
                tensors[i] = t
            boundary.node = tensors[changed[0]].grad_fn
        self._open.append(boundary)
        if len(self._open) > self.steps:
            shut = self._open.popleft()
            shut.open = False
            if shut.node is not None:
                _release(shut.node, self._before)
                self._before = [shut.node]
        return unpacked(*Carry(layout, tensors))

    def forget(self, history: list[Any]) -> None:
        """Drops weights of times before the last ``steps`` steps, but the first."""
        last = len(history) - 2 - self.steps
        if last > 0 and not isinstance(history[last], Dropped):
            history[last] = Dropped(len(history[last]))


class _Boundary:
    def __init__(self) -> None:
        self.open = True
        self.node: _Node = None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boundary: _Boundary, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.boundary = boundary
        ctx.set_materialize_grads(False)
        return tuple(t.detach() for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return (None, *(g if ctx.boundary.open else None for g in grads))


def _at(tensors: Sequence[Tensor], places: Iterable[int]) -> list[Tensor]:
    return [tensors[i] for i in places]


def _release(node: _Node, before: Sequence[_Node]) -> None:
    """Lets go of what is saved between ``before`` and ``node``.

    Only by nodes that depend on ``before``: others may belong to something that later
    steps use, too.
    """
    ends = {id(n) for n in before}
    seen: dict[int, _Node] = {}
    users: dict[int, list[_Node]] = {}
    nodes = [node]
    while nodes:
        user = nodes.pop()
        for child, _ in user.next_functions:
            if child is not None:
                users.setdefault(id(child), []).append(user)
                if id(child) not in seen:
                    seen[id(child)] = child
                    if id(child) not in ends:
                        nodes.append(child)
    dependent: dict[int, _Node] = {}
    waiting = [n for n in before if id(n) in seen]
    while waiting:
        for user in users.get(id(waiting.pop()), ()):
            if id(user) not in dependent:
                dependent[id(user)] = user
                waiting.append(user)
    for user in dependent.values():
        _clear(user)


def _clear(node: _Node) -> None:
    saved: list[Any] = []
    for name in _saved_names(type(node)):
        held = getattr(node, name)
        saved.extend(held if isinstance(held, (list, tuple)) else [held])
    for one in saved:
        try:
            one.register_hooks(_like, _blank)
        except RuntimeError:
            continue  # released already, or in the hands of somebody's own hooks
    if saved:
        node.register_prehook(_refuse)


_names: dict[type, list[str]] = {}


def _saved_names(kind: type) -> list[str]:
    if kind not in _names:
        _names[kind] = [n for n in dir(kind) if n.startswith("_raw_saved_")]
    return _names[kind]


def _like(t: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return t.shape, t.dtype, t.device


def _blank(kind: tuple[torch.Size, torch.dtype, torch.device]) -> Tensor:
    """For a node that runs without gradients, which reads it and does nothing."""
    shape, dtype, device = kind
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def _refuse(grads: Sequence[Tensor | None]) -> None:
    if any(g is not None for g in grads):
        raise RuntimeError(
            "This gradient goes through a step that truncate has cut off: an old loss "
            "or old weights are part of the outer loss. Detach them, or raise truncate."
        )
