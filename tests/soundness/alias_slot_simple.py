import math
import functools
import itertools
import torch
import torch.nn.functional as F
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                st = self.state[p]
                if "m" not in st:
                    st["m"] = torch.zeros_like(p)
                    st["e"] = None
                m = st["m"]
                m.mul_(0.5)
                st["e"] = m if st["e"] is None else st["e"]
                st["e"].add_(p.grad)
                p.sub_(m, alpha=group["lr"])
