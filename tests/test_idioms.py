"""Ways in which people write optimizers: each is translated, and then follows the
original, with the derivative of its learning rate."""

from __future__ import annotations

import textwrap
from pathlib import Path

import codegen
import pytest
import torch
from followed import compiled, follows, grouped, loss_of, start

HEAD = """
import copy
import functools
import math
import math as maths
from math import sqrt as square_root

import torch
from torch import nn
from torch.optim import Optimizer


def global_norm(param_groups):
    total = torch.zeros(1, dtype=torch.float64)
    for group in param_groups:
        for p in group["params"]:
            if p.grad is not None:
                total.add_(p.grad.norm().pow(2))
    return total.sqrt_()


def halve_gradients(params):
    for p in params:
        if p.grad is not None:
            p.grad.mul_(0.5)


def exists(x):
    return x is not None


def with_foreach(foreach, params):
    if foreach is not None:
        return foreach
    return all(p.is_cuda for p in params)


def counter(value=0.0, dtype=None):
    if isinstance(value, torch.Tensor):
        return value.to(dtype)
    return torch.tensor(value, dtype=dtype or torch.float32)


def descend_all(params, grads, firsts, buffers, lr, foreach, base=None):
    if with_foreach(foreach, params):
        raise NotImplementedError
    if base is None:
        base = [None] * len(params)
    for i, p in enumerate(params):
        if firsts[i]:
            continue
        buffer = buffers[i]
        buffer.mul_(0.5).add_(grads[i])
        p.add_(buffer, alpha=-lr)


def descend(p, grad, lr):
    p.add_(grad, alpha=-lr)


def identities(p):
    return [torch.eye(size, dtype=p.dtype) for size in p.shape]


def updated(matrices, grad, beta):
    result = []
    for side, q in enumerate(matrices):
        g = grad.movedim(side, 0).reshape(grad.shape[side], -1)
        q.mul_(beta).add_(g @ g.T, alpha=1 - beta)
        result.append(torch.tanh(q))
    return result


def makes(beta):
    def decay(m, grad):
        m.mul_(beta).add_(grad)
    return decay


def twice(function):
    def wrapper(self, *args):
        function(self, *args)
        return function(self, *args)
    return wrapper


class Mine(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.6, nu=1.0, scale=0.5, shape=None):
        super().__init__(params, dict(lr=lr, beta=beta, nu=nu, scale=scale, foreach=None))
        self.calls = 0
        self.warm = 0.25
        self.shares = (0.5, 0.7)
        self.table = [[None, None] for _ in range(3)]
        self.update_fn = descend
        self.shape = shape if shape is not None else lambda t: t / (1 + t)

    @property
    def double(self):
        return 2 * self.rate

    @property
    def rate(self):
        '''Half of the first group's.'''
        lr = self.param_groups[0]["lr"]
        if self.calls == 0:
            return lr / 2
        return lr

    @rate.setter
    def rate(self, value):
        self.param_groups[0]["lr"] = value

    def shrink(self, p):
        p.mul_(0.9)
        return p.norm()

    def difference(self, a, b):
        return a - 2 * b

    def count(self, state):
        state["n"] = state.get("n", 0) + 1
        return state["n"]

    def first(self, p, pair):
        p.mul_(0.9)
        return pair[0] * pair[1]

    def halve(self, lr, grad):
        grad.mul_(0.5)
        lr = lr * 0.5
        return lr

    def is_wide(self, p):
        return p.shape[1] > 2 and self.warm > 0

    def is_warm(self, state):
        return not self.is_cold(state)

    def is_cold(self, state):
        return state["step"] < 2

    def fill(self, group, **kwargs):
        scale = kwargs.get("scale", 1.0)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if len(state) == 0:
                state["previous"] = p.grad.clone().mul_(-scale)
            p.grad.add_(state["previous"], alpha=0.1)

    def clip(self, least):
        if least is None:
            return None
        grads = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("sparse")
                grads.append(p.grad)
        if not grads:
            return None
        norms = torch._foreach_norm(grads)
        return torch.linalg.vector_norm(torch.stack(norms)).clamp_(min=least)

    def update(self, p, grad, state, lr, beta):
        if "m" not in state:
            state["m"] = grad.clone()
        else:
            state["m"].mul_(beta).add_(grad)
        p.add_(state["m"], alpha=-lr)

    @torch.no_grad()
    def step(self, closure=None):
"""

