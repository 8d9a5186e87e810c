"""The programs of docs/recipes.md run, and their gradients are right: those of a plain
loop without this library, or finite differences of one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(
    encoding="utf-8"
)
PARTS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
START = "\n".join(CODE.findall(PARTS[0]))
RECIPES = {p.partition("\n")[0]: "\n".join(CODE.findall(p)) for p in PARTS[1:]}

Weights = list[Tensor]
Namespace = dict[str, Any]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


def run(name: str) -> Namespace:
    """What a recipe leaves behind, and the weights that it started from."""
    torch.manual_seed(0)
    made: Namespace = {}
    exec(START, made)
    made["initial"] = [p.detach().clone() for p in made["model"].parameters()]
    exec(RECIPES[name], made)
    return made


def net(weights: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    a, b, c, d = weights
    return lambda x: (x @ a.t() + b).tanh() @ c.t() + d


def leaves(weights: Sequence[Tensor]) -> Weights:
    return [w.detach().clone().requires_grad_() for w in weights]


def grad(value: Tensor, weights: Sequence[Tensor]) -> Weights:
    return list(torch.autograd.grad(value, list(weights), create_graph=True))


def descended(weights: Weights, grads: Weights, lr: Any = 0.1) -> Weights:
    rates = lr if isinstance(lr, list) else [lr] * len(weights)
    return [w - r * g for w, r, g in zip(weights, rates, grads)]


def equal(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    torch.testing.assert_close(
        [t.detach() for t in found], [t.detach() for t in wanted]
    )


def same(params: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """That these gradients are there."""
    found = [p.grad for p in params if p.grad is not None]
    equal(found, wanted)


def several_losses(made: Namespace, first: Weights) -> None:
    weights = first
    for _ in range(2):
        total = sum(made["loss"](net(weights), k) for k in range(2))
        weights = descended(weights, grad(total, weights))
    same([*made["model"].parameters()], grad(made["loss"](net(weights), 0), first))


def schedules(made: Namespace, first: Weights) -> None:
    weights, base = first, made["base"]
    for k in range(4):
        lr = base * (1 + math.cos(math.pi * k / 4)) / 2
        weights = descended(weights, grad(made["loss"](net(weights), 0), weights), lr)
    same([base], grad(made["loss"](net(weights), 1), [base]))
    weights, rates = first, made["rates"]
    for k in range(4):
        grads = grad(made["loss"](net(weights), k % 2), weights)
        weights = descended(weights, grads, rates[k])
    same([rates], grad(made["loss"](net(weights), 1), [rates]))


def windows(made: Namespace, weights: Weights) -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    buffers = [torch.zeros_like(w) for w in weights]
    for _ in range(5):
        for _ in range(4):
            grads = grad(made["loss"](net(weights), 0), weights)
            buffers = [0.9 * b + g for b, g in zip(buffers, grads)]
            weights = [w - lr * b for w, b in zip(weights, buffers)]
        (slope,) = torch.autograd.grad(made["loss"](net(weights), 1), lr)
        lr = (lr - 1e-3 * slope).detach().requires_grad_()
        weights, buffers = leaves(weights), [b.detach() for b in buffers]
    equal([made["lr"], made["lr"].grad], [lr, slope])
    equal([*made["fmodel"].parameters()], weights)


def carry_back(made: Namespace, first: Weights) -> None:
    twin = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    for p, w in zip(twin.parameters(), first):
        p.data = w.data
    opt = torch.optim.Adam(twin.parameters(), lr=0.05)
    for _ in range(5):
        opt.zero_grad()
        made["loss"](twin, 0).backward()
        opt.step()
    equal([*made["model"].parameters()], [*twin.parameters()])


def learned_loss(made: Namespace, weights: Weights) -> None:
    critic = made["critic"]
    for _ in range(2):
        seen = torch.cat([net(weights)(made["x"][0]), made["y"][0]], dim=1)
        weights = descended(weights, grad(critic(seen).mean(), weights))
    # its last bias moves the inner loss alone, and has no gradient
    params = list(critic.parameters())[:-1]
    same(params, grad(made["loss"](net(weights), 1), params))


def meta_sgd(made: Namespace, first: Weights) -> None:
    rates = made["rates"]
    weights = descended(first, grad(made["loss"](net(first), 0), first), rates)
    wanted = grad(made["loss"](net(weights), 1), [*first, *rates])
    same([*made["model"].parameters(), *rates], wanted)


def anil(made: Namespace, first: Weights) -> None:
    body, head = first[:2], first[2:]
    for _ in range(3):
        value = made["loss"](net([*body, *head]), 0)
        head = descended(head, grad(value, head))
    wanted = grad(made["loss"](net([*body, *head]), 1), first)
    same([*made["model"].parameters()], wanted)


def unfreezing(made: Namespace, first: Weights) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    for p, w in zip(model.parameters(), first):
        p.data = w.data
    model[0].requires_grad_(False)
    opt = torch.optim.Adam(model.parameters(), lr=0.05)
    for k in range(4):
        if k == 2:
            model[0].requires_grad_()
        opt.zero_grad()
        made["loss"](model, 0).backward()
        opt.step()
    equal([*made["fmodel"].parameters()], [*model.parameters()])
    assert all(p.requires_grad for p in made["model"].parameters())


def hypernetwork(made: Namespace, _: Weights) -> None:
    hyper = made["hyper"]
    flat = hyper.weight @ torch.tensor([1.0, -1.0]) + hyper.bias
    parts = zip(flat.split(made["sizes"]), made["shapes"])
    value = made["loss"](net([w.reshape(s) for w, s in parts]), 0)
    same([hyper.weight, hyper.bias], grad(value, [hyper.weight, hyper.bias]))


def other_weights(made: Namespace, first: Weights) -> None:
    latest = descended(first, grad(made["loss"](net(first), 0), first))
    middle = [(a + b) / 2 for a, b in zip(first, latest)]
    equal([made["halfway"]], [made["loss"](net(middle), 1)])
    equal([made["end"]], [made["loss"](net(latest), 1)])


def sharpness(made: Namespace, first: Weights) -> None:
    weights = first
    for _ in range(2):
        grads = grad(made["loss"](net(weights), 0), weights)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        uphill = [w + 0.05 * g / norm for w, g in zip(weights, grads)]
        weights = descended(weights, grad(made["loss"](net(uphill), 0), uphill))
    same([*made["model"].parameters()], grad(made["loss"](net(weights), 1), first))


def latent(made: Namespace, _: Weights) -> None:
    params = list(made["decoder"].parameters())
    value = lambda z: (z @ params[0].t() + params[1] - made["x"][0]).square().mean()
    z = torch.zeros(16, 2).requires_grad_()
    m = v = torch.zeros(16, 2)
    for k in range(1, 4):
        (g,) = grad(value(z), [z])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = (v / (1 - 0.999**k)).sqrt() + 1e-8
        z = z - 0.1 * m / (1 - 0.9**k) / root
    same(params, grad(value(z), params))


def distillation(made: Namespace, weights: Weights) -> None:
    images, labels, lr = (made[n] for n in ("images", "labels", "lr"))
    for _ in range(20):
        value = (net(weights)(images) - labels).square().mean()
        weights = descended(weights, grad(value, weights), lr)
    learned = [images, labels, lr]
    same(learned, grad(made["loss"](net(weights), 0), learned))


def implicit(made: Namespace, first: Weights) -> None:
    """A long way, all of it differentiated, leads to the same gradient."""
    weights = first
    for _ in range(60):
        near = sum((w - p).square().sum() for w, p in zip(weights, first))
        value = made["loss"](net(weights), 0) + 0.5 * near
        own = [*torch.autograd.grad(value, weights, create_graph=True)]
        weights = [w - 0.2 * g for w, g in zip(weights, own)]
    outer = made["loss"](net(weights), 1)
    wanted = torch.autograd.grad(outer, first)
    torch.testing.assert_close(
        list(made["meta_gradient"]), list(wanted), rtol=1e-4, atol=1e-6
    )


def nested(made: Namespace, first: Weights) -> None:
    weights = first
    for _ in range(2):
        inner = descended(weights, grad(made["loss"](net(weights), 0), weights))
        weights = descended(weights, grad(made["loss"](net(inner), 1), weights))
    same([*made["model"].parameters()], grad(made["loss"](net(weights), 1), first))


CHECKS: dict[str, Callable[[Namespace, Weights], None]] = {
    "Several losses in one step": several_losses,
    "Schedules": schedules,
    "A long run in windows": windows,
    "Carry back": carry_back,
    "Learned loss": learned_loss,
    "Meta-SGD": meta_sgd,
    "ANIL": anil,
    "Gradual unfreezing": unfreezing,
    "Hypernetwork": hypernetwork,
    "At other weights, without moving": other_weights,
    "A sharpness-aware step": sharpness,
    "Latent optimization": latent,
    "Dataset distillation": distillation,
    "Implicit gradients": implicit,
    "A loop within a loop": nested,
}


def test_every_recipe_is_checked_and_short() -> None:
    assert list(RECIPES) == list(CHECKS)
    for code in RECIPES.values():
        assert len(code.splitlines()) <= 20
        assert max(map(len, code.splitlines())) <= 88


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_gradients_of_a_plain_loop(name: str) -> None:
    made = run(name)
    CHECKS[name](made, leaves(made["initial"]))
