import torch
from torch.optim import Optimizer


def has_support(tensors):
    if len(tensors) == 0:
        return False
    first = tensors[0].dtype
    for t in tensors:
        if t.dtype != first:
            return False
    return True


@torch.no_grad()
def global_norm(param_groups, device=None, *, weigh=False):
    param_groups = param_groups or []
    device = device or next(
        (p.device for group in param_groups for p in group["params"]),
        torch.device("cpu"),
    )
    grads = []
    for group in param_groups:
        adaptive = weigh and group.get("adaptive", False)
        for p in group["params"]:
            if p.grad is None:
                continue
            grad = p.grad
            if adaptive:
                grad = grad * p.abs()
            grads.append(grad)
    if not grads:
        return torch.zeros(1, device=device)
    norms = (
        torch._foreach_norm(grads)
        if has_support(grads) and grads[0].dtype not in (torch.float16, torch.bfloat16)
        else [
            (
                grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
            ).norm()
            for grad in grads
        ]
    )
    squared = torch.stack([norm.to(device) for norm in norms]).square_()
    return squared.sum().reshape(1)


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, max_norm=1.0):
        super().__init__(params, dict(lr=lr, max_norm=max_norm))

    def clip(self):
        if self.defaults["max_norm"] == 0.0:
            return 1.0
        norm = global_norm(self.param_groups)
        norm.sqrt_().add_(1e-6)
        return torch.clamp(self.defaults["max_norm"] / norm, max=1.0)

    @torch.no_grad()
    def step(self, closure=None):
        clip = self.clip()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                grad.mul_(clip)
                p.add_(grad, alpha=-group["lr"])
