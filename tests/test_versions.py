"""Groups and states as other versions of torch leave them, and other implementations.

Each is held against the original of the installed torch, which went on from the same
state in the form that it has today.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import higher
from compiled import PATHS, compiled, seeded
from codegen.verify.surroundings import undisturbed

DENSE = [path for path in PATHS if not path.endswith("SparseAdam")]
"""SparseAdam counts steps and nothing else; its gradients are no plain tensors."""

IMPLEMENTATIONS = frozenset({"foreach", "fused", "capturable", "differentiable"})


@pytest.fixture(autouse=True)
def _undisturbed() -> Iterator[None]:
    with undisturbed():
        yield


def optimizer(path: str, **settings: Any) -> Any:
    """The original on two matrices, at settings that use every branch that it has."""
    params = [seeded(3, 2).requires_grad_(), seeded(2, 4, seed=1).requires_grad_()]
    original: Any = compiled(path).original
    made = original(params)
    on = {"weight_decay": 0.1, "momentum": 0.9, "maximize": True, "nesterov": False}
    for group in made.param_groups:
        group.update({k: v for k, v in on.items() if k in group}, **settings)
    return made


def weights(opt: Any) -> list[Tensor]:
    return [p for group in opt.param_groups for p in group["params"]]


def loss(values: list[Tensor], number: int) -> Tensor:
    return sum(((v + 0.1 * number).sin() ** 2).sum() for v in values)  # type: ignore


def train(opt: Any, start: int, steps: int) -> list[Tensor]:
    for number in range(start, start + steps):
        opt.zero_grad()
        loss(weights(opt), number).backward()
        opt.step()
    return [p.detach().clone() for p in weights(opt)]


def unroll(opt: Any, start: int, steps: int) -> list[Tensor]:
    values = [p.detach().clone().requires_grad_() for p in weights(opt)]
    diffopt = higher.get_diff_optim(opt, weights(opt))
    for number in range(start, start + steps):
        values = diffopt.step(loss(values, number), params=values)
    (gradient,) = torch.autograd.grad(loss(values, 0), values[:1], retain_graph=True)
    assert gradient.isfinite().all()
    return values


def assert_followed(changed: Any, opt: Any) -> None:
    """``changed`` is ``opt`` in another form: the same steps follow."""
    found = unroll(changed, 3, 3)
    for value, expected in zip(found, train(opt, 3, 3), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", DENSE)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_groups_without_the_settings_of_later_versions(path: str, used: bool) -> None:
    """Each gets the value that its optimizer gives it: AdamW's decay is decoupled."""
    opt = optimizer(path)
    defaults = later_settings(path)
    for group in opt.param_groups:
        group.update(defaults)
    if used:
        train(opt, 0, 3)
    older = copy.deepcopy(opt)
    for group in older.param_groups:
        for name in {*defaults, *IMPLEMENTATIONS}:
            group.pop(name, None)
    fresh: Any = compiled(path).original
    given = fresh([seeded(2, 2).requires_grad_()]).defaults
    for name, value in defaults.items():
        assert given.get(name, value) == value, f"{name} is {value} where it is absent"
    assert_followed(older, opt)


def later_settings(path: str) -> dict[str, Any]:
    """Settings that some version lacks, with the value that they had before."""
    return dict(compiled(path).differentiable._group_defaults)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "int": lambda step: int(step.item()),
    "float": lambda step: float(step.item()),
    "float32": lambda step: step.float(),
    "float64": lambda step: step.double(),
    "int64": lambda step: step.long(),
    "one element": lambda step: step.reshape(1),
}


@pytest.mark.parametrize("path", DENSE)
@pytest.mark.parametrize("form", FORMS)
def test_steps_of_another_form(path: str, form: str) -> None:
    """torch counted in ints before 1.12; states are made by hand, too."""
    opt = optimizer(path)
    train(opt, 0, 3)
    older = copy.deepcopy(opt)
    counted = False
    for state in older.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = FORMS[form](state["step"])
            counted = True
    if not counted:
        pytest.skip("counts no steps")
    assert_followed(older, opt)


def implementations(path: str) -> Iterator[str]:
    """Settings that choose how the original computes, of those it takes on a CPU."""
    for name in ("foreach", "fused", "differentiable"):
        try:
            opt = compiled(path).original(
                [seeded(2, 2).requires_grad_()], **{name: True}
            )
            if name != "differentiable":
                train(opt, 0, 1)
        except (RuntimeError, TypeError, ValueError):
            continue
        yield name


@pytest.mark.parametrize("path", DENSE)
def test_states_that_another_implementation_made(path: str) -> None:
    """``foreach`` and ``fused`` leave states behind that the single loop goes on from."""
    for name in implementations(path):
        opt = optimizer(path, **{name: True})
        if name != "differentiable":
            train(opt, 0, 3)
        single = copy.deepcopy(opt)
        for group in single.param_groups:
            group[name] = False
        assert_followed(opt, single)


@pytest.mark.parametrize("path", DENSE)
def test_state_dicts_of_older_versions(path: str) -> None:
    """Steps as ints, no settings that came later: what ``load_state_dict`` makes of it."""
    opt = optimizer(path, **later_settings(path))
    train(opt, 0, 3)
    saved = copy.deepcopy(opt.state_dict())
    for state in saved["state"].values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = int(state["step"].item())
    for group in saved["param_groups"]:
        for name in {*later_settings(path), *IMPLEMENTATIONS}:
            group.pop(name, None)
    older = compiled(path).original(
        [p.detach().clone().requires_grad_() for p in weights(opt)]
    )
    older.load_state_dict(saved)
    assert_followed(older, opt)


def test_a_momentum_that_is_turned_on_later() -> None:
    """SGD keeps None, or nothing, where there was no momentum."""
    for left in ({"momentum_buffer": None}, {}):
        opt = optimizer("torch.optim.SGD", momentum=0.0)
        train(opt, 0, 3)
        for group in opt.param_groups:
            group["momentum"] = 0.9
        older = copy.deepcopy(opt)
        for state in older.state.values():
            state.clear()
            state.update(left)
        assert_followed(older, opt)


def test_words_that_a_later_version_knows_are_refused() -> None:
    """Else the branch that is left over would run, and no one would notice."""
    if "torch.optim.Muon" not in PATHS:
        pytest.skip("this torch has no Muon")
    opt = optimizer("torch.optim.Muon", adjust_lr_fn="of_a_later_torch")
    with pytest.raises(ValueError, match="'of_a_later_torch', only 'original'"):
        unroll(opt, 0, 1)
    opt = optimizer("torch.optim.Muon", adjust_lr_fn="match_rms_adamw")
    assert_followed(copy.deepcopy(opt), opt)
    values = weights(opt)
    diffopt = higher.get_diff_optim(opt, values)
    with pytest.raises(ValueError, match="Compile it anew"):
        diffopt.step(loss(values, 0), values, override={"adjust_lr_fn": ["x"]})
