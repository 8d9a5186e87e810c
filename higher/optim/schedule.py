"""Learning-rate schedulers of torch's that drive a differentiable optimizer.

A scheduler is copied, and its copy handed the inner optimizer's groups in the place of its
own optimizer's. It computes with numbers as ever; what is a tensor there it finds as a
number that takes down what is done to it, so that a formula's result has its gradient.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from higher.optim.rate import Rate, number

Groups = Callable[[], Sequence[dict[str, Any]]]
"""Finds the present groups."""


class Schedule:
    """A branch of a scheduler, as ``diffopt.scheduler``.

    Attributes that are not here are the scheduler's own.

    Attributes:
        driven: whether ``unroll`` steps it.
    """

    def __init__(self, scheduler: Any, groups: Groups) -> None:
        """
        Args:
            scheduler: a scheduler of torch's, or a branch of one; it is not changed.
            groups: of the optimizer that is driven.
        """
        self.driven = False
        self._groups = groups
        if isinstance(scheduler, Schedule):
            scheduler = scheduler._scheduler
        self._scheduler: Any = _Copier(scheduler, groups).copy(scheduler)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Sets the learning rate for the next inner step, as the original's ``step``
        would; takes what that takes (a metric, say).

        Raises:
            RuntimeError: a learning rate that is a tensor which requires grad would
                become a number; or ``unroll`` is under way, which does this itself.
        """
        if self.driven:
            raise RuntimeError(
                "unroll steps the scheduler itself, after each inner step: leave out "
                "diffopt.scheduler.step() in loss_fn."
            )
        # a metric may have a graph, which torch warns of
        self._run(*map(_detached, args), **{k: _detached(v) for k, v in kwargs.items()})

    def get_last_lr(self) -> list[Any]:
        """The present learning rate of each group."""
        return [group["lr"] for group in self._groups()]

    def state_dict(self) -> dict[str, Any]:
        """That of the scheduler, with numbers for tensors: the original can load it."""
        state: dict[str, Any] = _plain(self._scheduler.state_dict())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state_dict)

    def stepped(self, groups: list[dict[str, Any]]) -> tuple[list[Any], Schedule]:
        """The settings of the next step, and the schedule then: as a pure function."""
        new = [dict(group) for group in groups]
        branch = Schedule(self, lambda: new)
        branch._run()
        # who keeps the schedule does not keep these
        branch._groups = branch._scheduler.optimizer._groups = list
        return new, branch

    def on(self, groups: Groups) -> Schedule:
        """The same for other groups."""
        branch = Schedule(self, groups)
        branch.driven = self.driven
        return branch

    def adopt(self, other: Schedule) -> None:
        """Goes on where ``other`` is."""
        self._scheduler = _Copier(other._scheduler, self._groups).copy(other._scheduler)

    def start_from(self, name: str = "lr") -> None:
        """Takes the present learning rates, which the user gave, for base rates.

        Raises:
            ValueError: this scheduler has none.
        """
        scheduler, groups = self._scheduler, self._groups()
        if hasattr(scheduler, "_schedule_phases"):
            raise ValueError(
                f"override['lr'] has no effect: {type(scheduler).__name__} goes from "
                "initial_lr to max_lr to min_lr. Override these."
            )
        ratios = [_ratio(g, name) for g in self._then]
        for group in groups:
            group["initial_lr"] = group[name]
        if _is_fresh(scheduler):
            scheduler.last_epoch = -1
            scheduler._initial_step()
            return
        for group, ratio in zip(groups, ratios):
            if ratio != 1:
                group[name] = group[name] * ratio

    _then: Sequence[Mapping[str, Any]] = ()
    """The original's groups, when it was branched."""

    def _run(self, *args: Any, **kwargs: Any) -> None:
        self._scheduler.step(*args, **kwargs)
        for one in _nested(self._scheduler):
            if hasattr(one, "_last_lr"):
                # an attribute of the original's kind, without a graph
                one._last_lr = _plain(one._last_lr)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_scheduler":
            raise AttributeError(name)
        return getattr(self._scheduler, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._scheduler).__name__})"


