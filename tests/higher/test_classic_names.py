"""Private names that programs written for the classic library lean on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from handwritten import HandSGD
from torch import Tensor, nn

import higher
import higher.optim
import higher.patch

X = torch.ones(2, 3)


def test_names_can_be_imported() -> None:
    from higher.optim import (  # noqa: F401
        _add,
        _GradCallbackType,
        _GroupedGradsType,
        _OverrideType,
        _StateType,
    )

    one = torch.ones(2)
    assert torch.equal(_add(one, 2), torch.full((2,), 3.0))
    assert torch.equal(_add(one, 2, 3 * one), torch.full((2,), 7.0))
    assert torch.equal(_add(one, 2 * one), torch.full((2,), 3.0))


def test_arithmetic_takes_a_factor_first() -> None:
    one, two = torch.ones(2), torch.full((2,), 2.0)
    optim = higher.optim
    assert torch.equal(optim._add(tensor=one, a1=-0.5, a2=two), 0 * one)
    assert torch.equal(optim._addcmul(one, two, two), 5 * one)
    assert torch.equal(optim._addcmul(one, 3, two, two), 13 * one)
    assert torch.equal(optim._addcdiv(one, two, 4 * one), 1.5 * one)
    assert torch.equal(optim._addcdiv(one, 3, two, 4 * one), 2.5 * one)


class ClassicAdam(higher.optim.DifferentiableOptimizer):
    """As the classic library's README tells people to write one."""

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        for group_idx, (group, grads) in enumerate(
            zip(self.param_groups, grouped_grads)
        ):
            b1, b2 = group["betas"]
            for p_idx, (p, g) in enumerate(zip(group["params"], grads)):
                if g is None:
                    continue
                state = self.state[group_idx][p_idx]
                if len(state) == 0:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p.data)
                    state["v"] = torch.zeros_like(p.data)
                state["step"] += 1
                if group["weight_decay"] != 0:
                    g = higher.optim._add(g, group["weight_decay"], p)
                state["m"] = m = higher.optim._add(state["m"] * b1, 1 - b1, g)
                state["v"] = v = higher.optim._addcmul(state["v"] * b2, 1 - b2, g, g)
                higher.optim._maybe_mask(v, v == 0.0)
                root = (v / (1 - b2 ** state["step"])).sqrt()
                denom = higher.optim._add(root, group["eps"])
                size = group["lr"] / (1 - b1 ** state["step"])
                new = higher.optim._addcdiv(p, -size, m, denom)
                group["params"][p_idx] = new


