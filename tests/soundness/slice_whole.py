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
                    state["b"] = [torch.zeros_like(p), torch.ones_like(p)]
                b = state["b"]
                old = b[0]
                b[:] = [p.grad * 0.5, b[1]]
                old.add_(1)
                b[0].mul_(0.9)
                b[1].add_(b[0])
                p.add_(b[0] + 0.1 * b[1] + 0.01 * old, alpha=-group["lr"])
