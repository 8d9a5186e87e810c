"""MAML on few-shot character recognition, as one writes it for the classic library.

    python examples/maml_omniglot.py

The network and the training follow Finn et al., "Model-Agnostic Meta-Learning for
Fast Adaptation of Deep Networks" (arXiv:1703.03400). Omniglot has to be downloaded,
so a stand-in is drawn here: every class is a character of a few random strokes, every
image of it is drawn with another shift and slant, by another trembling hand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

import higher

SIZE = 28


class Characters:
    """Few-shot tasks on drawn characters.

    Args:
        classes: number of characters; the first four fifths are for meta-training.
        n_way, k_spt, k_qry: classes of a task, and images of each in its support
            and query set.
        tasks: tasks in a batch.
    """

    def __init__(
        self, classes: int, n_way: int, k_spt: int, k_qry: int, tasks: int, seed: int
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n_way, self.k_spt, self.k_qry, self.tasks = n_way, k_spt, k_qry, tasks
        # 3 strokes, each a curve of 3 control points in [-1, 1]^2
        self.strokes = torch.rand(classes, 3, 3, 2, generator=self.generator) * 2 - 1

    def next(self, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Support images and labels, query images and labels of a batch of tasks.

        Images have the shape (tasks, n_way * k, 1, 28, 28), labels (tasks, n_way * k).
        """
        x_spt, x_qry = [], []
        for _ in range(self.tasks):
            chosen = self._classes(mode)
            x_spt.append(self._draw(chosen, self.k_spt))
            x_qry.append(self._draw(chosen, self.k_qry))
        labels = torch.arange(self.n_way).expand(self.tasks, -1)
        return (
            torch.stack(x_spt),
            labels.repeat_interleave(self.k_spt, 1),
            torch.stack(x_qry),
            labels.repeat_interleave(self.k_qry, 1),
        )

    def _classes(self, mode: str) -> Tensor:
        split = len(self.strokes) * 4 // 5
        first, count = (0, split) if mode == "train" else (split, split // 4)
        order = torch.randperm(count, generator=self.generator)
        return first + order[: self.n_way]

    def _draw(self, classes: Tensor, shots: int) -> Tensor:
        """Images of shape (len(classes) * shots, 1, 28, 28), values in [0, 1]."""
        strokes = self.strokes[classes].repeat_interleave(shots, 0)
        count = len(strokes)
        tremble = 0.12 * self._noise(*strokes.shape)
        slant = torch.eye(2) + 0.2 * self._noise(count, 1, 2, 2)
        shift = 0.1 * self._noise(count, 1, 1, 2)
        points = (strokes + tremble) @ slant + shift
        # quadratic curves through the control points, 16 points on each
        t = torch.linspace(0, 1, 16)
        weights = torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)
        ink = (weights @ points).flatten(1, 2)
        axis = torch.linspace(-1.4, 1.4, SIZE)
        pixels = torch.cartesian_prod(axis, axis)
        distance = torch.cdist(pixels.expand(count, -1, -1), ink).amin(2)
        return (1.5 - distance / 0.1).clamp(0, 1).view(count, 1, SIZE, SIZE)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


class Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


def make_net(n_way: int) -> nn.Module:
    def block(channels: int) -> Iterator[nn.Module]:
        yield nn.Conv2d(channels, 32, 3)
        # statistics of the batch at hand, as usual in MAML
        yield nn.BatchNorm2d(32, momentum=1, affine=True)
        yield nn.ReLU(inplace=True)
        yield nn.MaxPool2d(2, 2)

    return nn.Sequential(
        *block(1), *block(32), *block(32), Flatten(), nn.Linear(32, n_way)
    )


def train(
    db: Characters, net: nn.Module, meta_opt: optim.Optimizer, steps: int
) -> None:
    net.train()
    for step in range(steps):
        start = time.time()
        x_spt, y_spt, x_qry, y_qry = db.next("train")
        task_num = x_spt.size(0)

        # The inner loop's optimizer; innerloop_ctx makes it differentiable.
        inner_opt = torch.optim.SGD(net.parameters(), lr=1e-1)

        qry_losses, qry_accs = [], []
        meta_opt.zero_grad()
        for i in range(task_num):
            with higher.innerloop_ctx(net, inner_opt, copy_initial_weights=False) as (
                fnet,
                diffopt,
            ):
                # Adapt to the support set: these steps are kept in the graph.
                for _ in range(5):
                    spt_loss = F.cross_entropy(fnet(x_spt[i]), y_spt[i])
                    diffopt.step(spt_loss)

                # The query loss of the adapted weights; its gradient reaches the
                # initial ones through the five steps.
                qry_logits = fnet(x_qry[i])
                qry_loss = F.cross_entropy(qry_logits, y_qry[i])
                qry_losses.append(qry_loss.detach())
                qry_accs.append((qry_logits.argmax(1) == y_qry[i]).float().mean())
                (qry_loss / task_num).backward()
        meta_opt.step()

        if step % 10 == 0 or step == steps - 1:
            print(
                f"[train {step:3d}] loss {torch.stack(qry_losses).mean():.2f}  "
                f"accuracy {100 * torch.stack(qry_accs).mean():5.1f}%  "
                f"{time.time() - start:.2f} s"
            )


def test(db: Characters, net: nn.Module, batches: int) -> float:
    """Accuracy in percent on unseen characters, after adaptation."""
    net.train()
    qry_accs = []
    for _ in range(batches):
        x_spt, y_spt, x_qry, y_qry = db.next("test")
        inner_opt = torch.optim.SGD(net.parameters(), lr=1e-1)
        for i in range(x_spt.size(0)):
            # Nothing is learned here, so nothing need be kept.
            with higher.innerloop_ctx(net, inner_opt, track_higher_grads=False) as (
                fnet,
                diffopt,
            ):
                for _ in range(5):
                    diffopt.step(F.cross_entropy(fnet(x_spt[i]), y_spt[i]))
                predicted = fnet(x_qry[i]).argmax(1)
                qry_accs.append((predicted == y_qry[i]).float().mean())
    accuracy = 100 * torch.stack(qry_accs).mean().item()
    print(f"[test] accuracy {accuracy:.1f}% on characters never seen")
    return accuracy


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="MAML on drawn characters")
    parser.add_argument("--n_way", type=int, default=5, help="classes of a task")
    parser.add_argument("--k_spt", type=int, default=1, help="support images of each")
    parser.add_argument("--k_qry", type=int, default=5, help="query images of each")
    parser.add_argument("--task_num", type=int, default=4, help="tasks in a batch")
    parser.add_argument("--steps", type=int, default=60, help="meta-training steps")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)

    # tensors this small keep one thread busy, and two waiting for each other
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    db = Characters(500, args.n_way, args.k_spt, args.k_qry, args.task_num, args.seed)
    net = make_net(args.n_way)
    meta_opt = optim.Adam(net.parameters(), lr=3e-3)
    print("before meta-training:")
    test(db, net, batches=2)
    train(db, net, meta_opt, args.steps)
    return test(db, net, batches=4)


if __name__ == "__main__":
    main()