def test_an_optimizer_in_the_classic_style(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights and derivatives as ours, where gradients are zero, too: a column of
    the data is."""

    class Adam(torch.optim.Adam):
        pass

    monkeypatch.setitem(higher.optim._opt_mapping, Adam, ClassicAdam)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    x[:, 1] = 0
    found = []
    for kind in (Adam, torch.optim.Adam):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        opt = kind(model.parameters(), lr=0.05)
        lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
        with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, diff):
            assert isinstance(diff, ClassicAdam) == (kind is Adam)
            for _ in range(3):
                diff.step(f(x).square().mean())
            targets = [*f.parameters(time=0), lr]
            loss = f(x).sub(1).square().mean()
            grads = torch.autograd.grad(loss, targets)
        assert all(g.isfinite().all() for g in grads)
        found.append([*f.parameters(), *grads])
    torch.testing.assert_close(*found)


def test_the_mapping_of_optimizers_is_that_of_the_registry() -> None:
    mapping = higher.optim._opt_mapping
    assert torch.optim.SGD in mapping and torch.optim.LBFGS not in mapping
    assert "SGD" not in mapping and len(mapping) == len([*mapping.items()]) >= 14
    assert mapping[torch.optim.Adam] is higher.optim.DifferentiableAdam
    assert mapping.get(torch.optim.LBFGS) is None

    class Mine(torch.optim.SGD):
        pass

    mapping[Mine] = HandSGD
    opt = Mine([nn.Parameter(torch.ones(2))], lr=0.1)
    try:
        assert type(higher.get_diff_optim(opt, opt.param_groups[0]["params"])) is (
            HandSGD
        )
    finally:
        del mapping[Mine]
    assert Mine not in mapping
    with pytest.raises(TypeError, match="diff_optim_type"):
        mapping[Mine] = int


def test_helpers_for_nested_structures_do_what_theirs_did() -> None:
    utils = higher.utils
    leaf = torch.ones(2, requires_grad=True)
    nested = {"a": [leaf, 1], "b": (2, {3})}
    assert utils._recursive_map(nested, type) == {
        "a": [Tensor, int],
        "b": (int, {int}),
    }
    copied = utils._recursive_copy_and_cast({"a": [2 * leaf, 1]})
    assert copied["a"][0].is_leaf and copied["a"][0].requires_grad
    assert torch.equal(copied["a"][0], 2 * leaf) and copied["a"][1] == 1
    assert utils._copy_tensor(leaf, safe_copy=False).data_ptr() == leaf.data_ptr()
    assert utils._copy_tensor(leaf, True).data_ptr() != leaf.data_ptr()
    assert [utils._is_container(v) for v in ([], (), {}, set(), leaf)] == [True] * 4 + [
        False
    ]
    assert utils._find_param_in_list(leaf, [leaf.detach(), leaf]) == 1
    assert utils._find_param_in_list(leaf, []) is None
    assert utils.flatten([{1}, {"a": (2, [3])}]) == [1, 2, 3]


def test_the_mapping_of_parameters_knows_shared_ones() -> None:
    shared = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(shared, nn.Linear(2, 2), shared)
    assert higher.utils._get_param_mapping(model, [], []) == [0, 1, 2, 0]
    fmodel = higher.monkeypatch(model)
    assert fmodel._param_mapping == [0, 1, 2, 0]
    fmodel._track_higher_grads = False
    assert not fmodel.track_higher_grads and not fmodel._track_higher_grads
    with higher.patch._modify_internally(fmodel):
        fmodel.update_params([torch.ones(2, 2), torch.ones(2, 2), torch.ones(2)])
    assert len(fmodel._fast_params) == 1


@pytest.mark.parametrize("nothing", [[], [[]], None])
@pytest.mark.parametrize("track", [True, False])
def test_a_module_without_weights_runs_once_it_is_given_some(
    nothing: Any, track: bool
) -> None:
    """What a hypernetwork's main net is in many programs."""
    net = higher.patch.make_functional(nn.Linear(3, 2))
    net.track_higher_grads = track
    net._fast_params = copy.deepcopy(nothing)
    with pytest.raises(ValueError, match="no fast weights"):
        net(X)
    assert net.fast_params in (None, [])
    weights = [torch.ones(2, 3, requires_grad=True), torch.ones(2, requires_grad=True)]
    for k in range(3):
        out = net(X, params=[(k + 1) * w for w in weights])
        assert torch.equal(out, torch.full((2, 2), 4.0 * (k + 1)))
    assert torch.autograd.grad(out.sum(), weights[1])[0].tolist() == [6.0, 6.0]
    assert len(net._fast_params) == (3 if track else 1)
    del net._fast_params
    assert net._fast_params is None and net.fast_params is None


def test_only_stateless_modules_are_of_the_patched_class() -> None:
    fmodel = higher.monkeypatch(nn.Linear(3, 2))
    assert isinstance(fmodel, higher.patch._MonkeyPatchBase)
    assert not isinstance(nn.Linear(3, 2), higher.patch._MonkeyPatchBase)


def test_fast_params_may_be_assigned_and_changed() -> None:
    fmodel = higher.monkeypatch(nn.Linear(3, 2, bias=False))
    assert type(fmodel._fast_params) is list and type(fmodel._fast_params[0]) is list
    first, second, third = (torch.full((2, 3), v) for v in (1.0, 2.0, 3.0))
    fmodel._fast_params = [[first], [second]]
    assert fmodel(X)[0, 0] == 6 and fmodel.weight is second
    fmodel._fast_params = fmodel._fast_params[:1]
    assert fmodel.weight is first
    fmodel._fast_params.append([third])
    assert fmodel(X)[0, 0] == 9 and fmodel.weight is third
    fmodel._fast_params[-1][0] = second
    assert fmodel(X)[0, 0] == 6
    del fmodel._fast_params[:-1]
    assert list(fmodel.parameters(time=0)) == [second]
    fmodel._fast_params = None
    with pytest.raises(ValueError, match="no fast weights"):
        fmodel(X)


def test_fast_params_assigned_by_property_are_used() -> None:
    fmodel = higher.monkeypatch(nn.Linear(3, 2, bias=False))
    fmodel.fast_params = [torch.zeros(2, 3)]
    assert fmodel(X).abs().max() == 0 and len(fmodel._fast_params) == 2


def test_internal_attributes_are_left_out_of_the_patched_module() -> None:
    model = nn.Linear(3, 2)
    model.scratch, model.kept = 1, 2
    higher.patch._internal_attrs |= {"scratch"}
    try:
        fmodel = higher.monkeypatch(model)
    finally:
        higher.patch._internal_attrs.remove("scratch")
    assert not hasattr(fmodel, "scratch") and fmodel.kept == 2


def test_attributes_of_the_optimizer_have_their_classic_names() -> None:
    model = nn.Linear(3, 2)
    opt = torch.optim.SGD(
        [{"params": [model.bias]}, {"params": [model.weight]}], lr=0.1
    )
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        assert diff._fmodel is fmodel and diff._track_higher_grads is True
        assert diff._grad_callback is None
        assert diff._group_to_param_list == [[1], [0]]
        assert diff.param_groups[0]["params"][0] is fmodel.bias
        diff._apply_override({"lr": [0.5, 0.25]})
        assert [g["lr"] for g in diff.param_groups] == [0.5, 0.25]
        before = fmodel.bias
        diff.step(fmodel(X).sum())
        torch.testing.assert_close(fmodel.bias, before - 0.5 * 2)


def test_settings_and_state_are_read_and_written() -> None:
    model = nn.Linear(3, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        diff.step(fmodel(X).sum())
        diff.param_groups[0]["lr"] = 1.0
        diff.state[0][1]["momentum_buffer"] = torch.zeros(2)
        before = fmodel.bias
        diff.step(fmodel(X).sum())
        torch.testing.assert_close(fmodel.bias, before - 2)


def test_step_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = nn.Linear(3, 2), []
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        original = diff.step

        def step(loss: Tensor, **kwargs: Any) -> Any:
            calls.append(loss)
            return original(loss, **kwargs)

        diff.step = step
        diff.step(fmodel(X).sum())
        monkeypatch.setattr(
            type(diff), "step", lambda self, loss: calls.append("class")
        )
        del diff.step
        diff.step(fmodel(X).sum())
    assert len(calls) == 2 and calls[1] == "class"


def test_an_update_without_keyword_arguments_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(3, 2)
    diff = HandSGD(torch.optim.SGD(model.parameters(), lr=1.0), model.parameters())
    new = diff.step(model(X).sum(), params=model.parameters())
    torch.testing.assert_close(new[1], model.bias - 2)
