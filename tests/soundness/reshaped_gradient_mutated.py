import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, decay=0.1, maximize=False):
        super().__init__(params, dict(lr=lr, decay=decay))
        self.maximize = maximize

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and "rows" not in self.state[p]:
                    self.state[p]["rows"] = torch.zeros(p.grad.size(0), dtype=p.dtype)
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                if grad.ndim > 1:
                    grad = grad.reshape(grad.size(0), -1)
                else:
                    grad = grad.reshape(-1, 1)
                if self.maximize:
                    grad.neg_()
                grad.add_(p.reshape_as(grad), alpha=group["decay"])
                rows = self.state[p]["rows"]
                rows.mul_(0.9).add_(grad.square().mean(dim=1))
                grad.div_(rows.add(0.1).sqrt_().unsqueeze(1))
                p.sub_(grad.view_as(p), alpha=group["lr"])
