import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    def bump(self, st):
        st["i"] = (st["i"] + 1) % 2

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                st = self.state[p]
                if "i" not in st:
                    st["i"] = 0
                    st["h"] = [torch.zeros_like(p), torch.ones_like(p)]
                cur = st["h"][st["i"]]
                self.bump(st)
                cur.mul_(0.8).add_(p.grad)
                p.sub_(st["h"][0] + 0.3 * st["h"][1], alpha=group["lr"])
