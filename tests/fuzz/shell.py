"""The module around a random step: its class, and the helpers that it calls."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

HEAD = """\
import operator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.optim import Optimizer
"""

HELPERS = {
    "blend": "def blend(x, y):\n    return x * 0.5 + y.sin()",
    "damp": "def damp(x, amount):\n    x.mul_(amount).add_(0.1)",
    "same": "def same(x):\n    return x",
    "pick": "def pick(x, y, flag):\n    if flag:\n        return x\n    return y",
    "first_row": "def first_row(x):\n    return x[0]",
    "ends": "def ends(x):\n    return x[:1], x[1:]",
    "damped": "def damped(x, amount):\n    x.mul_(amount)\n    return x",
    "push": "def push(items, x):\n    items.append(x)\n    items.pop(0)",
    "swap": 'def swap(d):\n    d["x"], d["y"] = d["y"], d["x"]',
    "each": "def each(items):\n    for item in items:\n        yield item",
    "largest": """\
def largest(items):
    found = items[0]
    for item in items:
        if item.sum() > found.sum():
            found = item
    return found""",
    "careful": """\
def careful(x, amount):
    try:
        if amount > 0.4:
            return x
        x.add_(amount)
    finally:
        x.mul_(0.9)
    return x.clone()""",
    "Tools": """\
class Tools:
    @staticmethod
    def shrink(x):
        x.mul_(0.9)

    @staticmethod
    def pair(x, y):
        return x, y""",
    "Pair": "class Pair(NamedTuple):\n    first: torch.Tensor\n    second: torch.Tensor",
    "Record": "@dataclass\nclass Record:\n    first: torch.Tensor\n    second: torch.Tensor",
}

METHODS = {
    "decayed": "def decayed(self, x, amount):\n    return x.mul_(1 - 0.5 * amount)",
}

CLASS = """\
class Fuzzed(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.6, decay=0.05):
        defaults = dict(lr=lr, beta=beta, decay=decay, calls=0, flag=True, mode="one")
        super().__init__(params, defaults)
{methods}
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
                    state["v"] = torch.full_like(p, 0.4)
{fresh}
                state["step"] += 1
                m, v = state["m"], state["v"]
{body}
"""

FRESH = {
    "bufs": 'state["bufs"] = [torch.zeros_like(p), torch.full_like(p, 0.7)]',
    "slots": 'state["slots"] = {"x": torch.zeros_like(p), "y": torch.full_like(p, 0.6)}',
}


def module(body: Sequence[str]) -> str:
    """The source of a module whose `Fuzzed` does ``body`` to each parameter."""
    text = "\n".join(body)

    def used(table: dict[str, str]) -> list[str]:
        return [v for k, v in table.items() if re.search(rf"\b{k}\b", text)]

    helpers = [f"\n\n{helper}\n" for helper in used(HELPERS)]
    methods = "".join(f"\n{m}\n" for m in used(METHODS))
    fresh = "\n".join(used(FRESH))
    return "".join(
        [
            HEAD,
            *helpers,
            "\n\n",
            CLASS.format(
                methods=textwrap.indent(methods, " " * 4),
                fresh=textwrap.indent(fresh, " " * 20),
                body=textwrap.indent(text, " " * 16),
            ),
        ]
    )
