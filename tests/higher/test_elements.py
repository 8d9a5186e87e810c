"""A setting for each element of a parameter, as in Meta-SGD (Li et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import higher

F64 = torch.float64
SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.5, "dampening": 0.2, "weight_decay": 0.1},
    "Adam": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.1},
    "AdamW": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.1},
    "NAdam": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01, "momentum_decay": 0.01},
    "RAdam": {"lr": 0.1, "eps": 0.01, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.1, "alpha": 0.9, "momentum": 0.5, "eps": 0.01},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 0.01},
    "Adadelta": {"lr": 0.1, "rho": 0.9, "eps": 0.01, "weight_decay": 0.1},
    "Adamax": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.1},
    "Rprop": {"lr": 0.1, "step_sizes": (0.001, 0.3)},
    "ASGD": {"lr": 0.1, "weight_decay": 0.1},
}
REFUSED = [
    ("RAdam", {"betas": (0.8, None)}),
    ("Rprop", {"etas": (None, 1.2)}),
    ("ASGD", {"lambd": None}),
    ("ASGD", {"t0": None}),
]
WEIGHTS = [
    torch.linspace(-1, 1, 6, dtype=F64).reshape(2, 3),
    torch.tensor([0.3, -0.6, 0.2], dtype=F64),
]


def spread(value: Any, leaves: list[Tensor], dtype: torch.dtype = F64) -> list[Any]:
    """For each parameter the setting as a tensor of its shape, within 10 percent."""
    if isinstance(value, tuple):
        columns = [spread(v, leaves, dtype) for v in value]
        return [tuple(row) for row in zip(*columns)]
    made = []
    for w in WEIGHTS:
        part = 1 - 0.1 * torch.linspace(0, 1, w.numel(), dtype=F64).reshape(w.shape)
        made.append((value * part).to(dtype).requires_grad_())
    leaves += made
    return made


def singles(values: Sequence[Any]) -> Iterator[Any]:
    """The same, for each element by itself."""
    for value in values:
        if isinstance(value, tuple):
            yield from zip(*(v.reshape(-1).unbind() for v in value))
        else:
            yield from value.reshape(-1).unbind()


def loss(a: Tensor, b: Tensor, k: int = 0) -> Tensor:
    value = (a * b).sin().square().sum() + 0.3 * (a - b).square().sum()
    return value * (1 + 0.2 * k)


def run(
    name: str, override: Any, apart: bool, dtype: torch.dtype, leaves: Sequence[Tensor]
) -> list[Tensor]:
    """Weights after some steps and gradients of the loss there, of whole parameters
    with settings of their shapes or of each element with its number."""
    params = [nn.Parameter(w.to(dtype)) for w in WEIGHTS]
    if apart:
        params = [nn.Parameter(e.clone()) for p in params for e in p.detach().flatten()]
        override = {k: [*singles(v)] for k, v in override.items()}
    settings = {k: v for k, v in SETTINGS[name].items() if k not in override}
    if name == "SGD":
        settings["momentum"] = 0.5
    opt = getattr(torch.optim, name)([{"params": p} for p in params], **settings)
    diff = higher.get_diff_optim(opt, params, override=override)
    fast: list[Tensor] = list(params)

    def whole() -> list[Tensor]:
        if not apart:
            return fast
        return [torch.stack(fast[:6]).reshape(2, 3), torch.stack(fast[6:])]

    for k in range(7):
        fast = diff.step(loss(*whole(), k), params=fast)
    grads = torch.autograd.grad(loss(*whole()), [*leaves, *params])
    own = torch.cat([g.flatten() for g in grads[len(leaves) :]])
    return [*(w.detach() for w in whole()), *grads[: len(leaves)], own]


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_its_own_for_each_element(
    name: str, dtype: torch.dtype
) -> None:
    """As if each element were a parameter, in a group of its own."""
    close = {} if dtype is F64 else {"rtol": 1e-4, "atol": 1e-5}
    for setting, value in SETTINGS[name].items():
        leaves: list[Tensor] = []
        override = {setting: spread(value, leaves, dtype)}
        whole, apart = (
            run(name, override, how, dtype, leaves) for how in (False, True)
        )
        torch.testing.assert_close(whole, apart, **close)
        constant = run(name, _detached(override), False, dtype, ())
        torch.testing.assert_close(constant[:2], whole[:2], **close)


def _detached(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _detached(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_detached, value))
    return value.detach()


@pytest.mark.parametrize(("name", "override"), REFUSED, ids=str)
def test_a_setting_that_is_one_number_is_refused(
    name: str, override: dict[str, Any]
) -> None:
    ((setting, value),) = override.items()
    shaped = [torch.linspace(0.7, 0.9, w.numel()).reshape(w.shape) for w in WEIGHTS]
    values: list[Any] = [
        tuple(v or x for v in value) if isinstance(value, tuple) else x for x in shaped
    ]
    with pytest.raises(ValueError, match=f"several elements for {setting}"):
        run(name, {setting: values}, False, F64, ())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


X = torch.linspace(-1, 1, 15, dtype=F64).reshape(5, 3)


def fit(fmodel: nn.Module, scale: float) -> Tensor:
    result: Tensor = (fmodel(X * scale) - 0.5).square().mean()
    return result


@pytest.mark.parametrize("memory", ["full", "step", "low", 2, "forward"])
def test_meta_sgd(memory: Any) -> None:
    """Against a plain loop."""
    model = Net()
    opt = torch.optim.SGD([{"params": p} for p in model.parameters()], lr=0.1)
    rates = [torch.full_like(p, 0.2).requires_grad_() for p in model.parameters()]
    how = {"mode": "forward"} if memory == "forward" else {"memory": memory}
    scales = [1.0, 0.8, 1.2, 0.9, 1.1]
    with higher.innerloop_ctx(model, opt, override={"lr": rates}) as (f, diff):
        higher.unroll(f, diff, fit, scales, **how)
        found = torch.autograd.grad(fit(f, 1.0), rates)
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    names = [n for n, _ in model.named_parameters()]

    def at(x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(model, dict(zip(names, weights)), x)
        return result

    for scale in scales:
        grads = torch.autograd.grad(fit(at, scale), weights, create_graph=True)
        weights = [w - r * g for w, r, g in zip(weights, rates, grads)]
    torch.testing.assert_close(list(f.parameters()), weights)
    torch.testing.assert_close(found, torch.autograd.grad(fit(at, 1.0), rates))


@pytest.mark.parametrize("kind", ["Muon", "Adafactor"])
def test_an_update_of_the_parameter_as_a_whole_refuses(kind: str) -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    opt = getattr(torch.optim, kind)([weight], lr=0.1)
    lr = torch.full((2, 3), 0.1)
    with pytest.raises(ValueError, match="does not update each element by itself"):
        higher.get_diff_optim(opt, [weight], override={"lr": [lr]})
    diff = higher.get_diff_optim(opt, [weight])
    with pytest.raises(ValueError, match="does not update each element by itself"):
        diff.step((weight**2).sum(), params=[weight], override={"lr": [lr]})
    assert diff.param_groups[0]["lr"] == 0.1


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = Net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    lr = torch.full((4, 3), 0.1)
    with pytest.raises(ValueError, match="parameter 1 of group 0.*group for each"):
        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}):
            pass
    weight = nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))
    opt = torch.optim.Adam([weight], lr=0.1)
    with pytest.raises(ValueError, match="complex"):
        higher.get_diff_optim(opt, [weight], override={"lr": [torch.ones(2, 3)]})
    # one for each column is what broadcasting makes of it
    weight = nn.Parameter(torch.zeros(2, 3))
    opt = torch.optim.SGD([weight], lr=0.1)
    columns = torch.tensor([1.0, 2.0, 3.0])
    diff = higher.get_diff_optim(opt, [weight], override={"lr": [columns]})
    (new,) = diff.step(weight.sum(), params=[weight])
    assert torch.equal(new, -columns.expand(2, 3))


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "ASGD"])
def test_memory_modes_agree(name: str) -> None:
    found = []
    for how in ({}, {"memory": "step"}, {"memory": 2}, {"mode": "forward"}):
        model = Net()
        groups = [{"params": p} for p in model.parameters()]
        opt = getattr(torch.optim, name)(groups, lr=0.1)
        rates = [torch.full_like(p, 0.05).requires_grad_() for p in model.parameters()]
        with higher.innerloop_ctx(model, opt, override={"lr": rates}) as (f, diff):
            higher.unroll(f, diff, fit, [1.0, 0.8, 1.2, 0.9, 1.1], **how)
            found.append(torch.autograd.grad(fit(f, 1.0), rates))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
