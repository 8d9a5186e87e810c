"""What is measured: inner problems of four kinds, written in plain torch.

Nothing here knows any of the contestants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """An inner problem.

    Attributes:
        net: makes the model.
        batches: ``batches(k)`` makes k inner batches, then the outer one.
        optimizer: name in ``torch.optim``, and settings.
        steps: number of inner steps K.
        tasks: how often in a row, the outer losses' gradients added up.
        by_weights: derivatives are by the initial weights, else by the learning rate.
    """

    title: str
    net: Callable[[], nn.Module]
    batches: Callable[[int], list[Batch]]
    optimizer: str
    settings: dict[str, float]
    steps: int
    tasks: int = 1
    by_weights: bool = False


def loss_fn(model: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """Mean cross-entropy of predictions (..., classes) for labels (...)."""
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def conv_net(ways: int = 5, width: int = 64) -> nn.Module:
    """The four blocks of MAML for 28 x 28 images (Vinyals et al., 2016)."""

    def block(inputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, width, 3, padding=1),
            nn.BatchNorm2d(width, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    blocks = [m for inputs in (1, width, width, width) for m in block(inputs)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(width, ways))


def mlp(width: int, layers: int, inputs: int = 32, classes: int = 10) -> nn.Module:
    sizes = [inputs] + [width] * layers
    hidden = [(nn.Linear(a, b), nn.Tanh()) for a, b in zip(sizes, sizes[1:])]
    return nn.Sequential(
        *(m for pair in hidden for m in pair), nn.Linear(width, classes)
    )


class Layer(nn.Module):
    """A pre-norm transformer layer; attention written out, as second derivatives
    need it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, width: int = 128, layers: int = 4, words: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(layers)))
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layers(self.words(x)))


def _images(steps: int) -> list[Batch]:
    # one support set for all steps, one query set
    support, query = ((torch.rand(n, 1, 28, 28), torch.arange(n) % 5) for n in (25, 75))
    return [support] * steps + [query]


def _few_shot(steps: int) -> list[Batch]:
    # ten examples of one number, as in MAML's regression
    support, query = ((torch.randn(10, 1), torch.arange(10) % 5) for _ in range(2))
    return [support] * steps + [query]


def _vectors(count: int) -> Callable[[int], list[Batch]]:
    return lambda steps: [
        (torch.randn(count, 32), torch.randint(10, (count,))) for _ in range(steps + 1)
    ]


def _sentences(steps: int) -> list[Batch]:
    text = torch.randint(64, (steps + 1, 8, 33))
    return [(t[:, :-1], t[:, 1:]) for t in text]


def _transformer(steps: int) -> Workload:
    return Workload(
        f"transformer, K={steps}",
        Transformer,
        _sentences,
        "Adam",
        {"lr": 1e-3},
        steps,
    )


def _deep(steps: int) -> Workload:
    return Workload(
        f"deep MLP, K={steps}",
        lambda: mlp(32, 40),
        _vectors(128),
        "Adam",
        {"lr": 1e-3},
        steps,
    )


WORKLOADS = {
    "maml": Workload(
        "4-conv MAML, K=5",
        conv_net,
        _images,
        "SGD",
        {"lr": 0.1},
        5,
        tasks=4,
        by_weights=True,
    ),
    "tasks-mlp": Workload(
        "25 tasks, MLP, K=5",
        lambda: mlp(40, 2, inputs=1, classes=5),
        _few_shot,
        "Adam",
        {"lr": 1e-2},
        5,
        tasks=25,
        by_weights=True,
    ),
    "tasks-conv": Workload(
        "25 tasks, 4-conv, K=5",
        conv_net,
        _images,
        "SGD",
        {"lr": 0.1},
        5,
        tasks=25,
        by_weights=True,
    ),
    "deep-8": _deep(8),
    "deep-32": _deep(32),
    "deep-128": _deep(128),
    "wide": Workload(
        "wide MLP, K=10",
        lambda: mlp(2048, 3),
        _vectors(16),
        "SGD",
        {"lr": 0.01, "momentum": 0.9},
        10,
    ),
    "transformer-8": _transformer(8),
    "transformer-32": _transformer(32),
    "transformer-128": _transformer(128),
}
