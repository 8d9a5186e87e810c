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
                total = torch.zeros_like(p)
                first = None
                for i in range(3):
                    x = torch.sin(grad * (i + 1))
                    if first is None:
                        first = x
                    x.mul_(0.5)
                    total.add_(first + 2 * x)
                p.add_(total, alpha=-group["lr"])