def branched(
    scheduler: Any,
    opt: torch.optim.Optimizer,
    diffopt: Any,
    override: Mapping[str, Any] | None,
) -> Schedule:
    """A branch of ``scheduler``, which is one of ``opt``, that drives ``diffopt``.

    Raises:
        TypeError: it is no scheduler.
        ValueError: it is another optimizer's, or ``override`` has an ``lr`` that it
            does not use.
    """
    if not hasattr(scheduler, "optimizer") or not hasattr(scheduler, "step"):
        inside = getattr(scheduler, "scheduler", None)
        raise TypeError(
            "scheduler must be a scheduler of torch.optim.lr_scheduler, not "
            f"{type(scheduler).__name__}."
            + (" Pass the one inside: scheduler.scheduler." if inside else "")
        )
    if scheduler.optimizer is not opt:
        raise ValueError(
            "The scheduler is another optimizer's: pass one that was made for opt."
        )
    schedule = Schedule(scheduler, groups_of(diffopt))
    if override and "lr" in override and "initial_lr" not in override:
        schedule._then = opt.param_groups
        schedule.start_from()
        schedule._then = ()
    return schedule


def groups_of(diffopt: Any) -> Groups:
    """What finds the groups of an optimizer that holds the schedule."""
    found = weakref.ref(diffopt)

    def groups() -> Sequence[dict[str, Any]]:
        optimizer = found()
        if optimizer is None:
            raise RuntimeError("The optimizer that this scheduler drives is gone.")
        held: list[dict[str, Any]] = optimizer.param_groups
        return held

    return groups


def _ratio(group: Mapping[str, Any], name: str) -> float:
    now, base = map(number, (group[name], group.get("initial_lr", group[name])))
    if now == base:
        return 1.0
    if base == 0:
        raise ValueError(
            "override['lr'] stands for the base learning rate, of which the scheduler "
            "has made the present one; the optimizer's own base is 0."
        )
    return float(now / base)


def _is_fresh(scheduler: Any) -> bool:
    return (
        # what it calls may count its calls
        type(scheduler).__module__ == "torch.optim.lr_scheduler"
        and not hasattr(scheduler, "lr_lambdas")
        and hasattr(scheduler, "base_lrs")
        and hasattr(scheduler, "_initial_step")
        and not hasattr(scheduler, "_schedulers")
        and scheduler.last_epoch == 0
    )


@contextmanager
def driven(schedule: Schedule) -> Iterator[None]:
    """While entered, ``unroll`` steps it.

    Raises:
        ValueError: it can't, for a step takes a metric.
    """
    if hasattr(schedule._scheduler, "num_bad_epochs"):
        raise ValueError(
            f"unroll can't step {type(schedule._scheduler).__name__}, which needs a "
            "metric. Write a plain loop with diffopt.scheduler.step(metric)."
        )
    schedule.driven = True
    try:
        yield
    finally:
        schedule.driven = False


