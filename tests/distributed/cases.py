"""All cases, and the table of the docs that they make.

python tests/distributed/cases.py
"""

from __future__ import annotations

import checkpoint_cases  # noqa: F401
import ddp_cases  # noqa: F401
import docs_cases  # noqa: F401
import dtensor_cases  # noqa: F401
import fsdp_cases  # noqa: F401
import trainer_cases  # noqa: F401
import wrappers
from ranks import CASES, main

__all__ = ["CASES", "main", "table"]


def table() -> str:
    """Outcomes by feature and wrapper, as Markdown."""
    cells = {cell[:2]: cell[2] for one in CASES.values() for cell in one.cells}
    features = list(wrappers.FEATURES)
    features += dict.fromkeys(f for _, f in cells if f not in features)
    columns = list(dict.fromkeys([*wrappers.WRAPPERS, *(w for w, _ in cells)]))
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[f, *(cells.get((w, f), "–") for w in columns)] for f in features]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(table())
