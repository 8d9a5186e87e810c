import math
import torch
from torch.optim import Optimizer

try:
    import not_there

    HAVE = not_there is not None
except ImportError:
    HAVE = False

RATE = 1.0
RATE += 0.5
PARTS = [0.25]
PARTS.append(0.75)
TABLE = {"b": 2.0, "a": 1.0}
del TABLE["a"]
BELOW = [3.0, 1.0, 2.0]
BELOW.sort()
for LAST in (0.1, 0.2):
    pass

if HAVE or not hasattr(torch, "not_there"):

    def bend(g):
        return g * PARTS[-1] + LAST

else:

    def bend(g):
        return g


class Opt(Optimizer):
    scale = 0.5

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    def turn(self, g):
        return g

    first_turn = turn

    def turn(self, g):
        return g.sin() * self.scale

    def run(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = self.turn(self.first_turn(bend(p.grad)))
                if HAVE:
                    grad = -grad
                p.sub_(grad * TABLE["b"] / BELOW[0] + RATE, alpha=group["lr"])
        return loss

    step = torch.no_grad()(run)


Opt.scale = 1.5
