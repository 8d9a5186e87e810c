"""Complex parameters reach an update as pairs of reals only where the conversion is all
that asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from followed import compiled
from torch import Tensor

HEAD = """
import torch
from torch.optim import Optimizer


def is_pair(x):
    return torch.is_complex(x)


class Mine(Optimizer):
    def __init__(self, params, lr=0.1, foreach=None):
        super().__init__(params, dict(lr=lr, foreach=foreach))

    def all_real(self, params, foreach):
        return foreach is not False and not any(torch.is_complex(p) for p in params)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            {chosen}
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad, rate = p.grad, group["lr"]
                {asked}
                if torch.is_complex(p):
                    p, grad = torch.view_as_real(p), torch.view_as_real(grad)
                p.add_(torch.sign(grad), alpha=-rate)
"""
FOREACH = """if self.all_real(group["params"], group["foreach"]):
                params = [p for p in group["params"] if p.grad is not None]
                signs = torch._foreach_sign([p.grad for p in params])
                torch._foreach_add_(params, signs, alpha=-group["lr"])
                continue
"""
ASKED = {
    "by nothing else": ("", "", True),
    "to choose foreach": (FOREACH, "", True),
    "by a function": ("", "rate = 2 * rate if is_pair(p) else rate", False),
    "and kept": ("", "pair = p.is_complex()\nif pair: rate = 2 * rate", False),
}


def start() -> list[Tensor]:
    made = torch.Generator().manual_seed(3)
    drawn = [
        torch.randn(4, dtype=d, generator=made) for d in (torch.cdouble, torch.double)
    ]
    return [d.requires_grad_() for d in drawn]


def loss_of(params: list[Tensor]) -> Tensor:
    first, second = params
    return (first.real * first.imag).sum() + (second**3).sum()


@pytest.mark.parametrize("name", ASKED)
def test_complex_parameters_follow_the_original(name: str, tmp_path: Path) -> None:
    chosen, asked, as_real = ASKED[name]
    asked = asked.replace("\n", "\n" + " " * 16)
    kind, made = compiled(HEAD.format(chosen=chosen, asked=asked), tmp_path)
    assert made._complex_as_real is as_real
    params, twins = start(), start()
    optimizer: Any = kind(params)
    loss_of(params).backward()
    optimizer.step()
    stepper = made(kind(twins), twins)
    stepped = stepper.step(loss_of(twins), params=twins)
    for right, found in zip(params, stepped):
        torch.testing.assert_close(found.detach(), right.detach())
