from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Pair:
    def __init__(self, first, second):
        self.first, self.second = first, second

    def __iter__(self):
        return iter((self.first, self.second))


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                a, m = p.grad, p.grad * 2
                for _ in range(2):
                    pair = Pair(a, m)
                    a, m = pair
                p.add_(m + a, alpha=-group["lr"])
