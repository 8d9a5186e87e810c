"""Verification runs what it has not run, and says what it could not."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import codegen
from codegen.memory import load
from codegen.verify import exploring, gradients, stability, trajectory
from codegen.verify.hints import hints
from codegen.verify.coverage import Gap
from codegen.verify.report import Tally
from codegen.verify.settings import settings_of
from codegen.verify.source_lines import source_of
from codegen.verify.configuration import Configuration
from codegen.verify.subject import Subject, subject
from codegen.verify.surroundings import undisturbed
from codegen.verify.tracing import Hits, Trace

PROGRAM = """
import torch
from torch.optim import Optimizer

LIMIT = 512
SCALES = {{"plain": 1.0, "half": 0.625}}

class Opt(Optimizer):
    def __init__(self, params, lr=0.1{arguments}):
        super().__init__(params, dict(lr=lr{entries}))
        self.every = 64

    def _due(self, step):
        return step % self.every == 0

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                state["step"] += 1
                m = state["m"]
                m.mul_(0.9).add_(grad)
{gate}
                p.sub_(m, alpha=group["lr"])
"""

#: What stands before `m.mul_(0.625)`, and arguments of the constructor.
GATES = {
    "a wide matrix": ("if p.dim() == 2 and p.shape[1] > 2 * p.shape[0]:", {}),
    "a kernel of a convolution": ("if p.ndim == 4 and p.shape[2] > 1:", {}),
    "more elements than a module's constant": ("if p.numel() > LIMIT:", {}),
    "one parameter alone": ('if len(group["params"]) == 1:', {}),
    "one step of many": ('if state["step"] == 37:', {}),
    "every 200 steps": ('if state["step"] % 200 == 0:', {}),
    "every 64 steps, by a helper": ('if self._due(state["step"]):', {}),
    "late steps, by a setting": (
        'if state["step"] > group["warmup"]:',
        {"warmup": 2000},
    ),
    "None by default": ('if group["bound"] is not None:', {"bound": None}),
    "the third round": (
        'for j in range(group["rounds"]):\n    if j >= 2:',
        {"rounds": 1},
    ),
    "a large side, by a setting": (
        'if max(p.shape, default=0) > group["most"]:',
        {"most": 9999},
    ),
    "three conditions": (
        'if group["nesterov"] and state["step"] > 30 and p.dim() == 2:',
        {"nesterov": False},
    ),
    "a large gradient": ("if grad.norm() > 50:", {}),
    "no gradient": ("if not bool(grad.any()):", {}),
    "half precision": ("if p.dtype == torch.float16:", {}),
}


def program(gate: str, arguments: dict[str, Any], body: str = "m.mul_(0.625)") -> str:
    last = gate.rpartition("\n")[2]
    depth = len(last) - len(last.lstrip()) + 4 * last.endswith(":")
    body = textwrap.indent(body, " " * depth)
    return PROGRAM.format(
        arguments="".join(f", {k}={v!r}" for k, v in arguments.items()),
        entries="".join(f", {k}={k}" for k in arguments),
        gate=textwrap.indent(f"{gate}\n{body}".strip("\n"), " " * 16),
    )


Compile = Callable[[str, str], Subject]


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """An optimizer's source, and a fault: what becomes of 0.625 in the translation."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str, fault: str = "0.625") -> Subject:
        name = f"{tmp_path.name.strip('_')}_gated"
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        original = importlib.import_module(name).Opt
        translation = codegen.translate(f"{name}.Opt")
        assert fault == "0.625" or "0.625" in translation.text
        text = translation.text.replace("0.625", fault)
        return subject(original, load(replace(translation, text=text)))

    return make


def explored(found: Subject) -> Tally:
    """What the defaults and the trials for all that they left say."""
    tally = Tally()
    with undisturbed():
        absent = found.layout.with_("gradients absent", intermittent=True)
        trajectory.check(found, Configuration(absent), tally, watched=True)
        for run in exploring.trials(found, tally):
            run()
            if tally.failures:
                break
    return tally


@pytest.mark.parametrize("gate", GATES)
def test_fault_behind_a_gate_is_found(gate: str, compiled: Compile) -> None:
    tally = explored(compiled(program(*GATES[gate]), "0.5"))
    assert tally.failures, "the gate was not passed"


@pytest.mark.parametrize("gate", ["every 200 steps", "three conditions"])
def test_right_one_is_run_to_the_last_line(gate: str, compiled: Compile) -> None:
    found = compiled(program(*GATES[gate]), "0.625")
    tally = explored(found)
    assert not tally.failures
    assert found.coverage.gaps() == []
    share = found.coverage.original.share()
    assert share.run == share.of == 15


def test_words_that_are_keys_are_settings(compiled: Compile) -> None:
    source = program('m.mul_(SCALES[group["kind"]])', {"kind": "plain"}, body="pass")
    kind = next(s for s in settings_of(compiled(source).original) if s.name == "kind")
    assert "half" in kind.alternatives


def test_words_that_are_matched_are_settings(compiled: Compile) -> None:
    gate = 'word = group["kind"]\nmatch word:\n    case "slow" | "fast":'
    source = program(gate, {"kind": "plain"}, body="pass")
    kind = next(s for s in settings_of(compiled(source).original) if s.name == "kind")
    assert kind.alternatives == ("slow", "fast")


def test_what_cannot_be_run_is_told_with_its_line(compiled: Compile) -> None:
    found = compiled(program("if p.is_cuda:", {}))
    assert not explored(found).failures
    original, update = found.coverage.shares()
    line = 1 + program("if p.is_cuda:", {}).split("m.mul_(0.625)")[0].count("\n")
    assert str(original).startswith("1 line of 15 not run: ")
    assert str(original).endswith(f"gated.py:{line}")
    assert str(update).startswith("1 line of the update's ")


