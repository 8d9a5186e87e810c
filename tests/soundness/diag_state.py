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
                g = p.grad
                g2 = g.reshape(g.size(0), -1)
                if "L" not in st:
                    st["L"] = torch.eye(g2.size(0), dtype=g.dtype) * 0.1
                L = st["L"]
                L.mul_(0.9).add_(g2 @ g2.mT)
                d = L.diagonal()
                d.add_(0.1)
                d.clamp_(min=0.2)
                P = torch.linalg.solve(L + 0.5 * torch.eye(len(L), dtype=g.dtype), g2)
                p.sub_(P.view_as(p), alpha=group["lr"])
