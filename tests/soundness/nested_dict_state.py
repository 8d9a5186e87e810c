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
                    state["ema"] = {
                        "fast": torch.zeros_like(p),
                        "slow": torch.zeros_like(p),
                        "n": 0,
                    }
                ema = state["ema"]
                ema["n"] += 1
                fast = ema["fast"]
                for k, w in (("fast", 0.5), ("slow", 0.1)):
                    ema[k].lerp_(grad, w)
                p.add_(fast - 0.5 * ema["slow"], alpha=-group["lr"] / ema["n"])
        return loss
