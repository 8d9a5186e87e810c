"""What can't be translated is refused: at upstream's line, with a rule and a hint."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import codegen

HEAD = """
import math
import torch
from torch.optim import Optimizer

class Odd(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))
"""


def refused(tmp_path: Path, step: str) -> codegen.CodegenError:
    path = tmp_path / "odd.py"
    path.write_text(HEAD + textwrap.indent(textwrap.dedent(step), "    "))
    with pytest.raises(codegen.CodegenError) as caught:
        codegen.translate(f"{path}:Odd")
    return caught.value


CASES = {
    "a closure that is needed": (
        """
        def step(self, closure):
            loss = closure()
            return loss
        """,
        "R1",
        "loss = closure()",
    ),
    "state under an odd key": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    for q in group["params"][1:]:
                        self.state[q, p]["n"] = 1
        """,
        "R3",
        'self.state[q, p]["n"] = 1',
    ),
    "the state as a whole": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(len(self.state))
        """,
        "R3",
        "p.add_(len(self.state))",
    ),
    "numbers out of torch": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad, alpha=-p.grad.norm().tolist())
        """,
        "R5",
        "p.add_(p.grad, alpha=-p.grad.norm().tolist())",
    ),
    "a nested function that mutates, as a value": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    buf = torch.zeros_like(p)
                    def decay(t):
                        buf.mul_(0.5)
                        return t + buf
                    p.add_(sum(map(decay, [p])))
        """,
        "R4",
        "buf.mul_(0.5)",
    ),
    "a mutation that may happen or not": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(1 if p.grad is None else p.grad.mul_(2) + 1)
        """,
        "R4",
        "p.add_(1 if p.grad is None else p.grad.mul_(2) + 1)",
    ),
    "a function of math without a twin": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad, alpha=-math.gamma(group["lr"]))
        """,
        "R7",
        'p.add_(p.grad, alpha=-math.gamma(group["lr"]))',
    ),
    "autograd inside": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    g = torch.autograd.grad(p.sum(), p)[0]
                    p.add_(g)
        """,
        "fence",
        "g = torch.autograd.grad(p.sum(), p)[0]",
    ),
    "a parameter beside the next": (
        """
        def step(self):
            for group in self.param_groups:
                params = []
                for p in group["params"]:
                    params.append(p)
                for p, q in zip(params, params[1:]):
                    p.add_(q)
        """,
        "R2",
        "for p, q in zip(params, params[1:]):",
    ),
    "an unknown name": (
        """
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(nowhere)
        """,
        "carry",
        "p.add_(nowhere)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_unsupported_is_refused_at_its_line(name: str, tmp_path: Path) -> None:
    step, rule, line = CASES[name]
    found = refused(tmp_path, step).diagnostics
    match = [d for d in found if d.rule == rule]
    assert match, [d.render() for d in found]
    source = (tmp_path / "odd.py").read_text().splitlines()
    origin = match[0].origin
    assert origin is not None
    assert source[origin.line - 1].strip() == line
    assert match[0].hint
    assert f"odd.py:{origin.line}:{origin.col}: {rule}:" in match[0].render()


def test_all_of_lbfgs_s_closures_are_shown() -> None:
    with pytest.raises(codegen.CodegenError) as caught:
        codegen.translate("torch.optim.LBFGS")
    text = str(caught.value)
    assert text.count("torch/optim/lbfgs.py:") >= 4
    assert "orig_loss = closure()" in text and "    ^" in text
    assert {d.rule for d in caught.value.diagnostics} == {"R1"}
