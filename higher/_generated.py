"""The optimizers that codegen compiled, as the package ``higher._generated``.

In a wheel they lie in ``higher/_generated/``, and this file is left out. In a checkout
they lie in ``generated/`` at the top, which is loaded here by its place, not its name.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

OPTIMIZERS: dict[str, str]

_folder = Path(__file__).resolve().parent.parent / "generated"
if not (_folder / "__init__.py").is_file():
    raise ModuleNotFoundError(f"no optimizers in {_folder}", name=__name__)
_spec = importlib.util.spec_from_file_location(
    __name__, _folder / "__init__.py", submodule_search_locations=[str(_folder)]
)
assert _spec is not None and _spec.loader is not None
_package = importlib.util.module_from_spec(_spec)
sys.modules[__name__] = _package  # the import system hands out what stands here
_spec.loader.exec_module(_package)
