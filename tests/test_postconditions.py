"""What each pass of the compiler promises: a pass that breaks it is told by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import codegen
from codegen import pipeline
from codegen.context import Context
from codegen.lower import facts
from codegen.pipeline import PASSES, Pass
from codegen.postconditions import BrokenPostcondition
from codegen.layout import space
from codegen.syntax import Body, stmt
from codegen.tidy import tidy_calls
from codegen.upstream import Library, open_target

STEP = """
import torch
from torch.optim import Optimizer


class Odd(Optimizer):
    def __init__(self, params, lr=0.1, foreach=None, scale=2.0):
        super().__init__(params, dict(lr=lr, foreach=foreach))
        self.scale = scale

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            loss = closure()
        updated = 0.5
        grad = 1.0
        unused = 2.0
        for group in self.param_groups:
            lr = self.defaults['lr']
            if group["foreach"]:
                continue
            if lr == 0.125:
                raise ValueError(f"{self.scale} is too much")
            params, moments = [], []
            for p in group["params"]:

                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["moment"] = torch.zeros_like(p)
                    state["sides"] = [torch.zeros_like(p), torch.zeros_like(p)]
                params.append(p)
                moments.append(state["moment"])
                state["kept"] = lr
                state["kept"] = lr * 2.0
                sides = state["sides"]
                for side in sides:
                    side.add_(p.grad)
            for i, param in enumerate(params):
                moment = moments[i]
                moment.addcmul_(0.5, param.grad, param.grad.bfloat16())
                denom = moment.sqrt().add_(updated * grad)
                scale = denom.sum().item()
                param.data.addcdiv_(param.grad, denom, value=group["lr"])
                param.data.mul_(0.5)
                state["scale"] = scale
        return loss
"""
CLOSURE = STEP.replace("        updated", "        closure()\n        updated")
FOREIGN = STEP.replace(
    "        updated", "        torch.distributed.barrier()\n        updated"
)
PROGRAMS = {"refuse_closures": CLOSURE, "refuse_foreign": FOREIGN}
"""Passes that only refuse do so where there is something to refuse."""


def idle(body: Body, context: Context) -> Body:
    """A pass that does nothing."""
    return body


def still_dead(body: Body, context: Context) -> Body:
    """A pass that leaves what nobody reads."""
    return (*tidy_calls(body, context), stmt("unread = len(())"))


FAULTS = {"tidy_calls": still_dead}
"""Of passes that may find nothing to do."""


def run(source: str, folder: Path) -> None:
    (folder / "odd.py").write_text(source)
    context = Context(assumes_casts_copy=True, float_settings=frozenset({"lr"}))
    target = f"{folder / 'odd.py'}:Odd"
    pipeline.run(open_target(target, Library(context.origins)), context)


def with_fault(number: int, fault: Callable[[Body, Context], Body]) -> list[Pass]:
    def faulty(body: Body, context: Context) -> Body:
        return fault(body, context)

    faulty.__name__ = PASSES[number].name
    passes = list(PASSES)
    passes[number] = dataclasses.replace(PASSES[number], transform=faulty)
    return passes


def test_all_of_them_hold(tmp_path: Path) -> None:
    run(STEP, tmp_path)


@pytest.mark.parametrize("name", dict.fromkeys(p.name for p in PASSES if p.after))
def test_a_pass_that_does_nothing_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = [p.name for p in PASSES].index(name)
    promise = PASSES[number].after
    assert promise is not None
    if name == "specialize":
        # it would leave no body at all
        monkeypatch.setattr(facts, "FALSE_SETTINGS", frozenset())
    else:
        faulty = with_fault(number, FAULTS.get(name, idle))
        monkeypatch.setattr(pipeline, "PASSES", faulty)
    with pytest.raises(BrokenPostcondition) as told:
        run(PROGRAMS.get(name, STEP), tmp_path)
    assert str(told.value).startswith(f"after {name}: {promise.__name__}: ")


def test_nobody_asks_without_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(pipeline.CHECKED)
    number = [p.name for p in PASSES].index("alternate_quotes")
    monkeypatch.setattr(pipeline, "PASSES", with_fault(number, idle))
    run(STEP, tmp_path)


def test_a_broken_promise_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a fault of the compiler's, and no test may take it for a refusal."""
    (tmp_path / "odd.py").write_text(STEP.replace(".bfloat16()", ""))
    number = [p.name for p in PASSES].index("alternate_quotes")
    monkeypatch.setattr(pipeline, "PASSES", with_fault(number, idle))
    with pytest.raises(BrokenPostcondition):
        codegen.translate(f"{tmp_path / 'odd.py'}:Odd")


def test_every_pass_says_why_it_stands_there() -> None:
    for each in PASSES:
        assert each.why and not each.why.endswith("."), each.name
        assert each.after is None or each.after.__doc__, each.name
