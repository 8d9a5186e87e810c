"""torch's recurrent layers, written out step by step: its kernels have no batching rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_Cell = Callable[..., Any]


def rnn_tanh_cell(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any
) -> Tensor:
    return torch.tanh(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))


def rnn_relu_cell(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any
) -> Tensor:
    return torch.relu(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))


def lstm_cell(
    x: Tensor, state: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any
) -> tuple[Tensor, Tensor]:
    """Hochreiter & Schmidhuber 1997, with a forget gate."""
    h, c = state
    gates = F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_cell(
    x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any, b_hh: Any
) -> Tensor:
    """Cho et al. 2014."""
    r_x, z_x, n_x = F.linear(x, w_ih, b_ih).chunk(3, -1)
    r_h, z_h, n_h = F.linear(h, w_hh, b_hh).chunk(3, -1)
    z = torch.sigmoid(z_x + z_h)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + z * (h - n)


def _layers(
    cell: _Cell,
    x: Tensor,
    states: Sequence[Any],
    flat: Sequence[Tensor],
    biased: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Any]]:
    """The output of the last layer, and the last state of each layer and direction."""
    x = x.transpose(0, 1) if batch_first else x
    directions = 2 if bidirectional else 1
    size = len(flat) // (num_layers * directions)
    last: list[Any] = []
    for layer in range(num_layers):
        made = []
        for way in range(directions):
            at = layer * directions + way
            weights = flat[at * size : (at + 1) * size]
            outputs, state = _one_way(cell, x, states[at], weights, biased, way == 1)
            made.append(outputs)
            last.append(state)
        x = torch.cat(made, -1) if bidirectional else made[0]
        if dropout and train and layer < num_layers - 1:
            x = F.dropout(x, dropout)
    return x.transpose(0, 1) if batch_first else x, last


def _one_way(
    cell: _Cell,
    x: Tensor,
    state: Any,
    weights: Sequence[Tensor],
    biased: bool,
    backward: bool,
) -> tuple[Tensor, Any]:
    w_ih, w_hh, *others = weights
    b_ih, b_hh = others[:2] if biased else (None, None)
    projection = others[2 * biased :]
    outputs = []
    for step in reversed(x.unbind(0)) if backward else x.unbind(0):
        state = cell(step, state, w_ih, w_hh, b_ih, b_hh)
        if projection:
            state = F.linear(state[0], projection[0]), state[1]
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs[::-1] if backward else outputs), state


def _refuse_packed(x: Any, second: Any) -> None:
    if isinstance(second, Tensor) and second.dtype == torch.int64:
        raise RuntimeError(
            "vmap: Batching rule not implemented for aten::_pack_padded_sequence. "
            "(packed sequences)"
        )


def lstm(input: Tensor, hx: Any, flat: Any, *options: Any) -> Any:
    _refuse_packed(input, hx)
    states = list(zip(hx[0].unbind(0), hx[1].unbind(0)))
    output, last = _layers(lstm_cell, input, states, flat, *options)
    return (output, *(torch.stack(s) for s in zip(*last)))


def _recurrent(cell: _Cell) -> _Cell:
    def run(input: Tensor, hx: Tensor, flat: Any, *options: Any) -> Any:
        _refuse_packed(input, hx)
        output, last = _layers(cell, input, hx.unbind(0), flat, *options)
        return output, torch.stack(last)

    return run


_torch: Any = torch

RECURRENT: dict[Any, Callable[..., Any]] = {
    _torch.rnn_tanh_cell: rnn_tanh_cell,
    _torch.rnn_relu_cell: rnn_relu_cell,
    _torch.lstm_cell: lstm_cell,
    _torch.gru_cell: gru_cell,
    _torch.lstm: lstm,
    _torch.gru: _recurrent(gru_cell),
    _torch.rnn_tanh: _recurrent(rnn_tanh_cell),
    _torch.rnn_relu: _recurrent(rnn_relu_cell),
}
