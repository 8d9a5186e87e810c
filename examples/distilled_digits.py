# %% [markdown]
# # Ten images that train a net
#
# Dataset distillation (Wang et al. 2018): ten images, one for each class, are learned so
# that a net which is trained on these alone, from new random weights, does well on
# handwritten digits that it never saw. The derivative of that outcome by every pixel goes
# through the whole training.
#
# Needs `higher` and scikit-learn, which ships the digits. Takes less than a minute on one
# core. Runs as a script, too: `python examples/distilled_digits.py PICTURE.svg`.

# %%
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import higher
from pictures import rows

OUTER_STEPS = 150
NETS = 4
STEPS = 30
FIRST_RATE = 0.3

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
images = (torch.tensor(digits.data, dtype=torch.float32) / 16)[order]
classes = torch.tensor(digits.target)[order]
training, test = slice(0, 1200), slice(1200, None)
labels = torch.arange(10)

# %% [markdown]
# The inner loop trains a new net on ten images; its learning rate is learned as well.


# %%
def trained(ten, rate, differentiable=True):
    """What some steps on ``ten`` [10, 64] make of a new net."""
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    opt = torch.optim.SGD(net.parameters(), lr=FIRST_RATE)
    with higher.innerloop_ctx(
        net, opt, override={"lr": [rate]}, track_higher_grads=differentiable
    ) as (fnet, diffopt):
        for _ in range(STEPS):
            diffopt.step(cross_entropy(fnet(ten), labels))
    return fnet


def accuracy(ten, rate):
    """On the test digits, on average over ten new nets."""
    hits = []
    for _ in range(10):
        guesses = trained(ten, rate, differentiable=False)(images[test]).argmax(dim=1)
        hits.append((guesses == classes[test]).float().mean())
    return torch.stack(hits).mean().item()


# %% [markdown]
# The outer loop begins at ten real digits, and descends on the mean loss of some nets
# that were trained, each from weights of its own. Its own steps get smaller to the end.

# %%
first = torch.stack([images[training][classes[training] == c][0] for c in labels])
ten = first.clone().requires_grad_()
log_rate = torch.tensor(FIRST_RATE).log().requires_grad_()
outer = torch.optim.Adam([{"params": [ten]}, {"params": [log_rate]}], lr=0.02)
smaller = torch.optim.lr_scheduler.CosineAnnealingLR(outer, OUTER_STEPS)
for outer_step in range(OUTER_STEPS):
    outer.zero_grad()
    losses = []
    for _ in range(NETS):
        fnet = trained(ten, log_rate.exp())
        losses.append(cross_entropy(fnet(images[training]), classes[training]))
        (losses[-1] / NETS).backward()
    outer.step()
    smaller.step()
    with torch.no_grad():
        ten.clamp_(0, 1)  # they stay images
    if outer_step % 50 == 0:
        loss = sum(losses).item() / NETS
        print(f"outer step {outer_step:3d}: loss of the trained nets {loss:.4f}")

# %% [markdown]
# Beside the ten digits that it began with, and beside the mean of each class. Each gets
# the better one of the first rate and the learned one.

# %%
means = torch.stack([images[training][classes[training] == c].mean(0) for c in labels])
ten, rate = ten.detach(), log_rate.exp().item()
shown = []
for name, some in (
    ("ten digits", first),
    ("the mean of each class", means),
    ("ten images, learned", ten),
):
    right = max(accuracy(some, r) for r in (FIRST_RATE, rate))
    shown.append((f"{name}: test accuracy {right:.1%}", some.reshape(-1, 8, 8)))
    print(shown[-1][0])

# %%
if len(sys.argv) > 1 and sys.argv[1].endswith(".svg"):
    rows(Path(sys.argv[1]), shown)
