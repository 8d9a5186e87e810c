"""Notices the classic library, which is imported by the same name.

Where it was installed over this one, its ``__init__`` runs with this package's
``optim``; where this one was installed over it, its ``optim.py`` is left beside.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_MEND = "pip uninstall -y higher higher-codegen && pip install higher-codegen"


def check() -> None:
    """Nothing, where the files of this package are its own.

    Raises:
        ImportError: some are the classic library's; the message has the mend.
    """
    if not hasattr(sys.modules["higher"], "_COMPILED"):
        raise ImportError(
            "The classic library `higher` was installed over higher-codegen, or "
            f"uninstalled from under it: its files are mixed. Mend it with: {_MEND}",
            name="higher",
        )
    folder = Path(__file__).parent
    if (folder / "optim.py").exists():
        warnings.warn(
            f"higher-codegen was installed over the classic library `higher` in {folder}"
            ". It works, but uninstalling or updating the classic library will break "
            f"it. Mend it with: {_MEND}",
            stacklevel=2,
        )
