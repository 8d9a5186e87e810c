from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


def half(x, n):
    if n == 0:
        return x
    return half(x * 0.5, n - 1)


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            params, grads = [], []
            for p in group["params"]:
                if p.grad is None:
                    continue
                params.append(p)
                grads.append(half(p.grad, 2))
            for p, g in zip(params, grads):
                p.add_(half(g, 1), alpha=-group["lr"])
