"""What ``docs/distributed.md`` shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ranks import case

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "distributed.md"


@case()
def the_docs_run_as_shown() -> None:
    text = DOCS.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    names: dict[str, Any] = {"__name__": "shown"}
    for block in blocks:
        exec(block, names)
