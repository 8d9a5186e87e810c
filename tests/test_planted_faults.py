"""Each rule of the analyses is there for a reason: without it a program that comes out
right, or is refused, comes out wrong."""

from __future__ import annotations

from typing import Any

import pytest
from codegen.analysis.dtypes import Dtypes
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.sharing import SharedSlots
from codegen.analysis.bindings import Bindings
from codegen.diagnostics import CodegenError
from codegen.lower.dependence import Dependence
from codegen.optable import Operation, Result
from codegen.rules.r4_out_of_place.opaque import Opaque
from codegen.rules.r4_out_of_place.propagate import Propagation
from test_soundness import ALL, Case, follows

pytestmark = pytest.mark.filterwarnings("ignore")


def nothing(*_: Any, **__: Any) -> None:
    """Does not do what it is asked for."""


def the_last_way(self: Env, other: Env) -> Env:
    """What the last way leaves, where ways meet."""
    return other


def views_for_copies(self: Operation, bound: Any) -> Result:
    """A view where an operation may make a copy."""
    found = RETURNED(self, bound)
    return Result.VIEW if found is Result.MAYBE else found


RETURNED = Operation.returned

FAULTS = {
    "ways are not joined": (Env, "joined", the_last_way, "continue_rebinds_alias"),
    "a maybe is a yes": (Operation, "returned", views_for_copies, "reshape_maybe_copy"),
    "keys that may be equal are apart": (
        Bindings,
        "put",
        lambda self, slot, value, env: env.slots.__setitem__(slot, value),
        "key_in_a_variable",
    ),
    "slots share nothing when a step begins": (
        SharedSlots,
        "note",
        nothing,
        "data_assign_alias_state",
    ),
    "a loop makes the same in each turn": (
        Heap,
        "_age_sites",
        nothing,
        "made_in_each_turn",
    ),
    "lists stay as they were made": (
        Bindings,
        "call",
        nothing,
        "list_insert_front",
    ),
    "a parameter keeps its memory": (
        Bindings,
        "share_memory",
        nothing,
        "gated_alias_lookahead",
    ),
    "who may hold it is not asked": (
        Propagation,
        "_may_hold",
        lambda *_: iter(()),
        "dict_display_items",
    ),
    "dtypes that aren't known are alike": (
        Dtypes,
        "differ",
        lambda *_: False,
        "short_floats_in_a_list",
    ),
    "loops wait for nothing": (
        Dependence,
        "conflict",
        lambda *_: False,
        "producer_total_inplace",
    ),
    "statements move over any other": (
        Dependence,
        "may_move",
        lambda *_: True,
        "moved_counter",
    ),
    "tests come out the same": (
        Dependence,
        "is_invariant",
        lambda *_: True,
        "flag_changes",
    ),
}


def case(name: str) -> Case:
    return next(c for c in ALL if c.name == name)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, replacement, program = FAULTS[fault]
    held = case(program)
    if "refused" in held.settings:
        with pytest.raises(CodegenError):
            follows(held)
    else:
        follows(held)
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises((AssertionError, RuntimeError)):
        follows(held)


def test_without_default_deny_an_unknown_callable_is_let_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = case("self_dict_by_param")
    monkeypatch.setattr(Opaque, "check", nothing)
    with pytest.raises(Exception, match="(?s)^(?!.*keyed by a tensor)"):
        follows(refused)
