"""One optimizer and its translation: how to build, train and unroll them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from higher.optim.base import DifferentiableOptimizer

from . import counters
from .configuration import Configuration
from .coverage import Coverage
from .problem import LAYOUTS, SPARSE, Layout, Problem, of_shapes
from .settings import (
    Setting,
    needed,
    required,
    required_group_keys,
    settings_of,
    settings_of_groups,
)
from .surroundings import reseed

Group = dict[str, Any]
Override = Mapping[str, list[Any]]
WARM = 3  # steps of the original before branching off it


class Unusable(Exception):
    """The original itself cannot be run this way."""


class Stopped(Unusable):
    """A step of the original raised. step: which one."""

    step = 0


@dataclass(frozen=True)
class Subject:
    """The original, its translation, and what is known about running the original."""

    original: type[Optimizer]
    differentiable: type[DifferentiableOptimizer]
    settings: tuple[Setting, ...]
    group_keys: tuple[str, ...]
    layouts: tuple[Layout, ...]
    coverage: Coverage

    @property
    def layout(self) -> Layout:
        """The parameters it is mainly run on."""
        return self.layouts[0]

    @property
    def takes_sparse(self) -> bool:
        """Whether it also takes sparse gradients beside dense ones."""
        return SPARSE in self.layouts[1:]

    @property
    def third_party(self) -> bool:
        """Whether it is somebody else's than torch's."""
        return self.original.__module__.partition(".")[0] != "torch"

    def accepts(self, settings: Mapping[str, Any]) -> bool:
        """Whether the constructor takes these settings."""
        try:
            params = Problem(self.layout, torch.float64).initial()
            self.build(params, self.layout, settings)
        except Unusable:
            return False
        return True

    def runs(self, settings: Mapping[str, Any]) -> bool:
        """Whether it trains with these settings and keeps to finite numbers."""
        conf = Configuration(self.layout, settings)
        problem = self.problem(conf)
        try:
            params, opt = self.used(conf, problem)
            for step in range(conf.steps):
                self.advance(opt, params, problem, step)
        except Unusable:
            return False
        return all(bool(p.isfinite().all()) for p in params)

    def takes(self, shapes: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Those of some shapes on which the original runs in a reasonable time, each by
        itself."""
        return [
            s for s in shapes if not self.is_slow(s) and self._seconds(s) < math.inf
        ]

    def is_slow(self, shape: tuple[int, ...]) -> bool:
        """Whether smaller parameters show that one of `shape` would take seconds, as
        decompositions of large matrices do: work grows by 64 where sides do by 4."""
        for part in (64, 16, 4):
            smaller = tuple(max(1, side // part) for side in shape)
            if (
                max(smaller, default=0) >= 8
                and 0.05 < self._seconds(smaller) < math.inf
            ):
                return True
        return False

    def _seconds(self, shape: tuple[int, ...]) -> float:
        """How long two steps on a parameter of `shape` take; inf where they can't be."""
        conf = Configuration(of_shapes("one", shape))
        problem = self.problem(conf)
        started = time.thread_time()
        try:
            params, opt = self.used(conf, problem)
            for step in range(2):
                self.advance(opt, params, problem, step)
        except Unusable:
            return math.inf
        return time.thread_time() - started

    def second(
        self,
        settings: Mapping[str, Any],
        layout: Layout,
        first: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As many of `settings` as a second parameter group may have for itself."""
        chosen: dict[str, Any] = {}
        for name, value in settings.items():
            trial = {**chosen, name: value}
            conf = Configuration(layout, first or {}, trial, warm=True)
            try:
                self.used(conf, self.problem(conf))
            except Unusable:
                continue
            chosen = trial
        return chosen

    def build(
        self,
        params: Sequence[Tensor],
        layout: Layout,
        settings: Mapping[str, Any],
        per_group: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Optimizer:
        """The original on `params`. per_group: entries of a group's own dict, by index.

        Raises `Unusable` where the constructor refuses.
        """
        groups: list[Group] = [
            {"params": [params[i] for i in members]} for members in layout.groups
        ]
        named = {s.name for s in self.settings if not s.per_group}
        told = required(self.settings) | dict(settings)
        own = per_group or {}
        for g, group in enumerate(groups):
            group.update({key: g % 2 == 0 for key in self.group_keys})
            group.update((k, v) for k, v in own.get(g, {}).items() if k in named)
        try:
            plain = len(groups) == 1 and len(groups[0]) == 1
            opt = self.original(
                groups[0]["params"] if plain else groups,
                **{k: v for k, v in told.items() if k in named},
            )
        except Exception as refusal:
            raise Unusable(f"{type(refusal).__name__}: {refusal}") from refusal
        for g, group in enumerate(opt.param_groups):
            late = {**told, **own.get(g, {})}.items()
            group.update((k, v) for k, v in late if k in group and k not in named)
        if callable(switch := getattr(opt, "train", None)):
            switch()  # schedule-free optimizers insist on it
        return opt

    def problem(self, conf: Configuration) -> Problem:
        """What `conf` is trained on."""
        return Problem(conf.layout, conf.dtype)

    def advance(
        self, opt: Optimizer, params: Sequence[Tensor], problem: Problem, step: int
    ) -> list[Tensor | None]:
        """Train in place for one step; its gradients. Raises `Unusable`."""
        for p in params:
            p.grad = None
        try:
            problem.loss(params, step).backward()  # type: ignore[no-untyped-call]
            grads = [None if p.grad is None else p.grad.clone() for p in params]
        except Exception as refusal:
            raise Unusable(f"{type(refusal).__name__}: {refusal}") from refusal
        try:
            with self.coverage.steps(of_original=True):
                opt.step()
        except Exception as refusal:
            raise Stopped(f"{type(refusal).__name__}: {refusal}") from refusal
        return grads

    def used(
        self,
        conf: Configuration,
        problem: Problem,
        told: Mapping[str, Any] | None = None,
    ) -> tuple[list[Tensor], Optimizer]:
        """Weights and the original on them, after the upstream steps if `conf` is warm.

        told: settings beside those of `conf`. The random stream is at its known place
        afterwards. Raises `Unusable`.
        """
        params = problem.initial()
        settings = {**conf.settings, **(told or {})}
        opt = self.build(params, conf.layout, settings, {1: conf.second})
        reseed()
        for step in range(-WARM if conf.warm else 0, 0):
            before = counters.numbers(opt) if conf.start and step == -1 else {}
            self.advance(opt, params, problem, step)
            counters.put(opt, before, conf.start)
        reseed()
        return params, opt

    def unroll(
        self,
        opt: Optimizer,
        params: Sequence[Tensor],
        losses: Callable[[list[Tensor], int], Tensor],
        steps: int,
        override: Override | None = None,
        each_step: Override | None = None,
        track: bool = True,
    ) -> tuple[list[list[Tensor]], DifferentiableOptimizer]:
        """Run the translation off `opt`: the weights before and after each step."""
        fast = [p.detach().clone().requires_grad_(p.requires_grad) for p in params]
        diffopt = self.differentiable(
            opt,
            params,
            override=None if override is None else dict(override),
            track_higher_grads=track,
        )
        reseed()
        history = [fast]
        for step in range(steps):
            told = None if each_step is None else dict(each_step)
            loss = losses(history[-1], step)
            with self.coverage.steps(of_original=False):
                weights = diffopt.step(loss, params=history[-1], override=told)
            history.append(list(weights))
        return history, diffopt


def subject(
    original: type[Optimizer], differentiable: type[DifferentiableOptimizer]
) -> Subject:
    """Find out by trying which parameters `original` takes. Raises `Unusable`."""
    keys = required_group_keys(original)
    settings = _understood(settings_of(original), differentiable)
    coverage = Coverage(original, differentiable)
    found = Subject(original, differentiable, settings, keys, (), coverage)
    layouts, reason = _taken(found)
    if not layouts:
        found = replace(found, settings=tuple(map(needed, settings)))
        layouts, _ = _taken(found)
    if not layouts:
        raise Unusable(reason)
    found = replace(found, layouts=tuple(layouts))
    if keys:
        opt = found.build(Problem(layouts[0], torch.float64).initial(), layouts[0], {})
        names = [s.name for s in found.settings]
        more = settings_of_groups(opt.param_groups, names)
        found = replace(found, settings=found.settings + more)
    return found


def _taken(subject: Subject) -> tuple[list[Layout], str]:
    """The layouts that an optimizer runs on; else why it does not."""
    reason = ""
    layouts: list[Layout] = []
    for layout in LAYOUTS:
        if layouts and layout is not SPARSE:
            continue
        if subject.group_keys:
            layout = layout.with_(layout.name, split=True)
        trial = replace(subject, layouts=(layout,))
        try:
            conf = Configuration(layout, warm=True)
            trial.used(conf, trial.problem(conf))
            layouts.append(layout)
        except Unusable as refusal:
            reason = reason or str(refusal)
    return layouts, reason


def _understood(
    settings: tuple[Setting, ...], differentiable: type[DifferentiableOptimizer]
) -> tuple[Setting, ...]:
    """Without words that a newer original takes, and its translation refuses."""
    choices = differentiable._choices
    return tuple(
        (
            replace(
                s, alternatives=tuple(v for v in s.alternatives if v in choices[s.name])
            )
            if s.name in choices
            else s
        )
        for s in settings
    )
