"""``tasks=`` on a GPU, against a loop over the tasks."""

from __future__ import annotations

from typing import Any

import higher
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
TASKS = 3


def conv_net() -> nn.Module:
    block = lambda i: [nn.Conv2d(i, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)]
    layers = [*block(1), nn.ReLU(), nn.MaxPool2d(2), *block(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 16, 5))


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    return nn.Sequential(nn.Linear(8, 8), layer, nn.Flatten(), nn.Linear(64, 5))


def recurrent() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    return Last()


MODELS = {conv_net: (1, 8, 8), attention: (8, 8), recurrent: (4, 8)}


def loss_fn(f: Any, batch: Any) -> Tensor:
    return F.cross_entropy(f(batch[0]), batch[1])


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("name", ["SGD", "Adam", "Adafactor"])
def test_tasks_have_the_derivatives_of_the_loop(
    make: Any, name: str, memory: Any
) -> None:
    torch.manual_seed(0)
    model = make().to("cuda", torch.float64)
    opt = getattr(torch.optim, name)(model.parameters(), lr=0.05)
    x = torch.randn(3, TASKS, 6, *MODELS[make], dtype=torch.float64).cuda()
    y = torch.randint(5, (3, TASKS, 6)).cuda()
    batches = list(zip(x, y))
    weights = list(model.parameters())
    lr = torch.tensor([0.05, 0.02, 0.1], dtype=torch.float64, device="cuda")
    lr.requires_grad_()
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, override={"lr": [lr]}, tasks=TASKS
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, batches[:2], memory=memory)
        losses = higher.map_tasks(f, loss_fn, batches[2])
        found = torch.autograd.grad(losses.sum(), [*weights, lr])
    total = []
    for i in range(TASKS):
        with higher.innerloop_ctx(
            model, opt, copy_initial_weights=False, override={"lr": [lr[i]]}
        ) as (f, diffopt):
            higher.unroll(f, diffopt, loss_fn, [[t[i] for t in b] for b in batches[:2]])
            total.append(loss_fn(f, [t[i] for t in batches[2]]))
    wanted = torch.autograd.grad(sum(total), [*weights, lr])
    for a, b in zip(found, wanted, strict=True):
        scale = max(float(b.abs().max()), 1e-6)
        assert float((a - b).abs().max()) / scale < 1e-7


def test_autocast_is_that_of_the_loop() -> None:
    torch.manual_seed(0)
    model = attention().cuda()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(TASKS, 6, 8, 8).cuda(), torch.randint(5, (TASKS, 6)).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        with higher.innerloop_ctx(model, opt, tasks=TASKS) as (f, diffopt):
            diffopt.step(higher.map_tasks(f, loss_fn, (x, y)))
            found = higher.map_tasks(f, loss_fn, (x, y))
        for i in range(TASKS):
            with higher.innerloop_ctx(model, opt) as (f, diffopt):
                diffopt.step(loss_fn(f, (x[i], y[i])))
                wanted = loss_fn(f, (x[i], y[i]))
            torch.testing.assert_close(found[i], wanted, rtol=0.05, atol=0.05)


def test_random_numbers_differ_from_task_to_task() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5)).cuda()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt, tasks=2) as (f, _):
        first, second = f(torch.ones(1, 9, 4, device="cuda"))
    assert not torch.equal(first == 0, second == 0)
