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
                    state["m"] = torch.zeros(p.numel(), 2, dtype=p.dtype).t().clone()
                m = state["m"]
                m.index_add_(0, torch.tensor([1]), p.grad.reshape(1, -1))
                m[1] *= beta
                m[m > 1] = 0.5
                p.sub_(m.t().view(-1)[1::2].view(p.shape), alpha=lr)
        return loss
