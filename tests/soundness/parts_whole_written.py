from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["m"] = torch.zeros_like(p)
                m = state["m"]
                halves = m.chunk(2)
                m.mul_(0.9).add_(p.grad)
                halves[0].mul_(0.5)
                p.add_(m, alpha=-group["lr"])
                p.mul_(1 - 0.01 * halves[0].sum())
