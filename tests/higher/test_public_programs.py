"""What programs written for the classic library do, as their authors wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import higher

F64 = torch.float64
X = torch.linspace(-1, 1, 24, dtype=F64).reshape(8, 3)
Y = torch.linspace(1, -1, 16, dtype=F64).reshape(8, 2)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(usual)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def nodes(tensors: Iterator[Tensor]) -> int:
    """How many nodes of the graph these hold."""
    seen: set[Any] = set()
    waiting: list[Any] = [t.grad_fn for t in tensors]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [child for child, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_state_is_put_back_into_the_original_by_hand(kind: Any) -> None:
    """Data augmentation learned while training: the graph of a turn ends with it."""
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    model, twin = net(), net()
    twin.load_state_dict(model.state_dict())
    magnitude = nn.Parameter(torch.tensor(0.5))
    inner = kind(model.parameters(), lr=0.05, **settings)
    plain = kind(twin.parameters(), lr=0.05, **settings)
    sizes = []
    for _ in range(4):
        with higher.innerloop_ctx(model, inner) as (fmodel, diffopt):
            for _ in range(3):
                diffopt.step((fmodel(X * magnitude) - Y).square().mean())
            (fmodel(X) - Y).square().mean().backward()
            model.load_state_dict(fmodel.state_dict())
            for g, group in enumerate(inner.param_groups):
                for i, p in enumerate(group["params"]):
                    inner.state[p] = diffopt.state[g][i]
        held = (t for slots in inner.state.values() for t in slots.values())
        sizes.append(nodes(held))
        for _ in range(3):
            plain.zero_grad()
            (twin(X * magnitude.detach()) - Y).square().mean().backward()
            plain.step()
    assert len({*sizes[1:]}) == 1 and sizes[-1] < 2 * sizes[0]
    assert magnitude.grad is not None and magnitude.grad.abs() > 0
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()))


def test_weights_are_normalised_in_place_after_each_step() -> None:
    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(5, 4))
            self.b = nn.Parameter(torch.randn(6, 4))

        def scores(self, at: Tensor) -> Tensor:
            return (self.a[at] * self.b[at]) @ self.b.t()

    model, at, to = Factors(), torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
    pull = torch.tensor(0.1, requires_grad=True)
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, diffopt):
        for _ in range(3):
            diffopt.step(F.cross_entropy(f.scores(at), to) + pull * f.a.abs().sum())
            f.a /= f.a.norm(dim=1, p=2).view(-1, 1).detach()
        outer = F.cross_entropy(f.scores(at), at)
        found = torch.autograd.grad(outer, [pull, *model.parameters()])
    a, b = (p.detach().clone().requires_grad_() for p in model.parameters())
    first = [a, b]
    for _ in range(3):
        value = F.cross_entropy((a[at] * b[at]) @ b.t(), to) + pull * a.abs().sum()
        ga, gb = torch.autograd.grad(value, [a, b], create_graph=True)
        a, b = a - 0.5 * ga, b - 0.5 * gb
        a = a / a.norm(dim=1, p=2).view(-1, 1).detach()
    outer = F.cross_entropy((a[at] * b[at]) @ b.t(), at)
    torch.testing.assert_close(found, torch.autograd.grad(outer, [pull, *first]))


class Curved(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 1.0, transform: Any = None) -> None:
        super().__init__(params, {"lr": lr, "transform": transform})


class DifferentiableCurved(higher.optim.DifferentiableOptimizer):
    """A matrix as a setting, and what is kept for the user as an attribute."""

    def _update(self, grouped_grads: Any) -> None:  # type: ignore[override]
        for group, grads in zip(self.param_groups, grouped_grads):
            for i, (p, g) in enumerate(zip(group["params"], grads)):
                if g is not None:
                    lower = group["transform"].tril()
                    self.last = lower @ lower.T
                    group["params"][i] = p - group["lr"] * self.last @ g.view(-1)


def test_a_matrix_as_a_setting_of_an_optimizer_of_ones_own() -> None:
    higher.register_optim(Curved, DifferentiableCurved)
    linear = nn.Linear(3, 1, bias=False)
    linear.weight = nn.Parameter(linear.weight.detach().reshape(3))

    def loss(w: Tensor) -> Tensor:
        return (X @ w - 1).square().mean()

    transform = (torch.eye(3) + 0.1).requires_grad_()
    opt = Curved(linear.parameters(), lr=0.1, transform=torch.eye(3))
    override = {"transform": [transform]}
    with higher.innerloop_ctx(linear, opt, override=override) as (f, diffopt):
        for _ in range(3):
            diffopt.step(loss(f.weight))
        found = torch.autograd.grad(loss(f.weight), transform)
    w = linear.weight.detach().clone().requires_grad_()
    for _ in range(3):
        (g,) = torch.autograd.grad(loss(w), w, create_graph=True)
        lower = transform.tril()
        w = w - 0.1 * (lower @ lower.T) @ g
    torch.testing.assert_close(f.weight, w)
    torch.testing.assert_close(found, torch.autograd.grad(loss(w), transform))
    torch.testing.assert_close(diffopt.last, transform.tril() @ transform.tril().T)


class Empty(torch.optim.Optimizer):
    """Says nothing of how to step."""

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(params, {"args": args, "kwargs": kwargs})


class Recurrent(higher.optim.DifferentiableOptimizer):
    """A net makes the steps, and has a state of its own."""

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        told = self.param_groups[0]["kwargs"]
        hidden = told["state"]["hidden"]
        for group, grads in zip(self.param_groups, grouped_grads):
            for i, (p, g) in enumerate(zip(group["params"], grads)):
                if g is not None:
                    seen = torch.stack([g.mean(), told["info"]["loss"], *hidden])
                    hidden = told["net"](seen).tanh()
                    group["params"][i] = p - 0.1 * hidden.sigmoid() * g
        told["state"]["hidden"] = hidden


def test_a_learned_optimizer_that_is_told_things_by_its_groups() -> None:
    higher.register_optim(Empty, Recurrent)
    model, own = net(), nn.Linear(3, 1)
    start = {"hidden": torch.zeros(1)}
    opt = Empty(model.parameters(), net=own, state=start)
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        for _ in range(3):
            value = (f(X) - Y).square().mean()
            diffopt.param_groups[0]["kwargs"]["info"] = {"loss": value}
            diffopt.step(value)
        (f(X) - Y).square().mean().backward()
    assert torch.equal(start["hidden"], torch.zeros(1))
    assert "info" not in opt.param_groups[0]["kwargs"]
    names = [n for n, _ in model.named_parameters()]
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    hidden = torch.zeros(1)

    def loss() -> Tensor:
        out: Any = torch.func.functional_call(model, dict(zip(names, weights)), X)
        result: Tensor = (out - Y).square().mean()
        return result

    for _ in range(3):
        value = loss()
        grads = torch.autograd.grad(value, weights, create_graph=True)
        for i, g in enumerate(grads):
            hidden = own(torch.stack([g.mean(), value, *hidden])).tanh()
            weights[i] = weights[i] - 0.1 * hidden.sigmoid() * g
    wanted = torch.autograd.grad(loss(), list(own.parameters()))
    torch.testing.assert_close([p.grad for p in own.parameters()], list(wanted))


def test_settings_as_a_list_of_parameters() -> None:
    model = net()
    rates = nn.ParameterList([nn.Parameter(torch.tensor(v)) for v in (0.1, 0.2)])
    groups = [{"params": model[k].parameters()} for k in (0, 2)]
    opt = torch.optim.SGD(groups, lr=0.3)
    with higher.innerloop_ctx(model, opt, override={"lr": rates}) as (f, diffopt):
        diffopt.step((f(X) - Y).square().mean())
        (f(X) - Y).square().mean().backward()
    first = [p.detach().clone().requires_grad_() for p in model.parameters()]
    names = [n for n, _ in model.named_parameters()]

    def loss(weights: list[Tensor]) -> Tensor:
        out: Any = torch.func.functional_call(model, dict(zip(names, weights)), X)
        result: Tensor = (out - Y).square().mean()
        return result

    grads = torch.autograd.grad(loss(first), first)
    each = [rates[0], rates[0], rates[1], rates[1]]
    weights = [w - r * g for w, r, g in zip(first, each, grads)]
    wanted = torch.autograd.grad(loss(weights), list(rates))
    torch.testing.assert_close([r.grad for r in rates], list(wanted))
    higher.optim.apply_trainable_opt_params(opt, {"lr": rates})
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.2]