LOOP = """
for group in self.param_groups:
    lr, beta, nu = group["lr"], group["beta"], group["nu"]
    for p in group["params"]:
        if p.grad is None:
            continue
        grad = p.grad
        state = self.state[p]
        {body}
"""

pytestmark = pytest.mark.filterwarnings("ignore:This overload of")

STEPS: dict[str, str] = {
    "the parameter under the name of its data": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        data, grad = p.data, p.grad.data
        data.addcmul_(grad, torch.ones_like(grad), value=-0.1).div_(1 + group["lr"])
""",
    "helpers that ask about what is known": """
loss = None
if exists(closure):
    loss = closure()
for group in self.param_groups:
    for p in filter(lambda p: exists(p.grad), group["params"]):
        grad, lr, beta, nu, state = p.grad, *(group["lr"], group["beta"]), group["nu"], self.state[p]
        if len(state) == 0:
            state["step"] = counter()
            state["steps"] = 0
        steps = state["steps"]
        steps += 1
        state["step"] += 1
        p.add_(grad, alpha=-lr / (steps + state["step"].item()))
        state["steps"] = steps
return loss
""",
    "lists filled with what holds when they are": """
for group in self.param_groups:
    params, grads, firsts, buffers = [], [], [], []
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        params.append(p)
        grads.append(p.grad)
        firsts.append(len(state) == 0)
        if len(state) == 0:
            state["buffer"] = torch.zeros_like(p)
        buffers.append(state["buffer"])
    if not params:
        continue
    lr = group["lr"]
    descend_all(params, grads, firsts, buffers, lr, foreach=group["foreach"])
""",
    "rows that a loop mutates": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        m = p.grad.clone()
        for row in m:
            row.mul_(0.5).add_(p[0].sum())
        p.add_(m, alpha=-group["lr"])
""",
    "a list filled in either branch": """
for group in self.param_groups:
    params, grads, buffers = [], [], []
    for p in group["params"]:
        if p.grad is not None:
            params.append(p)
            grads.append(p.grad)
            state = self.state[p]
            if "buffer" not in state:
                buffers.append(None)
            else:
                buffers.append(state["buffer"])
    for i, p in enumerate(params):
        buffer = buffers[i]
        if buffer is None:
            buffer = torch.clone(grads[i])
            buffers[i] = buffer
        else:
            buffer.mul_(group["beta"]).add_(grads[i])
        p.add_(buffer, alpha=-group["lr"])
    for p, buffer in zip(params, buffers):
        self.state[p]["buffer"] = buffer
""",
    "a norm over all groups, in a helper": """
norm = global_norm(self.param_groups)
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            p.add_(p.grad / (1 + norm), alpha=-group["lr"])
""",
    "keywords that travel as a dict": """
for group in self.param_groups:
    self.fill(group, scale=group["scale"])
    for p in group["params"]:
        if p.grad is not None:
            p.add_(p.grad, alpha=-group["lr"])
""",
    "a helper that is handed a group's parameters": """
for group in self.param_groups:
    halve_gradients(group["params"])
    params = group["params"]
    for p in params:
        if p.grad is not None:
            p.add_(p.grad, alpha=-group["lr"])
""",
    "a counter and a number of the optimizer's own": """
self.calls += 1
self.warm *= 1.1
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            p.add_(p.grad, alpha=-group["lr"] * self.warm / self.calls)
""",
    "state under a name": """
if "k" not in self.state:
    self.state["k"] = 0
self.state["k"] += 1
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            p.add_(p.grad, alpha=-group["lr"] / self.state["k"])
""",
    "a property": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            if self.rate > 0.01:
                p.mul_(0.9)
            p.add_(p.grad, alpha=-self.rate * self.double)
""",
    "methods that are asked in conditions": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        state["step"] = state.get("step", 0) + 1
        if self.is_wide(p) and state["step"] < 3:
            p.add_(p.grad, alpha=-group["lr"])
        elif self.is_warm(state):
            p.add_(p.grad, alpha=group["lr"])
""",
    "selections that are counted": """
for group in self.param_groups:
    params = [p for p in group["params"] if p.grad is not None or p.dim() > 9]
    count = len(params)
    total = sum(1 + p.dim() for p in params)
    for i, p in enumerate(params, 1):
        p.add_(p.grad, alpha=-group["lr"] * i / (count + total))
    for i, p in enumerate(params):
        p.mul_(1 - 0.01 * (i + 1) / count)
""",
    "a count of parameters from one": """
for group in self.param_groups:
    for i, p in enumerate(group["params"], start=1):
        if p.grad is not None:
            p.add_(p.grad, alpha=-group["lr"] / i)
""",
    "what is computed before a call that changes it": """
for group in self.param_groups:
    lr = group["lr"]
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        total = p.sum() + self.shrink(p)
        share = self.difference(p.sum(), self.shrink(p))
        total += self.count(state) + self.first(p, (p.norm(), total))
        state["w"] = state.get("w", 1) + state["n"] * self.count(state)
        half = lr + self.halve(lr, p.grad)
        p.sub_(p.grad * (1 + 0.01 * total * share), alpha=(lr + half) / state["w"])
""",
    "what is computed before a mutation beside it": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p)
        m = state["m"]
        u = state["m"].sum() + m.mul_(0.9).add_(p.grad).norm()
        v = p.sum() * 0.1 + p.mul_(0.99).sum() + p.mean()
        torch.add(m.tanh(), m.mul_(0.5), out=m)
        p.sub_(m * (1 + 0.1 * u + 0.1 * v), alpha=group["lr"])
