"""A program's original and its translation, step beside step.

Both train the same weights: of different shapes, in two groups, one of them without a
gradient in every other step, from the start and with a used optimizer. They must have
the same weights and the same state after each step, and the derivatives of what comes
out must be the original's: finite differences.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import codegen
import torch
from codegen.memory import load
from torch import Tensor

from .grammar import Program

STEPS = 5
USED = 2
LARGEST = 1e4
LONGEST = 60
"""Seconds of CPU that one program may take: an analysis that finds no end is a failure."""


class Outcome(Enum):
    """What became of a program."""

    RIGHT = "right"
    REFUSED = "refused"
    WRONG = "wrong"
    VOID = "the original itself fails, or leaves the finite numbers"


@dataclass(frozen=True)
class Held:
    """An outcome: for a refusal its message, for what is wrong how it shows."""

    outcome: Outcome
    message: str = ""


class Wrong(Exception):
    """The translation does something else."""


@dataclass(frozen=True)
class Task:
    """Weights of these shapes, trained for some steps."""

    shapes: tuple[tuple[int, ...], ...]

    def weights(self, shift: float = 0.0) -> list[Tensor]:
        random = torch.Generator().manual_seed(3)
        weights = []
        for shape, along in zip(self.shapes, self.along()):
            drawn = torch.randn(shape, generator=random, dtype=torch.float64)
            weights.append((0.7 * drawn + shift * along).requires_grad_())
        return weights

    def along(self) -> list[Tensor]:
        """The direction in which the initial weights are moved."""
        random = torch.Generator().manual_seed(4)
        return [
            torch.randn(shape, generator=random, dtype=torch.float64)
            for shape in self.shapes
        ]

    def loss(self, params: list[Tensor], step: int) -> Tensor:
        """Another one in each step; the second weights are in every other one only."""
        first, second, third = params
        found = ((first.sin() * (1 + step % 2)) ** 2).sum()
        found = found + (third - 0.1 * step).cos().sum() * first.tanh().sum()
        return found + (second**2 - 0.3 * second).sum() if step % 2 == 0 else found

    def outer(self, params: list[Tensor]) -> Tensor:
        parts = [(p.sin() * (i + 1)).sum() for i, p in enumerate(params)]
        return torch.stack(parts).sum()

    def groups(self, params: list[Tensor]) -> list[dict[str, Any]]:
        return [{"params": params[:2]}, {"params": params[2:], "flag": False}]


def snapshot(value: Any) -> Any:
    """A copy of weights or state that later steps don't change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(item) for item in value]
    return value


def difference(expected: Any, got: Any, where: str) -> str | None:
    """Where two states differ; None where they don't."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or expected.keys() != got.keys():
            return f"{where}: other keys, {[*expected]} and {[*got]}"
        pairs = [(f"{where}[{k!r}]", expected[k], got[k]) for k in expected]
    elif isinstance(expected, list):
        if not isinstance(got, list) or len(expected) != len(got):
            return f"{where}: other lengths"
        pairs = [(f"{where}[{i}]", e, g) for i, (e, g) in enumerate(zip(expected, got))]
    elif isinstance(expected, Tensor):
        same = isinstance(got, Tensor) and expected.shape == got.shape
        if same and torch.allclose(expected, got, rtol=1e-8, atol=1e-10):
            return None
        return f"{where}: {expected} became {got}"
    else:
        return None if expected == got else f"{where}: {expected} became {got}"
    found = (difference(e, g, name) for name, e, g in pairs)
    return next((d for d in found if d is not None), None)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


# --- the original -----------------------------------------------------------


def train(
    kind: Any, task: Task, steps: int, lr: float = 0.1, shift: float = 0.0
) -> tuple[list[Tensor], Any, list[Any]]:
    """(weights, optimizer, the history) of the original's."""
    params = task.weights(shift)
    optimizer = kind(task.groups(params), lr=lr)
    history = []
    for step in range(steps):
        optimizer.zero_grad()
        task.loss(params, step).backward()
        optimizer.step()
        state = [optimizer.state.get(p, {}) for p in params]
        history.append(snapshot([params, state]))
    return params, optimizer, history


