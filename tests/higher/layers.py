"""Every layer of ``torch.nn``, each with inputs for three tasks.

``LAYERS`` maps a name to a function that makes a model and its inputs, stacked over tasks.
The name begins with the class of the layer; what follows a space says which variant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TASKS = 3
Case = tuple[nn.Module, list[Tensor]]
LAYERS: dict[str, Callable[[], Case]] = {}

# no derivative that could be differentiated, with or without tasks
NO_SECOND_DERIVATIVE = """EmbeddingBag Hardsigmoid MultiLabelMarginLoss MultiMarginLoss
CTCLoss""".split()
# random: tested by their statistics
RANDOM = (
    "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout".split()
)
# nothing of their own to map
OTHERS = (
    """Module Container Sequential ModuleList ModuleDict ParameterList ParameterDict
Identity SyncBatchNorm NLLLoss2d CrossMapLRN2d UpsamplingNearest2d
UpsamplingBilinear2d TransformerEncoder TransformerDecoder RNNBase RNNCellBase
LinearCrossEntropyOptions""".split()
)


def _random(*shape: int) -> Tensor:
    return torch.randn(TASKS, *shape, dtype=torch.float64)


def _numbers(below: int, *shape: int) -> Tensor:
    return torch.randint(below, (TASKS, *shape))


def layer(name: str, make: Callable[[], nn.Module], *shape: int) -> None:
    """A layer with weights, on one random input."""
    LAYERS[name] = lambda: (make(), [_random(*shape)])


def after(
    name: str, make: Callable[[], nn.Module], first: Callable[[], Any], *shape: int
) -> None:
    """A layer behind one with weights."""
    LAYERS[name] = lambda: (nn.Sequential(first(), make()), [_random(*shape)])


class Loss(nn.Module):
    """Of a linear layer's output, squeezed into what the loss is defined for."""

    def __init__(self, loss: nn.Module, squeeze: Any = None) -> None:
        super().__init__()
        self.linear, self.loss, self.squeeze = nn.Linear(8, 8), loss, squeeze

    def forward(self, x: Tensor, *targets: Tensor) -> Any:
        x = self.linear(x)
        return self.loss(x if self.squeeze is None else self.squeeze(x), *targets)


def loss(
    name: str, make: Callable[[], nn.Module], *targets: Any, by: Any = None
) -> None:
    LAYERS[name] = lambda: (
        Loss(make(), by),
        [_random(5, 8), *(t() if callable(t) else t for t in targets)],
    )


def conv(dims: int) -> Callable[[], nn.Module]:
    made: Callable[..., nn.Module] = getattr(nn, f"Conv{dims}d")
    return lambda: made(2, 2, 1)


def linear() -> nn.Module:
    return nn.Linear(8, 8)


layer("Linear", lambda: nn.Linear(4, 3), 5, 4)
LAYERS["Bilinear"] = lambda: (nn.Bilinear(4, 3, 2), [_random(5, 4), _random(5, 3)])
layer("Conv1d groups", lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), 2, 4, 7)
layer(
    "Conv1d circular",
    lambda: nn.Conv1d(
        4, 6, 3, padding=1, stride=2, dilation=2, padding_mode="circular"
    ),
    *(2, 4, 9),
)
layer("Conv1d same", lambda: nn.Conv1d(4, 6, 3, padding="same"), 2, 4, 7)
layer("Conv2d", lambda: nn.Conv2d(2, 4, 3, padding=1), 2, 2, 5, 5)
layer("Conv3d", lambda: nn.Conv3d(2, 3, 2), 2, 2, 3, 3, 3)
layer("ConvTranspose1d", lambda: nn.ConvTranspose1d(4, 6, 3, 2, groups=2), 2, 4, 5)
layer(
    "ConvTranspose2d",
    lambda: nn.ConvTranspose2d(2, 3, 3, output_padding=1, stride=2),
    *(2, 2, 4, 4),
)
layer("ConvTranspose3d", lambda: nn.ConvTranspose3d(2, 3, 2), 2, 2, 3, 3, 3)
for n, shape in ((1, (6, 2)), (2, (6, 2, 3, 3)), (3, (6, 2, 2, 2, 2))):
    batch_norm, instance_norm = (
        getattr(nn, f"{k}Norm{n}d") for k in ("Batch", "Instance")
    )
    deep = conv(n) if n > 1 else lambda: nn.Linear(2, 2)
    after(f"BatchNorm{n}d", lambda m=batch_norm: m(2), deep, *shape)
    spatial = shape if n > 1 else (6, 2, 5)
    after(
        f"InstanceNorm{n}d",
        lambda m=instance_norm: m(2, affine=True, track_running_stats=True),
        conv(n),
        *spatial,
    )
