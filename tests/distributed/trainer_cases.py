"""Outer loops of other packages around inner ones."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from problem import Net, Outer, assert_same, by_hand, data, gradients
from ranks import case
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments


def mine(tasks: tuple[Tensor, Tensor], count: int = 2) -> list[tuple[Tensor, Tensor]]:
    """This rank's tasks in batches of one."""
    first = dist.get_rank() * count
    return [tuple(t[i : i + 1] for t in tasks) for i in range(first, first + count)]


ACCELERATE = "a plain loop", "accumulated gradients", "outer steps"


@case(cell=("accelerate", ACCELERATE, "right"))
def accelerate_with_accumulated_gradients() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    outer: Any = Outer(Net())
    outer, opt = accelerator.prepare(outer, torch.optim.SGD(outer.parameters(), lr=0.1))
    assert isinstance(outer, DistributedDataParallel)
    for x, y in mine(data()):
        with accelerator.accumulate(outer):
            accelerator.backward(outer(x, y))
            if accelerator.sync_gradients:
                assert_same(gradients(outer), by_hand(Net(), *data())[1])
            opt.step()
    _assert_stepped(outer.module)


def _assert_stepped(outer: nn.Module, lr: float = 0.1) -> None:
    """One step of SGD by the meta-gradient of all tasks."""
    alone = Outer(Net())
    alone(*data()).backward()
    torch.optim.SGD(alone.parameters(), lr=lr).step()
    got = {n: p.detach() for n, p in outer.named_parameters()}
    assert_same(got, {n: p.detach() for n, p in alone.named_parameters()})


class Losing(Outer):
    """As Trainer wants it: a dict that has the loss."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return {"loss": super().forward(x, y)}


@case(cell=("Trainer", ("a plain loop", "outer steps"), "right"))
def trainer_around_a_module_that_adapts() -> None:
    x, y = data()
    outer = Losing(Net())
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=1,
            per_device_train_batch_size=2,
            remove_unused_columns=False,
            max_grad_norm=0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        opt = torch.optim.SGD(outer.parameters(), lr=0.1)
        constant = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1.0)
        trainer = Trainer(
            outer,
            arguments,
            train_dataset=[{"x": a, "y": b} for a, b in zip(x, y)],
            optimizers=(opt, constant),
        )
        trainer.train()
    assert isinstance(trainer.model_wrapped, DistributedDataParallel)
    _assert_stepped(outer)
