import torch
from torch import nn
from torch.optim import Optimizer


def first(xs):
    return xs[0]


def last(xs):
    return xs[-1]


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
                    state["bufs"] = [torch.zeros_like(p), torch.ones_like(p)]
                a = first(state["bufs"])
                a.mul_(beta).add_(grad)
                b = last(state["bufs"])
                b.add_(a)
                p.sub_(state["bufs"][0] + 2 * state["bufs"][1], alpha=lr)
        return loss
