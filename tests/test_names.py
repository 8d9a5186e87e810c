"""One step is made of several functions: names that they share must not meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from followed import compiled, follows

BASE = """
import torch
from torch.optim import Optimizer

EPS = 0.5


def scale(x):
    return x * 3.0


def norm(x):
    return x.pow(2).sum().sqrt()


def largest(values):
    return max(v.abs().max() for v in values)


def _rate(lr):
    return lr * 0.25


class Base(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    def apply(self, p, grad, group, eps=EPS):
        p.sub_(scale(grad) / (norm(grad) + eps), alpha=_rate(group["lr"]))

    def clip(self, p, grad):
        p.sub_(grad / (1 + largest([grad, p])), alpha=0.01)

    def blend(self, items, x):
        made = [x * p.sum() for p in items]
        self.made = len(items)
        return made

    def mixed(self, x, items):
        x = x * 2
        return [x + q for q in items for x in (1.0, 2.0)]
"""

HEAD = """
import torch
from base_optimizer import Base, norm

EPS = 0.125


def scale(x):
    return x * 5.0


def sqr(x):
    return x * x


class Mine(Base):
    def sqr(self, x):
        return x.tanh()

    def _rate(self, lr):
        return lr

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p_idx, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
"""

BODIES = {
    "functions and constants of two modules": """
self.apply(p, scale(p.grad) + EPS, group)
""",
    "a variable like a function that a method calls": """
norm = 2.0
self.apply(p, p.grad * norm, group)
scale = p.grad * norm
p.add_(scale, alpha=0.01)
""",
    "methods like functions": """
self.apply(p, p.grad, group)
p.sub_(self.sqr(p.grad) + sqr(p.grad), alpha=self._rate(group["lr"]) * 0.02)
""",
    "variables like builtins": """
max, len, zip, any = 2.0, 3, 0.5, 1
self.clip(p, p.grad)
p.sub_(p.grad, alpha=group["lr"] * max * len * zip * any)
""",
    "comprehensions whose variables are like arguments": """
parts = self.blend([p.grad, p.grad * 2], p)
p.sub_(parts[0] + parts[1], alpha=group["lr"] * 0.1)
x = 3.0
more = self.mixed(x, [p.grad.sum(), 1.0])
p.sub_(more[0] + more[3] * x, alpha=group["lr"] * 0.01)
""",
    "variables like the compiler's own": """
updated = p.grad.clone()
grads, ops, group_idx, group_grads = updated, 2.0, 3, 1
updated.mul_(0.5)
p.add_(grads, alpha=-group["lr"] * ops / group_idx / (1 + p_idx) * group_grads)
""",
}
WHOLE = {
    "grad outside the loop": """
for group in self.param_groups:
    grad = torch.zeros(())
    for p in group["params"]:
        if p.grad is not None:
            grad = grad + p.grad.norm()
    for p in group["params"]:
        if p.grad is not None:
            p.sub_(p.grad * grad, alpha=group["lr"] * 0.1)
""",
    "a group that is none": """
for pg in self.param_groups:
    for p in pg["params"]:
        if p.grad is not None:
            group = {"lr": 0.5, "foreach": 2.0, "of": p.grad}
            p.sub_(group["of"] * group["foreach"], alpha=pg["lr"] * group["lr"])
""",
}


def written(title: str) -> str:
    if title in BODIES:
        return HEAD + indented(BODIES[title], 16)
    return HEAD[: HEAD.index("        for group")] + indented(WHOLE[title], 8)


def indented(text: str, depth: int) -> str:
    return "".join(f"{' ' * depth}{line}\n" for line in text.strip().splitlines())


@pytest.mark.parametrize("title", [*BODIES, *WHOLE])
def test_names_stay_apart(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base_optimizer.py").write_text(BASE)
    monkeypatch.syspath_prepend(tmp_path)
    follows(*compiled(written(title), tmp_path))
