"""Gradients through the last k steps only, counted back from the outer loss.

After each step its results pass a boundary, a node that changes nothing. Once k more
steps are made the boundary is shut: nothing flows back through it, and what the graph
of the step before it had saved is let go.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from higher._carry import Carry, packed, tensors_in, unpacked
from higher._dropped import drop
from higher._windows import start_behind

_Node: Any = Any  # torch's nodes have attributes that its types don't know


class Boundary:
    """The end of a step.

    Attributes:
        left: steps that may still be made before it is shut.
        open: whether gradients flow back through it.
        bare: steps without a boundary that were made right after it.
        node: what the step's results come from.
    """

    def __init__(self, left: int, is_open: bool = True) -> None:
        self.left = left
        self.open = is_open
        self.bare = 0
        self.node: _Node = None


class Truncation:
    """The boundaries of the latest steps, wherever they were made.

    A boundary of ``truncate=k`` is shut once k more steps are made, by ``diffopt.step``
    or by ``unroll``.

    Attributes:
        begun: whether steps have been made that are not constants.

    Args:
        optimizer: whose steps these are; held weakly.
        steps: k, of steps to come; None: they get no boundaries.
        made: steps that were made before, without boundaries.
    """

    def __init__(self, optimizer: Any, steps: int | None, made: int = 0) -> None:
        self.steps = steps
        self.begun = made > 0
        self._optimizer = weakref.ref(optimizer)
        # the first one is shut, or the beginning
        self._ends: deque[Boundary] = deque([Boundary(0, False)])
        self._ends[0].bare = made
        self._before: list[_Node] = []
        self._kept: dict[int, Tensor] = {}

    @contextmanager
    def during(self, steps: int | None, coming: int) -> Iterator[None]:
        """For ``coming`` steps boundaries of ``truncate=steps``, if that isn't None.

        Raises:
            ValueError: they can't be counted back to a boundary.
        """
        usual = self.steps
        if steps is not None:
            self.steps = steps
            self._count_back(steps, coming)
        try:
            yield
        finally:
            self.steps = usual

    def cut(self, coming: int) -> int | None:
        """How many of ``coming`` steps are constants, and all that came before; None if
        neither are."""
        if self.steps is None or coming < self.steps:
            return None
        return coming - self.steps if self.begun or coming > self.steps else None

    def _count_back(self, steps: int, coming: int) -> None:
        after = 0
        for end in reversed(self._ends):
            if after <= steps - coming < after + end.bare and coming < steps:
                raise ValueError(_BARE.format(steps, coming))
            after += end.bare
            end.left = min(end.left, steps - after)
            after += 1

    def restart(self) -> None:
        """What follows starts from constants."""
        for end in self._ends:
            end.open = False
        self._ends = deque([Boundary(0, False)])
        self._before = []
        self.begun = False

    def step_begins(self, held: Any) -> None:
        """Takes down what weights, settings and state are before a step."""
        tensors = [t for t in tensors_in(held) if t.requires_grad]
        # held: their ids must stay taken
        self._kept = {id(t): t for t in tensors}
        if len(self._ends) == 1 and self._ends[0].node is None:
            self._before = [get_gradient_edge(t).node for t in tensors]

    def step_taken(self, made: Any) -> Any:
        """``made`` behind a boundary, as far as the step changed it."""
        layout, tensors = packed(made)
        changed = [
            i
            for i, t in enumerate(tensors)
            if t.requires_grad and id(t) not in self._kept
        ]
        self._kept = {}
        boundary = self.end()
        gate: Any = _Gate
        if changed:
            for i, t in zip(
                changed, gate.apply(self, boundary, *_at(tensors, changed))
            ):
                tensors[i] = t
            boundary.node = tensors[changed[0]].grad_fn
        return unpacked(*Carry(layout, tensors))

    def end(self) -> Boundary:
        """A boundary for a step that has been made."""
        self._tick()
        assert self.steps is not None
        self._ends.append(Boundary(self.steps))
        return self._ends[-1]

    def bare_steps(self, count: int) -> None:
        """Steps have been made that get no boundaries."""
        for _ in range(count):
            self._tick()
        self._ends[-1].bare += count

    def _tick(self) -> None:
        self.begun = True
        shut = 0
        for i, end in enumerate(self._ends):
            end.left -= 1
            if end.open and end.left <= 0:
                shut = i
        for _ in range(shut):
            self._ends.popleft().open = False
        last = self._ends[0]
        if last.open:
            last.open = False
            if last.node is not None:
                _release(last.node, self._before)
                self._before = [last.node]

    def forget(self, history: list[Any]) -> None:
        """Drops weights of times before the last ``steps`` steps, but the first."""
        if self.steps is not None:
            drop(history, len(history) - 2 - self.steps)

    def freed(self, boundary: Boundary) -> None:
        """Backward has come through ``boundary`` and frees the graph behind it."""
        optimizer = self._optimizer()
        if optimizer is None or self._ends[-1] is not boundary or boundary.bare:
            return
        self._ends = deque([Boundary(0, False), boundary])
        boundary.node = None
        now = start_behind(optimizer, _spent)
        self._before = [get_gradient_edge(t).node for t in now if t.requires_grad]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, truncation: Truncation, boundary: Boundary, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.truncation, ctx.boundary = truncation, boundary
        ctx.set_materialize_grads(False)
        return tuple(t.detach() for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        boundary = ctx.boundary
        if not _graph_is_kept():
            ctx.truncation.freed(boundary)
        return (None, None, *(g if boundary.open else None for g in grads))


def _graph_is_kept() -> bool:
    graph: Any = torch._C._autograd
    return bool(graph._get_current_graph_task_keep_graph())


def _spent(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those that come from a step whose graph has been freed, as leaves that remember
    which step that was; a new list."""
    result = list(tensors)
    node: Any = _Spent
    for i, t in enumerate(tensors):
        boundary = last_boundary(t)
        if boundary is not None:
            with torch.enable_grad():
                lead = torch.zeros((), requires_grad=True)
                result[i] = node.apply(boundary, lead, t.detach())
    return result


