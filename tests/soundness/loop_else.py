import torch
from torch.optim import Optimizer


def damp(x, amount):
    x.mul_(amount)


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta, calls=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            group["calls"] += 1
            calls = group["calls"]
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
                for t in (m, v):
                    if calls == 2:
                        break
                    t.mul_(0.9)
                else:
                    damp(v, 0.7)
                for t in bufs:
                    pass
                else:
                    damp(bufs[1], 0.9)
                p.add_(m + 0.1 * v.tanh() + 0.1 * bufs[0] - 0.05 * bufs[1], alpha=-lr)
