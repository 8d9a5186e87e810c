"""Second derivatives where torch's fast kernels have none; recurrent nets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from unroll import Loss, assert_same_unroll

import higher


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


def test_scaled_dot_product_attention() -> None:
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
def test_transformer_encoder(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).double().train(training)
    assert_same_unroll(net, sequence())


def test_multihead_attention() -> None:
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
def test_recurrent(kind: type[nn.RNNBase], kwargs: Any) -> None:
    assert_same_unroll(Recurrent(kind, **kwargs), sequence())


def test_packed_sequence() -> None:
    class Packed(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, torch.tensor([5, 3, 2]), batch_first=True)
            return pad_packed_sequence(self.rnn(packed)[0])[0]

    assert_same_unroll(Packed(nn.LSTM), sequence())


def test_recurrent_cells() -> None:
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
