import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.full_like(p, 0.4)
                state["step"] += 1
                calls = state["step"]
                m, v = state["m"], state["v"]
                m.lerp_(grad, 1 - beta)
                a = grad.clone()
                b = v.clone()
                if "q" not in state:
                    state["q"] = {
                        "a": {"x": torch.zeros_like(p)},
                        "b": {"x": torch.zeros_like(p)},
                    }
                q = state["q"]
                q["a"]["x"].add_(0.1)
                q["b"]["x"].mul_(0.5)
                if calls == 2:
                    q["a"]["x"] = q["b"]["x"]
                p.add_(m + 0.1 * v + 0.1 * a.tanh() + 0.1 * b.tanh(), alpha=-lr)
