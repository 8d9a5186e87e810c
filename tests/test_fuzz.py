"""Random optimizer steps: translated, and held to the original.

Hypothesis writes steps out of in-place idioms: chained methods, nested mutation,
aliases, views, ``out=``, masked stores, lists in the state, branches, helpers. A
program is translated and right, or refused with a position. Other and more programs:
``FUZZ_EXAMPLES=5000 FUZZ_SEED=7 pytest tests/test_fuzz.py``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import codegen
from codegen.memory import load

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
PARTS = 10  # tests of their own, which run beside each other
STEPS = 3

SHELL = """
import torch
from torch.optim import Optimizer


def blend(x, y):
    return x * 0.5 + y.sin()


def damp(x, amount):
    x.mul_(amount).add_(0.1)


class Fuzzed(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.6, decay=0.05):
        super().__init__(params, dict(lr=lr, beta=beta, decay=decay, calls=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta, decay = group["lr"], group["beta"], group["decay"]
            group["calls"] += 1
            calls = group["calls"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.ones_like(p)
                    state["bufs"] = [torch.zeros_like(p), torch.ones_like(p)]
                state["step"] += 1
                m, v, bufs = state["m"], state["v"], state["bufs"]
                a, b = grad.clone(), v
{body}
                m.tanh_()
                v.tanh_()
                p.add_(m + 0.1 * v + 0.1 * a.tanh() + grad.tanh(), alpha=-lr)
"""

TENSORS = st.sampled_from(["m", "v", "grad", "a", "b"])
NAMES = st.sampled_from(["a", "b"])
NUMBERS = st.sampled_from(["0.5", "beta", "1 - beta", "decay", "-0.3", "beta**calls"])

TEMPLATES = [
    "{x}.mul_({s}).add_({y}, alpha={t})",
    "{n} = {x}.mul_({s})",
    "{n} = {x} * {s} + {y}",
    "{n} = {x}",
    "{x} += {y}",
    "{x} *= {s}",
    "torch.maximum({x}, {y}.sin(), out={x})",
    "torch.add({x}.mul_({s}), {y}.cos(), out={x})",
    "{x}.T.mul_({s})",
    "{x}.view(-1).add_({s})",
    "{x}[0].mul_({s})",
    "{x}[:, 1] = {s}",
    "{x}[{y} > 0.1] = {s}",
    "{x}[{y} > 0.1].mul_(3)",
    "{x}.copy_({y})",
    "{x}.lerp_({y}, {s})",
    "{x}.addcmul_({y}, {y}, value={s})",
    "{x}.addcdiv_({y}, {z}.square().add_(1).sqrt_(), value={s})",
    "{n} = ({x}.add_({s}) * {y}).sin_().add_({t})",
    "{n} = {x}.clone().mul_({s})",
    "{n} = {x}.detach()",
    "{n} = {x}.data",
    "{n} = blend({x}, {y})",
    "damp({x}, {s})",
    "bufs[0].mul_({s}).add_({x})",
    "bufs[1] = {x}.clone()",
    "{n} = bufs[1]",
    "{n} = {x} = {y}.tanh()",
    "state['m'] = {x}.tanh()",
    "m = state['m']",
    "{x}.clamp_(-1.5, 1.5)",
    "{x}.neg_()",
    "row = {x}[1]\nrow.mul_({s})",
    "turned = {x}.t()\nturned.add_({y})",
    "p.mul_(1 - lr * decay)",
    "p.data.add_({x}, alpha=-decay)",
]


TESTS = {"step": "state['step'] % 2", "setting": "beta > 0.5", "count": "calls > 1"}


@st.composite
def statements(draw: Any, depth: int = 0) -> str:
    kinds = ["plain"] * 6 + ([] if depth else [*TESTS, "alias"])
    kind = draw(st.sampled_from(kinds))
    if kind == "plain":
        return draw(st.sampled_from(TEMPLATES)).format(
            x=draw(TENSORS),
            y=draw(TENSORS),
            z=draw(TENSORS),
            n=draw(NAMES),
            s=draw(NUMBERS),
            t=draw(NUMBERS),
        )
    if kind == "alias":
        names = draw(NAMES), draw(TENSORS), draw(TENSORS), draw(NUMBERS)
        return "{0} = {1} if state['step'] % 2 else {2}\n{0}.mul_({3})".format(*names)
    body = textwrap.indent(draw(statements(depth=1)), "    ")
    other = textwrap.indent(draw(statements(depth=1)), "    ")
    return f"if {TESTS[kind]}:\n{body}\nelse:\n{other}"


PROGRAMS = st.lists(statements(), min_size=2, max_size=6).map("\n".join)


def build(body: str, folder: Path) -> tuple[Any, Any]:
    """(original, translation) of a step with that body."""
    # hypothesis tells failures apart by their files' names
    name = hashlib.sha256(body.encode()).hexdigest()[:16]
    path = folder / f"fuzzed_{name}.py"
    path.write_text(SHELL.format(body=textwrap.indent(body, " " * 16)))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Fuzzed, load(codegen.translate(f"{path}:Fuzzed"))


def start() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    ]


def loss_of(params: list[torch.Tensor], step: int) -> torch.Tensor:
    first, second = params
    return ((first @ second - 0.3 * step) ** 2).sum() + first.sin().sum()


def run_original(kind: Any, **given: float) -> tuple[list[torch.Tensor], Any]:
    params = start()
    optimizer = kind(params, **given)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(params, step).backward()
        optimizer.step()
    return [p.detach() for p in params], [optimizer.state[p] for p in params]


def run_translation(
    kind: Any, compiled: Any, lr: torch.Tensor
) -> tuple[list[torch.Tensor], Any]:
    params: list[torch.Tensor] = start()
    stepper = compiled(kind(params), params, override={"lr": [lr]})
    for step in range(STEPS):
        versions = [p._version for p in params]
        params_before = params
        params = stepper.step(loss_of(params, step), params=params)
        assert versions == [
            p._version for p in params_before
        ], "a parameter was mutated"
    return params, [stepper.state[0][i] for i in range(len(params))]


def close(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, torch.Tensor):
        return torch.allclose(a.detach(), b.detach(), rtol=1e-9, atol=1e-12)
    return bool(a == b)


def hold(body: str, folder: Path) -> bool:
    """Whether the program was translated; fails where the translation is wrong."""
    try:
        kind, compiled = build(body, folder)
    except codegen.CodegenError as error:
        for found in error.diagnostics:
            assert found.rule != "internal" and found.origin is not None, str(error)
        return False
    try:
        expected, state = run_original(kind)
    except RuntimeError:
        return True  # torch itself refuses: overlapping memory
    if not all(torch.isfinite(p).all() for p in expected):
        return True
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    got, found_state = run_translation(kind, compiled, lr)
    assert close(expected, got), f"other weights:\n{body}"
    for old, new in zip(state, found_state):
        assert old.keys() == new.keys() and all(
            close(old[k], new[k]) for k in old
        ), body
    outer = sum((p.sin()).sum() for p in got)
    assert isinstance(outer, torch.Tensor)
    (hypergradient,) = torch.autograd.grad(outer, lr)
    slopes = [slope(kind, h) for h in (1e-5, 1e-6)]
    if abs(slopes[0] - slopes[1]) <= 1e-6 * (1 + abs(slopes[0])):  # no kink in between
        error = abs(float(hypergradient) - slopes[0])
        assert error <= 1e-5 * (1 + abs(slopes[0])), f"other hypergradient:\n{body}"
    return True


def slope(kind: Any, h: float) -> float:
    values = []
    for lr in (0.1 + h, 0.1 - h):
        params, _ = run_original(kind, lr=lr)
        values.append(float(sum(p.sin().sum() for p in params)))
    return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs_are_followed_or_refused_with_a_position(
    part: int, tmp_path: Path
) -> None:
    outcomes: list[bool] = []

    @seed(PARTS * SEED + part)
    @settings(
        max_examples=-(-EXAMPLES // PARTS),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(PROGRAMS)
    def fuzz(body: str) -> None:
        outcomes.append(hold(body, tmp_path))

    fuzz()
    assert sum(outcomes) > 0.8 * len(outcomes), "many programs are refused"


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
    "item of a list": "bufs[0].mul_(beta).add_(grad)\na = bufs[0]",
}


@pytest.mark.parametrize("name", NAMED)
def test_named_programs_are_followed(name: str, tmp_path: Path) -> None:
    assert hold(NAMED[name], tmp_path), "refused"
