"""A program that fails or is refused, with less in it that fares as badly."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .grammar import Program
from .holding import Held, hold

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
TRIES = 150


def smaller(program: Program, held: Held, folder: Path) -> tuple[Program, Held]:
    """Statements are left out, or replaced by what they hold, as long as it fails."""
    tries = 0
    again = True
    while again and tries < TRIES:
        again = False
        for candidate in candidates(program):
            tries += 1
            found = attempt(candidate, folder)
            if found is not None and found.outcome is held.outcome:
                program, held, again = candidate, found, True
                break
            if tries >= TRIES:
                break
    return program, held


def attempt(program: Program, folder: Path) -> Held | None:
    try:
        return hold(program, folder)
    except Exception:
        return None  # no program any more: a name is gone


def candidates(program: Program) -> Iterator[Program]:
    tree = ast.parse("\n".join(program.lines))
    for tried in range(sum(1 for _ in places(tree))):
        for change in (removed, unwrapped):
            new = copy.deepcopy(tree)
            block, number = [*places(new)][tried]
            if change(block, number) and new.body:
                try:
                    lines = ast.unparse(ast.fix_missing_locations(new)).splitlines()
                    ast.parse("\n".join(lines))
                except (SyntaxError, ValueError, AttributeError, IndexError):
                    continue
                if tuple(lines) != program.lines:
                    yield replace(program, lines=tuple(lines))


def places(node: ast.AST) -> Iterator[tuple[list[ast.AST], int]]:
    """Every statement, by its block and where it stands in there."""
    for name in BLOCKS:
        block = getattr(node, name, None)
        if isinstance(block, list):
            for number in range(len(block)):
                yield block, number
                yield from places(block[number])


def removed(block: list[ast.AST], number: int) -> bool:
    del block[number]
    return True


def unwrapped(block: list[ast.AST], number: int) -> bool:
    """``if c: x`` becomes ``x``."""
    inside = [getattr(block[number], name, None) for name in BLOCKS]
    statements = [s for b in inside if isinstance(b, list) for s in b]
    if not statements or not all(isinstance(s, ast.stmt) for s in statements):
        return False
    block[number : number + 1] = statements
    return True
