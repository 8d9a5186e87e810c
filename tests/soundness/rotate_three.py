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
                    state["x"], state["y"], state["z"] = (
                        torch.zeros_like(p),
                        torch.zeros_like(p),
                        torch.zeros_like(p),
                    )
                x, y, z = state["x"], state["y"], state["z"]
                for k in range(3):
                    x.mul_(group["beta"]).add_(grad, alpha=1 + k)
                    x, y, z = y, z, x
                p.add_(
                    state["x"] + 2 * state["y"] + 3 * state["z"],
                    alpha=-0.1 * group["lr"],
                )
        return loss