def slope(kind: Any, task: Task, of: str, size: float) -> float:
    values = []
    for h in (size, -size):
        moved = {"lr": 0.1 + h} if of == "lr" else {"shift": h}
        params, _, _ = train(kind, task, STEPS, **moved)
        values.append(float(task.outer([p.detach() for p in params])))
    return (values[0] - values[1]) / (2 * size)


# --- the translation ----------------------------------------------------------


def follow(kind: Any, made: Any, task: Task, expected: list[Any]) -> None:
    """Hold a translation to the original's history, cold and used."""
    for used in (0, USED):
        params, optimizer, _ = train(kind, task, used)
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        override = {} if used else {"override": {"lr": [lr]}}
        start = params
        optimizer.zero_grad()
        stepper = made(optimizer, params, **override)
        for step in range(used, STEPS):
            before = [*params, *tensors(stepper.state), *tensors(stepper.param_groups)]
            versions = [t._version for t in before]
            params = stepper.step(task.loss(params, step), params=params)
            if versions != [t._version for t in before]:
                raise Wrong("a tensor was changed in place")
            state = [s[i] for s in stepper.state for i in range(len(s))]
            found = difference(expected[step], snapshot([params, state]), "it")
            if found is not None:
                raise Wrong(f"after step {step} from {used}, {found}")
        if used == 0:
            differentiate(kind, task, lr, start, params)


def differentiate(
    kind: Any, task: Task, lr: Tensor, start: list[Tensor], params: list[Tensor]
) -> None:
    by_lr, *by_weights = torch.autograd.grad(
        task.outer(params), [lr, *start], materialize_grads=True
    )
    along = sum(float((g * d).sum()) for g, d in zip(by_weights, task.along()))
    for of, got in (("lr", float(by_lr)), ("weights", along)):
        one, two = (slope(kind, task, of, h) for h in (1e-5, 1e-6))
        if abs(one - two) > 1e-6 * (1 + abs(one)):
            continue  # a kink in between
        if not abs(got - one) <= 1e-4 * (1 + abs(one)):
            raise Wrong(f"the derivative by {of} is {got}, and ought to be {one}")


# --- a program ------------------------------------------------------------------


def write(source: str, folder: Path) -> Path:
    # hypothesis tells failures apart by their files' names
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    path = folder / f"fuzzed_{name}.py"
    path.write_text(source)
    return path


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def refusal(error: codegen.CodegenError) -> Held:
    """A refusal with its first message; one without a position is a failure."""
    for found in error.diagnostics:
        if found.rule == "internal" or found.origin is None:
            return Held(Outcome.WRONG, f"crash: {error}")
    first = error.diagnostics[0]
    return Held(
        Outcome.REFUSED, f"{first.rule}: {first.message}: {first.source_line.strip()}"
    )


@functools.cache
def task_of(shapes: tuple[tuple[int, ...], ...]) -> Task:
    return Task(shapes)


def runs(kind: Any, task: Task) -> list[Any] | None:
    """What the original does; None where that is nothing to be followed."""
    try:
        _, _, expected = train(kind, task, STEPS)
    except Exception:  # memory that overlaps itself, an item that isn't there
        return None
    large = (float(t.abs().max()) for t in tensors(expected))
    return expected if all(x < LARGEST for x in large if not math.isnan(x)) else None


@contextmanager
def limited() -> Iterator[None]:
    """Raises ``TimeoutError`` inside where that takes too long."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {LONGEST} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def hold(program: Program, folder: Path) -> Held:
    """Translate a program without verification, and hold it to its original."""
    path = write(program.source, folder)
    task = task_of(tuple(program.shapes))
    kind = imported(path).Fuzzed
    expected = runs(kind, task)
    if expected is None:
        return Held(Outcome.VOID)
    try:
        with limited():
            made = load(codegen.translate(f"{path}:Fuzzed"))
            follow(kind, made, task, expected)
    except codegen.CodegenError as error:
        return refusal(error)
    except Wrong as error:
        return Held(Outcome.WRONG, str(error))
    except Exception as error:
        return Held(Outcome.WRONG, f"{type(error).__name__}: {error}")
    return Held(Outcome.RIGHT)
