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
                    state["buf"] = torch.zeros(2, *p.shape, dtype=p.dtype)
                    state["step"] = torch.zeros((), dtype=torch.int64)
                buf, step = state["buf"], state["step"]
                v = buf[int(step) % 2]
                step.add_(1)
                w = buf[int(step) % 2]
                w.mul_(beta).add_(grad)
                p.sub_(v + 2 * w, alpha=lr)
        return loss
