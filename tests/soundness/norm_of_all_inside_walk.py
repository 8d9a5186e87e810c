import torch
from torch.optim import Optimizer


def norm_of(param_groups):
    grads = []
    for group in param_groups:
        for p in group["params"]:
            if p.grad is None:
                continue
            grads.append(p.grad)
    if not grads:
        return torch.zeros(())
    return torch.stack([g.norm() for g in grads]).square_().sum().sqrt_()


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, decay=0.3, warmup=3):
        super().__init__(params, dict(lr=lr, decay=decay, warmup=warmup))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                grad.add_(p, alpha=group["decay"])
                if group["step"] < group["warmup"]:
                    # the gradients of those before have their decay by now
                    grad.div_(norm_of(self.param_groups).add_(1.0))
                p.sub_(grad, alpha=group["lr"])
