"""Inner loops on several ranks: see ``ranks.py``; one test for each case there.

All cases run at once, when the first test asks: of starting processes most is imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

if not torch.distributed.is_available() or not hasattr(os, "fork"):
    pytest.skip("needs processes that gloo joins", allow_module_level=True)

if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
    pytest.skip(
        "written for torch 2.13: older ones redistribute DTensors without a second "
        "derivative, and can't reset what fully_shard holds",
        allow_module_level=True,
    )

from cases import CASES, table
from docs_cases import DOCS
from filelock import FileLock
from ranks import outcome

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each case, however many workers of xdist ask."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    results = folder / "ranks.jsonl"
    with FileLock(folder / "ranks.lock"):
        if not results.exists():
            _run(results)
    return outcome(results)


def _run(results: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", HERE / "ranks.py", results],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=700,
    )
    assert results.exists(), done.stderr
    results.with_suffix(".log").write_text(done.stdout + done.stderr)


@pytest.mark.parametrize("name", CASES)
def test_a_case_holds_on_all_its_ranks(name: str, outcomes: dict[str, str]) -> None:
    assert name in outcomes, "not all ranks have come to it"
    assert not outcomes[name], outcomes[name]


def test_the_table_of_the_docs_is_that_of_the_cases() -> None:
    shown = DOCS.read_text(encoding="utf-8")
    assert f"\n{table()}\n" in shown, "put in what tests/distributed/cases.py prints"