def _nested(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for one in getattr(scheduler, "_schedulers", ()):
        yield from _nested(one)


class _Copier:
    """Copies a scheduler and those inside it; they share one stand-in for their
    optimizer."""

    def __init__(self, scheduler: Any, groups: Groups) -> None:
        self._original: Any = getattr(scheduler, "optimizer", None)
        self._stand_in = _Optimizer(groups, self._original)
        self._memo: dict[int, Any] = {}

    def copy(self, value: Any) -> Any:
        if value is self._original and value is not None:
            return self._stand_in
        if id(value) in self._memo:
            return self._memo[id(value)]
        kind = type(value)
        if isinstance(value, _Bases):
            return value
        if kind in (list, tuple, deque, set):
            return kind(map(self.copy, value))
        if kind in (dict, Counter):
            return kind({k: self.copy(v) for k, v in value.items()})
        if kind is types.MethodType:
            return types.MethodType(value.__func__, self.copy(value.__self__))
        if kind is functools.partial:
            args, keywords = self.copy(value.args), self.copy(value.keywords)
            return functools.partial(self.copy(value.func), *args, **keywords)
        if hasattr(value, "optimizer") and hasattr(value, "step"):
            return self._scheduler(value)
        return _copied_object(value)

    def _scheduler(self, value: Any) -> Any:
        new = self._memo[id(value)] = object.__new__(type(value))
        new.__dict__.update({k: self.copy(v) for k, v in vars(value).items()})
        bases = vars(value).get("base_lrs")
        if bases is not None:
            new.base_lrs = self._bases(bases)
        return new

    def _bases(self, bases: Any) -> _Bases:
        if isinstance(bases, _Bases):
            return _Bases(bases.own, self._stand_in)
        groups = self._original.param_groups
        return _Bases(
            [
                None if _is_base(base, group) else base
                for base, group in zip(bases, groups)
            ],
            self._stand_in,
        )


def _is_base(base: Any, group: Mapping[str, Any]) -> bool:
    known = group.get("initial_lr")
    return known is not None and bool(number(base) == number(known))


def _copied_object(value: Any) -> Any:
    # a callable object with state of its own, for one
    if isinstance(value, (Tensor, type, types.FunctionType, torch.nn.Module)):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


class _Bases(Sequence[Any]):
    """Base rates: those of the groups, but where the scheduler has its own."""

    def __init__(self, own: Sequence[Any], optimizer: _Optimizer) -> None:
        self.own = list(own)
        self._optimizer = optimizer

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        own = self.own[index]
        return self._optimizer.param_groups[index]["initial_lr"] if own is None else own


class _Optimizer:
    """What a scheduler sees of its optimizer."""

    def __init__(self, groups: Groups, original: Any) -> None:
        self._groups = groups
        self.defaults = getattr(original, "defaults", {})
        self._opt_called = True

    @property
    def param_groups(self) -> list[_Group]:
        return [_Group(group) for group in self._groups()]

    def step(self) -> None:
        """Never called: schedulers look whether it is there."""


_Optimizer.step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]


class _Group(MutableMapping[str, Any]):
    """A group as a scheduler sees it."""

    def __init__(self, group: dict[str, Any]) -> None:
        self._group = group

    def __getitem__(self, name: str) -> Any:
        return _seen(self._group[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self._group[name] = _in_place_of(self._group.get(name), value, name)

    def __delitem__(self, name: str) -> None:
        del self._group[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)


def _seen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Rate(value)
    if type(value) in (list, tuple):
        return type(value)(map(_seen, value))
    return value


def _in_place_of(present: Any, value: Any, name: str) -> Any:
    if type(value) in (list, tuple):
        before = present if type(present) in (list, tuple) else ()
        pairs = zip(value, [*before, *[None] * len(value)])
        return type(value)(_in_place_of(old, new, name) for new, old in pairs)
    if isinstance(value, Rate):
        value = value.tensor
    if not isinstance(present, Tensor) or value is present:
        return value
    if isinstance(value, Tensor):
        return value.to(present.dtype)
    if present.requires_grad:
        raise RuntimeError(_NUMBER.format(name))
    return torch.full_like(present, value)


_NUMBER = (
    "The scheduler sets {!r} to a number that does not depend on the tensor that is there, "
    "whose gradient would be lost: its formula does not multiply the base rate, or turns "
    "it into a float. Compute the schedule by override=lambda step: ... of unroll, or give "
    "this setting as a number."
)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _plain(value: Any) -> Any:
    """Numbers for rates."""
    if isinstance(value, Rate):
        value = value.tensor
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.detach()
    if isinstance(value, _Bases):
        return [_plain(v) for v in value]
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {k: _plain(v) for k, v in value.items()}
    return value
