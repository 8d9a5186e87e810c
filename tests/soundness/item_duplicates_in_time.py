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
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["bufs"] = [torch.zeros_like(p), torch.zeros_like(p)]
                b = state["bufs"]
                if self.k == 2:
                    b[0] = b[1]
                b[0].mul_(beta).add_(grad)
                b[1].mul_(0.9)
                p.sub_(b[0] + 2 * b[1], alpha=lr)
        return loss
