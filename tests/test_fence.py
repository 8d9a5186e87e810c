"""The fence proves the laws from the emitted text alone."""

from __future__ import annotations

import ast
import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path

import codegen
import pytest
from codegen import carry, fence, pipeline
from codegen.context import Context
from codegen.diagnostics import CodegenError, Origins
from codegen.fence import Fault
from codegen.pipeline import Pass
from codegen.rules import RULES
from codegen.translate import float_settings, module_name
from codegen.upstream import Library, open_target, torch_optimizers

ROOT = Path(__file__).parents[1]

DATA = Path(__file__).parent / "fence"
MODULE = (DATA / "module.txt").read_text()


def faults(body: str) -> list[Fault]:
    text = MODULE.format(body=textwrap.indent(textwrap.dedent(body), " " * 16))
    return fence.check(ast.parse(text), frozenset({"lr", "betas"}))


def cases(file: str) -> list[str]:
    """Programs, one a line: lines of their own are told apart by ``\\n`` or ``;``."""
    lines = (DATA / f"{file}.txt").read_text().splitlines()
    return [line.replace("\\n", "\n").replace("; ", "\n") for line in lines]


@pytest.mark.parametrize("body", cases("mutations") + cases("gradients"))
def test_refused_at_its_line(body: str) -> None:
    found = faults(body)
    first = MODULE[: MODULE.index("{body}")].count("\n") + 1
    lines = range(first, first + body.count("\n") + 1)
    helpers = (
        "changed(",
        "gathering(",
        "deep(",
        "map(changed",
        "f = changed",
        "scaled(p, ops",
    )
    if not any(h in body for h in helpers):
        assert found and {f.node.lineno for f in found} <= {*lines}, found  # type: ignore[attr-defined]
    assert found and all(f.rule and f.message and f.hint for f in found)


@pytest.mark.parametrize("body", cases("right"))
def test_what_breaks_no_law_passes(body: str) -> None:
    assert not faults(body)


# --- a rule that does nothing


NEEDS = {
    "R1": "torch.optim.Adam",
    "R2": "torch.optim.NAdam",
    "R3": "torch.optim.RAdam",
    "R4": "torch.optim.Rprop",
    "R5": "torch.optim.ASGD",
    "R6": "torch.optim.Adadelta",
    "R7": "torch.optim.Adagrad",
    "R8": "torch.optim.Adafactor",
}


def without(name: str, passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes, with a rule that does nothing and promises nothing."""
    rule = next(r for r in RULES if r.name == name)
    idle = type(rule.__name__, (rule,), {"apply": lambda self, body: body})
    left = []
    for each in passes:
        own = idle if each.transform is rule else each.transform
        left.append(dataclasses.replace(each, transform=own, after=None))
    return tuple(left)


@pytest.mark.parametrize("name", NEEDS)
def test_a_rule_that_is_switched_off_is_missed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the fence alone: whatever the rules would refuse is let through."""
    codegen.translate(NEEDS[name])
    for module, passes in ((pipeline, "PASSES"), (carry, "HELPER_PASSES")):
        monkeypatch.setattr(module, passes, without(name, getattr(module, passes)))
    monkeypatch.setattr(Context, "refuse", lambda *_: None)
    with pytest.raises(CodegenError) as caught:
        codegen.translate(NEEDS[name])
    found = caught.value.diagnostics
    assert name in {d.rule for d in found}
    file = open_target(NEEDS[name], Library(Origins())).cls.module.file
    assert all(d.origin is not None and d.origin.file == file for d in found)
    assert all(d.source_line and d.hint for d in found)


def test_every_rule_has_a_program_that_needs_it() -> None:
    assert [r.name for r in RULES] != [] and {r.name for r in RULES} == {*NEEDS}


# --- what is right


TARGETS = [t for t in torch_optimizers() if not t.endswith(("LBFGS", ".Optimizer"))]


@pytest.mark.parametrize("target", TARGETS)
def test_generated_files_pass_and_each_of_their_lines_is_reached(target: str) -> None:
    name = target.rpartition(".")[2]
    text = (ROOT / "generated" / f"{module_name(name)}.py").read_text()
    upstream = open_target(target, Library(Origins()))
    settings, before = frozenset(float_settings(upstream)), fence.before(upstream)
    tree = ast.parse(text)
    assert not fence.check(tree, settings, constructor=before)
    update = next(
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef) and n.name == "_update"
    )
    for line in ast.walk(update):
        if isinstance(line, ast.Assign):
            held, line.value = line.value, ast.parse("grad.mul_(2)", mode="eval").body
            found = fence.check(tree, settings, constructor=before)
            assert any(f.node is line.value for f in found), ast.unparse(line)
            line.value = held


def test_what_the_constructor_leaves_is_known(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text(textwrap.dedent("""
        import torch
        from torch.optim import Optimizer

        SIZE = 3

        class Base(Optimizer):
            def __init__(self, params, lr, reduce, size=SIZE):
                self.reduce, self.size, self.table = reduce, size, [[0.0] * size]
                super().__init__(params, dict(lr=lr, buffer=[None] * 3, size=size))

        class Kept(Base):
            def __init__(self, params, lr=0.1, reduce=torch.sum):
                super().__init__(params, lr, reduce)
                for group in self.param_groups:
                    for p in group["params"]:
                        self.state[p]["m"] = torch.zeros_like(p)
                self.state["t"] = 0
        """))
    upstream = open_target(f"{tmp_path / 'kept.py'}:Kept", Library(Origins()))
    before = fence.before(upstream)

    def broken(body: str) -> set[str]:
        text = MODULE.format(body=textwrap.indent(body, " " * 16))
        found = fence.check(ast.parse(text), frozenset({"lr"}), constructor=before)
        return {f.rule for f in found}

    assert not broken('group["buffer"][0] = grad\nself.shared["table"][0][1] = lr')
    assert not broken('x = math.sqrt(self.shared["size"] + self.shared["t"])')
    assert not broken('x = self.shared["reduce"](grad)')
    assert broken('self.shared["reduce"][0] = 1') == {"R4"}
    assert broken('state["m"][0] = grad') == {"R4"}
    assert broken('x = math.sqrt(self.shared["else"])') == {"R7"}
