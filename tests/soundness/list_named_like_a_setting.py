import copy
from collections import defaultdict, deque, namedtuple, Counter, OrderedDict
from dataclasses import dataclass, field
from functools import partial, reduce, wraps
from typing import NamedTuple

import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            params, grads, exp_avgs, lrs = [], [], [], []
            for p in group["params"]:
                if p.grad is None:
                    continue
                st = self.state[p]
                if len(st) == 0:
                    st["step"] = 0
                    st["exp_avg"] = torch.zeros_like(p)
                st["step"] += 1
                params.append(p)
                grads.append(p.grad)
                exp_avgs.append(st["exp_avg"])
                lrs.append(lr / (1 - beta ** st["step"]))
            for i, param in enumerate(params):
                exp_avgs[i].lerp_(grads[i], 1 - beta)
                param.add_(exp_avgs[i], alpha=-lrs[i])
                param.mul_(1 - lr * 0.01)
