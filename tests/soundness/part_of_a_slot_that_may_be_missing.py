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
                    state["v"] = torch.full_like(p, 0.4)
                v = state["v"]
                torch.reshape(v, (-1,)).mul_(0.5)
                v.add_(grad)
                u = grad
                if self.k > 1:
                    u = state.setdefault("extra", v)
                p.sub_(u + 0.1 * v, alpha=lr)
        return loss
