from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

SEEN = [1.0]


def note(x):
    SEEN.append(SEEN[-1] * 0.5)
    return x.numel()


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                [note(p) for _ in range(2)]
                p.sub_(p.grad, alpha=group["lr"] * (1 + SEEN[-1]))
