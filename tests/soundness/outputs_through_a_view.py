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
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            params = group["params"]
            for p in params:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["v"] = torch.zeros(1, *p.shape[1:], dtype=p.dtype)
                    state["i"] = torch.zeros(p.shape[1:], dtype=torch.long)
                torch.max(p.grad, 0, out=(state["v"].view(p.shape[1:]), state["i"]))
                p.sub_(p.grad * state["v"], alpha=lr)
        return loss
