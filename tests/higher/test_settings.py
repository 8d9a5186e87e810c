"""Settings as tensors: override, learned settings, schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from handwritten import HandAdam, HandSGD
from torch import Tensor, nn
from unroll import fast_unroll, reference_unroll, regression

import higher


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def _hypergradient(setting: Tensor, opt: Any, model: nn.Module, override: Any) -> Any:
    with higher.innerloop_ctx(model, opt, override=override) as (fmodel, diff):
        for _ in range(3):
            diff.step(regression()(fmodel))
        return torch.autograd.grad(regression()(fmodel), [setting])[0]


@pytest.fixture
def lr_case() -> tuple[nn.Module, Tensor, Tensor]:
    model, lr = net(), tensor(0.1)
    outer, _ = reference_unroll(model, regression(), steps=3, lr=0.1)
    shifted = [
        reference_unroll(model, regression(), steps=3, lr=0.1 + h)[0]
        for h in (1e-5, -1e-5)
    ]
    return model, lr, (shifted[0] - shifted[1]) / 2e-5


@pytest.mark.parametrize("form", ["0-dim", "1-dim", "non-leaf", "parameter"])
def test_a_tensor_as_lr_gets_its_hypergradient(form: str, lr_case: Any) -> None:
    model, lr, wanted = lr_case
    value = {
        "0-dim": lr,
        "1-dim": lr.reshape(1),
        "non-leaf": (lr * 2) / 2,
        "parameter": nn.Parameter(lr.detach().reshape(1, 1)),
    }[form]
    target = value if form == "parameter" else lr
    got = _hypergradient(
        target, torch.optim.SGD(model.parameters(), lr=1.0), model, {"lr": [value]}
    )
    torch.testing.assert_close(got.sum(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("leaf", [True, False])
def test_tensor_lr_of_the_user_s_optimizer_stays_in_the_graph(
    leaf: bool, lr_case: Any
) -> None:
    model, lr, wanted = lr_case
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    opt.param_groups[0]["lr"] = lr if leaf else lr.exp().log()
    got = _hypergradient(lr, opt, model, None)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)


def test_tensor_lr_without_gradient_is_a_copy() -> None:
    """A scheduler writes into it."""
    model, lr = net(), torch.tensor(0.1)
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        lr.fill_(5.0)
        assert diff.param_groups[0]["lr"] == 0.1


def test_scheduled_lr_before_the_context() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.4)
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
    opt.step()
    schedule.step()
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (fmodel, diff):
        assert diff.param_groups[0]["lr"] == 0.2
        for _ in range(2):
            diff.step(regression()(fmodel))
        outer = regression()(fmodel)
    torch.testing.assert_close(
        outer.detach(), reference_unroll(model, regression(), lr=0.2)[0]
    )


def test_override_per_group_and_at_a_step() -> None:
    model = net()
    opt = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    with higher.innerloop_ctx(model, opt, override={"lr": [0.1, 0.2, 0.3, 0.4]}) as (
        fmodel,
        diff,
    ):
        assert [g["lr"] for g in diff.param_groups] == [0.1, 0.2, 0.3, 0.4]
        diff.step(regression()(fmodel), override={"lr": [0.5]})
        assert [g["lr"] for g in diff.param_groups] == [0.5] * 4
    assert [g["lr"] for g in opt.param_groups] == [0.1] * 4


def test_override_at_a_step_wins_and_carries_gradient() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = [tensor(0.1), tensor(0.2)]
    with higher.innerloop_ctx(model, opt, override={"lr": [7.0]}) as (fmodel, diff):
        for lr in rates:
            diff.step(regression()(fmodel), override={"lr": [lr]})
        grads = torch.autograd.grad(regression()(fmodel), rates)
    assert all(g != 0 for g in grads)


def test_values_taken_from_one_tensor_all_reach_it() -> None:
    model = net()
    opt = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    rates = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)
    with higher.innerloop_ctx(model, opt, override={"lr": rates}) as (fmodel, diff):
        diff.step(regression()(fmodel))
        (grad,) = torch.autograd.grad(regression()(fmodel), [rates])
    assert grad.shape == (4,) and (grad != 0).all()


def test_each_tensor_of_a_tuple_gets_its_gradient() -> None:
    model = net()
    betas = (tensor(0.9), tensor(0.99))
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    diff = HandAdam(opt, model.parameters(), override={"betas": [betas]})
    params = list(model.parameters())
    for _ in range(2):
        loss = torch.func.functional_call(
            model, dict(zip((n for n, _ in model.named_parameters()), params)),
            (torch.ones(2, 3, dtype=torch.float64),),
        ).square().sum()  # fmt: skip
        params = diff.step(loss, params=params)
    grads = torch.autograd.grad(sum(p.square().sum() for p in params), betas)
    assert all(g != 0 and g.dim() == 0 for g in grads)


def test_the_optimizer_is_never_changed() -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    regression()(model).backward()
    opt.step()
    opt.zero_grad()
    before = {k: str(v) for k, v in opt.state_dict().items()}
    with higher.innerloop_ctx(model, opt, override={"lr": [0.5]}) as (fmodel, diff):
        diff.step(regression()(fmodel))
    assert {k: str(v) for k, v in opt.state_dict().items()} == before


def test_what_the_optimizer_does_later_changes_nothing() -> None:
    """State is a copy, for torch writes into its own."""
    model, loss = net(), regression()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss(model).backward()
    opt.step()
    with (
        higher.innerloop_ctx(model, opt) as (f1, d1),
        higher.innerloop_ctx(model, opt) as (f2, d2),
    ):
        wanted = d1.step(loss(f1))
        opt.step()
        torch.testing.assert_close(d2.step(loss(f2)), wanted)


# learned settings


def test_trainable_settings_are_leaves_and_leave_flags_out() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    opt = torch.optim.Adam(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "weight_decay": 1}]
    )
    opt.param_groups[0].update(note="x", mixed=(1.0, None), nested=[(1.0, 2.0), 3.0])
    opt.param_groups[1].update(note="y", mixed=(1.0, None), nested=[(1.0, 2.0), 4.0])
    found = higher.optim.get_trainable_opt_params(opt)
    assert set(found) == {"lr", "betas", "eps", "weight_decay", "nested"}
    assert [t.item() for t in found["lr"]] == pytest.approx([1e-3, 0.5])
    assert isinstance(found["betas"][0], tuple) and isinstance(found["nested"][0], list)
    for leaf in higher.utils.flatten(found):
        assert leaf.requires_grad and leaf.is_leaf and leaf.dim() == 0
    assert "amsgrad" not in found and "foreach" not in found


def test_trainable_settings_train_and_are_written_back() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    learned = higher.optim.get_trainable_opt_params(opt)
    before = opt.param_groups[0]["lr"]
    diff = HandSGD(opt, model.parameters(), override=learned)
    new = diff.step(regression()(model), params=model.parameters())
    sum(p.square().sum() for p in new).backward()
    with torch.no_grad():
        learned["lr"][0] -= 0.1 * learned["lr"][0].grad
    assert opt.param_groups[0]["lr"] == before
    higher.optim.apply_trainable_opt_params(opt, learned)
    written = opt.param_groups[0]["lr"]
    assert type(written) is float and written == learned["lr"][0].item() != before


def test_writing_back_nested_settings_by_group() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    opt = torch.optim.Adam([{"params": [p]} for p in params])
    betas = [(torch.tensor(0.5), torch.tensor([0.25])), (0.75, torch.tensor(0.125))]
    higher.optim.apply_trainable_opt_params(opt, {"betas": betas, "lr": [tensor(3.0)]})
    assert [g["betas"] for g in opt.param_groups] == [(0.5, 0.25), (0.75, 0.125)]
    assert [g["lr"] for g in opt.param_groups] == [3.0, 3.0]
    regression()(model := net())  # the numbers are ordinary settings again
    opt.step()
    assert model is not None


def test_writing_back_refuses_what_does_not_fit() -> None:
    opt = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(ValueError, match="no setting"):
        higher.optim.apply_trainable_opt_params(opt, {"rate": [tensor(1.0)]})
    with pytest.raises(ValueError, match="2 values for 1 parameter group:"):
        higher.optim.apply_trainable_opt_params(opt, {"lr": [tensor(1.0)] * 2})
    assert opt.param_groups[0]["lr"] == 0.1


def test_plain_lr_agrees_with_the_reference() -> None:
    model = net()
    torch.testing.assert_close(
        fast_unroll(model, regression(), lr=0.3),
        reference_unroll(model, regression(), lr=0.3),
    )


def test_whole_numbers_stay_what_they_are_when_nothing_was_learned() -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=1, weight_decay=0)
    before = [dict(g) for g in opt.param_groups]
    learned = higher.optim.get_trainable_opt_params(opt)
    higher.optim.apply_trainable_opt_params(opt, learned)
    for now, then in zip(opt.param_groups, before):
        kinds = {k: type(v) for k, v in now.items()}
        assert kinds == {k: type(v) for k, v in then.items()}
    learned["weight_decay"] = [tensor(0.25)]
    higher.optim.apply_trainable_opt_params(opt, learned)
    assert opt.param_groups[0]["weight_decay"] == 0.25
