import math
import torch
from torch import nn
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        defaults = dict(lr=lr, beta=beta)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["m"] = torch.zeros_like(p)
                m = state["m"]
                m.mul_(group["beta"]).add_(grad)
                if p.dim() == 2:
                    f = m.t().flatten()
                    f.clamp_(-0.3, 0.3)
                    p.add_(
                        f.reshape(p.shape[1], p.shape[0]).t(), alpha=-0.1 * group["lr"]
                    )
                p.add_(m, alpha=-group["lr"])
        return loss
