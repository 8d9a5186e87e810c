"""The contract of ``higher.patch`` and of the stateless module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unroll import assert_same_unroll, regression

import higher

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)
    ).double()


@pytest.mark.parametrize("training", [True, False])
def test_ordinary_modules_have_the_meta_gradient_of_a_plain_loop(
    training: bool,
) -> None:
    assert_same_unroll(net().train(training), regression(), steps=3)


def test_convolutions_have_the_meta_gradient_of_a_plain_loop() -> None:
    class Conv(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, None, None].expand(-1, 1, 4, 3))

    model = Conv(
        nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(1, 2), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4, 2),
    ).double()  # fmt: skip
    assert_same_unroll(model, regression())


def test_initial_weights_are_detached_copies() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    for p, f in zip(model.parameters(), fmodel.parameters()):
        assert f.is_leaf and f.requires_grad and torch.equal(p, f)
        assert f.data_ptr() != p.data_ptr()
    fmodel(X).sum().backward()
    assert all(p.grad is None for p in model.parameters())


def test_initial_weights_in_the_graph_of_the_model() -> None:
    model = net()
    fmodel = higher.monkeypatch(model, copy_initial_weights=False)
    fmodel(X).square().sum().backward()
    model_grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(X).square().sum().backward()
    torch.testing.assert_close(model_grads, [p.grad for p in model.parameters()])
    # changing the model now must not change the fast weights
    before = [f.clone() for f in fmodel.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    torch.testing.assert_close(list(fmodel.parameters()), before)


def test_a_time_has_the_weights_of_its_step() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        steps = [list(fmodel.parameters())]
        for _ in range(3):
            steps.append(diff.step(fmodel(X).square().mean()))
        for t, params in enumerate(steps):
            found = list(fmodel.parameters(time=t))
            assert all(a is b for a, b in zip(found, params, strict=True))
        assert list(fmodel.parameters()) == list(fmodel.parameters(time=-1))
        assert fmodel.init_fast_params == list(fmodel.parameters(time=0))
        assert fmodel.fast_params == steps[-1]
        with pytest.raises(IndexError, match="time 0 to 3, not 4"):
            fmodel.parameters(time=4)
        for p in steps[2]:
            assert p.grad_fn is not None


def test_in_test_mode_only_the_latest_time_is_kept() -> None:
    fmodel = higher.monkeypatch(net(), track_higher_grads=False)
    new = [p + 1 for p in fmodel.parameters()]
    fmodel.update_params(new)
    assert list(fmodel.parameters(time=0)) == list(fmodel.parameters(time=-1)) == new
    for time in (1, -2):
        with pytest.raises(ValueError, match="track_higher_grads=False"):
            fmodel.parameters(time=time)
    with pytest.raises(ValueError, match="not kept"):
        fmodel.init_fast_params


def test_parameters_without_recursion_are_the_modules_own() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(1, 1)
            self.own = nn.Parameter(torch.ones(1))

    fmodel = higher.monkeypatch(Outer())
    assert list(fmodel.parameters(recurse=False)) == [fmodel.own]
    fmodel.update_params([p + 1 for p in fmodel.parameters()])
    (initial,) = fmodel.parameters(recurse=False, time=0)
    assert initial == 1 and fmodel.own == 2


def test_track_higher_grads_is_a_bool() -> None:
    fmodel = higher.monkeypatch(net())
    assert fmodel.track_higher_grads is True
    fmodel.track_higher_grads = False
    assert fmodel.track_higher_grads is False
    with pytest.raises(ValueError, match="must be a bool"):
        fmodel.track_higher_grads = 1


def test_names_and_state_dict_show_fast_weights() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    fmodel.update_params([p + 1 for p in fmodel.parameters()])
    names = [n for n, _ in model.named_parameters()]
    assert [n for n, _ in fmodel.named_parameters()] == names
    for (_, f), p in zip(fmodel.named_parameters(), fmodel.parameters()):
        assert f is p
    shown = fmodel.state_dict()
    assert list(shown) == list(model.state_dict())
    for name, p in model.named_parameters():
        assert torch.equal(shown[name], p.detach() + 1)


def test_load_state_dict_writes_into_fast_weights_alone() -> None:
    model = net()
    model[0].requires_grad_(False)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    loaded = {n: torch.ones_like(t) for n, t in before.items()}
    for load in (
        lambda f: f.load_state_dict(loaded),
        lambda f: f[0].load_state_dict(
            {"weight": torch.ones(4, 3), "bias": torch.ones(4)}
        ),
        lambda f: f.load_state_dict(loaded, assign=True),
    ):
        fmodel = higher.monkeypatch(model, copy_initial_weights=False)
        load(fmodel)
        assert (fmodel[0].weight == 1).all() and fmodel.fast_params[0] is fmodel[
            0
        ].weight
        assert not fmodel[0].weight.requires_grad and fmodel[3].weight.requires_grad
        torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_assigning_a_tensor_makes_it_the_latest_fast_weight() -> None:
    fmodel = higher.monkeypatch(net())
    new = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    fmodel[0].weight = new
    assert fmodel[0].weight is new and next(fmodel.parameters()) is new
    assert fmodel.fast_params[0] is new and "weight" not in fmodel[0].__dict__
    fmodel(X).sum().backward()
    assert new.grad is not None
    as_parameter = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    fmodel[0].weight = as_parameter
    assert fmodel.fast_params[0] is as_parameter


def test_a_tensor_assigned_to_the_root_is_the_latest_fast_weight() -> None:
    fmodel = higher.monkeypatch(nn.Linear(3, 2))
    fmodel.bias = new = torch.zeros(2)
    assert list(fmodel.parameters())[1] is new is fmodel.bias


@pytest.mark.parametrize("value", [None, 1.0, "weight", [torch.ones(4, 3)]])
def test_assigning_anything_else_is_a_type_error(value: Any) -> None:
    fmodel = higher.monkeypatch(net())
    before = fmodel[0].weight
    with pytest.raises(TypeError):
        fmodel[0].weight = value
    with pytest.raises(TypeError):
        higher.monkeypatch(nn.Linear(1, 1)).weight = value
    assert fmodel[0].weight is before


def test_deleting_a_fast_weight_is_refused() -> None:
    fmodel = higher.monkeypatch(net())
    with pytest.raises(TypeError, match="before making it stateless"):
        del fmodel[0].weight


def test_ordinary_attributes_of_modules_with_weights_still_work() -> None:
    fmodel = higher.monkeypatch(net())
    fmodel[0].note = 3
    fmodel[0].child = nn.ReLU()
    fmodel[1].running_mean = torch.ones(4, dtype=torch.float64)
    fmodel[0].register_buffer("extra", torch.ones(1))
    assert fmodel[0].note == 3 and "child" in dict(fmodel[0].named_children())
    assert "extra" in fmodel[0]._buffers and "note" not in fmodel[0]._buffers
    assert (fmodel[1].running_mean == 1).all()
    del fmodel[0].extra, fmodel[0].child
    fmodel[0].missing = nn.Parameter(torch.ones(1))
    assert "missing" in fmodel[0]._parameters


def test_buffers_go_ways_of_their_own() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    fmodel(X)
    assert model[1].num_batches_tracked == 0 and fmodel[1].num_batches_tracked == 1
    model(X + 1)
    model(X + 1)
    assert model[1].num_batches_tracked == 2 and fmodel[1].num_batches_tracked == 1


def test_buffer_sync_copies_once() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    model(X)
    higher.patch.buffer_sync(model, fmodel)
    assert torch.equal(fmodel[1].running_mean, model[1].running_mean)
    model(X)
    assert not torch.equal(fmodel[1].running_mean, model[1].running_mean)


def test_buffer_sync_between_different_trees() -> None:
    fmodel = higher.monkeypatch(net())
    with pytest.raises(KeyError, match="no submodule '4'"):
        higher.patch.buffer_sync(nn.Sequential(*net(), nn.ReLU()), fmodel)
    with pytest.raises(KeyError, match="no buffer 'running_mean'"):
        higher.patch.buffer_sync(nn.Sequential(nn.BatchNorm1d(3)), fmodel)


def test_make_functional_and_its_encapsulator() -> None:
    model, seen = net(), []
    fmodel = higher.patch.make_functional(model, lambda *args: seen.append(args))
    assert seen == [(fmodel, model)]
    assert torch.equal(fmodel(X, params=list(model.parameters())), model(X))


def test_device_moves_the_copy_alone() -> None:
    model = net()
    fmodel = higher.monkeypatch(model, device="meta")
    assert {t.device.type for t in fmodel.state_dict().values()} == {"meta"}
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}


def test_moving_and_casting_stays_in_the_graph() -> None:
    model = net().float()
    fmodel = higher.monkeypatch(model, copy_initial_weights=False).double()
    assert {f.dtype for f in fmodel.parameters()} == {torch.float64}
    assert fmodel[1].running_mean.dtype == torch.float64
    fmodel(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_zero_grad_and_requires_grad() -> None:
    model = net()
    fmodel = higher.monkeypatch(model)
    fmodel(X).sum().backward()
    fmodel.zero_grad()
    assert all(p.grad is None for p in fmodel.parameters())
    fmodel.requires_grad_(False)
    assert not fmodel(X).requires_grad and model(X).requires_grad
    model.requires_grad_(False)
    fmodel = higher.monkeypatch(model).requires_grad_()
    assert fmodel(X).requires_grad and not model(X).requires_grad


def test_compiled_calls_are_not_carried_over() -> None:
    model = nn.Linear(3, 2).double()
    model._compiled_call_impl = lambda *args: 1 / 0
    fmodel = higher.monkeypatch(model)
    assert fmodel(X).shape == (4, 2)


def test_modules_need_nothing_to_be_collected() -> None:
    """No registry keeps a stateless module, its class or its original alive."""
    import gc
    import weakref

    class Local(nn.Linear):
        pass

    model = Local(2, 2)
    fmodel = higher.monkeypatch(model)
    refs = [weakref.ref(x) for x in (model, fmodel, Local, type(fmodel))]
    del model, fmodel, Local
    gc.collect()
    assert [r() for r in refs] == [None] * 4


@pytest.mark.parametrize("kind", ["linear", "rnn", "parametrized", "attention"])
def test_weights_and_graphs_go_with_the_last_reference(kind: str) -> None:
    """At once, not when the garbage collector finds a cycle."""
    import gc
    import weakref

    class Own(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            if kind == "attention":
                return self.inner(x, x, x)[0]
            return self.inner(x)[0]

    inner: nn.Module = nn.Linear(3, 2)
    if kind == "rnn":
        inner = nn.GRU(3, 2)
    elif kind == "parametrized":
        nn.utils.parametrizations.weight_norm(inner)
    elif kind == "attention":
        inner = nn.MultiheadAttention(3, 1)
    model = Own(inner)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    gc.disable()
    try:
        with higher.innerloop_ctx(model, opt) as (fmodel, diff):
            diff.step(fmodel(torch.ones(1, 3)).sum())
        refs = [weakref.ref(p) for t in (0, 1) for p in fmodel.parameters(time=t)]
        refs.append(weakref.ref(fmodel))
        del fmodel, diff
        assert [r() for r in refs] == [None] * len(refs)
    finally:
        gc.enable()


def test_static_and_late_forwards_are_called() -> None:
    class Static(nn.Module):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x + 1

    class Late(nn.Linear):
        forward = nn.Linear.forward

    assert torch.equal(higher.monkeypatch(Static())(X), X + 1)
    assert higher.monkeypatch(Late(3, 2).double())(X).shape == (4, 2)


def test_parameters_seen_from_within_forward() -> None:
    class Penalized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + sum(p.square().sum() for p in self.parameters())

    assert_same_unroll(Penalized(3, 2).double(), regression())
