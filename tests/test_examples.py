"""The examples do what their text says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> ModuleType:
    """An example as a module, without running its main part."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_learn_lr(
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
