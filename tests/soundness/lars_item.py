import math
import torch
from torch import nn
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.5, eta=0.3, weight_decay=0.01, momentum=0.9):
        defaults = dict(lr=lr, eta=eta, weight_decay=weight_decay, momentum=momentum)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                d_p = grad
                param_norm = torch.norm(p.data).item()
                grad_norm = torch.norm(grad).item()
                if param_norm != 0 and grad_norm != 0:
                    adaptive_lr = (
                        group["eta"]
                        * param_norm
                        / (grad_norm + param_norm * group["weight_decay"])
                    )
                    d_p = d_p.add(p, alpha=group["weight_decay"]).mul_(adaptive_lr)
                if "momentum_buffer" not in state:
                    buf = state["momentum_buffer"] = torch.clone(d_p).detach()
                else:
                    buf = state["momentum_buffer"]
                    buf.mul_(group["momentum"]).add_(d_p)
                p.add_(buf, alpha=-group["lr"])
        return loss
