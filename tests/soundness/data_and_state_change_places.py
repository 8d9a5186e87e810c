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
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.full_like(p, 0.4)
                    state["bufs"] = [torch.zeros_like(p), torch.full_like(p, 0.7)]
                m, v, bufs = state["m"], state["v"], state["bufs"]
                m.lerp_(grad, 1 - beta)
                if "shadow" not in state:
                    state["shadow"] = p.data.clone()
                p.data, state["shadow"] = state["shadow"], p.data
                state["shadow"].lerp_(p, 0.3)
                p.add_(m + 0.1 * v.tanh() + 0.1 * bufs[0] - 0.05 * bufs[1], alpha=-lr)
