from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


from typing import NamedTuple


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            pairs = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                pairs.append(Pair(p, p.grad))
            for pair in pairs:
                pair.first.add_(pair.second, alpha=-group["lr"])
            for first, second in pairs:
                first.mul_(0.99)
