"""The same bytes, whatever hashes of strings and the order of targets are.

That they are the same on every Python, the matrix of Pythons shows: each compares with
the committed files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import codegen
for target in sys.argv[1:]:
    print(target, codegen.translate(target).text)
"""
TARGETS = ["torch.optim.Adagrad", "torch.optim.AdamW", "torch.optim.SGD"]


def translated(seed: str, targets: list[str]) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *targets],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_neither_hash_seed_nor_order_shows() -> None:
    first = translated("1", TARGETS)
    other = translated("2", TARGETS[::-1])
    texts = [text for text in first.split("torch.optim.") if text]
    assert len(texts) > len(TARGETS)
    assert sorted(first.splitlines()) == sorted(other.splitlines())
    for target in TARGETS:
        part = first.partition(f"{target} # Generated")[2].partition("\ntorch.opt")[0]
        assert part and part in other
