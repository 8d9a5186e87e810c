import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9, foreach=False):
        super().__init__(params, dict(lr=lr, beta=beta, foreach=foreach))

    def batches_of(self, group):
        dtypes = {}
        for p in group["params"]:
            if p.grad is not None:
                dtypes.setdefault(p.dtype, []).append(p)
        return list(dtypes.values())

    @torch.no_grad()
    def step(self, closure=None):
        total = 0.0
        later = []
        for group in self.param_groups:
            batches = []
            if group["foreach"]:
                batches = self.batches_of(group)
            later.append(batches)
            if batches:
                for batch in batches:
                    squares = torch._foreach_mul(
                        [p.grad for p in batch], [p.grad for p in batch]
                    )
                    total += sum(s.sum() for s in squares)
                continue
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "m" not in self.state[p]:
                    self.state[p]["m"] = torch.zeros_like(p)
                self.state[p]["m"].mul_(group["beta"]).add_(p.grad)
                total += p.grad.square().sum()

        scale = 1.0 / (1.0 + total)
        for group, batches in zip(self.param_groups, later):
            if batches:
                for batch in batches:
                    torch._foreach_sub_(batch, [p.grad * scale for p in batch])
                continue
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.sub_(self.state[p]["m"] * scale, alpha=group["lr"])
