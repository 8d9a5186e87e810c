import torch
from torch.optim import Optimizer

i = 2.0


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            params = group["params"]
            gs = [p.grad for p in params]
            ws = [lr / (i + 1) for i in range(len(gs))]
            for p, g, w in zip(params, gs, ws):
                p.sub_(g * w * i)
        return loss
