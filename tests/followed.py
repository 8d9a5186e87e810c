"""A user's optimizer and its translation, side by side on a small problem."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import codegen
import pytest
import torch
from codegen.memory import load
from torch import Tensor


def compiled(source: str, folder: Path) -> tuple[Any, Any]:
    """The original and its translation."""
    path = folder / "mine.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Mine, load(codegen.translate(f"{path}:Mine"))


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 3), (3, 2))
    drawn = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [d.requires_grad_() for d in drawn]


def loss_of(params: list[Tensor], step: int) -> Tensor:
    first, second = params
    return ((first @ second - 0.2 * step) ** 2).sum() + first.sin().sum()


def grouped(params: list[Tensor], **second: Any) -> list[dict[str, Any]]:
    return [{"params": params[:1]}, {"params": params[1:], **second}]


def trained(kind: Any, lr: float = 0.1, **second: Any) -> list[Tensor]:
    params = start()
    optimizer = kind(grouped(params, **second), lr=lr)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(params, step).backward()
        optimizer.step()
    return [p.detach() for p in params]


def unrolled(kind: Any, made: Any, lr: Tensor, **second: Any) -> list[Tensor]:
    params = start()
    stepper = made(kind(grouped(params, **second)), params, override={"lr": [lr]})
    for step in range(4):
        params = stepper.step(loss_of(params, step), params=params)
    return params


def follows(kind: Any, made: Any, own_dtype: bool = False) -> None:
    """Four steps of the original's, and the derivative of its learning rate.

    `own_dtype`: the state rounds to float32, whatever the parameters are.
    """
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    got = unrolled(kind, made, lr)
    rtol = 1e-6 if own_dtype else 1e-9
    for expected, found in zip(trained(kind), got):
        assert torch.allclose(expected, found, rtol=rtol)
    outer = torch.stack([p.sin().sum() for p in got]).sum()
    (hypergradient,) = torch.autograd.grad(outer, lr)
    h = 1e-2 if own_dtype else 1e-5
    ends = [sum(p.sin().sum() for p in trained(kind, lr=0.1 + d)) for d in (h, -h)]
    slope = float(ends[0] - ends[1]) / (2 * h)
    assert float(hypergradient) == pytest.approx(slope, rel=5e-2 if own_dtype else 1e-6)
