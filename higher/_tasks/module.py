"""Stateless modules whose weights and buffers have a leading dimension of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from higher._carry import tensors_within
from higher._dropped import Dropped
from higher._later import Later
from higher._second_order import OwnForward
from higher._tasks.functions import Replaced
from higher._tasks.mapping import is_wrapped, mapped, one_of
from higher._weights import FastWeights, fast_weights


def checked_tasks(tasks: int | None) -> int | None:
    if tasks is not None and (
        not isinstance(tasks, int) or isinstance(tasks, bool) or tasks < 1
    ):
        raise ValueError(f"tasks must be a positive number or None, not {tasks!r}.")
    return tasks


def check_no_tasks(weights: FastWeights) -> None:
    if weights.tasks is not None:
        raise TypeError(
            "A loop within the loops of many tasks is not supported. Pass one task's "
            "module, fmodel.task(i)."
        )


def stacked(t: Tensor, tasks: int) -> Tensor:
    """The same for each task, in memory of its own; in the graph of ``t``."""
    return (
        t.unsqueeze(0)
        .expand(tasks, *t.shape)
        .clone(memory_format=torch.contiguous_format)
    )


def shared(t: Tensor, tasks: int) -> Tensor:
    """The same for all tasks, in the memory of ``t``."""
    if type(t) not in (Tensor, nn.Parameter):
        raise TypeError(
            f"A {type(t).__name__} among the weights can't be given a dimension of "
            "tasks. Leave tasks= out, or replace it by a plain tensor."
        )
    return t.detach().unsqueeze(0).expand(tasks, *t.shape)


def stack_buffers(modules: Sequence[nn.Module], tasks: int) -> None:
    known: dict[int, Tensor] = {}
    for m in modules:
        for name, b in m._buffers.items():
            if b is not None:
                if id(b) not in known:
                    known[id(b)] = stacked(b, tasks)
                dict.__setitem__(m._buffers, name, known[id(b)])


def _is_shared(w: Tensor) -> bool:
    return not w.requires_grad and w.dim() > 0 and w.stride(0) == 0


class Guard(OwnForward):
    """The ``forward`` of a submodule: an error outside of a mapping, where inputs and
    weights of all tasks would be taken for those of one."""

    __slots__ = ("inner",)

    def __init__(
        self, module: nn.Module, weights: FastWeights, inner: OwnForward | None
    ) -> None:
        super().__init__(module, weights)
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        weights = self.weights()
        if weights is None or weights.mapping is None:
            name = type(self.module()).__name__
            raise RuntimeError(
                f"A submodule ({name}) of a module with tasks= was called directly, "
                "where weights have a dimension of tasks. Call the module itself, or "
                "map what calls it: higher.map_tasks(fmodel, lambda f, x: f.part(x), x)."
            )
        return (self.inner or self.usual())(*args, **kwargs)


@dataclass
class Buffers:
    """Where the buffers of a tree are, and the tensors, each once."""

    modules: list[nn.Module]
    places: list[tuple[int, str, int]]
    tensors: list[Tensor]

    @staticmethod
    def of(modules: list[nn.Module]) -> Buffers:
        places: list[tuple[int, str, int]] = []
        tensors: list[Tensor] = []
        known: dict[int, int] = {}
        for i, m in enumerate(modules):
            for name, b in m._buffers.items():
                if b is not None:
                    if id(b) not in known:
                        known[id(b)] = len(tensors)
                        tensors.append(b)
                    places.append((i, name, known[id(b)]))
        return Buffers(modules, places, tensors)

    def put(self, tensors: Sequence[Tensor]) -> None:
        for i, name, at in self.places:
            dict.__setitem__(self.modules[i]._buffers, name, tensors[at])

    def changed(self, own: Sequence[Tensor]) -> dict[str, Tensor]:
        """Those that are no longer what ``put`` put there."""
        known = {(i, name): own[at] for i, name, at in self.places}
        return {
            f"{i}:{name}": b
            for i, m in enumerate(self.modules)
            for name, b in m._buffers.items()
            if b is not None and b is not known.get((i, name))
        }

    def take(self, changed: dict[str, Tensor]) -> None:
        for key, b in changed.items():
            i, _, name = key.partition(":")
            dict.__setitem__(self.modules[int(i)]._buffers, name, b)


class _History(list[Any]):
    """The weights of all times, those of one task inside a mapping."""

    def __init__(self, history: list[Any], own: list[Tensor], level: int) -> None:
        super().__init__([*[None] * (len(history) - 1), own])
        self._history = history
        self._level = level

    def __getitem__(self, time: Any) -> Any:
        position = range(len(self))[time]
        if not isinstance(position, int):
            return [self[i] for i in position]
        if position == len(self) - 1:
            return super().__getitem__(position)
        weights = self._history[position]
        if isinstance(weights, Later) and not weights.at_hand:
            raise RuntimeError(
                f"The fast weights of time {position} are not at hand. Ask for "
                f"fmodel.parameters(time={position}) before the mapping."
            )
        if isinstance(weights, Dropped):
            return weights
        return [w[0] if _is_shared(w) else one_of(w, self._level) for w in weights]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def map_tasks(
    fmodel: Any, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Calls ``function(fmodel, *args, **kwargs)`` once for each task.

    What is written for one task, a loss for one, runs for all of a module with
    ``tasks=`` at once: inside of ``function`` weights, buffers and arguments are those
    of a single task. Random numbers differ from task to task. What ``function`` finds
    outside of its arguments is shared by all.

    Args:
        fmodel: the stateless module of ``higher.innerloop_ctx(..., tasks=T)``.
        function: returns a tensor, or tuples, lists and dicts of them.
        *args: tensors, also in containers, whose first dimension is T, or 1 for what
            all tasks share; 0-dim tensors and all else are shared.
        **kwargs: likewise.

    Returns:
        What ``function`` returns, its tensors with a first dimension T.

    Raises:
        ValueError: the module has no tasks, or a tensor another first dimension.
        RuntimeError: what can't be mapped, with the line: a branch on the values of a
            tensor, ``.item()``, an operation without a batching rule.
        TypeError: tensors in objects that are no containers.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> def loss_of(fmodel, x):
        ...     return fmodel(x).square().mean()
        >>> with higher.innerloop_ctx(model, opt, tasks=5) as (fmodel, diffopt):
        ...     losses = higher.map_tasks(fmodel, loss_of, torch.randn(5, 8, 3))
        ...     weights = diffopt.step(losses)
        >>> tuple(losses.shape), tuple(weights[0].shape)
        ((5,), (5, 1, 3))
    """
    weights = fast_weights(fmodel)
    if weights.tasks is None:
        raise ValueError(
            "This module has no dimension of tasks: pass tasks= to innerloop_ctx."
        )
    if weights.mapping is not None:
        return function(fmodel, *args, **kwargs)
    weights.sync()
    return _Mapping(fmodel, weights).run(function, args, kwargs)