class _Spent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boundary: Boundary, lead: Tensor, t: Tensor) -> Tensor:
        ctx.boundary = boundary
        return t.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if ctx.boundary.open:
            raise RuntimeError(_FREED)
        return None, None, None


def last_boundary(t: Tensor) -> Boundary | None:
    """The boundary of the latest step that ``t`` comes from."""
    found: Boundary | None = None
    nodes, seen = [t.grad_fn], {None}
    while nodes:
        node: _Node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        boundary = getattr(node, "boundary", None)
        if isinstance(boundary, Boundary):
            if found is None or boundary.left > found.left:
                found = boundary
        else:
            nodes.extend(child for child, _ in node.next_functions)
    return found


_BARE = (
    "truncate={} counts steps back from the outer loss, and in this call there are {}: it "
    "would cut among steps that were made before it without truncate. Give truncate to "
    "innerloop_ctx, or begin a new window: fmodel.detach_(); diffopt.detach_()."
)
_FREED = (
    "backward() has freed the graph of steps that truncate still reaches. Call it with "
    "retain_graph=True, choose a truncate that is no longer than a window, or begin a new "
    "window after it: fmodel.detach_(); diffopt.detach_()."
)


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
        _clear(user, refuse=user is not node)


def _clear(node: _Node, refuse: bool) -> None:
    saved: list[Any] = []
    if hasattr(node, "plan"):
        node.plan = None  # of a stretch of steps, which is not run again
    for name in _saved_names(type(node)):
        try:
            held = getattr(node, name)
        except RuntimeError:
            continue  # backward has released them
        saved.extend(held if isinstance(held, (list, tuple)) else [held])
    for one in saved:
        try:
            one.register_hooks(_like, _blank)
        except RuntimeError:
            continue  # released already, or in the hands of somebody's own hooks
    if saved and refuse:
        node.register_prehook(refuse_old)


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


def refuse_old(grads: Sequence[Tensor | None]) -> None:
    if any(g is not None for g in grads):
        raise RuntimeError(
            "This gradient goes through a step that truncate has cut off: an old loss "
            "or old weights are part of the outer loss. Detach them, or raise truncate."
        )
