"""What the README shows runs, and what a command writes into it is current."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("libcst")

from higher import _generated as generated
import higher
from codegen.commands import rules_text
from codegen.tools.sections import section
from higher import ops

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def without(document: str, *names: str) -> str:
    """The document without some of its sections."""
    for name in names:
        document = document.replace(section(document, name) or "", "")
    return document


def blocks(language: str) -> list[str]:
    """Code shown in that language, outside of the rules."""
    text = without(README, "rules")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HIGHER_CODEGEN_CACHE": os.environ["HIGHER_CODEGEN_CACHE"],
        },
        capture_output=True,
        text=True,
    )


# --- what is shown --------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs_as_shown(number: int, tmp_path: Path) -> None:
    script = tmp_path / "shown.py"
    script.write_text(blocks("python")[number])
    done = run("-W", "error", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    f"PINNED_TORCH := {torch.__version__.split('+')[0]}\n"
    not in (ROOT / "Makefile").read_text(),
    reason="line numbers are those of the torch that the Makefile pins",
)
@pytest.mark.parametrize("block", blocks("console"))
def test_commands_print_what_is_shown(block: str) -> None:
    command, _, shown = block.partition("\n")
    python, *arguments = shlex.split(command.removeprefix("$ "))
    assert python == "python"
    done = run(*arguments)
    assert shown.strip() in done.stdout + done.stderr


def test_every_file_named_exists() -> None:
    named = re.findall(r"`((?:examples|docs|tests|\w+)/[\w./]*\w|[A-Z]+\.md)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


# --- what commands write --------------------------------------------------------


def test_the_rules_are_those_of_the_compiler() -> None:
    renew = "python -m codegen --rules -o README.md"
    assert section(README, "rules") == rules_text().strip(), f"renew it: {renew}"


def test_the_table_has_a_row_for_each_optimizer() -> None:
    renew = "python -m codegen --verify -o README.md"
    table = (section(README, "verification") or "").splitlines()[2:]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    names = sorted(path.rpartition(".")[2] for path in generated.OPTIMIZERS)
    assert sorted(row[0] for row in rows) == names, f"renew it: {renew}"
    for row in rows:
        for cell in row[1], row[3]:
            right, _, run_ = cell.partition("/")
            assert right == run_, f"{row[0]} is wrong; renew it: {renew}"


# --- where a derivative is zero, undefined or a choice ----------------------------


def trained(
    optimizer: torch.optim.Optimizer, weight: torch.Tensor, **override: object
) -> torch.Tensor:
    """The loss after three steps of ``optimizer``, whose one parameter is ``weight``."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    wrapped = {name: [value] for name, value in override.items()}
    diffopt = higher.get_diff_optim(optimizer, [weight], override=wrapped or None)
    fast = [weight]
    for _ in range(3):
        fast = diffopt.step((x @ fast[0]).sub(1).square().mean(), params=fast)
    return (x @ fast[0]).sub(1).square().mean()


def weight() -> torch.Tensor:
    numbers = torch.tensor([[0.5, -0.4], [0.3, 0.2], [-0.1, 0.6]], dtype=torch.float64)
    return numbers.requires_grad_()


def setting(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "function",
    [ops.sqrt, ops.rsqrt, ops.norm, lambda x: ops.pow(x, 0.3)],
    ids=["sqrt", "rsqrt", "norm", "pow"],
)
def test_roots_and_norms_have_derivative_zero_at_zero(function: object) -> None:
    x = torch.zeros(3, requires_grad=True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)  # type: ignore[operator]
    assert slope.tolist() == [0, 0, 0]


def test_a_setting_that_is_off_has_the_derivative_of_its_branch() -> None:
    w, decay, step = weight(), setting(0.0), 1e-6
    loss = trained(torch.optim.SGD([w], lr=0.1), w, weight_decay=decay)
    plain = trained(torch.optim.SGD([w], lr=0.1), w)
    moved = trained(torch.optim.SGD([w], lr=0.1, weight_decay=step), w)
    (slope,) = torch.autograd.grad(loss, decay)
    assert loss == plain
    assert slope.item() == pytest.approx((moved - plain).item() / step, rel=1e-4)


def test_momentum_zero_with_dampening_is_its_limit() -> None:
    w = weight()
    opt = torch.optim.SGD([w], lr=0.1, dampening=0.5)
    plain, limit = trained(opt, w), trained(opt, w, momentum=1e-12)
    tracked = trained(opt, w, momentum=setting(0.0))
    assert abs(limit - plain) > 1e-3
    assert tracked.item() == pytest.approx(limit.item(), rel=1e-9)


def test_signs_of_rprop_have_no_derivative() -> None:
    """The weights' meta-gradient is that of adding a constant to them."""
    w, lr = weight(), setting(0.01)
    opt = torch.optim.Rprop([w])
    by_lr, by_weight = torch.autograd.grad(trained(opt, w, lr=lr), [lr, w])
    final = (w.detach() + _moved_by(opt, w)).requires_grad_()
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    (expected,) = torch.autograd.grad((x @ final).sub(1).square().mean(), final)
    assert by_lr != 0
    torch.testing.assert_close(by_weight, expected)


def _moved_by(opt: torch.optim.Optimizer, w: torch.Tensor) -> torch.Tensor:
    """What three steps add to the weight."""
    diffopt = higher.get_diff_optim(opt, [w])
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    fast = [w]
    for _ in range(3):
        fast = diffopt.step((x @ fast[0]).sub(1).square().mean(), params=fast)
    return (fast[0] - w).detach()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_s_rounding_passes_derivatives_on() -> None:
    w, lr, step = weight(), setting(0.02), 2e-3
    (slope,) = torch.autograd.grad(trained(torch.optim.Muon([w]), w, lr=lr), lr)
    below, above = (
        trained(torch.optim.Muon([w], lr=0.02 + d), w).item() for d in (-step, step)
    )
    assert slope.item() == pytest.approx((above - below) / (2 * step), rel=5e-2)


def test_maximum_shares_ties() -> None:
    a, b = setting(1.0), setting(1.0)
    slopes = torch.autograd.grad(torch.maximum(a, b), [a, b])
    assert [slope.item() for slope in slopes] == [0.5, 0.5]


def test_clamping_passes_derivatives_on_at_the_bound() -> None:
    x = setting(1.0)
    (slope,) = torch.autograd.grad(ops.clamp(x, max=1.0), [x])  # type: ignore[arg-type]
    (torchs,) = torch.autograd.grad(torch.clamp(x, max=1.0), [x])
    assert slope == torchs
    if int(torch.__version__.split(".")[1]) < 14:  # 2.15 gives zero there
        assert slope == 1


def test_max_of_numbers_takes_the_first_of_equals() -> None:
    a, b = setting(1.0), setting(1.0)
    slopes = torch.autograd.grad(ops.maximum(a, b), [a, b], allow_unused=True)  # type: ignore[arg-type]
    assert slopes == (torch.tensor(1.0, dtype=torch.float64), None)


def test_optimizer_hooks_do_not_run_inside() -> None:
    w, ran = weight(), []
    opt = torch.optim.SGD([w], lr=0.1)
    opt.register_step_post_hook(lambda *_: ran.append(1))
    trained(opt, w)
    assert not ran
