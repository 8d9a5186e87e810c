import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9, wd=0.01):
        defaults = dict(lr=lr, beta=beta, wd=wd)
        super().__init__(params, defaults)
        self.k = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.k += 1
        gs = [p.grad for g in self.param_groups for p in g["params"]]
        ns = torch._foreach_norm(gs)
        torch._foreach_div_(gs, ns)
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"])
        return loss
