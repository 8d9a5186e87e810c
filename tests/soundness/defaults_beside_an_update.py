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
            self.param_groups[0].update(lr=group["lr"] * 0.5)
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad, alpha=-self.defaults["lr"])
