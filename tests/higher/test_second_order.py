"""Second derivatives where torch's fast kernels have none; recurrent nets."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from unroll import Loss, assert_same_unroll

import higher
from higher._second_order import weight_norm


def sequence(features: int = 4) -> Loss:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, features, generator=generator, dtype=torch.float64)
    return lambda model: model(x).square().mean()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_scaled_dot_product_attention_has_right_second_derivatives() -> None:
    assert_same_unroll(Attention(), sequence())


def test_attention_in_a_submodule_called_directly() -> None:
    net = nn.Sequential(nn.Linear(4, 4).double(), Attention())
    loss = sequence()
    assert_same_unroll(net, loss)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (fmodel, diff):
        diff.step(loss(lambda x: fmodel[1](fmodel[0](x))))
        loss(fmodel).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_encoder_has_right_second_derivatives(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).double().train(training)
    assert_same_unroll(net, sequence())


def test_multihead_attention_has_right_second_derivatives() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    assert_same_unroll(Net().double(), sequence())


def test_fast_kernels_are_left_alone_in_test_mode_and_without_grad() -> None:
    seen: list[bool] = []

    class Looking(Attention):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cuda.flash_sdp_enabled())
            return super().forward(x)

    net, loss = Looking(), sequence()
    loss(higher.monkeypatch(net, track_higher_grads=False))
    with torch.no_grad():
        loss(higher.monkeypatch(net))
    loss(higher.monkeypatch(net))
    loss(net)
    assert seen == [True, True, False, True]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **kwargs: Any) -> None:
        super().__init__()
        self.rnn = kind(4, 3, batch_first=True, **kwargs)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("kwargs", [{}, {"num_layers": 2, "bidirectional": True}])
def test_recurrent_layers_have_right_second_derivatives(
    kind: type[nn.RNNBase], kwargs: Any
) -> None:
    assert_same_unroll(Recurrent(kind, **kwargs), sequence())


def test_packed_sequences_have_right_second_derivatives() -> None:
    class Packed(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, torch.tensor([5, 3, 2]), batch_first=True)
            return pad_packed_sequence(self.rnn(packed)[0])[0]

    assert_same_unroll(Packed(nn.LSTM), sequence())


def test_recurrent_cells_have_right_second_derivatives() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return state[0]

    assert_same_unroll(Cells(), sequence())


def test_recurrent_on_a_gpu_does_without_cudnn() -> None:
    """The wrapper's decision; the kernels themselves need a GPU."""
    seen: list[bool] = []

    class Input:
        is_cuda = True

    net = Recurrent(nn.LSTM)
    net.rnn.forward = lambda x: seen.append(torch.backends.cudnn.enabled)
    tracking = higher.monkeypatch(net)
    testing = higher.monkeypatch(net, track_higher_grads=False)
    tracking.rnn.forward(Input())
    testing.rnn.forward(Input())
    with torch.no_grad():
        tracking.rnn.forward(Input())
    assert seen == [False, True, True]
    assert torch.backends.cudnn.enabled


def hooked(layer: nn.Module, dim: int | None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, dim=dim)


def parametrized(layer: nn.Module, dim: int | None) -> nn.Module:
    return parametrizations.weight_norm(layer, dim=dim)


def trained(model: nn.Module, loss: Loss, steps: int = 3, lr: float = 0.3) -> float:
    """The loss after plain training, which changes the model."""
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        opt.zero_grad()
        loss(model).backward()
        opt.step()
    return loss(model).item()


def meta_difference(
    make: Callable[[], nn.Module], along: list[Tensor], loss: Loss
) -> float:
    """The derivative of the trained loss along a direction of the initial weights, by
    central differences of plain training."""
    values = []
    for sign in (1, -1):
        model = make()
        with torch.no_grad():
            for p, d in zip(model.parameters(), along, strict=True):
                p.add_(d, alpha=sign * 1e-5)
        values.append(trained(model, loss))
    return (values[0] - values[1]) / 2e-5


@pytest.mark.parametrize("normalized", [hooked, parametrized])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("how", ["context", "alone", "submodules"])
def test_weight_norm_has_right_second_derivatives(
    normalized: Any, dim: int | None, how: str
) -> None:
    """torch's own kernel misses this by a percent: no oracle that uses it."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        layer = normalized(nn.Linear(4, 4).double(), dim)
        return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2).double())

    loss, model = sequence(), make()
    torch.manual_seed(1)
    along = [torch.randn_like(p) for p in model.parameters()]
    opt = torch.optim.SGD(model.parameters(), lr=0.3)
    if how == "context":
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as pair:
            outer = unrolled(*pair, loss)
    else:
        fmodel = higher.monkeypatch(model, copy_initial_weights=False)
        diff = higher.get_diff_optim(opt, model.parameters(), fmodel=fmodel)
        if how == "submodules":
            outer = unrolled(lambda x: fmodel[2](fmodel[1](fmodel[0](x))), diff, loss)
        else:
            outer = unrolled(fmodel, diff, loss)
    assert outer.item() == pytest.approx(trained(make(), loss), rel=1e-12)
    grads = torch.autograd.grad(outer, list(model.parameters()))
    value = sum((g * d).sum().item() for g, d in zip(grads, along, strict=True))
    assert value == pytest.approx(meta_difference(make, along, loss), rel=1e-7)


def unrolled(model: Any, diff: Any, loss: Loss) -> Tensor:
    for _ in range(3):
        diff.step(loss(model))
    return loss(model)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 4)])
def test_weight_norm_is_torch_s_and_twice_differentiable(
    dim: int, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    v = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    g = torch.rand_like(torch.norm_except_dim(v, 2, dim)).requires_grad_()
    torch.testing.assert_close(weight_norm(v, g, dim), torch._weight_norm(v, g, dim))
    assert torch.autograd.gradgradcheck(lambda v, g: weight_norm(v, g, dim), (v, g))


@pytest.mark.parametrize("normalized", [hooked, parametrized])
def test_weight_norm_of_a_clone_is_torch_s_own_again(normalized: Any) -> None:
    """Copied or pickled alone, and the module that it came from."""
    net = nn.Sequential(normalized(nn.Linear(4, 2), 0))
    fmodel = higher.monkeypatch(net)
    hooks = net[0]._forward_pre_hooks.values()
    assert not any("higher" in type(hook).__module__ for hook in hooks)
    x = torch.ones(1, 4)
    if normalized is hooked:
        again = pickle.loads(pickle.dumps(fmodel[0]._forward_pre_hooks))
        assert [type(h) for h in again.values()] == [type(h) for h in hooks]
    with torch.no_grad():
        torch.testing.assert_close(fmodel(x), net(x))
    torch.testing.assert_close(copy.deepcopy(fmodel)(x), net(x))
