import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            grads, bufs, sizes = [], [], []
            for p in group["params"]:
                if p.grad is None:
                    continue
                grads.append(p.grad)
                st = self.state[p]
                if "m" not in st:
                    st["m"] = torch.zeros_like(p)
                bufs.append(st["m"])
                sizes.append(p.abs().mean() + 1)
            scale = sizes if grads[0].sum() > 0 else None
            for i, (g, b) in enumerate(zip(grads, bufs)):
                b.mul_(0.9).add_(g)
                g.neg_()
                if scale is not None:
                    b.div_(scale[i])
            ps = [p for p in group["params"] if p.grad is not None]
            for p, b in zip(ps, bufs):
                p.add_(b, alpha=-group["lr"])
