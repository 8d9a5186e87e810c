import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        p = 0.5
        for group in self.param_groups:
            gs = [q.grad for q in group["params"]]
            hs = []
            for p in group["params"]:
                hs.append(p.grad * 2)
            for w, g, h in zip(group["params"], gs, hs):
                w.sub_(g * p.sum() + h, alpha=group["lr"])
        return loss
