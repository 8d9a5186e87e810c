"""The committed output is what the compiler makes of the pinned torch."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

import codegen
from codegen import emit, files
from codegen.commands import torch_optimizers
from codegen.rules import RULES
from compiled import PATHS
from higher._generated import OPTIMIZERS

GENERATED = Path(__file__).parent.parent / "generated"
_HEADER = files.header((GENERATED / "sgd.py").read_text())
assert _HEADER is not None
PINNED = _HEADER.version.removeprefix("torch ")


@pytest.fixture(scope="module")
def translations() -> dict[str, codegen.Translation]:
    return {target: codegen.translate(target) for target in PATHS}


@pytest.mark.skipif(
    not torch.__version__.startswith(PINNED), reason=f"output is made from {PINNED}"
)
def test_every_file_is_current(translations: dict[str, codegen.Translation]) -> None:
    for target, translation in translations.items():
        path = GENERATED / f"{translation.module_name}.py"
        text = path.read_text()
        current = emit.with_not_run(translation.text, emit.not_run(text))
        assert (
            text == current
        ), f"{path.name} is stale; mend it with: python -m codegen {target}"


@pytest.mark.skipif(
    not torch.__version__.startswith(PINNED), reason=f"output is made from {PINNED}"
)
def test_only_lbfgs_is_missing() -> None:
    assert set(torch_optimizers()) - set(OPTIMIZERS) == {"torch.optim.LBFGS"}


def test_make_installs_the_torch_that_it_is_made_from() -> None:
    makefile = (GENERATED.parent / "Makefile").read_text()
    assert f"PINNED_TORCH := {PINNED}\n" in makefile
    headers = [header for _, header in files.generated_files(GENERATED)]
    assert {h.version for h in headers if h} == {f"torch {PINNED}"}


def test_every_rule_changes_some_optimizer(
    translations: dict[str, codegen.Translation],
) -> None:
    fired = {rule for t in translations.values() for rule in t.fired}
    assert fired >= {rule.name for rule in RULES}


LEFTOVERS = re.compile(
    r"\.\w+_\(|\.data\b|closure|no_grad|capturable|foreach|is_scripting|\bfused\b"
    r"|has_complex|\bcast\(|type: ignore|\.item\(|\.detach\(|view_as_real"
)


@pytest.mark.parametrize("path", sorted(GENERATED.glob("*.py")), ids=lambda p: p.stem)
def test_no_generated_file_has_leftovers_of_upstreams(path: Path) -> None:
    code = path.read_text()
    assert not LEFTOVERS.search(code), LEFTOVERS.search(code)
    assert max(map(len, code.splitlines())) < 125


@pytest.mark.parametrize("target", sorted(OPTIMIZERS))
def test_index_leads_to_the_class(target: str) -> None:
    module, _, name = OPTIMIZERS[target].partition(":")
    assert getattr(importlib.import_module(module), name).__name__ == name
    assert name == f"Differentiable{target.rpartition('.')[2]}"


def test_lines_not_run_are_told_and_taken_back() -> None:
    text = codegen.translate("torch.optim.SGD").text
    told = emit.with_not_run(text, "1 line of 60, sgd.py:351")
    assert emit.not_run(told) == "1 line of 60, sgd.py:351"
    assert "Not run by verification: 1 line of 60, sgd.py:351.\n" in told
    header = files.header(told)
    assert header is not None and header.body == emit.body_digest(told)
    assert emit.with_not_run(told, "") == text
    assert emit.with_not_run(told, emit.not_run(told)) == told
