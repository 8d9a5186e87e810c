import torch


class Lagged(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, pull=0.5):
        super().__init__(params, dict(lr=lr, pull=pull))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["lagged"] = p.clone()
                p.add_(p.grad, alpha=-group["lr"])
                state["lagged"].lerp_(p, group["pull"])
                p.copy_(state["lagged"])
