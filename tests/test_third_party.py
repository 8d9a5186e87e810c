"""Optimizers from packages: translated, and held to the originals."""

from __future__ import annotations

import warnings

import pytest

import codegen

COMPILED = [
    "torch_optimizer.AdaBound",
    "torch_optimizer.PID",
    "torch_optimizer.SGDP",
    "torch_optimizer.AggMo",
    "torch_optimizer.RAdam",
    "pytorch_optimizer.AdaBelief",
    "pytorch_optimizer.SM3",
    "pytorch_optimizer.Adai",
    "schedulefree.AdamWScheduleFree",
    "prodigyopt.Prodigy",
    "muon.SingleDeviceMuonWithAuxAdam",
]
"""These passed a full verification (`docs/optimizers.md` has others)."""


@pytest.mark.parametrize("target", COMPILED)
def test_translates_to_a_module_of_its_own(target: str) -> None:
    text = codegen.translate(target).text
    imports = [
        line for line in text.splitlines() if line.startswith(("import", "from"))
    ]
    allowed = ("torch", "higher", "__future__", "typing", "math", "collections")
    assert all(line.split()[1].split(".")[0] in allowed for line in imports), imports


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["muon.SingleDeviceMuonWithAuxAdam", "torch_optimizer.RAdam"]
)
def test_follows_the_original(target: str) -> None:
    from codegen.memory import import_original
    from codegen.settle import settle

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the originals' own
        _, report = settle(import_original(target), codegen.translate(target))
    assert report.ok