""",
    "state that is the parameter, or a copy if that is of another dtype": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        if not state:
            state["same"] = p.detach().to(dtype=torch.float64)
            state["most"] = torch.zeros_like(p).to(dtype=torch.float64)
        moved = p - state["same"]
        state["most"] = torch.max(state["most"], moved.square() + 1.0)
        p.sub_(p.grad * state["most"] + moved, alpha=group["lr"])
""",
    "slots asked for with get": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        m = state.get("m")
        if m is None:
            m = torch.zeros_like(p)
        m.mul_(group["beta"]).add_(p.grad)
        state["m"] = m
        state["v"] = state.get("v", torch.zeros_like(p)).mul_(0.5).add_(m)
        p.sub_(m + state["v"], alpha=group["lr"])
""",
    "setdefault": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state.setdefault(p, {})
        state.setdefault("m", torch.zeros_like(p)).mul_(group["beta"]).add_(p.grad)
        mu, nu = [state.setdefault(k, torch.zeros_like(p)) for k in ("mu", "nu")]
        mu.add_(p.grad)
        nu.add_(mu)
        p.sub_(state["m"] + nu, alpha=group["lr"])
""",
    "math by other names": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            rate = square_root(group["lr"]) * maths.exp(group["beta"])
            p.sub_(p.grad, alpha=0.1 * rate)
""",
    "what is mutated has no name": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        grad, other = p.grad, p.grad * 2
        (grad if group["nu"] > 0 else other).mul_(0.5)
        max(other, grad, key=lambda t: float(t.sum())).mul_(0.5)
        [p, grad][0].sub_(grad + other, alpha=group["lr"])
""",
    "a stored gradient": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        p.grad = p.grad / (1 + p.grad.norm())
        grad = p.grad
        p.sub_(grad, alpha=group["lr"])
""",
    "a norm of all, if there are any": """
for group in self.param_groups:
    params = [p for p in group["params"] if p.grad is not None and p.dim() < 9]
    if not params:
        continue
    norm = torch.stack([p.grad.norm() for p in params]).norm()
    for p in params:
        p.sub_(p.grad / (1 + norm), alpha=group["lr"])
