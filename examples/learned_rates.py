# %% [markdown]
# # Learning rates over training
#
# Which learning rate should each step of a training have? Here that is asked of the
# derivative: a small net is trained for forty steps of momentum SGD on handwritten
# digits, with a learning rate *for each step and each layer*, and the loss on other
# digits at the end is differentiated by all eighty of them.
#
# Needs `higher` and scikit-learn, which ships the digits. Takes less than a minute on one
# core. Runs as a script, too: `python examples/learned_rates.py PICTURE.svg`.

# %%
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import higher
from pictures import Panel, chart

OUTER_STEPS = 60
STEPS = 40
BATCH = 32
FIRST_RATE = 0.05

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
images = (torch.tensor(digits.data, dtype=torch.float32) / 16)[order]
classes = torch.tensor(digits.target)[order]
training, held_out, test = slice(0, 900), slice(900, 1350), slice(1350, None)

# %% [markdown]
# The inner loop. `unroll` takes settings that are a function of the step's number; each
# layer is a parameter group, with a rate of its own. Nets begin at new random weights
# every time, so that the rates can't be made for one beginning.


# %%
def new_net():
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def loss_fn(net, batch):
    x, y = batch
    return cross_entropy(net(x), y)


def trained(rates, differentiable=True):
    """What forty steps make of a new net, by rates [layer, step]."""
    net = new_net()
    layers = [{"params": layer.parameters()} for layer in (net[0], net[2])]
    opt = torch.optim.SGD(layers, lr=FIRST_RATE, momentum=0.9)
    drawn = torch.randint(900, (STEPS, BATCH))
    batches = [(images[training][i], classes[training][i]) for i in drawn]
    with higher.innerloop_ctx(net, opt, track_higher_grads=differentiable) as (
        fnet,
        diffopt,
    ):
        settings = lambda step: {"lr": [rates[0, step], rates[1, step]]}
        higher.unroll(fnet, diffopt, loss_fn, batches, override=settings)
    return fnet


# %% [markdown]
# The outer loop: Adam on the logarithms, by the loss on the digits held out.

# %%
log_rates = torch.full((2, STEPS), FIRST_RATE).log().requires_grad_()
outer = torch.optim.Adam([log_rates], lr=0.1)
losses, history = [], [log_rates.exp().detach()]
for outer_step in range(OUTER_STEPS):
    outer.zero_grad()
    fnet = trained(log_rates.exp())
    loss = loss_fn(fnet, (images[held_out], classes[held_out]))
    loss.backward()
    outer.step()
    losses.append(loss.item())
    history.append(log_rates.exp().detach())
    if outer_step % 10 == 0:
        print(f"outer step {outer_step:3d}: loss on held-out digits {losses[-1]:.4f}")

# %% [markdown]
# What was learned, and what it is good for: on digits that neither loop has seen.


# %%
def accuracy(rates):
    """On the test digits, on average over ten new nets."""
    hits = []
    for _ in range(10):
        guesses = trained(rates, differentiable=False)(images[test]).argmax(dim=1)
        hits.append((guesses == classes[test]).float().mean())
    return torch.stack(hits).mean().item()


before, after = accuracy(history[0]), accuracy(history[-1])
print(f"test accuracy after {STEPS} steps: {before:.1%} with a rate of {FIRST_RATE}")
print(f"test accuracy after {STEPS} steps: {after:.1%} with the learned rates")

# %%
if len(sys.argv) > 1 and sys.argv[1].endswith(".svg"):
    panels = [
        Panel("loss on held-out digits", "outer step", [("", losses)]),
        Panel(
            "learned rate of each step",
            "inner step",
            [
                ("first layer", history[-1][0].tolist()),
                ("last layer", history[-1][1].tolist()),
                ("at first", history[0][0].tolist()),
            ],
        ),
    ]
    chart(Path(sys.argv[1]), panels)