linear2: Callable[[], nn.Module] = lambda: nn.Linear(2, 2, bias=False)
after("BatchNorm1d eval", lambda: nn.BatchNorm1d(2).eval(), linear2, 6, 2)
after("BatchNorm1d first", lambda: nn.Linear(2, 2), lambda: nn.BatchNorm1d(2), 6, 2)
after(
    "BatchNorm2d without statistics",
    lambda: nn.BatchNorm2d(2, track_running_stats=False),
    *(conv(2), 6, 2, 3, 3),
)
after("BatchNorm1d not affine", lambda: nn.BatchNorm1d(2, affine=False), linear2, 6, 2)
after(
    "InstanceNorm2d eval",
    lambda: nn.InstanceNorm2d(2, track_running_stats=True).eval(),
    *(conv(2), 6, 2, 3, 3),
)
after("LayerNorm", lambda: nn.LayerNorm(8), linear, 4, 8)
after("LayerNorm two dims", lambda: nn.LayerNorm((4, 8), bias=False), linear, 3, 4, 8)
after(
    "LayerNorm not affine",
    lambda: nn.LayerNorm(8, elementwise_affine=False),
    *(linear, 4, 8),
)
after("RMSNorm", lambda: nn.RMSNorm(8), linear, 4, 8)
after("GroupNorm", lambda: nn.GroupNorm(2, 4), lambda: nn.Conv1d(4, 4, 1), 6, 4, 3)
after(
    "GroupNorm not affine",
    lambda: nn.GroupNorm(2, 4, affine=False),
    *(lambda: nn.Conv1d(4, 4, 1), 6, 4, 3),
)
after("LocalResponseNorm", lambda: nn.LocalResponseNorm(2), conv(1), 2, 2, 5)
LAYERS["Embedding"] = lambda: (nn.Embedding(7, 4), [_numbers(7, 5)])
LAYERS["Embedding padding"] = lambda: (
    nn.Embedding(7, 4, padding_idx=-5),
    [_numbers(4, 9)],
)
LAYERS["Embedding frequency"] = lambda: (
    nn.Embedding(7, 4, scale_grad_by_freq=True),
    [_numbers(4, 9)],
)
LAYERS["MultiheadAttention"] = lambda: (
    nn.MultiheadAttention(4, 2, batch_first=True),
    [_random(2, 5, 4), _random(2, 5, 4), _random(2, 5, 4)],
)
layer(
    "TransformerEncoderLayer",
    lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
    *(2, 5, 4),
)
for name, make in {
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(
        4, 2, 8, 0.0, batch_first=True
    ),
    "Transformer": lambda: nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True),
}.items():
    LAYERS[name] = lambda make=make: (make(), [_random(2, 5, 4), _random(2, 4, 4)])
layer("RNN", lambda: nn.RNN(4, 3, 2), 5, 2, 4)
layer("RNN relu", lambda: nn.RNN(4, 3, nonlinearity="relu", bias=False), 5, 2, 4)
layer("LSTM", lambda: nn.LSTM(4, 3, 2, bidirectional=True), 5, 2, 4)
layer("LSTM projected", lambda: nn.LSTM(4, 3, proj_size=2, batch_first=True), 2, 5, 4)
layer("GRU", lambda: nn.GRU(4, 3, 2, bias=False, bidirectional=True), 5, 2, 4)
layer("RNNCell", lambda: nn.RNNCell(4, 3), 2, 4)
layer("LSTMCell", lambda: nn.LSTMCell(4, 3), 2, 4)
layer("GRUCell", lambda: nn.GRUCell(4, 3), 2, 4)
layer("PReLU", lambda: nn.PReLU(4), 6, 4)
for name in (
    """ELU Hardshrink Hardtanh Hardswish LeakyReLU LogSigmoid ReLU ReLU6 SELU CELU
GELU Sigmoid SiLU Mish Softplus Softshrink Softsign Tanh Tanhshrink GLU Softmin Softmax
LogSoftmax""".split()
):
    last = (-1,) if name in ("GLU", "Softmin", "Softmax", "LogSoftmax") else ()
    after(name, lambda n=name, a=last: getattr(nn, n)(*a), linear, 4, 8)
