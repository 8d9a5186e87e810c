"""``higher.optim.Settings``: an optimizer's settings as a module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from unroll import reference_unroll, regression

import higher
from higher.optim import Settings


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def groups(model: nn.Sequential) -> list[dict[str, object]]:
    first, last = model[0].parameters(), model[2].parameters()
    return [{"params": list(first)}, {"params": list(last), "lr": 0.2}]


def outer_loss(
    model: nn.Module, opt: torch.optim.Optimizer, override: object
) -> Tensor:
    loss = regression()
    with higher.innerloop_ctx(model, opt, override=override) as (fmodel, diff):
        for _ in range(3):
            diff.step(loss(fmodel))
        return loss(fmodel)


def test_names_and_shapes_of_parameters() -> None:
    model = net()
    opt = torch.optim.AdamW(groups(model), lr=0.1)
    settings = Settings(opt, ["lr", "betas"])
    shapes = {name: tuple(p.shape) for name, p in settings.named_parameters()}
    names = [
        f"groups.{g}.{key}" for g in (0, 1) for key in ("lr", "betas_0", "betas_1")
    ]
    assert shapes == dict.fromkeys(names, (1,))
    assert list(settings) == ["lr", "betas"] and len(settings) == 2
    assert settings["lr"][1].item() == pytest.approx(0.2)
    assert [type(v) for v in settings["betas"]] == [tuple, tuple]
    assert settings["betas"][0][1].shape == () and settings["betas"][0][1].requires_grad


def test_default_names_are_those_of_get_trainable_opt_params() -> None:
    opt = torch.optim.Adam(net().parameters())
    assert set(Settings(opt)) == set(higher.optim.get_trainable_opt_params(opt))


def test_gradient_is_that_of_tensors_in_an_override() -> None:
    model = net()
    opt = torch.optim.Adam(groups(model), lr=0.1)
    settings = Settings(opt, ["lr", "betas"], dtype=torch.float64)
    outer_loss(model, opt, settings).backward()
    tensors = [p.detach().clone().requires_grad_() for p in settings.parameters()]
    lr0, a0, b0, lr1, a1, b1 = tensors
    override = {"lr": [lr0, lr1], "betas": [(a0, b0), (a1, b1)]}
    grads = torch.autograd.grad(outer_loss(model, opt, override), tensors)
    for p, g in zip(settings.parameters(), grads):
        assert g.abs().item() > 1e-6
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=0)


def test_an_outer_optimizer_lowers_the_outer_loss() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    settings = Settings(opt, ["lr", "momentum"], dtype=torch.float64)
    outer = torch.optim.Adam(settings.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        outer.zero_grad()
        losses.append(outer_loss(model, opt, settings))
        losses[-1].backward()
        outer.step()
    assert losses == sorted(losses, reverse=True)
    settings.apply_to(opt)
    group = opt.param_groups[0]
    assert group["lr"] == settings["lr"][0].item() != 0.01
    assert type(group["momentum"]) is float
    loss, _ = reference_unroll(model, regression(), 1, settings["lr"][0].detach())
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        diff.step(regression()(fmodel))
        torch.testing.assert_close(regression()(fmodel).detach(), loss)


def test_state_dict_and_deepcopy() -> None:
    opt = torch.optim.AdamW(net().parameters(), lr=0.1)
    settings, other = Settings(opt), Settings(torch.optim.AdamW(net().parameters()))
    other.load_state_dict(settings.state_dict())
    assert all(map(torch.equal, settings.parameters(), other.parameters()))
    twin = copy.deepcopy(settings)
    assert twin["lr"][0] == settings["lr"][0] and twin["lr"][0] is not settings["lr"][0]
    assert twin != settings and len({twin, settings}) == 2


def test_a_parametrization_keeps_a_setting_positive() -> None:
    class Exp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp()

        def right_inverse(self, x: Tensor) -> Tensor:
            return x.log()

    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = Settings(opt, ["lr"], dtype=torch.float64)
    parametrize.register_parametrization(settings.groups[0], "lr", Exp())
    assert settings["lr"][0].item() == pytest.approx(0.1, rel=1e-12)
    (raw,) = settings.parameters()
    outer_loss(model, opt, settings).backward()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(outer_loss(model, opt, {"lr": [lr]}), [lr])
    torch.testing.assert_close(raw.grad[0], grad * 0.1)


def test_what_can_not_be_learned_is_refused() -> None:
    opt = torch.optim.Adam(net().parameters())
    for name in ("amsgrad", "learning_rate"):
        with pytest.raises(ValueError, match=f"{name!r} is no setting.*Those.*: lr, "):
            Settings(opt, [name])
