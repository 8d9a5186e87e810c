"""The passes, in order: read this first."""

from __future__ import annotations

from dataclasses import dataclass

from codegen import fence
from codegen.context import Context
from codegen.lower import lower
from codegen.overwritten import drop_overwritten
from codegen.rules import RULES
from codegen.syntax import Body
from codegen.tidy import apart, space, tidy
from codegen.upstream import Upstream


@dataclass(frozen=True)
class Update:
    """A translated step: its body, and what the class around it must declare."""

    body: Body
    complex_as_real: bool
    carried: tuple[str, ...]
    constructor_settings: tuple[str, ...]


def run(upstream: Upstream, context: Context) -> Update:
    """Translate ``step`` of an optimizer, or raise with every diagnostic."""
    lowered = lower(upstream, context)
    body = lowered.body
    fence.refuse_foreign(body, context)
    context.raise_if_refused()
    # a helper that mutates has been inlined: those that are left are pure
    helpers = frozenset(context.sources())
    for rule in RULES:
        body = rule(context).apply(body)
        context.raise_if_refused()
        body = tidy(body, context.origins, helpers)
    body = tidy(drop_overwritten(body), context.origins, helpers)
    body = space(apart(body, context.origins))
    fence.check(body, context)
    if not body:
        _refuse_nothing(upstream, context)
    context.raise_if_refused()
    return Update(
        body,
        lowered.complex_as_real,
        tuple(sorted(context.carried)),
        tuple(sorted(context.constructor_settings)),
    )


def _refuse_nothing(upstream: Upstream, context: Context) -> None:
    step = upstream.method("step")
    if step is not None:
        context.refuse(
            "R1",
            step.node,
            "a call of this step without a closure changes nothing",
            "a differentiable step is handed one loss, and no closure",
        )
