import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))
        for g in self.param_groups:
            for p in g["params"]:
                s = self.state[p]
                s["hist"] = [torch.zeros_like(p)]
                s["cur"] = s["hist"][0]

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                st = self.state[p]
                st["cur"].mul_(0.9).add_(p.grad)
                p.add_(st["hist"][0], alpha=-group["lr"])
