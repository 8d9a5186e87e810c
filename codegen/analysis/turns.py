"""What the turns of a loop, of a parameter and of a group leave apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import libcst as cst

from codegen.analysis.environment import EARLIER_GROUP, Env
from codegen.analysis.store import all_objects
from codegen.analysis.values import Place, is_many, of_another, of_another_group
from codegen.diagnostics import walk
from codegen.ir.loops import Loop, Walk
from codegen.syntax import all_statements

GROUP_BY_NUMBER = "which group it is"


def objects(env: Env) -> set[str]:
    found = {s.container for s in env.slots} | env.origins.keys()
    found = found.union(*env.origins.values())
    for value in (*env.names.values(), *env.slots.values()):
        found |= all_objects(value)
    return found


def made_at(obj: str) -> int | None:
    """The number of the expression that made an object."""
    match = re.match(r"#(\d+)", obj)
    return int(match[1]) if match else None


def inside(kind: Walk, body: Sequence[cst.CSTNode]) -> set[cst.CSTNode]:
    """All nodes inside loops that walk groups, or parameters."""
    loops = (n for n in all_statements(body) if isinstance(n, cst.For))
    return {n for loop in loops if Loop.of(loop).walk is kind for n in walk(loop)}


def leave_item(env: Env) -> None:
    """What is held of the last parameter is none of the next one's."""
    env.age([o for o in objects(env) if _of_item(o)], of_another)


def _of_item(obj: str) -> bool:
    return obj in ("param", "grad", "state") or obj.startswith("state[")


def in_state(obj: str) -> bool:
    return obj.startswith("state[")


def leave_group(env: Env) -> None:
    """What the last group holds is not the next one's: it can be written to only if
    that was ``self.param_groups[0]``, or another by number."""
    earlier = env.texts.pop(GROUP_BY_NUMBER, EARLIER_GROUP)
    if earlier != EARLIER_GROUP:
        env.texts[earlier] = earlier
    own = {s for s in env.slots if s.container == "group"}
    inside = {obj for obj in objects(env) if obj.startswith("group[")}
    held = inside.union(*(env.slots[s].objects for s in own))

    if earlier == EARLIER_GROUP:
        env.age(held, of_another_group)
    else:
        env.age(f"earlier {obj}" for obj in held)

    def renamed(place: Place) -> Place:
        if place.obj in held and not is_many(place.obj):
            return replace(place, obj=f"earlier {place.obj}")
        return place

    env.slots = {
        replace(s, container=earlier) if s in own else s: v
        for s, v in env.slots.items()
    }
    env.rename(renamed)
    env.possibly_absent -= own
