"""What shares memory while a step runs is what the heap says may share it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from codegen.analysis.environment import Env
from codegen.analysis.values import Value
from fuzz.grammar import Program, numbered
from fuzz.holding import imported, task_of, write
from fuzz.sanitizer import Sanitizer, analysed, check, overlap
from higher._generated import OPTIMIZERS
from test_soundness import ALL, FOLDER, Case, Net

STEPS = 3
PROGRAMS = 12

pytestmark = pytest.mark.filterwarnings("ignore")

UNRUNNABLE = (AttributeError, KeyError, NameError, SyntaxError)
"""What the optimizer's constructor makes, or a nested function's ``nonlocal``, is not
there for a body that runs by itself."""


def sanitized(program: Program, folder: Path) -> Sanitizer | None:
    path = write(program.source, folder)
    task = task_of(tuple(program.shapes))
    kind = imported(path).Fuzzed
    groups = task.groups(task.weights())
    found = analysed(f"{path}:Fuzzed")
    return found and check(found, kind, groups, task.loss, STEPS)


def of_case(case: Case) -> Sanitizer | None:
    net = Net(case.sizes)
    path = FOLDER / f"{case.name}.py"
    groups = [{"params": list(net.parameters())}]
    kind = imported(path).Opt
    found = analysed(f"{path}:Opt")
    return found and check(found, kind, groups, lambda _, step: net(step), STEPS)


def leaks(found: Sanitizer | None) -> list[str]:
    return [] if found is None else [str(leak) for leak in found.leaks.values()]


def test_what_random_programs_share_is_known(tmp_path: Path) -> None:
    looked = 0
    for number in range(PROGRAMS):
        found = sanitized(numbered(0, number), tmp_path)
        assert not leaks(found), number
        looked += found.pairs if found is not None else 0
    assert looked > 1000


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_what_these_programs_share_is_known(case: Case) -> None:
    try:
        found = of_case(case)
    except UNRUNNABLE as error:
        pytest.skip(f"it can't be run by itself: {error}")
    except TypeError as error:
        # torch.clone(x, out=y) is a spelling between passes, which torch has not
        if "argument 'out'" not in str(error):
            raise
        pytest.skip(f"it can't be run by itself: {error}")
    if case.name == "slice_of_numbers_to_tensors" and leaks(found):
        pytest.xfail("items of a list in the state that are numbers in the first step")
    assert not leaks(found)


SETTINGS: list[dict[str, Any]] = [
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "centered": True},
]


@pytest.mark.parametrize("target", sorted(set(OPTIMIZERS) - {"torch.optim.SparseAdam"}))
def test_what_torchs_own_share_is_known(target: str) -> None:
    kind = getattr(torch.optim, target.rpartition(".")[2])
    known = inspect.signature(kind).parameters
    found = analysed(target)
    assert found is not None
    for settings in [{}, *(s for s in SETTINGS if s.keys() <= known.keys())]:
        net = Net([(3, 2), (2, 3)])
        groups = [{"params": list(net.parameters())}]
        told = {"lr": 0.1, **settings}
        run = check(found, kind, groups, lambda _, step: net(step), STEPS, **told)
        assert run.pairs and not leaks(run), settings


ALIAS = ("a = v\nb = a.view(-1)", "b[0] = 0.5\nm.add_(a)")


def test_a_view_that_is_taken_for_new_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*ALIAS, "p.add_(m + 0.1 * v + b.sum(), alpha=-lr)"]
    program = Program(tuple(lines), square=True)
    assert not leaks(sanitized(program, tmp_path))

    def apart(self: Env, a: Value, b: Value) -> bool:
        """Views are dropped: one object by two names only is one."""
        return bool(a.places & b.places)

    monkeypatch.setattr(Env, "may_alias", apart)
    assert any("share memory" in leak for leak in leaks(sanitized(program, tmp_path)))


def test_overlap_is_of_elements() -> None:
    x = torch.zeros(3, 4)
    assert overlap(x, x.T) and overlap(x[0], x[:, 0]) and overlap(x, x[2, 3:])
    assert not overlap(x[0], x[1]) and not overlap(x[:, 0], x[:, 1])
    assert not overlap(x, x.clone())
