"""Random optimizers: translated without verification, and held to their originals.

`tests/fuzz/phrases.py` has the idioms of which their steps are made. A program is
translated and right, or refused with a position. Two thousand others, made smaller
where they fail: ``python -m tests.fuzz --programs 2000 --seed 7``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from codegen.rules.r4_out_of_place.hoist import _Held, _Hoist
from fuzz.grammar import Program, numbered, programs
from fuzz.holding import Outcome, hold
from fuzz.shrink import smaller
from hypothesis import HealthCheck, given, settings

PARTS = 3  # tests of their own, which run beside each other
EXAMPLES = 6
NUMBERED = 10
UPDATE = "p.add_(m + 0.1 * v + 0.1 * a.tanh() + grad.tanh(), alpha=-lr)"

pytestmark = pytest.mark.filterwarnings("ignore")


@settings(
    max_examples=PARTS * EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(programs())
def test_what_hypothesis_writes_is_right_or_refused(program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        held = hold(program, Path(folder))
    lines = "\n".join(program.lines)
    assert held.outcome is not Outcome.WRONG, f"{held.message}\n{lines}"


@pytest.mark.parametrize("part", range(PARTS))
def test_programs_are_right_or_refused_with_a_position(
    part: int, tmp_path: Path
) -> None:
    for number in range(part * NUMBERED, (part + 1) * NUMBERED):
        held = hold(numbered(0, number), tmp_path)
        command = f"python -m tests.fuzz --seed 0 --show {number}"
        assert held.outcome is not Outcome.WRONG, f"{held.message}\n{command}"


NAMED = {
    "chained": "m.mul_(beta).add_(grad, alpha=1 - beta)",
    "nested mutation": "a = (v.add_(0.5) * m).sin_().add_(decay)",
    "alias of state": "b = v\nb.mul_(0.5)\nv.add_(1)",
    "rebinding is no mutation": "m.mul_(beta)\nm = m * 2\nm = state['m']",
    "one of two": "a = m if state['step'] % 2 else v\na.mul_(0.5)",
    "view writes through": "row = m[1]\nrow.add_(grad[0])",
    "masked store": "v[grad > 0.1] = 0.5",
    "mutation of a copy": "m[grad > 0.1].mul_(3)",
    "identity outlives a write through a view": """
b = v
if state['step'] % 2 == 0:
    b = m * 2
b[0].mul_(decay)
b.mul_(beta)
a = v if state['step'] % 2 else b
a.mul_(decay)
""",
    "one of two is transposed": """
a = m if state['step'] % 2 else v
a.T.mul_(0.5)
""",
    "item of a list": """
bufs = state['bufs']
bufs[0].mul_(beta).add_(grad)
a = bufs[0]
""",
}


def stepping(body: str) -> Program:
    lines = ["a, b = grad.clone(), v", *body.strip().split("\n"), UPDATE]
    return Program(tuple(lines), square=True)


@pytest.mark.parametrize("name", NAMED)
def test_named_programs_are_followed(name: str, tmp_path: Path) -> None:
    held = hold(stepping(NAMED[name]), tmp_path)
    assert held.outcome is Outcome.RIGHT, held.message


def test_a_wrong_translation_shows_and_is_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stepping("m.lerp_(grad, decay)\nfirst_row(v).mul_(0.5)\nb = m.sin()")
    assert hold(program, tmp_path).outcome is Outcome.RIGHT
    # what a call hands out is taken for something new
    monkeypatch.setattr(_Held, "hands_out", lambda self, node: False)
    held = hold(program, tmp_path)
    assert held.outcome is Outcome.WRONG
    program, held = smaller(program, held, tmp_path)
    assert held.outcome is Outcome.WRONG
    assert "first_row(v).mul_(0.5)" in program.lines and len(program.lines) <= 3


def test_a_refusal_without_a_position_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise ValueError("of the compiler's own")

    monkeypatch.setattr(_Hoist, "block", crash)
    held = hold(stepping("m.mul_(beta)"), tmp_path)
    assert held.outcome is Outcome.WRONG and "internal" in held.message
