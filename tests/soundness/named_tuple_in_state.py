from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


import typing


class Moments(typing.NamedTuple):
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
                state = self.state[p]
                if len(state) == 0:
                    state["moments"] = Moments(torch.zeros_like(p), torch.zeros_like(p))
                moments = state["moments"]
                moments.first.mul_(0.9).add_(p.grad, alpha=0.1)
                moments.second.mul_(0.9).addcmul_(p.grad, p.grad, value=0.1)
                p.addcdiv_(
                    moments.first, moments.second.sqrt() + 0.1, value=-group["lr"]
                )
