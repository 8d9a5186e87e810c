"""Ways in which people write optimizers: each is translated, and then follows the
original, with the derivative of its learning rate."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import codegen
import pytest
import torch
from followed import compiled, follows, grouped, loss_of, start

DATA = Path(__file__).parent / "idioms"
HEAD = "\n" + (DATA / "optimizer.txt").read_text()

# What stands around the code of an entry, by the word before its title.
LOOP = """
for group in self.param_groups:
    lr, beta, nu = group["lr"], group["beta"], group["nu"]
    for p in group["params"]:
        if p.grad is None:
            continue
        grad = p.grad
        state = self.state[p]
        {body}
"""

HEADED = """
for group in self.param_groups:
    lr, beta = group["lr"], group["beta"]
    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]
    for p in params:
        if "m" not in self.state[p]:
            self.state[p]["m"] = torch.zeros_like(p)
    ms = [self.state[p]["m"] for p in params]
"""

pytestmark = pytest.mark.filterwarnings("ignore:This overload of")


def source_of(step: str) -> str:
    return HEAD + textwrap.indent(step.strip("\n"), " " * 8) + "\n"


def bodied(body: str) -> str:
    return LOOP.format(body=textwrap.indent(body.strip("\n"), " " * 8).lstrip())


SHAPES: dict[str, Callable[[str], str]] = {
    "step": lambda code: code,
    "lists": lambda code: HEADED + textwrap.indent(code, " " * 4),
    "body": bodied,
}


def entries(file: str) -> Iterator[tuple[str, str, str]]:
    """Title, step and what follows ``--`` of each entry of a file."""
    for entry in (DATA / file).read_text().split("\n== ")[1:]:
        head, _, rest = entry.partition("\n")
        shape, _, title = head.partition(": ")
        code, _, message = rest.partition("\n-- ")
        yield title, SHAPES[shape](code.strip("\n")), message.strip()


ALL = {title: step for title, step, _ in entries("followed.txt")}
REFUSED = {title: (step, message) for title, step, message in entries("refused.txt")}


def test_each_title_of_the_files_is_there_once_and_refusals_have_a_message() -> None:
    for file, found in (("followed.txt", ALL), ("refused.txt", REFUSED)):
        assert len([*entries(file)]) == len(found) > 20
    assert all(message for _, message in REFUSED.values())


@pytest.mark.parametrize("title", ALL)
def test_follows_the_original(title: str, tmp_path: Path) -> None:
    kind, made = compiled(source_of(ALL[title]), tmp_path)
    # float32 in the state rounds differently with a tensor for a setting
    follows(kind, made, own_dtype="float32" in title or "by number" in title)


def test_each_group_its_own_of_the_constructors_settings(tmp_path: Path) -> None:
    kind, made = compiled(source_of(ALL["the constructor's defaults"]), tmp_path)
    params = start()
    scales = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (1, 2)]
    stepper = made(kind(grouped(params, scale=9.0)), params)
    assert [g["scale"] for g in stepper.param_groups] == [0.5, 0.5]
    new = stepper.step(
        loss_of(params, 0), params=params, override={"scale": [scales[0], scales[1]]}
    )
    outer = torch.stack([p.sum() for p in new]).sum()
    assert all(float(g) for g in torch.autograd.grad(outer, scales))


def test_what_where_does_not_pick_gives_no_nan(tmp_path: Path) -> None:
    step = bodied("""
norm = grad.norm()
ratio = torch.where(norm > 0, p.norm() / norm, torch.ones_like(norm))
p.add_(grad * ratio, alpha=-lr)
""")
    kind, made = compiled(source_of(step), tmp_path)
    params = start()
    loss = (params[0] * 0.0).sum() + (params[1] ** 2).sum()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    stepper = made(kind(params), params, override={"lr": [lr]})
    new = stepper.step(loss, params=params)
    outer = torch.stack([p.sum() for p in new]).sum()
    with torch.autograd.set_detect_anomaly(True):
        gradients = torch.autograd.grad(outer, [lr, *params], create_graph=True)
    assert all(g.isfinite().all() for g in gradients)


def test_what_is_no_number_at_first_gives_no_nan(tmp_path: Path) -> None:
    step = bodied("""
share = grad.div(grad.abs() + p.abs() * 0)
torch.nan_to_num(share, nan=0.0, out=share)
p.add_(share * grad.pow(self.warm * nu), alpha=-lr)
""")
    kind, made = compiled(
        source_of(step.replace("grad.pow", "grad.abs().pow")), tmp_path
    )
    params = start()
    loss = (params[0] * 0.0).sum() + (params[1] ** 2).sum()
    nu = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    stepper = made(kind(params), params, override={"nu": [nu]})
    new = stepper.step(loss, params=params)
    outer = torch.stack([p.sum() for p in new]).sum()
    with torch.autograd.set_detect_anomaly(True):
        gradients = torch.autograd.grad(outer, [nu, *params], create_graph=True)
    assert all(g.isfinite().all() for g in gradients)


def test_a_decorator_that_steps_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    step = bodied("p.add_(grad, alpha=-lr)")
    path.write_text(
        source_of(step).replace("    @torch.no_grad", "    @twice\n    @torch.no_grad")
    )
    with pytest.raises(codegen.CodegenError, match="twice may change") as error:
        codegen.translate(f"{path}:Mine")
    assert error.value.diagnostics[0].origin is not None


@pytest.mark.parametrize("title", REFUSED)
def test_a_step_that_is_refused_is_with_a_position_and_a_hint(
    title: str, tmp_path: Path
) -> None:
    step, message = REFUSED[title]
    path = tmp_path / "mine.py"
    path.write_text(source_of(step))
    with pytest.raises(codegen.CodegenError, match=message) as error:
        codegen.translate(f"{path}:Mine")
    first = error.value.diagnostics[0]
    assert first.origin is not None and first.hint
