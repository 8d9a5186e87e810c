import math
import torch
from torch import nn
from torch.optim import Optimizer

import functools
import torch
from torch.optim import Optimizer


def clipped(fn):
    @functools.wraps(fn)
    def wrapper(self, closure=None):
        self.clip_gradients()
        return fn(self, closure)

    return wrapper


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    def clip_gradients(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.clamp_(-0.3, 0.3)

    @clipped
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-group["lr"])
