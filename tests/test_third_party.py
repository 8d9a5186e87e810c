"""Optimizers from packages: translated, and held to the originals."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import codegen
import pytest
from codegen.class_source import import_original
from codegen.memory import load
from followed import follows

Made = Callable[..., Any]


def plainly(kind: Any) -> Made:
    return kind  # type: ignore[no-any-return]


def in_train_mode(kind: Any) -> Made:
    """schedulefree's steps want its ``train()`` first."""

    def make(groups: list[Any], **settings: Any) -> Any:
        optimizer = kind(groups, **settings)
        optimizer.train()
        return optimizer

    return make


def of_two_kinds(kind: Any) -> Made:
    """muon's groups say who is updated by Muon and who by Adam: here all by Adam, as
    Muon rounds to bfloat16, of which finite differences are of no use."""

    def make(groups: list[Any], lr: float = 0.1) -> Any:
        return kind([{**g, "use_muon": False, "lr": lr} for g in groups])

    return make


COMPILED: dict[str, Callable[[Any], Made]] = {
    "torch_optimizer.AdaBound": plainly,
    "torch_optimizer.PID": plainly,
    "torch_optimizer.SGDP": plainly,
    "torch_optimizer.AggMo": plainly,
    "torch_optimizer.RAdam": plainly,
    "pytorch_optimizer.AdaBelief": plainly,
    "pytorch_optimizer.SM3": plainly,
    "pytorch_optimizer.Adai": plainly,
    "schedulefree.AdamWScheduleFree": in_train_mode,
    "prodigyopt.Prodigy": plainly,
    "muon.SingleDeviceMuonWithAuxAdam": of_two_kinds,
}
"""These passed a full verification, too (`docs/optimizers.md` has others)."""

FLOAT32 = {"torch_optimizer.RAdam"}
"""These compute in float32, whatever the parameters are."""


@functools.cache
def translated(target: str) -> codegen.Translation:
    return codegen.translate(target)


@pytest.mark.parametrize("target", COMPILED)
def test_the_module_imports_nothing_of_the_package(target: str) -> None:
    imports = [
        line
        for line in translated(target).text.splitlines()
        if line.startswith(("import", "from"))
    ]
    allowed = ("torch", "higher", "__future__", "typing", "math", "collections")
    assert all(line.split()[1].split(".")[0] in allowed for line in imports), imports


@pytest.mark.parametrize("target", COMPILED)
def test_the_translation_follows_the_original(target: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the originals' own
        make = COMPILED[target](import_original(target))
        follows(make, load(translated(target)), own_dtype=target in FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["muon.SingleDeviceMuonWithAuxAdam", "torch_optimizer.RAdam"]
)
def test_the_translation_passes_the_whole_verification(target: str) -> None:
    from codegen.settle import translate_and_verify

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, report = translate_and_verify(import_original(target), translated(target))
    assert report.ok
