from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    """Three bias corrections unpacked from one generator, as Adan's authors write them."""

    def __init__(self, params, lr=0.1, betas=(0.9, 0.8, 0.7), eps=1e-8):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2, b3 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.zeros_like(p)
                    state["n"] = torch.ones_like(p)
                    state["last"] = p.grad.clone()
                state["step"] += 1
                t = state["step"]
                c1, c2, c3 = (1 - (1 - b) ** t for b in (b1, b2, b3))
                diff = p.grad - state["last"]
                state["m"].lerp_(p.grad, 1 - b1)
                state["v"].lerp_(diff, 1 - b2)
                state["n"].mul_(b3).addcmul_(p.grad, p.grad, value=1 - b3)
                state["last"].copy_(p.grad)
                denom = (state["n"] / c3).sqrt() + group["eps"]
                p.addcdiv_(state["m"] / c1 + state["v"] / c2, denom, value=-group["lr"])
