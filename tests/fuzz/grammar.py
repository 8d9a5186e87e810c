"""Random steps, written phrase by phrase; whoever chooses is asked for each choice.

The choices are hypothesis', which then makes a failing program smaller, or those of a
random generator, which writes two thousand of them by their numbers.
"""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from .phrases import (
    CONDITIONS,
    DICT_VALUES,
    INDICES,
    KEYS,
    KINDS,
    LIST_VALUES,
    MADE,
    NUMBERS,
)
from .shell import module

T = TypeVar("T")
Choose = Callable[[Sequence[Any]], Any]

DEEPEST = 2
ENDINGS = (
    "m.tanh_()\nv.tanh_()",
    'state["m"].tanh_()\nstate["v"].tanh_()',
    'state["m"] = state["m"].tanh()',
    "m.clamp_(-2, 2)",
    "",
)
STARTS = (
    "a, b = grad.clone(), v",
    "a, b = grad * beta, m.clone()",
    "a, b = grad, v + m",
)
KIND_NAMES = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]


@dataclass(frozen=True)
class Scope:
    """Names that a phrase may read: of tensors, lists, dicts. ``square`` says that
    all tensors are square matrices."""

    tensors: tuple[str, ...]
    lists: tuple[str, ...] = ()
    dicts: tuple[str, ...] = ()
    square: bool = True
    depth: int = 0


@dataclass(frozen=True)
class Program:
    """The statements of a step, and the shapes that it is made for."""

    lines: tuple[str, ...]
    square: bool

    @property
    def source(self) -> str:
        return module(self.lines)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [(2, 2), (3, 3), (2, 2)] if self.square else [(3, 2), (4,), (2, 3)]


@dataclass
class Writer:
    """Writes a program out of the choices of ``choose``."""

    choose: Choose
    taken: int = 0
    scope: Scope = field(default_factory=lambda: Scope(("m", "v", "grad", "a", "b")))

    def program(self) -> Program:
        square = self.choose((True, False))
        scope = replace(self.scope, square=square)
        lines = [self.choose(STARTS)]
        if self.choose((True, False)):
            lines.append('bufs = state["bufs"]')
            scope = replace(scope, lists=("bufs",))
        if self.choose((True, False)):
            lines.append('slots = state["slots"]')
            scope = replace(scope, dicts=("slots",))
        if self.choose((True, False, False)) and scope.lists:
            lines.append(f"pile = {self.fill(self.choose(LIST_VALUES), scope)}")
            scope = replace(scope, lists=(*scope.lists, "pile"))
        if self.choose((True, False, False)) and scope.dicts:
            lines.append(f"table = {self.fill(self.choose(DICT_VALUES), scope)}")
            scope = replace(scope, dicts=(*scope.dicts, "table"))
        for _ in range(self.choose((2, 3, 4, 5, 6))):
            lines.append(self.phrase(scope))
        lines.append(self.choose(ENDINGS))
        ends = ["m", "0.1 * v", "0.1 * a.tanh()", "grad.tanh()"]
        ends += [f"0.1 * {xs}[0].tanh()" for xs in scope.lists]
        ends += [f'0.1 * {d}["x"].tanh()' for d in scope.dicts]
        lines.append(f"p.add_({' + '.join(ends)}, alpha=-lr)")
        return Program(tuple(filter(None, lines)), square)

    def phrase(self, scope: Scope) -> str:
        """One phrase of any kind that fits."""
        while True:
            kind = self.choose(KIND_NAMES)
            if kind == "flow" and scope.depth >= DEEPEST:
                continue
            if kind == "square" and not scope.square:
                continue
            phrase = self.choose(KINDS[kind][1])
            if "$l" in phrase and not scope.lists:
                continue
            if "$d" in phrase and not scope.dicts:
                continue
            return self.fill(phrase, scope)

    def fill(self, phrase: str, scope: Scope) -> str:
        """``phrase`` with names and blocks of ``scope``'s for its variables."""
        found: dict[str, str] = {}
        new = {w: self.fresh(w) for w in ("W", "w", "u") if f"${w}" in phrase}
        inside = scope
        if "W" in new:
            inside = replace(scope, tensors=(*scope.tensors, new["W"]))
        inside = replace(inside, depth=scope.depth + 1)

        def one(match: re.Match[str]) -> str:
            letter = match[1]
            if letter in new:
                return new[letter]
            if letter not in found or letter in "cte":
                found[letter] = self.fill(self.word(letter, scope), scope)
            return found[letter]

        lines: list[str] = []
        for line in phrase.split("\n"):
            bare = line.strip()
            if bare == "$B":
                block = "\n".join(
                    self.phrase(inside) for _ in range(self.choose((1, 1, 2)))
                )
                lines.append(textwrap.indent(block, line[: -len(bare)]))
            else:
                lines.append(re.sub(r"\$(\w)", one, line))
        return "\n".join(lines)

    def word(self, letter: str, scope: Scope) -> str:
        words: dict[str, Sequence[str]] = {
            "n": ("a", "b", "a", "b", "grad"),
            "s": NUMBERS,
            "t": NUMBERS,
            "c": CONDITIONS,
            "i": INDICES,
            "k": KEYS,
            "l": scope.lists,
            "d": scope.dicts,
            "e": MADE,
        }
        return str(self.choose(words.get(letter, scope.tensors)))

    def fresh(self, letter: str) -> str:
        self.taken += 1
        return f"{ {'W': 't', 'w': 'x', 'u': 'y'}[letter] }{self.taken}"


def numbered(seed: int, number: int) -> Program:
    """The program with that number, of two thousand or more for each seed."""
    return Writer(random.Random(f"{seed}/{number}").choice).program()


@st.composite
def programs(draw: Any) -> Program:
    """Any program, for hypothesis."""
    return Writer(lambda options: draw(st.sampled_from(options))).program()
