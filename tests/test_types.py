"""What type checkers tell a user's program: what is wrong in it, and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(__file__).parent / "typed" / "program.py"


pytestmark = pytest.mark.skipif(
    f"PINNED_TORCH := {torch.__version__.split('+')[0]}\n"
    not in (ROOT / "Makefile").read_text(),
    reason="types are those of the torch that the Makefile pins",
)


def marked() -> list[int]:
    """Numbers of the lines that are wrong."""
    lines = enumerate(PROGRAM.read_text().splitlines(), start=1)
    return [number for number, line in lines if line.endswith("  # wrong")]


def test_mypy_finds_what_is_wrong() -> None:
    # strictly, as the sources are checked: what is known of torch is kept from then
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(PROGRAM)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"program\.py:(\d+): error", done.stdout)
    assert [int(line) for line in found] == marked(), done.stdout + done.stderr


def test_pyright_finds_what_is_wrong(tmp_path: Path) -> None:
    """Where it can run: it is fetched from the npm registry when it is first used."""
    shutil.copy(PROGRAM, tmp_path)
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyright",
            "--outputjson",
            f"--pythonpath={sys.executable}",
        ],
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    try:
        report = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        pytest.skip(f"pyright can't run: {(done.stderr or done.stdout).strip()[-200:]}")
    found = {
        d["range"]["start"]["line"] + 1 for d in report if d["severity"] == "error"
    }
    assert sorted(found) == marked(), report
