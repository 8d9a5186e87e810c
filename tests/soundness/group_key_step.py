import math
import functools
import itertools
import torch
import torch.nn.functional as F
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr, step=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                st = self.state[p]
                if "a" not in st:
                    st["a"] = torch.zeros_like(p)
                    st["b"] = torch.ones_like(p)
                    st["cur"] = "a"
                buf = st[st["cur"]]
                buf.mul_(0.9)
                st["cur"] = "b" if st["cur"] == "a" else "a"
                buf.add_(p.grad)
                p.sub_(st["a"] + st["b"] * 0.2, alpha=group["lr"])
