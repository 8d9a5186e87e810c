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
            group["step"] += 1
            for p in group["params"]:
                if (g := p.grad) is None:
                    continue
                st = self.state[p]
                if "m" not in st:
                    st["m"] = torch.zeros_like(p)
                    st["e"] = None
                m = st["m"]
                tgt = m if group["step"] % 2 else g
                (tgt.mul_(0.5) if group["step"] > 2 else tgt).add_(p, alpha=0.1)
                st["e"] = m if st["e"] is None else st["e"]
                st["e"].add_(g)
                p.sub_(m * 0.5 + g, alpha=group["lr"])