def test_what_only_raises_counts_where_both_raise(compiled: Compile) -> None:
    gate = "if grad.is_sparse:"
    found = compiled(program(gate, {}, body='raise RuntimeError("0.625")'))
    assert not explored(found).failures
    assert found.coverage.gaps() == []


def test_error_that_the_translation_lost_does_not_count(compiled: Compile) -> None:
    gate, body = "if p.numel() > LIMIT + 0.625:", 'raise RuntimeError("large")'
    for threshold, is_kept in (("0.625", True), ("1e9", False)):
        found = compiled(program(gate, {}, body), threshold)
        explored(found)
        assert (not found.coverage.original.gaps()) == is_kept


def scaled(x: Any, closure: Any = None, foreach: bool = False) -> Any:
    if closure is not None:
        x = closure()
    if foreach and not torch.jit.is_scripting():
        return [2 * y for y in x]
    if x > 1 and x < 9:
        x = x / 2
    while x > 4:
        x = x - 1
    return x if x else None


def test_what_is_known_beforehand_is_out_of_reach() -> None:
    source = source_of(scaled.__code__)
    assert source is not None
    first = scaled.__code__.co_firstlineno
    assert sorted(line - first for line in source.lines) == [1, 3, 5, 6, 7, 8, 9]


def test_trace_tells_lines_and_ways_and_leaves_no_trace() -> None:
    before = sys.gettrace()
    hits, trace = Hits(), Trace(lambda code: code is scaled.__code__)
    with trace.on(hits):
        scaled(0)
        scaled(3)
    assert sys.gettrace() is before
    first = scaled.__code__.co_firstlineno
    ran = sorted(line - first for file, line in hits.lines)
    assert ran == [1, 3, 5, 6, 7, 9]
    once = Hits()
    with trace.on(once):
        scaled(0)
    assert once.lines < hits.lines
    assert once.ways < hits.ways or sys.version_info < (3, 11)


def test_hints_follow_names_to_what_they_are_made_from(compiled: Compile) -> None:
    gate = 'due = state["step"] % group["every"] == 0\nif due and m.size(0) > LIMIT:'
    source = program(gate, {"every": 3})
    compiled(source)
    file = importlib.import_module(compiled(source).original.__module__).__file__
    line = 1 + source.split("m.mul_(0.625)")[0].count("\n")
    found = hints(Gap(str(file), line))
    assert {"every", "step", "size"} <= found.names
    assert {512, 0} <= found.numbers


def test_state_shorter_than_weights_is_no_false_alarm(compiled: Compile) -> None:
    source = program("", {}, body="pass").replace(
        "torch.zeros_like(p)", "torch.zeros_like(p, dtype=torch.float32)"
    )
    source = source.replace("add_(grad)", "add_(grad.float())")
    found, tally = compiled(source.replace("p.sub_(m", "p.sub_(m.to(p.dtype)")), Tally()
    with undisturbed():
        gradients.check(found, Configuration(found.layout), tally)
    assert not tally.failures, str(tally.failures[0])
    assert tally.hypergradients_right == tally.hypergradients_run > 0
    assert any("float32" in note for note in tally.notes)


def test_decomposition_without_a_derivative_is_told(compiled: Compile) -> None:
    gate = "if grad.dim() == 2:"
    body = "q, r = torch.linalg.qr(grad)\nm.add_(q @ r)"
    found, tally = compiled(program(gate, {}, body=body)), Tally()
    with undisturbed():
        conf = Configuration(found.layout.zeroed("start"), {"lr": 0.2}, steps=2)
        stability.check(found, conf, tally)
    assert not tally.failures, str(tally.failures[0])
    assert list(tally.undefined) == ["a gradient of exactly zero (torch.linalg.qr)"]


def test_layout_taken_by_accident_may_be_refused(compiled: Compile) -> None:
    gate = "u = grad.clone()\nfor j in range(u.shape[-1]):"
    found, tally = compiled(program(gate, {}, body="u[..., j].mul_(0.5)")), Tally()
    assert found.takes_sparse
    with undisturbed():
        trajectory.check(found, Configuration(found.layout), tally, watched=True)
        trajectory.check(found, Configuration(found.layouts[1]), tally)
    assert not tally.failures
    assert any("of which its source knows nothing" in note for note in tally.notes)


def test_difference_where_sparse_gradients_are_taken_on_purpose_stays_one(
    compiled: Compile,
) -> None:
    gate = "u = grad.coalesce() if grad.is_sparse else grad\nfor j in range(1):"
    found, tally = compiled(program(gate, {}, body="m.add_(u)")), Tally()
    assert found.coverage.knows_sparse is False  # nothing of it ran yet
    with undisturbed():
        trajectory.check(found, Configuration(found.layout), tally, watched=True)
    assert found.coverage.knows_sparse


def test_shapes_that_take_too_long_are_not_tried(compiled: Compile) -> None:
    gate = "s = torch.zeros((), dtype=p.dtype)\nfor j in range(p.numel() * 200):"
    found = compiled(program(gate, {}, body="s = s + j"))
    assert found.is_slow((3000,))
    assert not found.is_slow((4, 4))
    assert found.takes([(4,), (3000,)]) == [(4,)]


def test_own_code_is_told_from_packages_of_similar_names() -> None:
    from codegen.verify.coverage import _is_own

    packages = Path(torch.__file__).parent.parent
    assert _is_own(str(packages / "torch_optimizer" / "lamb.py"), "torch_optimizer")
    assert not _is_own(str(packages / "torch_optimizer" / "lamb.py"), "torch")
    assert _is_own(str(packages / "torch" / "optim" / "adam.py"), "torch_optimizer")
    assert not _is_own(str(packages / "torch" / "_tensor.py"), "torch")
