"""Derivatives of the original, found without differentiating it.

It is trained in place, again and again, with one setting or the initial weights moved
a little; the outer losses after 1, 2, 4, 6 and 8 steps are differenced.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .differences import Slope, slopes
from .problem import Problem
from .settings import elements, with_element
from .subject import Configuration, Subject, Unusable

KEPT = (1, 2, 4, 6, 8)  # steps after which outer losses are differentiated
WEIGHT = 0.3  # size of the problems' weights

#: Ways to tell a setting: to the constructor, to the groups once, before every step.
REBUILD, WRITE, EACH_STEP = "rebuild", "write", "each step"
NUDGE = 1e-6


@dataclass(frozen=True)
class Leaf:
    """One number that the settings of all groups (group None) or of one group hold.

    whole: the setting's value, of which the number is all or, in a tuple, one place.
    """

    name: str
    place: int | None
    group: int | None
    value: float
    whole: Any = field(compare=False)

    def __str__(self) -> str:
        label = self.name if self.place is None else f"{self.name}[{self.place}]"
        return label if self.group is None else f"{label} of group {self.group}"

    def at(self, value: Any) -> Any:
        """The setting with this number replaced."""
        return with_element(self.whole, self.place, value)


@dataclass(frozen=True)
class Move:
    """A setting told another value, one of three ways."""

    leaf: Leaf
    value: float
    way: str


@dataclass(frozen=True)
class Oracle:
    """Finite differences of one configuration of the original.

    settings: per leaf, one slope for each kept step; weights: the same per direction
    in which all trained initial weights move.
    """

    settings: Mapping[Leaf, list[Slope]]
    directions: list[list[Tensor]]
    weights: list[list[Slope]]


@dataclass(frozen=True)
class Original:
    """One configuration of the original, to be evaluated with things moved."""

    subject: Subject
    conf: Configuration
    problem: Problem

    def leaves(self) -> list[Leaf]:
        """Every number among the float settings, per group where there are several.

        Raises `Unusable`.
        """
        _, opt = self.subject.used(self.conf, self.problem)
        names = [s.name for s in self.subject.settings if s.numeric]
        several = len(opt.param_groups) > 1
        return [
            Leaf(name, place, g if several else None, value, group[name])
            for g, group in enumerate(opt.param_groups)
            for name in names
            if name in group
            for place, value in elements(group[name])
        ]

    def consult(
        self, leaves: Sequence[Leaf], parameters: Sequence[int] | None = None
    ) -> Oracle:
        """Finite differences, settings told at construction. Raises `Unusable`.

        parameters: those trained ones that are moved by themselves, too; default all.
        """
        settings = {leaf: self.slopes(leaf, self.telling(leaf)) for leaf in leaves}
        directions = list(_directions(self.problem, parameters))
        weights = [self._slopes_along(d) for d in directions]
        return Oracle(settings, directions, weights)

    def telling(self, leaf: Leaf) -> str:
        """How a setting is told at construction: to a new optimizer, unless it is a
        used one, or its constructor derives other settings from this one."""
        if self.conf.warm or leaf.group is not None or not self._argument(leaf):
            return WRITE
        return WRITE if self.derived(leaf) else REBUILD

    def derived(self, leaf: Leaf) -> list[str]:
        """Other settings that the constructor computes from this one."""
        if leaf.group is not None or not self._argument(leaf):
            return []
        params, layout = self.problem.initial(), self.conf.layout
        (before,) = self.subject.build(params, layout, self.conf.settings).param_groups
        told = {**self.conf.settings, leaf.name: leaf.at(leaf.value * 0.999)}
        try:
            (after,) = self.subject.build(params, layout, told).param_groups
        except Unusable:
            return []
        skip = ("params", leaf.name)
        return [k for k in before if k not in skip and before[k] != after[k]]

    def slopes(self, leaf: Leaf, way: str, *moves: Move) -> list[Slope]:
        """One slope per kept step of the outer loss, along `leaf` told this `way`,
        while other settings are moved."""

        def allowed(value: float) -> bool:
            told = {**self.conf.settings, leaf.name: leaf.at(value)}
            return self.subject.accepts(told)

        width = max(abs(leaf.value), 1e-3) if leaf.value else 0.1
        near = (leaf.value - 1e-8 * width, leaf.value + 1e-8 * width)
        # a setting allowed at one value only is moved behind the constructor's back
        restricted = self._argument(leaf) and any(map(allowed, near))
        way = WRITE if way == REBUILD and not restricted else way
        return slopes(
            lambda value: self.outcomes([*moves, Move(leaf, value, way)]),
            leaf.value,
            width,
            allowed if restricted else _anything,
        )

    def limits(
        self, leaf: Leaf, leaves: Sequence[Leaf], way: str
    ) -> Iterator[tuple[Leaf, list[Slope]]]:
        """Slopes along `leaf` as another setting, zero now, comes close to zero.

        Where zero switches something off, a derivative may jump: the original's
        dampening does nothing at momentum 0, and something at any momentum above.
        """
        for other in leaves:
            if other.value == 0 and other.name != leaf.name:
                near = Move(other, NUDGE, way if way == EACH_STEP else WRITE)
                yield other, self.slopes(leaf, way, near)

    def later(self, leaves: Sequence[Leaf]) -> list[Leaf]:
        """Settings that act otherwise when told before every step: the constructor uses
        them up, or a step changes them."""
        moved = [
            (leaf, leaf.value + 1e-4 * max(abs(leaf.value), 1e-3)) for leaf in leaves
        ]
        return [
            leaf
            for leaf, value in moved
            if self.outcomes([Move(leaf, value, self.telling(leaf))])
            != self.outcomes([Move(leaf, value, EACH_STEP)])
        ]

    def outcomes(
        self,
        moves: Sequence[Move] = (),
        shift: tuple[float, Sequence[Tensor]] | None = None,
    ) -> list[float]:
        """Outer losses after each kept number of steps, with settings moved or the
        initial weights shifted along a direction. Raises `Unusable`."""
        rebuilt = {m.leaf.name: m.leaf.at(m.value) for m in moves if m.way == REBUILD}
        params, opt = self.subject.used(self.conf, self.problem, rebuilt)
        _write(opt, (m for m in moves if m.way == WRITE))
        if shift:
            trained = [p for p in params if p.requires_grad]
            for p, direction in zip(trained, shift[1]):
                p.data.add_(direction, alpha=shift[0])
        found = []
        for step in range(self.conf.steps):
            _write(opt, (m for m in moves if m.way == EACH_STEP))
            self.subject.advance(opt, params, self.problem, step)
            if step + 1 in KEPT:
                found.append(float(self.problem.outer(params)))
        return found

    def _slopes_along(self, direction: Sequence[Tensor]) -> list[Slope]:
        along = functools.partial(_shifted, self, direction)
        return slopes(along, 0.0, WEIGHT, _anything)

    def _argument(self, leaf: Leaf) -> bool:
        """Whether the constructor itself takes this setting."""
        return any(
            s.name == leaf.name and not s.per_group for s in self.subject.settings
        )


def _shifted(
    original: Original, direction: Sequence[Tensor], size: float
) -> list[float]:
    return original.outcomes(shift=(size, direction))


def _write(opt: Optimizer, moves: Iterable[Move]) -> None:
    for m in moves:
        groups = opt.param_groups
        for group in groups if m.leaf.group is None else [groups[m.leaf.group]]:
            group[m.leaf.name] = m.leaf.at(m.value)


def _anything(value: float) -> bool:
    return True


def _directions(
    problem: Problem, parameters: Sequence[int] | None
) -> Iterator[list[Tensor]]:
    """One direction for each trained parameter by itself, and one for all."""
    random = torch.Generator().manual_seed(7)
    trained = [p for p in problem.initial() if p.requires_grad]
    drawn = [
        torch.rand(p.shape, generator=random, dtype=p.dtype) - 0.5 for p in trained
    ]
    for i in range(len(drawn)) if parameters is None else parameters:
        yield [d if j == i else torch.zeros_like(d) for j, d in enumerate(drawn)]
    if len(drawn) > 1:
        yield drawn
