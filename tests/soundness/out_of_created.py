import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.full_like(p, 0.4)
                state["step"] += 1
                m, v = state["m"], state["v"]
                noise = torch.empty_like(p)
                torch.randn(p.shape, out=noise)
                line = torch.empty(p.numel(), dtype=p.dtype)
                torch.linspace(0.1, 1.0, p.numel(), out=line)
                p.sub_(grad * line.view_as(p) + 0.1 * noise, alpha=lr)
