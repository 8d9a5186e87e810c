"""Hooks and re-parametrizations work on the clone as on the module."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from unroll import assert_same_unroll, fast_unroll, reference_unroll, regression

import higher


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.gain = nn.Parameter(torch.tensor([0.5, 2.0]))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def test_forward_hook_changes_the_output() -> None:
    net = Net()
    net.first.register_forward_hook(lambda module, args, out: out * module.bias)
    assert_same_unroll(net, regression())


def test_forward_pre_hook_changes_the_input() -> None:
    net = Net()
    net.register_forward_pre_hook(lambda module, args: (args[0] * module.gain[0],))
    assert_same_unroll(net, regression())


def test_hooks_with_kwargs_run_on_fast_weights() -> None:
    class Scaled(Net):
        def forward(self, x: Tensor, scale: Any = 1.0) -> Tensor:
            return super().forward(x) * scale

    net = Scaled()
    net.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "scale": module.gain}),
        with_kwargs=True,
    )
    net.register_forward_hook(
        lambda module, args, kwargs, out: (
            out + kwargs["shift"] if "shift" in kwargs else out + args[0].sum()
        ),
        with_kwargs=True,
    )
    assert_same_unroll(net, regression())


def test_hook_always_called_after_an_exception() -> None:
    net, calls = Net(), []
    net.first.register_forward_hook(
        lambda module, args, out: calls.append(module), always_call=True
    )
    fmodel = higher.monkeypatch(net)
    with pytest.raises(RuntimeError):
        fmodel(torch.ones(1, 7))
    assert calls == [fmodel.first]


def test_hook_that_closes_over_the_model_uses_the_fast_weights() -> None:
    net = Net()
    net.first.register_forward_hook(lambda module, args, out: out * net.gain.sum())
    # functional_call finds net.gain through net itself
    assert_same_unroll(net, regression())


def test_hook_that_closes_over_a_parameter_follows_its_updates() -> None:
    net = Net()
    gain = net.gain
    net.register_forward_hook(lambda module, args, out: out * gain)

    twin = Net()
    twin.load_state_dict(net.state_dict())
    twin.register_forward_hook(lambda module, args, out: out * module.gain)
    outer, meta = fast_unroll(net, regression())
    wanted_outer, wanted_meta = reference_unroll(twin, regression())
    torch.testing.assert_close(outer, wanted_outer)
    torch.testing.assert_close(meta, wanted_meta)


def test_hook_with_model_as_default_argument_and_partial() -> None:
    net = Net()

    def hook(module: nn.Module, args: Any, out: Tensor, model: Any = net) -> Tensor:
        return out * model.gain

    def scaled(model: Any, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out * model.gain[1]

    net.register_forward_hook(hook)
    net.register_forward_hook(functools.partial(scaled, net))
    assert_same_unroll(net, regression())


def test_hooks_of_a_script_refer_to_the_model_by_a_global_name() -> None:
    """Also through a function of the script, and a weight of its own."""
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    plain.register_forward_hook(lambda m, args, out: out * m.gain + m.gain.sum())
    script = {"net": net, "gain": net.gain, "calls": 0}
    exec(
        "def shift():\n"
        "    return gain.sum()\n"
        "def hook(module, args, out):\n"
        "    return out * net.gain + shift() + len(str()) * unrelated()\n"
        "def unrelated():\n"
        "    return 1\n"
        "net.register_forward_hook(hook)\n",
        script,
    )
    outer, meta = fast_unroll(net, regression())
    wanted = reference_unroll(plain, regression())
    torch.testing.assert_close((outer, meta), wanted)
    hook = next(iter(higher.monkeypatch(net)._forward_hooks.values()))
    assert hook is not script["hook"] and hook.__globals__["unrelated"]() == 1


def test_what_a_hook_records_ends_up_where_its_owner_looks() -> None:
    class Recorder:
        def __init__(self, model: nn.Module | None = None) -> None:
            self.model = model
            self.outputs: list[Tensor] = []

        def __call__(self, module: nn.Module, args: Any, out: Tensor) -> None:
            self.outputs.append(out)

        def hook(self, module: nn.Module, args: Any, out: Tensor) -> None:
            self.outputs.append(out)

    net = Net()
    recorders = [Recorder(), Recorder(), Recorder(net)]
    outputs: list[Tensor] = []
    net.first.register_forward_hook(recorders[0])
    net.first.register_forward_hook(recorders[1].hook)
    net.first.register_forward_hook(recorders[2].hook)
    net.first.register_forward_hook(lambda m, args, out: outputs.append(out))
    fmodel = higher.monkeypatch(net)
    fmodel(torch.ones(1, 3, dtype=torch.float64))
    for found in (*(r.outputs for r in recorders), outputs):
        assert len(found) == 1
        assert found[0] is outputs[0]


def test_backward_hooks_are_called_with_the_copys_modules() -> None:
    net, calls = Net(), []
    net.first.register_full_backward_hook(
        lambda module, grad_in, grad_out: calls.append(module)
    )
    fmodel = higher.monkeypatch(net)
    fmodel(torch.ones(1, 3, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert calls == [fmodel.first]


def test_removing_a_hook_from_the_model_leaves_the_clone_alone() -> None:
    net, calls = Net(), []
    handle = net.register_forward_hook(lambda *args: calls.append(1))
    fmodel = higher.monkeypatch(net)
    handle.remove()
    fmodel(torch.ones(1, 3, dtype=torch.float64))
    assert calls == [1]


class Symmetric(nn.Module):
    """A parametrization of one's own, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, w: Tensor) -> Tensor:
        return w + self.mix * w.flip(0)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


REPARAMETRIZED = {
    "prune": lambda net: prune.l1_unstructured(net.first, "weight", amount=0.5),
    "parametrizations.orthogonal": lambda net: parametrizations.orthogonal(net.first),
    "custom": lambda net: parametrize.register_parametrization(
        net.first, "weight", Symmetric()
    ),
    "custom on the root": lambda net: parametrize.register_parametrization(
        net, "gain", Symmetric()
    ),
}


@pytest.mark.parametrize("name", REPARAMETRIZED)
def test_reparametrized_weights_have_right_meta_gradients(name: str) -> None:
    net = Net()
    net.register_forward_hook(lambda module, args, out: out * module.gain)
    REPARAMETRIZED[name](net)
    assert_same_unroll(net, regression())


@pytest.mark.parametrize(
    "spectral_norm", [torch.nn.utils.spectral_norm, parametrizations.spectral_norm]
)
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm_has_right_meta_gradients(
    spectral_norm: Any, training: bool
) -> None:
    net = Net()
    if spectral_norm is torch.nn.utils.spectral_norm:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spectral_norm(net.first)
    else:
        spectral_norm(net.first)
    net.train(training)
    assert_same_unroll(net, regression())


def test_buffers_changed_by_a_parametrization_are_the_clone_s_own() -> None:
    net = Net()
    parametrizations.spectral_norm(net.first)
    before = net.first.parametrizations.weight[0]._u.clone()
    fmodel = higher.monkeypatch(net)
    fmodel(torch.ones(1, 3, dtype=torch.float64))
    changed = fmodel.first.parametrizations.weight[0]._u
    assert not torch.equal(changed, before)
    assert torch.equal(net.first.parametrizations.weight[0]._u, before)
