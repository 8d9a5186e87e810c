"""Small releases of torch and of a package, made from what is installed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

Change = Callable[[str], str]

TORCH = Path(torch.__file__).parent

POISON = "raise RuntimeError('this file was run')\n"


def torch_files(
    version: str, only: Sequence[str] = (), **changes: Change
) -> dict[str, str]:
    """Name → text of the files of a torch; ``changes`` edit optimizers' modules.

    ``only`` are the optimizers that it has: ``("SGD",)``. Running any of it fails.
    """
    found = {
        f"torch/optim/{path.name}": path.read_text() + "\n" + POISON
        for path in sorted((TORCH / "optim").glob("*.py"))
    }
    if only:
        lines = (f"from torch.optim.{name.lower()} import {name}" for name in only)
        found["torch/optim/__init__.py"] = "\n".join(lines) + "\n" + POISON
    for module, change in changes.items():
        name = f"torch/optim/{module}.py"
        new = change(found[name])
        assert new != found[name], f"nothing changed in {name}"
        found[name] = new
    found["torch/__init__.py"] = POISON
    found["torch/version.py"] = f"__version__ = '{version}+cpu'\n{POISON}"
    return found


def package_files(version: str, lr: str = "0.1") -> dict[str, str]:
    """A package with two optimizers of its own, in modules that import each other."""
    own = f"""
import torch
from .helpers import pull

class Lagged(torch.optim.Optimizer):
    def __init__(self, params, lr={lr}, strength=0.5):
        super().__init__(params, dict(lr=lr, strength=strength))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(pull(p.grad, group["strength"]), alpha=-group["lr"])


class Heavier(torch.optim.SGD):
    pass
"""
    return {
        "lagging/__init__.py": "from .optim import Lagged\n" + POISON,
        "lagging/optim.py": own + POISON,
        "lagging/helpers.py": "def pull(grad, s):\n    return grad * s\n" + POISON,
        f"lagging_opt-{version}.dist-info/METADATA": "Metadata-Version: 2.1\n"
        f"Name: lagging-opt\nVersion: {version}\n\nA text.\n",
    }


def folder(place: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def wheel(place: Path, files: dict[str, str]) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("torch/lib/libtorch.dylib", b"\0" * 1000)
    return place


def sdist(place: Path, files: dict[str, str], top: str) -> Path:
    with tarfile.open(place, "w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            item = tarfile.TarInfo(f"{top}/{name}")
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return place
