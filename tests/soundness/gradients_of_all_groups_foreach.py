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
        grads = [
            p.grad for g in self.param_groups for p in g["params"] if p.grad is not None
        ]
        norms = torch._foreach_norm(grads)
        total = torch.linalg.vector_norm(torch.stack(norms))
        coef = torch.clamp(1.0 / (total + 1e-6), max=1.0)
        torch._foreach_mul_(grads, coef)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.sub_(p.grad, alpha=group["lr"])
        return loss
