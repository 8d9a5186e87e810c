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
                    state["buf"] = torch.zeros(2 * p.numel(), dtype=p.dtype)
                    state["lo"] = state["buf"][: p.numel()]
                    state["hi"] = state["buf"][p.numel() :]
                state["lo"].mul_(group["beta"]).add_(grad.flatten())
                state["hi"].add_(state["lo"], alpha=0.1)
                state["buf"].mul_(0.9)
                u = state["lo"] + state["hi"]
                p.add_(u.view_as(p), alpha=-group["lr"])
        return loss
