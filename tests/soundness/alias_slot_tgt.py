import math
import functools
import itertools
import torch
import torch.nn.functional as F
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))
        self.t = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.t += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                st = self.state[p]
                g = p.grad
                if "m" not in st:
                    st["m"] = torch.zeros_like(p)
                    st["e"] = None
                m = st["m"]
                tgt = m if self.t % 2 else g
                tgt.mul_(0.5)
                if st["e"] is None:
                    st["e"] = m
                st["e"].add_(g)
                p.sub_(m, alpha=group["lr"])