""",
    "a list of lists of the optimizer's own": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        state = self.state[p]
        state["step"] = state.get("step", 0) + 1
        held = self.table[int(state["step"] % 3)]
        if held[0] != state["step"]:
            held[0], held[1] = state["step"], 1 / (1 + state["step"])
        p.sub_(p.grad, alpha=group["lr"] * held[1])
""",
    "two tensors of the state that change places": """
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is None:
            continue
        s = self.state[p]
        if not s:
            s["a"], s["b"] = torch.zeros_like(p), torch.ones_like(p)
        s["a"].lerp_(p.grad, 0.1)
        s["a"], s["b"] = s["b"], s["a"]
        s["a"].mul_(group["beta"])
        p.sub_(s["a"] + s["b"], alpha=group["lr"])
""",
    "an attribute that the first step makes": """
self.steps = getattr(self, "steps", 0) + 1
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            p.add_(p.grad, alpha=-group["lr"] / self.steps)
""",
    "a group by number, whose tensor is mutated in later loops": """
group = self.param_groups[0]
if "total" not in group:
    group["total"] = torch.zeros(1)
total = group["total"]
total.mul_(0.5)
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            total.add_(p.grad.square().sum())
for group in self.param_groups:
    for p in group["params"]:
        if p.grad is not None:
            p.add_(p.grad / (1 + total), alpha=-group["lr"])
""",
    "parameters by position": """
for pg in self.param_groups:
    params = pg["params"]
    count = len(params)
    for i in range(count):
        p = params[i]
        if p.grad is None:
            continue
        p.sub_(params[i].grad * pg["lr"] / count * (i + 1))
    for i, p in enumerate(params):
        if params[i].grad is not None:
            p.mul_(0.99)
""",
    "state by position": """
for group in self.param_groups:
    params = group["params"]
    for j in range(len(params)):
        if params[j].grad is not None:
            state = self.state[params[j]]
            if len(state) == 0:
                state["m"] = torch.zeros_like(params[j])
            state["m"].mul_(0.9).add_(params[j].grad)
            params[j].sub_(state["m"], alpha=group["lr"])
""",
    "whether there is state": """
for group in self.param_groups:
    for p in group["params"]:
        if p not in self.state:
            self.state[p] = {}
            self.state[p]["m"] = torch.zeros_like(p)
        m = self.state[p]["m"]
        m.mul_(group["beta"]).add_(p.grad)
        p.add_(m, alpha=-group["lr"])
""",
    "state by a display": """
for group in self.param_groups:
    for p in group["params"]:
        state = self.state[p]
        if not state:
            self.state[p] = state = {"m": torch.zeros_like(p), "step": 0}
        state["step"] += 1
        state["m"].mul_(group["beta"]).add_(p.grad)
        p.add_(state["m"], alpha=-group["lr"] / state["step"])
""",
    "state by dict": """
for group in self.param_groups:
    for p in group["params"]:
        if p not in self.state:
            self.state[p] = dict(m=torch.zeros_like(p), step=0)
        s = self.state[p]
        s["step"] += 1
        s["m"].mul_(group["beta"]).add_(p.grad)
        p.add_(s["m"], alpha=-group["lr"] / s["step"])
""",
    "sums that begin as one number": """
num = den = 0.0
for group in self.param_groups:
    for p in group["params"]:
        num += (p.grad * p).sum()
        den += p.grad.pow(2).sum()
for group in self.param_groups:
    for p in group["params"]:
        p.add_(p.grad, alpha=-group["lr"] * (1 + torch.tanh(num / den).item()))
""",
    "gradients of all groups in a list": """
clip = self.clip(0.5)
for group in self.param_groups:
    for p in group["params"]:
        p.add_(p.grad / clip, alpha=-group["lr"])
""",
    "parameters of all groups, some of them": """
chosen, sizes = [], 0
for group in self.param_groups:
    for p in group["params"]:
        grad = p.grad
        if grad is not None:
            chosen.append(p)
total = torch.stack([p.norm() for p in chosen]).sum() if chosen else 1.0
for group in self.param_groups:
    for p in group["params"]:
        p.add_(p.grad / (1 + total), alpha=-group["lr"])
""",
    "a ratio that may not be picked": """
for group in self.param_groups:
    for p in group["params"]:
        state = self.state[p]
        if len(state) == 0:
            state["m"] = torch.zeros_like(p)
        update = state["m"].clone()
        state["m"].add_(p.grad)
        ratio = p.norm() / update.norm()
        ratio = torch.where(update.norm() > 0, ratio, 1.0).clamp(max=1.0)
        p.add_(update * ratio + 0.1 * p.grad, alpha=-group["lr"])
""",
}

HEADED = """
for group in self.param_groups:
    lr, beta = group["lr"], group["beta"]
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    for p in params:
        if "m" not in self.state[p]:
            self.state[p]["m"] = torch.zeros_like(p)
    ms = [self.state[p]["m"] for p in params]
"""

