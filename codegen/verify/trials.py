"""Ways to run an optimizer that may reach what nothing has reached yet.

Parameters of many shapes are run always. After that each line that did not run asks for
trials of its own: settings, sides, numbers of steps and sizes of gradients around the
constants that its conditions depend on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .configuration import Configuration
from .coverage import Gap
from .hints import Hints, hints
from .problem import LAYOUTS, SPARSE, Layout, of_shapes
from .settings import Setting, together
from .subject import Subject

#: Scalar, vectors, tall, wide and square, three and four dimensions, thousands.
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (5,),
    (40,),
    (7, 3),
    (3, 7),
    (4, 4),
    (1, 6),
    (6, 1),
    (4, 3, 5),
    (3, 2, 4, 3),
    (5, 2, 1, 1),
    (2, 2, 1, 3, 2),
    (36, 70),
    (3000,),
)
LARGEST = 20_000  # elements of a parameter
LONG = 26  # steps, for what happens every so many of them
SCALES: tuple[tuple[float, ...], ...] = (
    (1, 1, 1, 1, 100, 1, 1e4, 1),
    (1, 1, 1e-3, 1, 1e-9, 1, 1, 1e-30),
    (1, 1, math.inf, 1, 1, 1, 1, 1),
    (1, -1, 1, -1, 1, -1, 1, -1),
    (1, 0, 1, 1, 0, 0, 1, 1),
)
PER_GAP = 60


@dataclass(frozen=True)
class Trials:
    """Trials for one optimizer. shapes: those that it takes."""

    subject: Subject
    everything: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def many_shapes(self) -> Layout:
        """Every shape at once."""
        return of_shapes("many shapes", *self.shapes)

    def left_out(self) -> list[tuple[int, ...]]:
        """Shapes of many elements that the original does not take."""
        return [s for s in SHAPES[-2:] if s not in self.shapes]

    def always(self) -> Iterator[Configuration]:
        """What is run for every optimizer."""
        yield Configuration(self.many_shapes, steps=12)
        if self.everything:
            yield Configuration(self.many_shapes, self.everything, warm=True)

    def towards(self, gap: Gap) -> Iterator[Configuration]:
        """Trials that may run what `gap` says, likely ones first."""
        found = hints(gap)
        kinds = [
            self._settings(found),
            self._times(found),
            self._shapes(found),
            self._numbers(found),
        ]
        turns = itertools.zip_longest(*kinds)
        trials = (t for turn in turns for t in turn if t is not None)
        yield from itertools.islice(trials, PER_GAP)

    def _settings(self, found: Hints) -> Iterator[Configuration]:
        """Each setting that a condition names, and pairs of those."""
        named = [s for s in self.subject.settings if s.name in found.names]
        moves = {s.name: list(dict.fromkeys(_values(s, found))) for s in named}
        singles = [(name, value) for name, values in moves.items() for value in values]
        singles.sort(key=lambda move: moves[move[0]].index(move[1]))
        for name, value in singles:
            yield self._on_all({name: value})
        for name, value in singles:
            yield self._on_all({**self.everything, name: value}, steps=12)
        for one, other in itertools.combinations(singles, 2):
            if one[0] != other[0]:
                yield self._on_all(dict([one, other]))

    def _times(self, found: Hints) -> Iterator[Configuration]:
        """More steps; and states near the step that a condition waits for."""
        named = {s.name: s.default for s in self.subject.settings}
        waits = [n for n in found.numbers if 3 < n < 1e9]
        waits += [
            n for k, n in named.items() if k in found.names and _is_count(n) and n > 3
        ]
        if not (waits or found.about("step", "steps", "iter", "t", "k", "count")):
            return
        layout = self.subject.layout
        yield Configuration(layout, steps=LONG)
        yield Configuration(layout, self.everything, steps=LONG)
        for n in dict.fromkeys(int(n) for n in sorted(waits)):
            yield Configuration(layout, warm=True, start=max(n - 4, 1))
            yield Configuration(layout, self.everything, warm=True, start=max(n - 4, 1))

    def _shapes(self, found: Hints) -> Iterator[Configuration]:
        """Sides and sizes on both sides of constants, few and many dimensions."""
        words = ("dim", "ndim", "numel", "size", "shape", "len", "nelement", "max")
        if not found.about(*words):
            return
        named = [s.default for s in self.subject.settings if s.name in found.names]
        limits = [n for n in (*found.numbers, *named) if _is_count(n) and n > 1]
        for n in sorted(dict.fromkeys(map(int, limits))):
            sides = [side for side in (n - 1, n, n + 1, 2 * n + 1) if side > 0]
            shapes = [s for side in sides for s in _of_side(side)]
            shapes = [s for s in shapes if math.prod(s) <= LARGEST]
            taken = self.subject.takes(dict.fromkeys(shapes))
            for j in range(0, len(taken), 4):
                layout = of_shapes(f"sides around {n}", *taken[j : j + 4])
                yield Configuration(layout)
                yield Configuration(layout, self.everything)
            yield from _alone(self._refused(s for s in shapes if s not in taken))
        yield from _alone(self.shapes[:-2])
        yield from _alone(self._refused(s for s in SHAPES if s not in self.shapes))

    def _refused(self, shapes: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """A few of the shapes at which the original raises."""
        slow = self.subject.is_slow
        return list(itertools.islice((s for s in shapes if not slow(s)), 4))

    def _numbers(self, found: Hints) -> Iterator[Configuration]:
        """Gradients of other sizes and kinds, other dtypes, tensors for settings."""
        layout = self.subject.layout
        if found.about("sparse"):
            yield Configuration(LAYOUTS[0] if layout.sparse else SPARSE)
        if found.about("complex", "dtype", "half", "float16", "bfloat16"):
            yield Configuration(layout, dtype=torch.complex64)
            yield Configuration(layout, dtype=torch.bfloat16)
            yield Configuration(layout, dtype=torch.float16)
            yield Configuration(layout, self.everything, dtype=torch.complex64)
        if "isinstance" in found.names or found.about("requires"):
            yield from self._tensors(found)
        for scales in SCALES:
            scaled = replace(layout, name=f"gradients times {scales}", scales=scales)
            yield Configuration(scaled)
            yield Configuration(scaled, self.everything, warm=True)

    def _tensors(self, found: Hints) -> Iterator[Configuration]:
        layout = self.subject.layout
        for setting in self.subject.settings:
            if setting.name not in found.names or not setting.numeric:
                continue
            for value in (setting.default, *setting.alternatives):
                for tracked in (False, True):
                    told = {setting.name: _as_tensors(value, tracked)}
                    yield Configuration(layout, told)
                    yield Configuration(layout, {**self.everything, **told})
                    yield Configuration(layout, told, dtype=torch.complex64)

    def _on_all(self, settings: Mapping[str, Any], steps: int = 8) -> Configuration:
        """Settings on a scalar, a vector, matrices and a tensor at once."""
        return Configuration(self.subject.layout, settings, steps=steps)


def trials(subject: Subject) -> Trials:
    """Trials for an optimizer: finds out what shapes it takes."""
    shapes = subject.takes(dict.fromkeys(SHAPES))
    everything = together(subject.settings, subject.runs)
    return Trials(subject, everything, tuple(shapes))


def _alone(shapes: Iterable[tuple[int, ...]]) -> Iterator[Configuration]:
    for shape in shapes:
        yield Configuration(of_shapes(f"alone: {list(shape)}", shape))


def _values(setting: Setting, found: Hints) -> Iterator[Any]:
    """Values of a setting that conditions with these constants may tell apart."""
    default = setting.default
    yield from setting.alternatives
    if setting.kind == "bool" or isinstance(default, bool):
        yield not default
        return
    if isinstance(default, str) or setting.kind == "choice":
        yield from sorted(found.strings)
    if default is None or setting.kind == "other":
        yield from (0.5, 2, 1, 0.01, True, (0.9, 0.99))
        yield from sorted(found.strings)
    if _is_count(default):
        yield from (1, 2, 3)
    numbers = sorted(found.numbers)
    if isinstance(default, (int, float)) or default is None:
        for n in numbers:
            whole = isinstance(default, int) and float(n).is_integer()
            yield from (n, n + 1, n - 1) if whole else (n, n * 1.01 + 1e-3, n * 0.99)
        if isinstance(default, float):
            yield from (0.0, 1.0, default * 30, default / 30)
    if isinstance(default, (tuple, list)):
        for j, n in itertools.product(range(len(default)), (0.0, 1.0, *numbers)):
            yield type(default)(n if i == j else v for i, v in enumerate(default))
    elif default is not None:
        yield None


def _of_side(side: int) -> Iterator[tuple[int, ...]]:
    yield from ((side,), (side, 2), (2, side), (side, side), (2, side, 2), (side, 2, 2))


def _is_count(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _as_tensors(value: Any, tracked: bool) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_as_tensors(v, tracked) for v in value)
    if not isinstance(value, (int, float)):
        return value
    return torch.tensor(float(value), requires_grad=tracked)
