import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        defaults = dict(lr=lr, beta=beta)
        super().__init__(params, defaults)
        self.k = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.k += 1
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            params = [p for p in group["params"] if p.grad is not None]
            ps = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                ps.append(p)
            for p in ps:
                for k in range(2):
                    p.mul_(0.95)
                else:
                    if p.dim() > 1:
                        break
            for p in ps:
                p.sub_(0.1 * lr * p.grad)
        return loss