LISTS: dict[str, str] = {
    "lists walked beside each other": """
    for p, g, m in zip(params, grads, ms):
        m.mul_(beta).add_(g)
        p.add_(m, alpha=-lr)
""",
    "positions that count": """
    for i, g in enumerate(grads):
        params[i].add_(g, alpha=-lr / (i + 1))
    for i, (p, m) in enumerate(zip(params, ms)):
        p.add_(m, alpha=i * 0.1)
""",
    "functions of lists of tensors": """
    torch._foreach_lerp_(ms, grads, 1 - beta)
    roots = torch._foreach_sqrt(torch._foreach_mul(ms, ms))
    torch._foreach_add_(roots, 1.0)
    torch._foreach_maximum_(roots, 1.1)
    torch._foreach_addcdiv_(params, ms, roots, value=-lr)
""",
    "a number for each tensor of a list": """
    sizes = [1.0 / p.numel() for p in params]
    steps = [-lr * s for s in sizes]
    torch._foreach_mul_(ms, beta)
    torch._foreach_add_(ms, torch._foreach_mul(grads, sizes))
    torch._foreach_addcmul_(params, ms, grads, steps)
    torch._foreach_sub_(params, ms, alpha=lr)
""",
    "a norm of all between two loops": """
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    updates = torch._foreach_div(grads, norm + 1)
    torch._foreach_add_(ms, updates)
    torch._foreach_add_(params, ms, alpha=-lr)
""",
    "computed tensors that two norms are taken of": """
    updates = [g.tanh() for g in grads]
    total = sum(u.pow(2).sum() for u in updates)
    torch._foreach_div_(updates, 1 + total)
    biggest = max(u.abs().max() for u in updates)
    torch._foreach_mul_(updates, biggest)
    torch._foreach_add_(params, updates, alpha=-lr)
""",
    "a branch with a norm inside": """
    if group["nu"] > 0:
        norm = torch.stack([g.norm() for g in grads]).norm()
        grads = torch._foreach_div(grads, 1 + norm)
    torch._foreach_add_(params, grads, alpha=-lr)
""",
    "a list that a branch replaces": """
    if beta > 0:
        grads = torch._foreach_add(grads, params, alpha=0.1)
        params = params
    torch._foreach_add_(params, grads, alpha=-lr)
""",
    "items by their position": """
    for i, p in enumerate(params):
        ms[i].mul_(beta).add_(grads[i])
        grads[i] = grads[i] + ms[i]
    for i in range(len(params)):
        params[i].add_(grads[i], alpha=-lr / len(params))
""",
    "an accumulator that a later loop reads": """
    total = torch.zeros((), dtype=torch.float64)
    for g in grads:
        total += g.abs().sum()
    for p, g in zip(params, grads):
        p.sub_(g / (1 + total), alpha=lr)
""",
    "two kinds of parameters": """
    tall = [p for p in params if p.shape[0] > 2]
    wide = [p for p in params if p.shape[0] <= 2]
    for p in tall:
        p.add_(p.grad, alpha=-lr)
    for p in wide:
        self.state[p]["m"].mul_(beta).add_(p.grad)
        p.sub_(self.state[p]["m"], alpha=lr)
""",
    "parameters, if there are any": """
    if len(params) > 0:
        step = lr / 2
        torch._foreach_mul_(ms, beta)
        torch._foreach_add_(params, ms, alpha=-step)
        torch._foreach_add_(params, grads, alpha=-step)
""",
    "no parameters, no count": """
    if not params:
        continue
    group["count"] = group.get("count", 0) + 1
    torch._foreach_add_(params, grads, alpha=-lr / group["count"])
""",
    "numbers drawn in two loops": """
    torch.manual_seed(3)
    first = [torch.rand_like(p) for p in params]
    second = [torch.rand_like(p) for p in params]
    torch._foreach_mul_(first, second)
    torch._foreach_addcmul_(params, first, grads, -lr)
""",
}
STEPS.update({title: HEADED + part.strip("\n") for title, part in LISTS.items()})