after("GELU tanh", lambda: nn.GELU("tanh"), linear, 4, 8)
after("Threshold", lambda: nn.Threshold(0.1, 0.2), linear, 4, 8)
after("Softmax2d", nn.Softmax2d, conv(2), 2, 2, 4, 4)
for n, shape in ((1, (2, 2, 8)), (2, (2, 2, 6, 6)), (3, (2, 2, 4, 4, 4))):
    for kind, options in {
        "MaxPool": (2,),
        "AvgPool": (2,),
        "LPPool": (2, 2),
        "AdaptiveAvgPool": (2,),
        "AdaptiveMaxPool": (2,),
        "ReflectionPad": (1,),
        "ReplicationPad": (1,),
        "ZeroPad": (1,),
        "ConstantPad": (1, 0.5),
        "CircularPad": (1,),
    }.items():
        name = f"{kind}{n}d"
        after(name, lambda n=name, a=options: getattr(nn, n)(*a), conv(n), *shape)
after("Flatten", nn.Flatten, conv(1), 2, 2, 8)
after("Unflatten", lambda: nn.Unflatten(1, (2, 1)), conv(1), 2, 2, 8)
after("Fold", lambda: nn.Fold((4, 4), (1, 2)), conv(1), 2, 2, 12)
after("Unfold", lambda: nn.Unfold((2, 2)), conv(2), 2, 2, 4, 4)
conv4: Callable[[], nn.Module] = lambda: nn.Conv2d(4, 4, 1)
after("PixelShuffle", lambda: nn.PixelShuffle(2), conv4, 2, 4, 4, 4)
after("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), conv4, 2, 4, 4, 4)
after("ChannelShuffle", lambda: nn.ChannelShuffle(2), conv4, 2, 4, 4, 4)
for mode in ("nearest", "bilinear", "bicubic", "area"):
    after(
        f"Upsample {mode}",
        lambda m=mode: nn.Upsample(scale_factor=2, mode=m),
        *(conv(2), 2, 2, 3, 3),
    )
for name in ("CosineSimilarity", "PairwiseDistance"):
    loss(name, getattr(nn, name), lambda: _random(5, 8))
for name in ("L1Loss", "MSELoss", "HuberLoss", "SmoothL1Loss", "PoissonNLLLoss"):
    loss(name, getattr(nn, name), lambda: _random(5, 8))
loss("CrossEntropyLoss", nn.CrossEntropyLoss, lambda: _numbers(8, 5))
loss(
    "CrossEntropyLoss weight",
    lambda: nn.CrossEntropyLoss(
        weight=torch.linspace(0.5, 2, 8), label_smoothing=0.1, ignore_index=2
    ),
    lambda: _numbers(8, 5),
)
loss("CrossEntropyLoss soft", nn.CrossEntropyLoss, lambda: _random(5, 8).softmax(-1))
if hasattr(nn, "LinearCrossEntropyLoss"):  # from torch 2.13 on
    LAYERS["LinearCrossEntropyLoss"] = lambda: (
        nn.LinearCrossEntropyLoss(8, 4, bias=True),
        [_random(5, 8), _numbers(4, 5)],
    )
loss(
    "NLLLoss weight",
    lambda: nn.NLLLoss(weight=torch.linspace(0.5, 2, 8), ignore_index=2),
    lambda: _numbers(8, 5),
    by=nn.LogSoftmax(-1),
)
loss(
    "GaussianNLLLoss",
    nn.GaussianNLLLoss,
    *(lambda: _random(5, 8), lambda: _random(5, 8).sigmoid() + 0.5),
)
for reduction, logs in (("batchmean", False), ("sum", True)):
    loss(
        f"KLDivLoss {reduction}",
        lambda r=reduction, l=logs: nn.KLDivLoss(reduction=r, log_target=l),
        lambda l=logs: (
            _random(5, 8).log_softmax(-1) if l else _random(5, 8).softmax(-1)
        ),
        by=nn.LogSoftmax(-1),
    )
loss("BCELoss", nn.BCELoss, lambda: _random(5, 8).sigmoid(), by=nn.Sigmoid())
loss(
    "BCEWithLogitsLoss",
    lambda: nn.BCEWithLogitsLoss(pos_weight=torch.linspace(0.5, 2, 8)),
    lambda: _random(5, 8).sigmoid(),
)
loss("HingeEmbeddingLoss", nn.HingeEmbeddingLoss, lambda: _numbers(2, 5, 8) * 2 - 1)
loss("SoftMarginLoss", nn.SoftMarginLoss, lambda: _numbers(2, 5, 8) * 2 - 1)
loss(
    "MultiLabelSoftMarginLoss",
    nn.MultiLabelSoftMarginLoss,
    lambda: _numbers(2, 5, 8).double(),
)
loss(
    "MarginRankingLoss",
    lambda: nn.MarginRankingLoss(0.5),
    *(lambda: _random(5, 8), lambda: _numbers(2, 5, 8) * 2 - 1),
)
loss(
    "CosineEmbeddingLoss",
    nn.CosineEmbeddingLoss,
    *(lambda: _random(5, 8), lambda: _numbers(2, 5) * 2 - 1),
)
for swap in (False, True):
    loss(
        f"TripletMarginLoss swap={swap}",
        lambda s=swap: nn.TripletMarginLoss(swap=s),
        *(lambda: _random(5, 8), lambda: _random(5, 8)),
    )
loss(
    "TripletMarginWithDistanceLoss",
    nn.TripletMarginWithDistanceLoss,
    *(lambda: _random(5, 8), lambda: _random(5, 8)),
)

REFUSED: dict[str, tuple[Callable[[], Case], str]] = {}
"""Name -> the same as in ``LAYERS``, and what the error speaks of."""


def _refused(name: str, make: Callable[[], Case], words: str) -> None:
    REFUSED[name] = make, words


class Unpool(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv = conv(dims)()
        self.pool = getattr(nn, f"MaxPool{dims}d")(2, return_indices=True)
        self.unpool = getattr(nn, f"MaxUnpool{dims}d")(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unpool(*self.pool(self.conv(x)))


_refused(
    "BatchNorm1d cumulative",
    lambda: (nn.BatchNorm1d(4, momentum=None), [_random(6, 4)]),
    "reads the value of a tensor",
)
_refused(
    "Embedding max_norm",
    lambda: (nn.Embedding(7, 4, max_norm=1.0), [_numbers(7, 5)]),
    "aten::embedding_renorm_",
)
_refused(
    "Embedding sparse",
    lambda: (nn.Embedding(7, 4, sparse=True), [_numbers(7, 5)]),
    "aten::embedding_sparse_backward",
)
_refused(
    "RReLU",
    lambda: (nn.Sequential(linear(), nn.RReLU()), [_random(4, 8)]),
    "aten::rrelu",
)
for n, shape in ((2, (2, 2, 6, 6)), (3, (2, 2, 4, 4, 4))):
    _refused(
        f"FractionalMaxPool{n}d",
        lambda n=n, s=shape: (
            nn.Sequential(
                conv(n)(), getattr(nn, f"FractionalMaxPool{n}d")(2, output_size=2)
            ),
            [_random(*s)],
        ),
        f"aten::fractional_max_pool{n}d",
    )
for n, shape in ((1, (2, 2, 8)), (2, (2, 2, 6, 6)), (3, (2, 2, 4, 4, 4))):
    _refused(
        f"MaxUnpool{n}d",
        lambda n=n, s=shape: (Unpool(n), [_random(*s)]),
        "aten::max_unpool",
    )
_refused(
    "Upsample nearest-exact",
    lambda: (
        nn.Sequential(conv(2)(), nn.Upsample(scale_factor=2, mode="nearest-exact")),
        [_random(2, 2, 3, 3)],
    ),
    "aten::_upsample_nearest_exact2d",
)
_refused(
    "AdaptiveLogSoftmaxWithLoss",
    lambda: (
        nn.AdaptiveLogSoftmaxWithLoss(8, 10, [4]),
        [_random(5, 8), _numbers(10, 5)],
    ),
    "shape",
)


def value(output: Any) -> Tensor:
    """A scalar that depends on all of a layer's output, no two elements alike."""
    if isinstance(output, (tuple, list)):
        return sum((value(o) for o in output), torch.zeros((), dtype=torch.float64))
    weights = 1 + 0.3 * torch.arange(output.numel(), dtype=output.dtype).cos()
    return (output.sin() * weights.view(output.shape)).sum()
