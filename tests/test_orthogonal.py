"""Idioms of optimizers that make updates orthogonal: helper functions with flags,
buffers that take turns, a short float inside."""

from __future__ import annotations

import textwrap
from pathlib import Path

import codegen
import higher
import pytest
import torch
from followed import compiled, follows
from higher.ops import NothingConverted

HEAD = """
import math

import torch
from torch.optim import Optimizer


def rate(lr, shape, adjusted=False, *, floor=0.0):
    rows, *others = shape
    ratio = math.sqrt(rows / math.prod(others)) if adjusted else 1.0
    if floor > 0:
        ratio = max(ratio, floor)
    return lr * ratio


def orthogonal(g, steps=2, eps=1e-7):
    x = g{convert}
    wide = x.size(-2) <= x.size(-1)
    if not wide:
        x = x.mT
    x.div_(x.norm(2, dim=(-2, -1), keepdim=True).clamp_min_(eps))
    x = x.contiguous()
    a = torch.empty((x.size(-2), x.size(-2)), device=x.device, dtype=x.dtype)
    b = torch.empty_like(a)
    c = torch.empty_like(x)
    for _ in range(steps):
        torch.addmm(a, x, x.mT, beta=0.0, alpha=1.0, out=a)
        torch.addmm(a, a, a, beta=-4.5, alpha=2.0, out=b)
        torch.addmm(x, b, x, beta=3.5, alpha=1.0, out=c)
        {swap}
    return x if wide else x.mT


class Mine(Optimizer):
    def __init__(self, params, lr=0.1, adjusted=True):
        super().__init__(params, dict(lr=lr, adjusted=adjusted))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
{body}
"""
BODIES = {
    "a flag of a function": (
        'p.add_(grad, alpha=-rate(group["lr"], p.shape, group["adjusted"]))'
    ),
    "a flag by its name": (
        'p.add_(grad, alpha=-rate(group["lr"], p.size(), adjusted=group["adjusted"]))'
    ),
    "a default left alone, another told": (
        'p.add_(grad, alpha=-rate(group["lr"], p.shape, floor=2.0))'
    ),
    "several calls, with and without": (
        'lr = rate(group["lr"], p.shape) + rate(group["lr"], p.shape, True)\n'
        "p.add_(grad, alpha=-lr)"
    ),
    "buffers that take turns": (
        'p.add_(orthogonal(grad + p), alpha=-group["lr"])\np.sub_(grad * 0.01)'
    ),
    "a gradient that is used again": (
        "grad.mul_(2.0)\n"
        'p.add_(orthogonal(grad.clone()), alpha=-group["lr"])\np.sub_(grad * 0.01)'
    ),
}


def source(body: str, convert: str = "", swap: str = "x, c = c, x") -> str:
    indented = textwrap.indent(body, " " * 16)
    return (
        HEAD.replace("{convert}", convert)
        .replace("{swap}", swap)
        .replace("{body}", indented)
    )


@pytest.mark.parametrize("swap", ["x, c = c, x", "c, x = x, c"])
@pytest.mark.parametrize("title", BODIES)
def test_an_orthogonalizing_step_follows_its_original(
    title: str, swap: str, tmp_path: Path
) -> None:
    follows(*compiled(source(BODIES[title], swap=swap), tmp_path))


def test_a_buffer_that_is_read_is_none_to_be_left_out(tmp_path: Path) -> None:
    """What was put there a turn before is part of the result."""
    body = BODIES["buffers that take turns"]
    path = tmp_path / "mine.py"
    path.write_text(source(body, swap="x, c = c, x\n        x.add_(c, alpha=0.1)"))
    with pytest.raises(codegen.CodegenError, match="mutated again later"):
        codegen.translate(f"{path}:Mine")


CONVERTED = (
    'p.add_(orthogonal(grad).to(p.dtype), alpha=-group["lr"])\np.sub_(grad * 0.01)'
)


def test_a_conversion_is_taken_for_a_copy(tmp_path: Path) -> None:
    kind, made = compiled(source(CONVERTED, ".bfloat16()"), tmp_path)
    assert "ops.converted(" in codegen.translate(f"{tmp_path}/mine.py:Mine").text
    assert "converts to a short float is one already, it raises" in made.__doc__
    outcome = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=False).to(dtype)
        x = torch.ones(4, 3, dtype=dtype)
        f = higher.monkeypatch(model)
        d = made(kind(model.parameters()), model.parameters(), fmodel=f)
        if dtype is torch.bfloat16:
            with pytest.raises(NothingConverted, match="already it changes itself"):
                d.step(f(x).square().mean())
            continue
        d.step(f(x).square().mean())
        model(x).square().mean().backward()
        kind(model.parameters()).step()
        outcome.append(torch.allclose(model.weight, f.weight))
    assert outcome == [True]


def test_a_conversion_stays_where_it_can_be_translated(tmp_path: Path) -> None:
    """What is converted isn't looked at again: no matter whether it was written into."""
    body = 'p.add_(orthogonal(grad).to(p.dtype), alpha=-group["lr"])'
    path = tmp_path / "mine.py"
    path.write_text(source(body, ".bfloat16()"))
    text = codegen.translate(f"{path}:Mine").text
    assert ".bfloat16()" in text and "ops.converted" not in text


def test_a_long_float_is_no_short_one(tmp_path: Path) -> None:
    """Weights usually are float32: there the original does write into the gradient."""
    path = tmp_path / "mine.py"
    path.write_text(source(CONVERTED, ".float()"))
    with pytest.raises(codegen.CodegenError, match="mutated again later"):
        codegen.translate(f"{path}:Mine")


def test_a_copy_that_is_asked_for(tmp_path: Path) -> None:
    follows(
        *compiled(source(CONVERTED, ".to(torch.float64, copy=True)"), tmp_path),
    )
