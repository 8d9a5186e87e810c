"""The conversion rules, in the order in which they run.

Why each stands where it does is said in ``codegen/pipeline.py``.
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

__all__ = ["RULES", "Example", "Rule", "run_example"]
