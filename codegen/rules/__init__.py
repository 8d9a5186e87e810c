"""The conversion rules, in the order in which they run.

The order matters: loops (R2) name what state is indexed by (R3); ``.data`` goes
(R5) before aliases are looked for (R4), which would see it as another tensor; the
parameter's write-back (R6) follows the mutations that R4 found; numbers that may be
tensors (R7) and roots (R8) are looked for in what is finally computed.
"""

from __future__ import annotations

from codegen.rules.base import Example, Rule, run_example
from codegen.rules.r1_closures import NoClosures
from codegen.rules.r2_grouped_grads import GroupedGrads
from codegen.rules.r3_indexed_state import IndexedState
from codegen.rules.r4_out_of_place import OutOfPlace
from codegen.rules.r5_no_data import NoData
from codegen.rules.r6_write_back import WriteBack
from codegen.rules.r7_settings import DifferentiableSettings
from codegen.rules.r8_stable_gradients import StableGradients

RULES: tuple[type[Rule], ...] = (
    NoClosures,
    GroupedGrads,
    IndexedState,
    NoData,
    OutOfPlace,
    WriteBack,
    DifferentiableSettings,
    StableGradients,
)

HELPER_RULES: tuple[type[Rule], ...] = (
    NoData,
    OutOfPlace,
    DifferentiableSettings,
    StableGradients,
)
"""The rules for pure functions that a step calls."""

__all__ = ["HELPER_RULES", "RULES", "Example", "Rule", "run_example"]
