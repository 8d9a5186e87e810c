import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.ones_like(p)
                state["step"] += 1
                m, v = state["m"], state["v"]
                m.mul_(group["beta"]).add_(grad)
                held = {"fast": m, "slow": v}
                key = "fast" if state["step"] % 2 else "slow"
                held[key] = grad.clone()
                held["fast"].mul_(0.5)
                p.add_(m + 0.3 * held[key] + 0.1 * held["slow"], alpha=-group["lr"])