def call(fmodel: Any, *args: Any, **kwargs: Any) -> Any:
    """The module's own call, which is mapped when it is called outside."""
    return fmodel(*args, **kwargs)


class _Mapping:
    """One call of ``map_tasks``."""

    def __init__(self, fmodel: Any, weights: FastWeights) -> None:
        assert weights.tasks is not None
        self.fmodel = fmodel
        self.weights = weights
        self.tasks: int = weights.tasks
        self.modules = weights.modules()
        self.buffers = Buffers.of(self.modules)

    def run(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        weights = self.weights
        leaves, form = tree_flatten((args, kwargs))
        given = [(i, *self._given(v)) for i, v in enumerate(leaves) if self._is_in(v)]
        common = [_is_shared(w) for w in weights.installed]
        tensors = [w[0] if c else w for w, c in zip(weights.installed, common)]
        count, end = len(tensors), len(tensors) + len(self.buffers.tensors)
        tensors += [*self.buffers.tensors, *(t for _, t, _ in given)]
        per_task = [not c for c in common] + [True] * (end - count)
        per_task += [own for _, _, own in given]

        def one(own: list[Tensor], level: int) -> Any:
            inputs = list(leaves)
            for (i, _, _), t in zip(given, own[end:]):
                inputs[i] = t
            args, kwargs = tree_unflatten(inputs, form)
            call = partial(function, self.fmodel, *args, **kwargs)
            return self._one(call, own[:count], own[count:end], level)

        before = weights.history, weights.installed, weights.exposed
        try:
            what = type(self.fmodel).__name__
            if function is not call:
                what = getattr(function, "__qualname__", type(function).__name__)
            value, changed = mapped(self.tasks, one, tensors, per_task, what)
        finally:
            weights.mapping = None
            weights.history, installed, weights.exposed = before
            weights.install(installed)
            self.buffers.put(self.buffers.tensors)
        self.buffers.take(changed)
        self._check_attributes()
        return value

    def _one(
        self,
        call: Callable[[], Any],
        params: list[Tensor],
        buffers: list[Tensor],
        level: int,
    ) -> tuple[Any, dict[str, Tensor]]:
        weights = self.weights
        weights.mapping = level
        weights.history = _History(weights.history or [], params, level)
        weights.exposed = False
        weights.install(params)
        self.buffers.put(buffers)
        with Replaced():
            value = call()
        if not all(map(is_, weights.installed, params)):
            raise RuntimeError(_ASSIGNED)
        return value, self.buffers.changed(buffers)

    def _is_in(self, value: Any) -> bool:
        if isinstance(value, (Tensor, nn.Module)):
            return isinstance(value, Tensor)
        if tensors_within(value):
            raise TypeError(
                f"A {type(value).__name__} among the arguments holds tensors, which "
                "can't be mapped over tasks. Pass tensors, or tuples, lists and dicts "
                "of them."
            )
        return False

    def _given(self, t: Tensor) -> tuple[Tensor, bool]:
        """An argument, and whether each task has its own."""
        if t.dim() == 0:
            return t, False
        if t.shape[0] == self.tasks:
            return t, True
        if t.shape[0] == 1:
            return t[0], False
        raise ValueError(
            f"A tensor of shape {tuple(t.shape)} was passed to a module with "
            f"tasks={self.tasks}: its first dimension must be {self.tasks}, one part "
            "for each task, or 1 for what all tasks share (tensor[None])."
        )

    def _check_attributes(self) -> None:
        for m in self.modules:
            for name, value in vars(m).items():
                if type(value) is Tensor and is_wrapped(value):
                    raise RuntimeError(
                        f"{type(m).__name__} keeps a tensor in its attribute {name!r} "
                        "from call to call, which would mix up tasks. Make it a "
                        f"buffer: register_buffer({name!r}, ...)."
                    )


_ASSIGNED = (
    "Fast weights can't be assigned to, nor the module be called with params=, inside "
    "of what is mapped over tasks. Do it outside, with stacked weights."
)


class PerTask:
    """A loss that is written for one task, as one of all."""

    def __init__(self, loss_fn: Callable[..., Tensor]) -> None:
        self.loss_fn = loss_fn

    def __call__(self, fmodel: Any, batch: Any) -> Any:
        loss = map_tasks(fmodel, self.loss_fn, batch)
        if isinstance(loss, Tensor) and loss.dim() != 1:
            raise ValueError(
                "With tasks=, loss_fn is written for one task and returns a scalar: "
                f"here it is of shape {tuple(loss.shape[1:])}."
            )
        return loss


def history_of_task(history: list[Any], i: int) -> list[Any]:
    """The weights of one task at all times."""
    *earlier, latest = history
    return [
        *(
            (
                t
                if isinstance(t, Dropped)
                else Later(len(t), partial(_of_task, t, i), kept=True)
            )
            for t in earlier
        ),
        _of_task(latest, i),
    ]


def _of_task(weights: Sequence[Tensor], i: int) -> list[Tensor]:
    return [w[i] for w in weights]


def checked_task(tasks: int | None, i: int) -> int:
    if tasks is None:
        raise ValueError(
            "This module has no dimension of tasks: pass tasks= to innerloop_ctx."
        )
    if not isinstance(i, int) or not -tasks <= i < tasks:
        raise IndexError(f"There are tasks 0 to {tasks - 1}, not {i!r}.")
    return i % tasks
