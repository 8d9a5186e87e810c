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
        for group in self.param_groups:
            lr, beta, wd = group["lr"], group["beta"], group["wd"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
                flag = torch.tensor(self.k % 2)
                if flag:
                    t = state["m"]
                else:
                    t = state["v"]
                flag.fill_(1)
                if flag:
                    t.mul_(beta).add_(grad)
                p.sub_(state["m"] + 2 * state["v"], alpha=lr)
        return loss
