"""Frozen weights are shared, and stay frozen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from unroll import assert_same_unroll, regression

import higher


def net() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    return model


def test_meta_gradient() -> None:
    assert_same_unroll(net(), regression())


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("copy", [True, False])
def test_shared_and_frozen_after_steps(track: bool, copy: bool) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=copy, track_higher_grads=track
    ) as (fmodel, diff):
        for _ in range(2):
            diff.step(regression()(fmodel))
        for p, f in zip(model[0].parameters(), fmodel[0].parameters()):
            assert f.data_ptr() == p.data_ptr() and not f.requires_grad
        assert fmodel[2].weight.requires_grad
        assert not torch.equal(fmodel[2].weight, model[2].weight)


def test_thawing_the_clone_leaves_the_model_frozen() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    fmodel[0].weight.requires_grad_()
    fmodel[0].requires_grad_()
    assert not model[0].weight.requires_grad


def test_integer_parameters() -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            levels = torch.tensor([[1, -2, 3], [0, 1, 1]], dtype=torch.int8)
            self.levels = nn.Parameter(levels, requires_grad=False)
            self.scale = nn.Parameter(torch.ones(2, 1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ (self.levels * self.scale).T)

    model = Quantized()
    assert_same_unroll(model, regression())
    for track in (True, False):
        opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        with higher.innerloop_ctx(model, opt, track_higher_grads=track) as (f, diff):
            diff.step(regression()(f))
            assert f.levels.dtype == torch.int8
            assert f.levels.data_ptr() == model.levels.data_ptr()


def test_subclasses_of_parameter_keep_what_they_carry() -> None:
    class Scaled(nn.Parameter):
        scale: float

    weight = Scaled(torch.ones(2, 3), requires_grad=False)
    weight.scale = 0.5
    model = nn.Linear(3, 2)
    model.weight = weight
    fmodel = higher.monkeypatch(model)
    assert fmodel.weight is weight and fmodel.weight.scale == 0.5


def test_adapters_on_a_large_frozen_base_cost_the_adapters_only() -> None:
    """Memory of fresh storage made by entering and stepping, counted exactly."""

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(512, 512).requires_grad_(False)
            self.down = nn.Linear(512, 2, bias=False)
            self.up = nn.Linear(2, 512, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = Adapted()
    own = {p.data_ptr() for p in model.parameters()}
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        fmodel,
        diff,
    ):
        diff.step(fmodel(torch.ones(1, 512)).sum())
        fresh = [
            p
            for t in (0, 1)
            for p in fmodel.parameters(time=t)
            if p.data_ptr() not in own
        ]
    assert sum(p.numel() for p in fresh) == 2 * 2 * 2 * 512


def test_everything_frozen() -> None:
    model = net().requires_grad_(False)
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        fmodel,
        diff,
    ):
        with pytest.raises(RuntimeError, match="No parameter requires grad"):
            diff.step(regression()(fmodel))
