from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr, k=2))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["m"] = torch.ones_like(p)
                m = state["m"]
                halves = torch.chunk(m, 2)
                halves[0].mul_(0.5)
                halves[1][0] = 0.3
                torch.mul(halves[0], 1.1, out=halves[0])
                m.mul_(0.9)
                p.add_(p.grad + m * halves[0].sum(), alpha=-group["lr"])
