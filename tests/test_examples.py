"""The examples do what their text says."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from types import ModuleType

import pytest
import torch.distributed

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> ModuleType:
    """An example as a module, without running its main part."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_maml_under_torchrun_has_the_meta_gradient_of_one_process() -> None:
    """Its meta-gradient is that of one process."""
    if not torch.distributed.is_available():
        pytest.skip("needs processes that gloo joins")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr=127.0.0.1", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(EXAMPLES / "maml_ddp.py"), "--steps=2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    compared, *steps, learned = done.stdout.splitlines()
    assert compared.startswith("meta-gradient of 2 processes")
    assert float(compared.rpartition(" ")[2]) < 1e-10
    assert [line.split()[:2] for line in steps] == [["step", "0"], ["step", "1"]]
    assert learned.startswith("learned inner learning rate")


def test_learn_lr_lowers_its_loss_and_its_derivatives_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The meta-loss falls at each step, and the two derivatives agree."""
    pytest.importorskip("sklearn")
    learn_lr = load("learn_lr")
    monkeypatch.setattr(learn_lr, "OUTER_STEPS", 3)
    learn_lr.main()

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = [[float(cell) for cell in row] for row in rows if row[0].isdigit()]
    losses = [row[2] for row in table]
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)
    assert all(row[-1] < 1e-6 for row in table), "relative errors of the hypergradient"


@pytest.mark.parametrize(
    "name, outer_steps, gain, drawn",
    [
        ("learned_rates", 12, 2.0, ("polyline", 4)),
        ("distilled_digits", 25, 5.0, ("image", 30)),
    ],
)
def test_a_notebook_learns_what_it_says_and_draws_it(
    name: str,
    outer_steps: int,
    gain: float,
    drawn: tuple[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In fewer outer steps: the accuracy of the last line is above the first's."""
    pytest.importorskip("sklearn")
    picture = tmp_path / "picture.svg"
    monkeypatch.setattr(sys, "argv", [name, str(picture)])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    text, count = re.subn(
        r"(?m)^OUTER_STEPS = \d+$", f"OUTER_STEPS = {outer_steps}", text
    )
    assert count == 1
    exec(compile(text, name, "exec"), {"__name__": "__main__"})

    right = [
        float(n) for n in re.findall(r"accuracy.* ([\d.]+)%", capsys.readouterr().out)
    ]
    assert len(right) >= 2 and right[-1] > right[0] + gain
    shapes = [
        e.tag.rpartition("}")[2] for e in xml.etree.ElementTree.parse(picture).iter()
    ]
    tag, times = drawn
    assert shapes.count(tag) == times


def test_every_cell_of_a_notebook_is_marked() -> None:
    """Text is comments, code isn't: what editors and jupytext make cells of."""
    notebooks = [p for p in EXAMPLES.glob("*.py") if "# %%" in p.read_text()]
    assert len(notebooks) == 2
    for path in notebooks:
        cells = re.split(r"(?m)^(?=# %%)", path.read_text(encoding="utf-8"))
        assert cells[0] == ""
        for cell in cells[1:]:
            head, _, body = cell.partition("\n")
            lines = [line for line in body.splitlines() if line]
            if head == "# %% [markdown]":
                assert all(line.startswith("#") for line in lines)
            else:
                assert head == "# %%" and lines
