"""Every compiled optimizer goes where its original goes."""

from __future__ import annotations

from collections.abc import Mapping

import higher
import pytest
import torch
from codegen.verify import trajectory
from codegen.verify.report import Tally
from codegen.verify.settings import DISPATCH
from codegen.verify.configuration import Configuration
from codegen.verify.subject import Subject
from codegen.verify.surroundings import undisturbed
from compiled import PATHS, build, compiled, seeded
from torch import Tensor, nn

#: Not bit-identical with plain settings, and why; all others are, in float32 and
#: float64. The tolerances of `trajectory` hold for these, too.
ANOTHER_ORDER: Mapping[str, str] = {
    "torch.optim.Adafactor": "its clipping factor depends on the gradient: it is a "
    "tensor in the graph, by which upstream's Python number becomes an operand",
}


def means_another_thing(path: str, conf: Configuration) -> bool:
    """Whether the installed torch's original is known to differ from the one compiled.

    Up to torch 2.14, Muon in bfloat16 normalised the very momentum buffer it kept
    (`.bfloat16()` of a bfloat16 tensor is that tensor); 2.15 makes a copy.
    """
    if path != "torch.optim.Muon" or int(torch.__version__.split(".")[1]) < 15:
        return False
    plain = conf.settings.get("nesterov", True) is False
    return plain and conf.dtype is torch.bfloat16


@pytest.mark.parametrize("path", PATHS)
def test_every_configuration_is_followed(path: str) -> None:
    found, tally, exact = compiled(path), Tally(), 0
    with undisturbed():
        for conf in trajectory.configurations(found, thorough=True):
            if means_another_thing(path, conf):
                continue
            before = tally.run - tally.identical
            trajectory.check(found, conf, tally)
            plain = conf.dtype in (torch.float32, torch.float64)
            exact += plain and tally.run - tally.identical > before
    assert not tally.failures, "\n".join(map(str, tally.failures[:10]))
    assert tally.run > 60
    if path not in ANOTHER_ORDER:
        assert exact == 0, f"{exact} float32 or float64 trajectories differ in bits"


@pytest.mark.parametrize("path", PATHS)
def test_the_grid_moves_every_setting(path: str) -> None:
    found = compiled(path)
    told: dict[str, set[str]] = {}
    for conf in trajectory.configurations(found, thorough=True):
        for name, value in {**conf.settings, **conf.user}.items():
            told.setdefault(name, set()).add(str(value))
    assert set(told) == {s.name for s in found.settings}
    for setting in found.settings:
        if setting.kind == "bool":
            assert told[setting.name] == {str(not setting.default)}
        if setting.name in DISPATCH:
            assert told[setting.name] == {"True"}


def _dense(path: str) -> Subject:
    found = compiled(path)
    if found.layout.sparse:
        pytest.skip("takes sparse gradients only; see test_sparse.py")
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_tensors_as_long_as_vector_units(path: str, dtype: torch.dtype) -> None:
    """Kernels treat long rows and remainders apart; the grid's tensors are tiny."""
    found = _dense(path)
    start = seeded(37, 29).to(dtype)
    grads = [seeded(37, 29, seed=t).to(dtype) for t in range(1, 7)]
    theirs = start.clone().requires_grad_()
    original = build(path, [theirs])
    twin = build(path, [ours := start.clone().requires_grad_()])
    diffopt = found.differentiable(twin, [ours])
    fast = [start.clone().requires_grad_()]
    for grad in grads:
        theirs.grad = grad.clone()
        original.step()
        fast = diffopt.step((fast[0] * grad).sum(), params=fast)
        if path in ANOTHER_ORDER:
            limit = trajectory.TOLERANCES[dtype]
            torch.testing.assert_close(fast[0], theirs, rtol=limit, atol=limit)
        else:
            assert torch.equal(fast[0], theirs)


@pytest.mark.parametrize("path", PATHS)
def test_channels_last_stays_channels_last(path: str) -> None:
    found = _dense(path)
    if found.layout.name.startswith("matrices"):
        pytest.skip("takes no convolution kernels")
    last = torch.channels_last
    start = seeded(4, 3, 2, 2).to(memory_format=last)
    theirs = start.clone(memory_format=torch.preserve_format).requires_grad_()
    original = build(path, [theirs])
    ours = theirs.detach().clone().requires_grad_()
    diffopt = found.differentiable(build(path, [ours]), [ours])
    fast = [ours.detach().clone().requires_grad_()]
    for t in range(1, 4):
        grad = seeded(4, 3, 2, 2, seed=t).to(memory_format=last)
        theirs.grad = grad.clone(memory_format=torch.preserve_format)
        original.step()
        fast = diffopt.step((fast[0] * grad).sum(), params=fast)
    torch.testing.assert_close(fast[0], theirs, rtol=1e-12, atol=1e-12)
    assert fast[0].is_contiguous(memory_format=last)


@pytest.mark.parametrize("path", PATHS)
def test_training_a_module_through_innerloop_ctx(path: str) -> None:
    """A used optimizer with two groups and a schedule, through the public interface."""
    found = _dense(path)
    matrices = found.layout.name == "matrices"
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double())
    groups = [
        [
            {"params": [p for p in layer.parameters() if p.dim() == 2 or not matrices]}
            for layer in (net[0], net[2])
        ]
        for net in nets
    ]
    opts = [build(path, g) for g in groups]
    inputs = [seeded(4, 3, seed=t) for t in range(6)]

    def loss(net: nn.Module, t: int) -> Tensor:
        output: Tensor = net(inputs[t])
        return (output - inputs[t][:, :2]).square().mean()

    for net, opt in zip(nets, opts):
        schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        for t in range(3):
            opt.zero_grad()
            loss(net, t).backward()  # type: ignore[no-untyped-call]
            opt.step()
            schedule.step()
    before = [p.detach().clone() for p in nets[1].parameters()]
    with higher.innerloop_ctx(nets[1], opts[1]) as (fmodel, diffopt):
        for t in range(3, 6):
            opts[0].zero_grad()
            loss(nets[0], t).backward()  # type: ignore[no-untyped-call]
            opts[0].step()
            diffopt.step(loss(fmodel, t))
        for theirs, ours in zip(nets[0].parameters(), fmodel.parameters()):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for kept, now in zip(before, nets[1].parameters()):
        assert torch.equal(kept, now)


@pytest.mark.parametrize("path", PATHS)
def test_state_dict_of_the_original_carries_over(path: str) -> None:
    """Branching off and loading the original's state dict are the same."""
    found = compiled(path)
    conf = Configuration(found.layout, warm=True, steps=3)
    problem = found.problem(conf)
    params, opt = found.used(conf, problem)
    branched, _ = found.unroll(opt, params, problem.loss, 3)
    cold = found.build(params, conf.layout, {})
    diffopt = found.differentiable(cold, params)
    diffopt.load_state_dict(opt.state_dict())
    fast = [p.detach().clone().requires_grad_() for p in params]
    for step in range(3):
        fast = diffopt.step(problem.loss(fast, step), params=fast)
    for a, b in zip(branched[-1], fast):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