BODIES: dict[str, str] = {
    "all at once, with a star": """
decay, (m,), share = lr, [state.setdefault("m", torch.zeros_like(p))], 0.5
decay, share, more, state = lr, *self.shares, self.state[p]
state["m"].mul_(share).add_(grad, alpha=more)
p.add_(state["m"], alpha=-decay)
""",
    "slots by a comprehension": """
if not exists(state.get("a")):
    state.update(a=torch.zeros_like(p), b=torch.ones_like(p))
a, b = (state[k] for k in ("a", "b"))
a.mul_(beta).add_(grad)
b.mul_(beta).add_(grad.abs())
p.addcdiv_(a, b, value=-lr)
""",
    "a function that the constructor keeps": """
self.update_fn(p, grad, lr)
p.mul_(1 - 0.1 * lr)
""",
    "a tolerance that is a setting": """
if not p.allclose(grad, rtol=nu * 0.1, atol=1e-3):
    p.add_(grad, alpha=-lr)
""",
    "items that a loop mutates": """
if "bufs" not in state:
    state["bufs"] = [torch.zeros_like(p) for _ in range(3)]
for buf, share in zip(state["bufs"], (0.1, 0.5, 0.9)):
    buf.mul_(share).add_(grad)
    p.sub_(buf, alpha=lr / 3)
""",
    "two tensors that a loop mutates, one by one": """
if len(state) == 0:
    state["a"], state["b"] = torch.zeros_like(p), torch.ones_like(p)
for t, share in ((state["a"], 0.3), (state["b"], 0.5)):
    t.mul_(share).add_(grad)
for t in state.values():
    t.mul_(0.9)
p.addcdiv_(state["a"], state["b"].abs() + 1, value=-lr)
""",
    "a helper that mutates a list's items": """
if len(state) == 0:
    state["Q"] = identities(p)
for side, q in enumerate(updated(state["Q"], grad, beta)):
    grad = torch.tensordot(q, grad, dims=([0], [side])).movedim(0, side)
p.add_(torch.tanh(grad), alpha=-lr)
""",
    "a nested function that mutates": """
m = state.setdefault("m", torch.zeros_like(p))
def decay(t, share):
    t.mul_(share)
    m.add_(grad)
    return t
decay(m, beta)
p.add_(decay(m, 0.5), alpha=-lr)
""",
    "a partial of a method that mutates": """
update = functools.partial(self.update, lr=lr, beta=beta)
lr = 5.0
update(p, grad, state)
""",
    "a group's parameters, filtered": """
for q in filter(lambda t: t.grad is not None, group["params"]):
    pass
p.add_(grad, alpha=-lr)
""",
    "several results into tensors that exist": """
m = state.setdefault("m", torch.ones_like(p))
both = torch.stack((m * beta, grad.abs()))
torch.max(both, 0, keepdim=False, out=(m, m.new().long()))
p.addcdiv_(grad, m, value=-lr)
""",
    "the scalar first, out of place": """
grad = grad.add(0.1, p)
p.addcdiv_(-lr, grad, grad.abs() + 1)
""",
    "an initialiser of torch.nn": """
if len(state) == 0:
    state["m"] = nn.init.constant_(torch.empty_like(p), 0.3)
m = state["m"]
m.mul_(beta).add_(grad)
p.add_(m, alpha=-lr)
""",
    "a scalar in float32 beside float64 parameters": """
if len(state) == 0:
    state["v"] = torch.zeros([])
v = state["v"]
v.mul_(beta).add_(grad.square().sum(), alpha=1 - beta)
grad.div_(v.sqrt().add_(1))
p.add_(grad, alpha=-lr)
""",
    "a slot that some parameters lack": """
if len(state) == 0:
    if p.shape[0] == 2:
        state["m"] = torch.zeros_like(p)
    else:
        state["row"] = torch.zeros_like(p[0])
m = state["m"] if p.shape[0] == 2 else state["row"].expand_as(p).clone()
m.lerp_(grad, 1 - beta)
if p.shape[0] != 2:
    state["row"] = m.mean(dim=0)
p.add_(m, alpha=-lr)
""",
    "a tensor or its transpose, mutated": """
if len(state) == 0:
    state["m"] = torch.zeros_like(p)
m = state["m"]
m.mul_(beta).add_(grad)
x = m.T if p.shape[0] == 2 else m
x.mul_(0.5)
p.add_(m, alpha=-lr)
""",
    "a copy of a tensor": """
if len(state) == 0:
    state["start"] = copy.deepcopy(p.data)
p.add_(grad + 0.1 * state["start"], alpha=-lr)
""",
    "the variable of a comprehension": """
if len(state) == 0:
    state["sides"] = [torch.eye(d, dtype=p.dtype) for d in p.shape]
left, right = state["sides"]
left.lerp_(torch.tanh(grad @ grad.T), 1 - beta)
p.add_(left @ grad @ right, alpha=-lr)
""",
    "a setting that is off at one": """
average = grad * nu
if nu != 1.0:
    average.add_(p, alpha=1 - nu)
p.add_(average, alpha=-lr)
""",
    "the constructor's defaults": """
p.add_(grad, alpha=-lr * self.defaults["scale"])
""",
    "a callable of the optimizer's own": """
p.add_(self.shape(grad.abs()), alpha=-lr)
""",
    "a division by zero that is caught": """
best = state.get("best", 0.0)
try:
    ratio = lr / best
except ZeroDivisionError:
    ratio = 0.5
state["best"] = max(best, lr)
p.add_(grad, alpha=-lr * ratio)
""",
    "math on shapes": """
p.add_(grad, alpha=-lr / math.prod(p.shape))
""",
}


