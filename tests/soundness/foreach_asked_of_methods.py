import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9, nesterov=False, foreach=None):
        defaults = dict(lr=lr, beta=beta, nesterov=nesterov, foreach=foreach)
        super().__init__(params, defaults)

    @staticmethod
    def can_batch(group, foreach, *, on_cuda_alone=False):
        """Whether lists of tensors serve as well as one after the other."""
        if foreach is False:
            return False

        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.is_sparse or torch.is_complex(p):
                return False
            if on_cuda_alone and not p.is_cuda:
                return False

        return True

    def batches(self, group):
        return not group["nesterov"] and self.can_batch(group, group.get("foreach"))

    def step_together(self, group):
        params = [p for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in params]
        buffers = [self.state[p]["m"] for p in params]
        torch._foreach_mul_(buffers, group["beta"])
        torch._foreach_add_(buffers, grads)
        torch._foreach_add_(params, buffers, alpha=-group["lr"])

    def step_one_by_one(self, group):
        for p in group["params"]:
            if p.grad is None:
                continue
            grad = p.grad
            m = self.state[p]["m"]
            if torch.is_complex(p):
                p, grad, m = (torch.view_as_real(x) for x in (p, grad, m))
            m.mul_(group["beta"]).add_(grad)
            if group["nesterov"]:
                p.add_(grad, alpha=-group["lr"])
            p.add_(m, alpha=-group["lr"])

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and "m" not in self.state[p]:
                    self.state[p]["m"] = torch.zeros_like(p)
            if self.batches(group):
                self.step_together(group)
            else:
                self.step_one_by_one(group)
