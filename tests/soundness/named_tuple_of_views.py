from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


from typing import NamedTuple


class Pair(NamedTuple):
    first: Tensor
    second: Tensor
    weight: float = 0.5


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
                pair = Pair(state["m"], second=p.grad)
                pair.first.mul_(0.9).add_(pair.second)
                pair[1].mul_(pair.weight)
                m, g, w = pair
                m.add_(g, alpha=w)
                p.add_(pair.first + p.grad, alpha=-group["lr"])
