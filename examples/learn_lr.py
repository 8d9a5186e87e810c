"""Learn NAdam's learning rate on handwritten digits, by gradient descent.

The *inner loop* trains a small classifier with NAdam for one short epoch. The
*meta-loss* is the trained classifier's loss on held-out digits: a function of the
learning rate, computed by code that torch differentiates. So its derivative (the
*hypergradient*) is one call of ``backward``, and an ordinary optimizer descends on it.

Each line printed also shows the derivative as a finite difference gives it, from two
more trainings with the learning rate moved down and up by a little. Everything is in
float64, so that the two can agree to many digits.

Run it with ``make demo``, or with ``python examples/learn_lr.py`` where `higher` and
scikit-learn are installed. Takes seconds on a CPU.
"""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import higher

OUTER_STEPS = 10
BATCH = 32
FIRST_LR = 1e-3

Split = tuple[Tensor, Tensor]
"""Images [n, 64] with values in 0…1, and their classes [n]."""


def load_splits() -> list[Split]:
    """Digits to train on, to measure the meta-loss on, and to test on at the end."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float64) / 16
    classes = torch.tensor(digits.target)
    thirds = torch.randperm(len(images)).chunk(3)
    return [(images[third], classes[third]) for third in thirds]


def loss_on(model: nn.Module, split: Split) -> Tensor:
    """Cross-entropy of ``model`` on ``split``: a scalar."""
    images, classes = split
    return cross_entropy(model(images), classes)


def trained(
    model: nn.Module, lr: Tensor | float, split: Split, differentiable: bool = True
) -> nn.Module:
    """What one epoch of NAdam makes of ``model``, which itself stays as it is.

    If ``differentiable``, the result's weights are functions of ``lr`` in torch's graph.
    """
    opt = torch.optim.NAdam(model.parameters())
    with higher.innerloop_ctx(
        model, opt, override={"lr": [lr]}, track_higher_grads=differentiable
    ) as (fmodel, diffopt):
        for batch in zip(*(tensor.split(BATCH) for tensor in split)):
            diffopt.step(loss_on(fmodel, batch))
    return fmodel


def main() -> None:
    """Descend on the meta-loss; compare the first learning rate with the learned one."""
    torch.manual_seed(0)
    training, held_out, test = load_splits()
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()

    # The logarithm is learned, so that steps are relative and lr stays positive.
    log_lr = torch.tensor(math.log(FIRST_LR), dtype=torch.float64, requires_grad=True)
    outer_opt = torch.optim.Adam([log_lr], lr=0.35)

    def meta_loss(shift: float) -> float:
        """The meta-loss at a learning rate beside the present one, without a graph."""
        lr = math.exp(log_lr.item() + shift)
        return loss_on(trained(model, lr, training, False), held_out).item()

    print("step        lr  meta-loss  hypergradient  finite difference  rel. error")
    for step in range(OUTER_STEPS):
        outer_opt.zero_grad()
        loss = loss_on(trained(model, log_lr.exp(), training), held_out)
        loss.backward()

        hypergradient = log_lr.grad.item()
        difference = (meta_loss(1e-5) - meta_loss(-1e-5)) / 2e-5
        error = abs(hypergradient / difference - 1)
        print(
            f"{step:4d}  {log_lr.exp().item():8.6f}  {loss.item():9.6f}"
            f"  {hypergradient:13.9f}  {difference:17.9f}  {error:10.1e}"
        )
        outer_opt.step()

    images, classes = test
    for name, lr in ("first", FIRST_LR), ("learned", log_lr.exp().item()):
        guesses = trained(model, lr, training, False)(images).argmax(dim=1)
        accuracy = (guesses == classes).double().mean().item()
        print(f"test accuracy with the {name} lr, {lr:.6f}: {accuracy:.1%}")


if __name__ == "__main__":
    main()
