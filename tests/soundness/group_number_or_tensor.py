from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    """A number in the group that becomes a tensor, and is changed in place through a variable."""

    def __init__(self, params, lr=0.1, k=1.0):
        super().__init__(params, dict(lr=lr, k=k))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            x = group["k"]
            x *= 0.9
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.sub_(p.grad * group["lr"] * group["k"])
            group["k"] = sum(
                (p.grad.norm() for p in group["params"]), torch.zeros(())
            ).tanh()
