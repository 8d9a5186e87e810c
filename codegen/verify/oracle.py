"""Derivatives of the original, found without differentiating it.

It is trained in place, again and again, with one setting or the initial weights moved
a little; the outer losses after 1, 2, 4, 6 and 8 steps are differenced.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .compare import compare
from .configuration import Configuration
from .differences import Slope, slopes
from .hyperparameters import (
    EACH_STEP,
    REBUILD,
    WRITE,
    Hyperparameter,
    Perturbation,
    write,
)
from .problem import Problem
from .settings import elements
from .subject import Subject, Unusable

KEPT = (1, 2, 4, 6, 8)  # steps after which outer losses are differentiated
STATE = 0  # stands among them for a function of the state after the last step
WEIGHT = 0.3  # size of the problems' weights
NUDGE = 1e-6


def moments(steps: int) -> tuple[int, ...]:
    """When an unroll of so many steps is differentiated."""
    return (*(k for k in KEPT if k <= steps), STATE)


def _same(a: Hyperparameter, b: Hyperparameter) -> bool:
    """Whether two numbers are parts of one setting, which is told as a whole."""
    return (a.name, a.group) == (b.name, b.group)


@dataclass(frozen=True)
class Oracle:
    """Finite differences of one configuration of the original.

    settings: per leaf, one slope for each of the `moments`; weights: the same per
    direction in which all trained initial weights move. values: the losses themselves.
    """

    values: Sequence[float]
    settings: Mapping[Hyperparameter, list[Slope]]
    directions: list[list[Tensor]]
    weights: list[list[Slope]]


@dataclass(frozen=True)
class Original:
    """One configuration of the original, to be evaluated with things moved."""

    subject: Subject
    conf: Configuration
    problem: Problem

    def leaves(self) -> list[Hyperparameter]:
        """Every number among the float settings, per group where there are several.

        Raises `Unusable`.
        """
        _, opt = self.subject.used(self.conf, self.problem)
        told = self.conf.settings
        names = [
            s.name
            for s in self.subject.settings
            if s.numeric or (s.kind == "other" and isinstance(told.get(s.name), float))
        ]
        several = len(opt.param_groups) > 1
        leaves = (
            Hyperparameter(name, place, g if several else None, value, group[name])
            for g, group in enumerate(opt.param_groups)
            for name in names
            if name in group
            for place, value in elements(group[name])
        )
        return [x for x in leaves if self._known(x) and self._movable(x)]

    def finite_differences(
        self, leaves: Sequence[Hyperparameter], parameters: Sequence[int] | None = None
    ) -> Oracle:
        """Finite differences, settings told at construction. Raises `Unusable`.

        parameters: those trained ones that are moved by themselves, too; default all.
        """
        settings = {leaf: self.slopes(leaf, self.injection(leaf)) for leaf in leaves}
        directions = list(_directions(self.problem, parameters))
        weights = [self._slopes_along(d) for d in directions]
        return Oracle(self.outcomes(), settings, directions, weights)

    def injection(self, leaf: Hyperparameter) -> str:
        """How a setting is told at construction: in the groups, unless the constructor
        of a new optimizer fills state from it; then as that constructor would."""
        return REBUILD if self._fills_state(leaf) else WRITE

    def derived(self, leaf: Hyperparameter) -> list[str]:
        """Other settings that the constructor computes from this one."""
        before, after = self._twins(leaf)
        skip = {"params", leaf.name}
        pairs = zip(before.param_groups, after.param_groups)
        changed = {k for b, a in pairs for k in b if k not in skip and b[k] != a[k]}
        return sorted(changed)

    def _fills_state(self, leaf: Hyperparameter) -> bool:
        if self.conf.warm:
            return False
        before, after = self._twins(leaf)
        return compare(_states(before), _states(after), "state").size > 0

    def _known(self, leaf: Hyperparameter) -> bool:
        """False where the constructor fills state from its own argument while the group
        says otherwise: what state would be, had it listened, nobody can know."""
        return self._told(leaf) == leaf.whole or not self._fills_state(leaf)

    def _movable(self, leaf: Hyperparameter) -> bool:
        """Whether the original runs with `leaf` moved: some settings, though zero is all
        right, do not go with sparse gradients; some are names of slots of state."""
        return self._runs(
            [Perturbation(leaf, leaf.value + NUDGE, self.injection(leaf))]
        )

    def _runs(self, moves: Sequence[Perturbation]) -> bool:
        try:
            self.outcomes(moves)
        except Unusable:
            return False
        return True

    def _twins(self, leaf: Hyperparameter) -> tuple[Optimizer, Optimizer]:
        """The original as it is, and as it would be with `leaf` a little off."""
        settings, layout = self.conf.settings, self.conf.layout
        second = {1: self.conf.second}
        params = self.problem.initial()
        before = self.subject.build(params, layout, settings, second)
        if not self._argument(leaf):
            return before, before
        told = {**settings, leaf.name: leaf.at(leaf.value * 0.999 + 1e-6)}
        try:
            return before, self.subject.build(params, layout, told, second)
        except Unusable:
            return before, before

    def _told(self, leaf: Hyperparameter) -> Any:
        """What the constructor is told for the setting of `leaf`."""
        default = {s.name: s.default for s in self.subject.settings}.get(leaf.name)
        return self.conf.settings.get(leaf.name, default)

    def slopes(
        self, leaf: Hyperparameter, way: str, *moves: Perturbation
    ) -> list[Slope]:
        """One slope for each of the `moments`, along `leaf` told this `way`, while other
        settings are moved."""

        def allowed(value: float) -> bool:
            told = {**self.conf.settings, leaf.name: leaf.at(value)}
            return self.subject.accepts(told)

        width = max(abs(leaf.value), 1e-3) if leaf.value else 0.1
        near = (leaf.value - 1e-8 * width, leaf.value + 1e-8 * width)
        # a setting allowed at one value only is moved behind the constructor's back
        restricted = self._argument(leaf) and any(map(allowed, near))
        way = WRITE if way == REBUILD and not restricted else way
        return slopes(
            lambda value: self.outcomes([*moves, Perturbation(leaf, value, way)]),
            leaf.value,
            width,
            allowed if restricted else _anything,
        )

    def limits(
        self, leaf: Hyperparameter, leaves: Sequence[Hyperparameter], way: str
    ) -> Iterator[tuple[Hyperparameter, list[Slope]]]:
        """Slopes along `leaf` as another setting, zero now, comes close to zero.

        Where zero switches something off, a derivative may jump: the original's
        dampening does nothing at momentum 0, and something at any momentum above.
        """
        for other in leaves:
            if other.value == 0 and other.name != leaf.name:
                near = Perturbation(other, NUDGE, way if way == EACH_STEP else WRITE)
                yield other, self.slopes(leaf, way, near)

    def each_step(
        self, leaves: Sequence[Hyperparameter]
    ) -> dict[Hyperparameter, list[Slope] | None]:
        """Slopes along those settings that act otherwise when told before every step:
        the constructor uses them up, or a step changes them. None where that cannot be
        done: the original does not bear it."""
        found: dict[Hyperparameter, list[Slope] | None] = {}
        for leaf in leaves:
            value = leaf.value + 1e-4 * max(abs(leaf.value), 1e-3)
            often = [Perturbation(leaf, value, EACH_STEP)]
            if not self._runs(often):
                found[leaf] = None
            elif self.outcomes(often) != self.outcomes(
                [Perturbation(leaf, value, self.injection(leaf))]
            ):
                found[leaf] = self.slopes(leaf, EACH_STEP)
        return found

    def outcomes(
        self,
        moves: Sequence[Perturbation] = (),
        shift: tuple[float, Sequence[Tensor]] | None = None,
    ) -> list[float]:
        """Outer losses at each of the `moments`, with settings moved or the initial
        weights shifted along a direction. Raises `Unusable`."""
        rebuilt = [m for m in moves if m.way == REBUILD]
        told = {
            m.leaf.name: m.leaf.at(m.value) for m in rebuilt if m.leaf.group is None
        }
        params, opt = self.subject.used(self.conf, self.problem, told)
        for m in rebuilt:
            self._take_state(opt, params, m)
        write(opt, (m for m in moves if m.way != EACH_STEP))
        if shift:
            trained = [p for p in params if p.requires_grad]
            for p, direction in zip(trained, shift[1]):
                p.data.add_(direction, alpha=shift[0])
        found = []
        for step in range(self.conf.steps):
            write(opt, (m for m in moves if m.way == EACH_STEP))
            self.subject.advance(opt, params, self.problem, step)
            if step + 1 in KEPT:
                found.append(float(self.problem.outer(params).detach()))
        return [*found, float(self.problem.of_state(_states(opt)).detach())]

    def _take_state(
        self, opt: Optimizer, params: list[Tensor], move: Perturbation
    ) -> None:
        """Give one group the state that a constructor told the moved value makes."""
        g = move.leaf.group
        if g is None:
            return
        told = {**self.conf.settings, move.leaf.name: move.leaf.at(move.value)}
        second = {1: self.conf.second}
        twin = self.subject.build(params, self.conf.layout, told, second)
        for p in opt.param_groups[g]["params"]:
            if p in twin.state:
                opt.state[p] = twin.state[p]

    def again(self, leaves: Sequence[Hyperparameter], before: Oracle) -> Oracle:
        """The oracle where all of these settings are told before every step: where the
        steps themselves change one, each derivative is another one then."""
        often = {leaf: Perturbation(leaf, leaf.value, EACH_STEP) for leaf in leaves}
        values = self.outcomes(list(often.values()))
        if values == before.values:
            return before
        settings = {
            leaf: self.slopes(
                leaf, EACH_STEP, *(m for x, m in often.items() if not _same(x, leaf))
            )
            for leaf in leaves
        }
        weights = [
            self._slopes_along(d, list(often.values())) for d in before.directions
        ]
        return Oracle(
            values, {**before.settings, **settings}, before.directions, weights
        )

    def _slopes_along(
        self, direction: Sequence[Tensor], moves: Sequence[Perturbation] = ()
    ) -> list[Slope]:
        along = functools.partial(_shifted, self, direction, moves)
        return slopes(along, 0.0, WEIGHT, _anything)

    def _argument(self, leaf: Hyperparameter) -> bool:
        """Whether the constructor itself takes this setting."""
        return any(
            s.name == leaf.name and not s.per_group for s in self.subject.settings
        )


def _states(opt: Optimizer) -> list[Any]:
    return [opt.state.get(p, {}) for g in opt.param_groups for p in g["params"]]


def _shifted(
    original: Original,
    direction: Sequence[Tensor],
    moves: Sequence[Perturbation],
    size: float,
) -> list[float]:
    return original.outcomes(moves, shift=(size, direction))


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
