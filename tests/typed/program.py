"""A user's program, for type checkers: they find wrong what is marked, nothing else."""

import higher
import torch
from higher.optim import DifferentiableNAdam
from higher.patch import StatelessModule
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out

    def penalty(self) -> Tensor:
        return self.layer.weight.square().sum()


def loss_fn(fmodel: Net, batch: Batch) -> Tensor:
    x, y = batch
    return nn.functional.mse_loss(fmodel(x), y) + fmodel.penalty()


net = Net()
opt = torch.optim.Adam(net.parameters())
lr = torch.tensor(1e-2, requires_grad=True)
batches = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(3)]

with higher.innerloop_ctx(net, opt, override={"lr": [lr]}, order=1) as (
    fmodel,
    diffopt,
):
    losses: list[Tensor] = higher.unroll(
        fmodel, diffopt, loss_fn, batches, memory="low"
    )
    higher.unroll(fmodel, diffopt, lambda m, b: m.penalty(), batches, memory=2)
    diffopt.step(loss_fn(fmodel, batches[0]))
    same: Net = fmodel
    assert isinstance(fmodel, StatelessModule)
    first: list[Tensor] = list(fmodel.parameters(time=0))
    fmodel.update_params(first)
    also: Tensor = fmodel.penalty()

fnet: Net = higher.monkeypatch(net)
adam = higher.optim.DifferentiableAdam(opt, net.parameters(), fmodel=fnet)
nadam: DifferentiableNAdam
weights: list[Tensor] = adam.step(fnet.penalty())
kind: type[higher.optim.DifferentiableOptimizer] = higher.optim.DifferentiableSGD

higher.optim.DifferentiableAdm  # wrong
higher.unrol  # wrong
higher.unroll(fmodel, diffopt, loss_fn, batches, memory="lo")  # wrong
higher.unroll(fmodel, diffopt, loss_fn, batches, mode="backward")  # wrong
higher.unroll(fmodel, diffopt, loss_fn, [1, 2])  # wrong
higher.innerloop_ctx(net, opt, order=3)  # wrong
higher.innerloop_ctx(opt, net)  # wrong
fnet.penaltyy()  # wrong
adam.stepp()  # wrong