def source_of(step: str) -> str:
    return HEAD + textwrap.indent(step.strip("\n"), " " * 8) + "\n"


def bodied(body: str) -> str:
    return LOOP.format(body=textwrap.indent(body.strip("\n"), " " * 8).lstrip())


ALL = {**STEPS, **{title: bodied(body) for title, body in BODIES.items()}}


@pytest.mark.parametrize("title", ALL)
def test_follows_the_original(title: str, tmp_path: Path) -> None:
    kind, made = compiled(source_of(ALL[title]), tmp_path)
    # float32 in the state rounds differently with a tensor for a setting
    follows(kind, made, own_dtype="float32" in title or "by number" in title)


def test_each_group_its_own_of_the_constructors_settings(tmp_path: Path) -> None:
    kind, made = compiled(source_of(ALL["the constructor's defaults"]), tmp_path)
    params = start()
    scales = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (1, 2)]
    stepper = made(kind(grouped(params, scale=9.0)), params)
    assert [g["scale"] for g in stepper.param_groups] == [0.5, 0.5]
    new = stepper.step(
        loss_of(params, 0), params=params, override={"scale": [scales[0], scales[1]]}
    )
    outer = torch.stack([p.sum() for p in new]).sum()
    assert all(float(g) for g in torch.autograd.grad(outer, scales))


def test_what_where_does_not_pick_gives_no_nan(tmp_path: Path) -> None:
    step = bodied("""
norm = grad.norm()
ratio = torch.where(norm > 0, p.norm() / norm, torch.ones_like(norm))
p.add_(grad * ratio, alpha=-lr)
""")
    kind, made = compiled(source_of(step), tmp_path)
    params = start()
    loss = (params[0] * 0.0).sum() + (params[1] ** 2).sum()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    stepper = made(kind(params), params, override={"lr": [lr]})
    new = stepper.step(loss, params=params)
    outer = torch.stack([p.sum() for p in new]).sum()
    with torch.autograd.set_detect_anomaly(True):
        gradients = torch.autograd.grad(outer, [lr, *params], create_graph=True)
    assert all(g.isfinite().all() for g in gradients)


