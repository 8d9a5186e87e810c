from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    def _init(self, p):
        st = self.state[p]
        if len(st) == 0:
            st["m"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            [self._init(p) for p in group["params"]]
            for p in group["params"]:
                st = self.state[p]
                st["m"].mul_(0.9).add_(p.grad)
                p.sub_(st["m"], alpha=group["lr"])
