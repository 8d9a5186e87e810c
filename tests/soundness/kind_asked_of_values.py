import math
from collections.abc import Sequence

import torch
from torch.optim import Optimizer


def scaled(grads, least):
    """One gradient, or many: a list is walked, and its first item centred again."""
    if isinstance(grads, torch.Tensor):
        if grads.dim() > 1:
            grads.sub_(grads.mean(dim=0, keepdim=True))
        grads.clamp_(min=-least, max=least)
        return

    shapes = {}
    for grad in grads:
        shapes.setdefault(grad.shape, []).append(grad)
    for alike in shapes.values():
        if len(alike) == 1:
            scaled(alike[0], least)
        else:
            torch._foreach_clamp_max_(alike, least)


def rms(x):
    if isinstance(x, torch.Tensor):
        return x.norm(2).div_(math.sqrt(x.numel()))
    norms = torch._foreach_norm(x)
    torch._foreach_div_(norms, [math.sqrt(each.numel()) for each in x])
    return norms


def step_size_of(lr, step, warmup):
    if not warmup:
        return lr
    share = min(1.0, step / 3)
    return lr * share


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9, warmup=True):
        super().__init__(params, dict(lr=lr, beta=beta, warmup=warmup))

    def rate(self, size, rms):
        if not isinstance(rms, Sequence):
            return size * rms.clamp(min=0.1)
        return [size * r for r in rms]

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            size = step_size_of(group["lr"], group["step"], group["warmup"])
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if not state:
                    state["m"] = torch.zeros_like(p)
                state["rms"] = rms(p)
                rate = self.rate(1.0, state["rms"])
                scaled(grad, 3.0)
                state["m"].mul_(group["beta"]).add_(grad)
                if isinstance(size, torch.Tensor):
                    p.sub_(state["m"] * size * rate)
                else:
                    p.sub_(state["m"] * rate, alpha=size)