REFUSED: dict[str, tuple[str, str]] = {
    "a callable of its own, called for its effect": (
        bodied("self.shape(p.mul_(0.5))"),
        "there for its effect",
    ),
    "a function that a function makes": (
        bodied("decay = makes(beta)\ndecay(p, grad)"),
        "can't be seen",
    ),
    "lists of other parameters": (
        HEADED + """
    tall = [p for p in params if p.shape[0] > 2]
    for p, g in zip(tall, grads):
        p.add_(g)
""",
        "for the same parameters",
    ),
    "parameters chosen by what changes": (
        HEADED + """
    big = [p for p in params if p.norm() > 1]
    for p in big:
        p.mul_(0.5)
""",
        "may change while it lives",
    ),
    "another optimizer inside": ("self.base.step()", "steps another optimizer"),
    "bits read as another dtype": (
        bodied("p.view(torch.uint8).bitwise_xor_(grad.view(torch.uint8))"),
        "a view of another dtype",
    ),
    "parts of what is not seen through": (
        bodied("m, v = state.values()\nm.mul_(beta).add_(grad)\np.sub_(m, alpha=lr)"),
        "can't see",
    ),
    "rows by unpacking": (
        bodied("x, y = grad\nx.mul_(0.5)\np.sub_(grad)"),
        "can't see",
    ),
    "a property that is set": ("self.rate = 0.5", "what setting it does isn't seen"),
    "a property in a condition": (
        bodied("rate = self.rate if nu > 0 else lr\np.add_(grad, alpha=-rate)"),
        "computed under a condition",
    ),
    "a list of parameters that is sorted": (
        HEADED
        + "    params.sort(key=len)\n    for p in params:\n        p.add_(p.grad)",
        "used as a whole",
    ),
    "a list of parameters that loses one": (
        """
for group in self.param_groups:
    params = list(group["params"])
    del params[0]
    for p in params:
        p.add_(p.grad)
""",
        "can't see",
    ),
    "an object that nobody knows": (
        bodied("p.add_(self.norms.project(grad), alpha=-lr)"),
        "can't be seen",
    ),
    "parts that a loop mutates": (
        bodied(
            "m = grad.clone()\nfor part in m.unbind(0):\n    part.mul_(0.5)\np.add_(m)"
        ),
        "the compiler can't see",
    ),
    "a step that does nothing without its closure": (
        "if closure is not None:\n    for group in self.param_groups:\n"
        "        for p in group['params']:\n            p.mul_(0.5)",
        "without a closure changes nothing",
    ),
    "a step that wants its closure": (
        'if closure is None:\n    raise RuntimeError("no closure")\nclosure()',
        "without a closure only raises",
    ),
    "autograd inside": (
        bodied("hv = torch.autograd.grad(grad, p)\np.add_(hv[0], alpha=-lr)"),
        "can't be part of a differentiable step",
    ),
    "a view or not, mutated twice": (
        bodied(
            "m = state['m']\nx = m.T if p.shape[0] == 2 else m\n"
            "x.mul_(beta)\nx.add_(1.0)\np.add_(m)"
        ),
        "mutated again later",
    ),
    "what a branch binds": (
        """
xs = []
for group in self.param_groups:
    for p in group["params"]:
        g = p
        if p.shape[0] == 2:
            g = p.grad
        xs.append(g)
total = sum(x.pow(2).sum() for x in xs)
for group in self.param_groups:
    for p in group["params"]:
        p.add_(p.grad / (1 + total), alpha=-group["lr"])
""",
        "used as a whole",
    ),
    "what a branch skips": (
        """
xs = []
for group in self.param_groups:
    for p in group["params"]:
        if p.dim() == 2:
            if p.shape[0] == 2:
                continue
        xs.append(p)
total = sum(x.pow(2).sum() for x in xs)
for group in self.param_groups:
    for p in group["params"]:
        p.add_(p.grad / (1 + total), alpha=-group["lr"])
""",
        "used as a whole",
    ),
    "an earlier group's parameters": (
        """
for group in self.param_groups:
    params = group["params"]
for group in self.param_groups:
    for i in range(len(params)):
        p = params[i]
        p.sub_(p.grad * group["lr"])
""",
        "outside a loop over parameters",
    ),
    "state by two names": (
        bodied(
            "if p not in self.state:\n    self.state[p] = self.last = {'m': grad}\n"
            "p.add_(self.state[p]['m'], alpha=-lr)"
        ),
        "state is replaced as a whole",
    ),
    "state replaced": (
        bodied("self.state[p] = {'m': grad}\np.add_(grad, alpha=-lr)"),
        "state is replaced as a whole",
    ),
    "another group's tensor": (
        """
for group in self.param_groups:
    if "total" not in group:
        group["total"] = torch.zeros(1)
    total = group["total"]
for group in self.param_groups:
    total.add_(1.0)
    for p in group["params"]:
        p.add_(total)
""",
        "an earlier group",
    ),
}


def test_what_is_no_number_at_first_gives_no_nan(tmp_path: Path) -> None:
    step = bodied("""
share = grad.div(grad.abs() + p.abs() * 0)
torch.nan_to_num(share, nan=0.0, out=share)
p.add_(share * grad.pow(self.warm * nu), alpha=-lr)
""")
    kind, made = compiled(
        source_of(step.replace("grad.pow", "grad.abs().pow")), tmp_path
    )
    params = start()
    loss = (params[0] * 0.0).sum() + (params[1] ** 2).sum()
    nu = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    stepper = made(kind(params), params, override={"nu": [nu]})
    new = stepper.step(loss, params=params)
    outer = torch.stack([p.sum() for p in new]).sum()
    with torch.autograd.set_detect_anomaly(True):
        gradients = torch.autograd.grad(outer, [nu, *params], create_graph=True)
    assert all(g.isfinite().all() for g in gradients)


def test_a_decorator_that_steps_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    step = bodied("p.add_(grad, alpha=-lr)")
    path.write_text(
        source_of(step).replace("    @torch.no_grad", "    @twice\n    @torch.no_grad")
    )
    with pytest.raises(codegen.CodegenError, match="twice may change") as error:
        codegen.translate(f"{path}:Mine")
    assert error.value.diagnostics[0].origin is not None


@pytest.mark.parametrize("title", REFUSED)
def test_refused_with_a_position(title: str, tmp_path: Path) -> None:
    step, message = REFUSED[title]
    path = tmp_path / "mine.py"
    path.write_text(source_of(step))
    with pytest.raises(codegen.CodegenError, match=message) as error:
        codegen.translate(f"{path}:Mine")
    first = error.value.diagnostics[0]
    assert first.origin is not None and first.hint
