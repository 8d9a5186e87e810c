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
            for p in group["params"]:
                if p.grad is None:
                    continue
                pair = Pair(p, p.grad)
                pair = pair._replace(second=pair.second * 2)
                p.add_(pair.second, alpha=-group["lr"])
