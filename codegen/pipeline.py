"""The passes, in order: read this first.

The list is the compiler's middle: what runs, why it stands there, and what holds
afterwards. A pass takes the body of a step and returns another (tuples of statements,
never changed in place), or only refuses. Before and after stand in the docstrings of the
passes and of their modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import libcst as cst

from codegen import postconditions as holds
from codegen.context import Context
from codegen.foreign import refuse_foreign
from codegen.layout import alternate_quotes, double_quotes, space
from codegen.lower.appends import append_loops_to_comprehensions
from codegen.lower.conversions import with_copies
from codegen.lower.defaults import without_setdefault
from codegen.lower.foreach import without_foreach
from codegen.lower.index_loops import index_loops_to_enumerate
from codegen.lower.items import items_by_position
from codegen.lower.legacy import modernize
from codegen.lower.lists import one_append, walk_selections
from codegen.lower.loops import lower_loops
from codegen.lower.names import rename_reserved, reserve_grad
from codegen.lower.parallel_lists import fuse_parallel_lists
from codegen.lower.records import records_as_dicts
from codegen.lower.scratch import remove_double_buffering
from codegen.lower.settings import defaults_by_group
from codegen.lower.specialize import specialize
from codegen.lower.states import slot_by_slot
from codegen.magic import refuse_magic
from codegen.overwritten import drop_overwritten
from codegen.polish import respell, reuse_variables
from codegen.postconditions import BrokenPostcondition, Postcondition
from codegen.rules.base import Rule
from codegen.rules.r1_closures import NoClosures, refuse_closures
from codegen.rules.r2_grouped_grads import GroupedGrads
from codegen.rules.r3_indexed_state import IndexedState
from codegen.rules.r4_out_of_place import OutOfPlace
from codegen.rules.r5_no_data import NoData
from codegen.rules.r6_write_back import WriteBack
from codegen.rules.r7_settings import DifferentiableSettings
from codegen.rules.r8_stable_gradients import StableGradients
from codegen.syntax import Body, code
from codegen.tidy import tidy, tidy_calls
from codegen.unwrap import unwrap_functions
from codegen.upstream import Upstream

CHECKED = "HIGHER_CODEGEN_POSTCONDITIONS"
"""The environment variable under which every postcondition is asserted: in tests."""

Transform: TypeAlias = "Callable[[Body, Context], Body | None]"
"""A body into another; None where it only refuses."""


@dataclass(frozen=True)
class Pass:
    """One entry of the list.

    ``why`` says why it stands where it does, ``after`` what holds when it has run (None
    for what is checked where the next pass relies on it). Where it ``stops``, whatever
    was refused so far is told, for what follows relies on it.
    """

    transform: Transform | type[Rule]
    why: str
    after: Postcondition | None = None
    stops: bool = False

    @property
    def name(self) -> str:
        return self.transform.__name__

    def __call__(self, body: Body, context: Context) -> Body:
        with context.refusing_unsolved(body):
            if isinstance(self.transform, type):
                new: Body | None = self.transform(context).apply(body)
            else:
                new = self.transform(body, context)
        if self.stops:
            context.raise_if_refused()
        return body if new is None else new

    def check(self, body: Body, context: Context) -> None:
        """Raises where the postcondition does not hold."""
        if self.after is None or context.diagnostics:
            return
        for node in self.after(body, context):
            told = " ".join((self.after.__doc__ or "").split())
            raise BrokenPostcondition(
                f"after {self.name}: {self.after.__name__}: {told}\n{code(node)}"
            )


TIDY = Pass(tidy, "what is left of the pass before goes", holds.nothing_is_dead)
TIDY_CALLS = Pass(
    tidy_calls,
    "what is left of the pass before goes: the next one looks at less",
    holds.no_call_is_dead,
)
R4 = Pass(
    OutOfPlace,
    "after R5: it would take `p.data` for another tensor",
    holds.nothing_is_in_place,
    stops=True,
)
R5 = Pass(
    NoData,
    "after R3: state is looked up by the parameter itself",
    holds.nothing_is_detached,
    stops=True,
)
R7 = Pass(
    DifferentiableSettings,
    "after R4: an in-place operation and its functional variant are one case",
    holds.calls_are_known,
    stops=True,
)
R8 = Pass(
    StableGradients,
    "after R7, which turns `math.sqrt` of a setting into an operation on tensors",
    holds.roots_are_stable,
    stops=True,
)

PASSES: Sequence[Pass] = (
    # one function in upstream's terms
    Pass(
        specialize,
        "first: all else sees one straight function",
        holds.dispatch_is_folded,
    ),
    TIDY,
    Pass(
        refuse_closures,
        "before anything is said about the body of a step that cannot be translated",
        holds.no_closure_is_read,
        stops=True,
    ),
    Pass(
        rename_reserved,
        "before any pass writes a name of its own",
        holds.reserved_names_are_free,
    ),
    # one spelling for each operation
    Pass(
        records_as_dicts,
        "before state is read: what follows knows lists and dicts",
    ),
    Pass(without_setdefault, "makes the statements that the passes on state look for"),
    Pass(
        with_copies,
        "while a conversion still stands where upstream wrote it",
        holds.casts_are_copies,
    ),
    Pass(remove_double_buffering, "before loops are taken apart"),
    # one loop over the parameters of each group
    Pass(index_loops_to_enumerate, "before lists are looked for: it makes none"),
    Pass(slot_by_slot, "before state is read in loops"),
    Pass(
        append_loops_to_comprehensions, "makes the comprehensions that the fusion reads"
    ),
    Pass(one_append, "a list that is filled in one place can be fused"),
    Pass(without_foreach, "makes the loops that are fused"),
    Pass(lower_loops, "parallel lists, filled one by one, into one loop"),
    Pass(
        fuse_parallel_lists,
        "what is left of parallel lists, into as few loops as there must be",
        holds.parallel_lists_are_gone,
        stops=True,
    ),
    Pass(walk_selections, "what is left of selections, once the fusion has read them"),
    # one spelling for each operation
    Pass(
        modernize,
        "after the loops: a constructor may have been an item of a list",
        holds.signatures_are_of_today,
    ),
    Pass(
        items_by_position,
        "after the loops, which take lists over parameters for their own",
        holds.items_are_not_mutated,
    ),
    Pass(
        double_quotes,
        "keys are compared as text from here on",
        holds.strings_are_double_quoted,
    ),
    Pass(
        defaults_by_group,
        "after keys are spelled in one way",
        holds.groups_tell_their_defaults,
    ),
    Pass(
        reserve_grad,
        "last before the rules: R2 names gradients",
        holds.grad_is_free,
    ),
    TIDY,
    Pass(
        refuse_foreign,
        "no rule can mend these calls, and what a rule says may follow from them",
        holds.nothing_is_foreign,
        stops=True,
    ),
    # the rules
    Pass(
        NoClosures,
        "first: the returned loss keeps nothing alive",
        holds.nothing_is_returned,
        stops=True,
    ),
    TIDY_CALLS,
    Pass(
        GroupedGrads,
        "names what state is indexed by",
        holds.gradients_are_items,
        stops=True,
    ),
    TIDY_CALLS,
    Pass(
        IndexedState,
        "after R2: it needs the loops' `group_idx` and `p_idx`",
        holds.state_is_indexed,
        stops=True,
    ),
    TIDY_CALLS,
    R5,
    TIDY_CALLS,
    R4,
    TIDY_CALLS,
    Pass(
        WriteBack,
        "after R4, which finds what is stored to parameters",
        holds.no_data_is_left,
        stops=True,
    ),
    TIDY_CALLS,
    R7,
    TIDY_CALLS,
    R8,
    TIDY_CALLS,
    # as a person would write it
    Pass(
        drop_overwritten,
        "once all stores are there",
        holds.no_store_is_overwritten_next,
    ),
    Pass(respell, "once no rule reads what upstream wrote"),
    Pass(unwrap_functions, "once their bodies are what the rules made of them"),
    Pass(reuse_variables, "after the rules: nothing is written into any more"),
    TIDY_CALLS,
    Pass(
        alternate_quotes,
        "text is compared no more",
        holds.fstrings_are_of_every_python,
    ),
    Pass(space, "once no statement comes or goes", holds.blocks_start_tight),
)
"""From the definition of ``step`` to the body of a differentiable update."""

HELPER_PASSES: Sequence[Pass] = (R5, TIDY, R4, TIDY, R7, TIDY, R8, TIDY)
"""Those for pure functions that a step calls."""


@dataclass(frozen=True)
class Update:
    """A translated step: its body, and what the class around it must declare."""

    body: Body
    complex_as_real: bool
    carried: tuple[str, ...]
    constructor_settings: tuple[str, ...]


def run(upstream: Upstream, context: Context) -> Update:
    """Translate ``step`` of an optimizer, or raise with every diagnostic."""
    refuse_magic(upstream, context)
    step = upstream.method("step")
    if step is None:
        context.refuse(
            "lower",
            upstream.unsettled("step") or upstream.cls.node,
            f"{upstream.target} defines no step of its own",
            "define `step` in the class, once, and set it nowhere else",
        )
        context.raise_if_refused()
    assert step is not None
    context.upstream = upstream
    definition = step.node
    assert isinstance(definition, cst.FunctionDef)
    body = run_passes(PASSES, (definition,), context)
    if not body:
        context.refuse(
            "R1",
            definition,
            "a call of this step without a closure changes nothing",
            "a differentiable step is handed one loss, and no closure",
        )
        context.raise_if_refused()
    return Update(
        body,
        context.complex_as_real,
        tuple(sorted(context.carried)),
        tuple(sorted(context.constructor_settings)),
    )


def run_passes(passes: Sequence[Pass], body: Body, context: Context) -> Body:
    """One after the other; what each promises is asserted where ``CHECKED`` says so."""
    checked = bool(os.environ.get(CHECKED))
    for each in passes:
        body = each(body, context)
        if checked:
            each.check(body, context)
    return body
