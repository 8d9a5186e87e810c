"""Optimizers that were typed into a notebook: what their cells say, and what the names
that they use mean now."""

from __future__ import annotations

import html
import linecache
import sys
import types
from collections.abc import Callable
from typing import Any, TypeAlias

import codegen
import pytest
import torch
from followed import follows

Session: TypeAlias = Callable[..., Any]

IMPORTS = """
import math
import torch
from torch.optim import Optimizer
from torch import sqrt as root
EPS, POWERS = 0.5, (1, 2)
"""
HELPERS = """
def damp(x, by=EPS):
    return x / (1 + by * scaled(x).abs())

def scaled(x):
    return root(x * x + EPS) * math.e ** POWERS[0]
"""
MINE = """
print("a cell does more than to define")

class Mine(Base):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(damp(p.grad) * EPS, alpha=group["lr"])
"""
BASE = """
class Base(Optimizer):
    pass
"""


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """Runs cells as a notebook does: one namespace, texts in linecache."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))

    def run(*cells: str) -> Any:
        for cell in cells:
            name = f"<cell {len(linecache.cache)}>"
            lines = cell.splitlines(keepends=True)
            linecache.cache[name] = len(cell), None, lines, name
            exec(compile(cell, name, "exec", dont_inherit=True), module.__dict__)
        return module

    return run


def test_a_class_of_a_cell_is_compiled_with_what_other_cells_define(
    session: Session,
) -> None:
    kind = session(IMPORTS, HELPERS, BASE, MINE).Mine
    follows(kind, codegen.compile_optimizer(kind, verify=False))


def test_what_was_run_again_since_is_what_counts(session: Session) -> None:
    notebook = session(IMPORTS, HELPERS.replace("by=EPS", "by=1.0"), BASE, MINE)
    session("EPS = 0.25\ndef scaled(x):\n    return x.tanh()\n")
    follows(notebook.Mine, codegen.compile_optimizer(notebook.Mine, verify=False))


SINCE = {
    "a default": ("EPS = 0.25", "damp was defined with another EPS"),
    "a base": (BASE, "Mine was defined with another Base"),
    "an attribute of the class": ("RATE = 3.0", "Mine was defined with another RATE"),
}


@pytest.mark.parametrize("what", SINCE)
def test_what_was_evaluated_in_a_definition_and_is_another_now_is_refused(
    what: str, session: Session
) -> None:
    mine = MINE.replace("(Base):", "(Base):\n    rate = RATE / 2")
    kind = session(IMPORTS + "RATE = 2.0", HELPERS, BASE, mine).Mine
    follows(kind, codegen.compile_optimizer(kind, verify=False))
    session(SINCE[what][0])
    with pytest.raises(codegen.CodegenError, match=SINCE[what][1]):
        codegen.compile_optimizer(kind, verify=False)


def test_a_class_defined_anew_is_the_new_one(session: Session) -> None:
    session(IMPORTS, HELPERS, BASE, MINE)
    kind = session(MINE.replace("p.sub_(damp(p.grad)", "p.add_(p.grad")).Mine
    follows(kind, codegen.compile_optimizer(kind, verify=False))


def test_a_class_without_functions_is_found_and_so_after_its_first_instance(
    session: Session,
) -> None:
    kind = session(IMPORTS, "class Mine(torch.optim.SGD):\n    pass\n").Mine
    follows(kind, codegen.compile_optimizer(kind, verify=False))
    follows(kind, codegen.compile_optimizer(kind, verify=False))


def test_a_refusal_points_into_the_cell(session: Session) -> None:
    bad = MINE.replace("damp(p.grad) * EPS", "self.nothing(p.grad)")
    kind = session(IMPORTS, HELPERS, BASE, bad).Mine
    with pytest.raises(codegen.CodegenError, match=r"<cell of Mine>:13:\d+: "):
        codegen.compile_optimizer(kind, verify=False)


def test_a_global_tensor_is_refused(session: Session) -> None:
    kind = session(IMPORTS, HELPERS, BASE, MINE, "EPS = torch.ones(3)").Mine
    with pytest.raises(codegen.CodegenError, match="EPS"):
        codegen.compile_optimizer(kind, verify=False)


def test_a_class_whose_text_no_one_kept_is_refused(session: Session) -> None:
    kind = session(IMPORTS, HELPERS, BASE, MINE).Mine
    linecache.cache.clear()
    with pytest.raises(codegen.CodegenError, match="no file and no notebook has it"):
        codegen.compile_optimizer(kind, verify=False)


def test_a_translation_shows_itself_in_a_notebook(session: Session) -> None:
    kind = session(IMPORTS, HELPERS, BASE, MINE).Mine
    shown = codegen.translate(kind)._repr_html_()
    page = html.unescape(shown)
    assert shown.startswith("<iframe srcdoc=") and "&lt;cell of Mine&gt;" in page
    assert "<style" not in shown, "the notebook's own style stays"


def test_a_class_of_torch_is_a_target(session: Session) -> None:
    by_name = codegen.translate("torch.optim.sgd.SGD").text
    assert codegen.translate(torch.optim.SGD).text == by_name
