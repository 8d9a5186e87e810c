"""Private names that programs written for the classic library lean on."""

from __future__ import annotations

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


def test_monkeypatch_base() -> None:
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


def test_fast_params_assigned_by_property() -> None:
    fmodel = higher.monkeypatch(nn.Linear(3, 2, bias=False))
    fmodel.fast_params = [torch.zeros(2, 3)]
    assert fmodel(X).abs().max() == 0 and len(fmodel._fast_params) == 2


def test_internal_attrs() -> None:
    model = nn.Linear(3, 2)
    model.scratch, model.kept = 1, 2
    higher.patch._internal_attrs |= {"scratch"}
    try:
        fmodel = higher.monkeypatch(model)
    finally:
        higher.patch._internal_attrs.remove("scratch")
    assert not hasattr(fmodel, "scratch") and fmodel.kept == 2


def test_attributes_of_the_optimizer() -> None:
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


def test_update_without_keyword_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    diff = HandSGD(torch.optim.SGD(model.parameters(), lr=1.0), model.parameters())
    new = diff.step(model(X).sum(), params=model.parameters())
    torch.testing.assert_close(new[1], model.bias - 2)
