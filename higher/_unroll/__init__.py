"""Whole inner loops, in as little memory as one chooses.

An inner step is a pure function of weights, optimizer state and settings. So its graph
need not be kept until backward comes: kept are the weights and state of some steps, and
the others are computed again from there. Gradients are those of the plain loop.

The scheme with two levels is that of Griewank, "Achieving logarithmic growth of
temporal and spatial complexity in reverse automatic differentiation" (1992), as in
Chen et al., "Training deep nets with sublinear memory cost" (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from higher._carry import tensors_in, tensors_within
from higher._check import checked
from higher._dtensor import FORWARD, refuse_distributed
from higher._tasks.module import PerTask
from higher._truncation import Truncation
from higher._unroll.batches import Batches
from higher._unroll.captured import Named
from higher._unroll.line import UnrollRun, segments_of
from higher._unroll.overrides import OverrideOfSteps, Overrides
from higher._unroll.step import Inner, LossFn
from higher._weights import fast_weights
from higher.optim.arguments import GradCallback, checked_order, checked_truncate
from higher.optim.base import DifferentiableOptimizer
from higher.optim.schedule import driven
from higher.optim.state import settings_of
from higher.patch import Model, StatelessModule

__all__ = ["LossFn", "unroll"]


Batch = TypeVar("Batch")
Memory: TypeAlias = Literal["full", "step", "low"] | int


def unroll(
    fmodel: Model,
    diffopt: DifferentiableOptimizer,
    loss_fn: Callable[[Model, Batch], Tensor],
    batches: Iterable[Batch],
    *,
    memory: Memory = "full",
    override: OverrideOfSteps = None,
    grad_callback: GradCallback | None = None,
    truncate: int | None = None,
    order: Literal[1, 2] | None = None,
    meta_params: Iterable[Tensor] = (),
    mode: Literal["reverse", "forward"] = "reverse",
    check: bool = False,
    compile: bool = False,
) -> list[Tensor]:
    """Takes one inner step for each batch, as ``diffopt.step`` in a loop would.

    Afterwards ``fmodel`` has the last weights and ``diffopt`` the last state, both in
    the graph: ``meta_loss(fmodel).backward()`` reaches the initial weights, tensors
    in ``override``, and whatever ``loss_fn`` captured or found in ``batches``.

    Args:
        fmodel: the stateless module of ``higher.innerloop_ctx``.
        diffopt: its differentiable optimizer.
        loss_fn: ``loss_fn(fmodel, batch)`` is the scalar loss of one step; with
            ``tasks=`` that of one task, which is mapped over all. Unless
            ``memory="full"`` it is called several times for each step, and must do
            the same each time; torch's random state, autocast, modes and buffers are
            put back for that.
        batches: one for each of the K steps, anything that ``loss_fn`` understands.
            They are asked for as their steps come, those of a stretch that is kept as
            one together; all at the start if they don't tell their number (``len``).
            With ``tasks=`` tensors have a first dimension of tasks, or of 1 for what
            all share, which ``loss_fn`` doesn't see.
        memory: which weights and optimizer states are kept. ``"full"``: all, and the
            graphs of all steps, as the plain loop does. ``"step"``: those of each
            step; its graph is made again when backward reaches it (the last one's
            is kept). ``"low"``: in a long unroll those of about √(2K) steps, ever
            closer to one another, the steps between being computed again from there.
            An int n: those of every nth step.
        override: settings from the first step on, as for ``diffopt.step``; or settings
            from each step on: a list of such dicts, one for each step, or a function of
            the step's number in this call, from 0 on, that returns one. None is one
            that changes nothing. Such a function is called again as ``loss_fn`` is. A
            scheduler of ``innerloop_ctx`` is stepped after each step.
        grad_callback: used instead of ``diffopt``'s own.
        truncate: gradients flow through the last ``truncate`` steps only, counted back
            from the outer loss, through earlier calls too: what they start from is a
            constant. Default: that of ``innerloop_ctx``.
        order: 1: inner gradients are constants (first-order MAML). 2: they are
            differentiated, too. Default: that of ``innerloop_ctx``.
        meta_params: tensors that ``loss_fn`` or ``grad_callback`` use, require grad
            and were computed before (non-leaves). Leaves, and those in ``batches``, in
            containers or attributes, and in a dict or list of ``override`` are found
            without being named.
        mode: ``"forward"``: the derivatives by ``diffopt``'s settings that are tensors
            are carried along with the weights, and nothing else is kept: memory does
            not depend on K, time grows with the number of settings. The initial
            weights get no gradient, and what ``loss_fn`` captures must not require
            any. ``memory`` means nothing then, and of earlier weights ``loss_fn``
            finds the initial ones only, as constants.
        check: whether the original optimizer's class steps beside every step, as in
            ``innerloop_ctx``: it is made again from ``diffopt``'s present state.
        compile: all steps are one graph, made by ``torch.compile`` when it is first
            needed (tens of seconds; later unrolls of the same model and ``loss_fn`` use
            it again). The first step is a plain one where there is no graph yet, and
            where its update isn't one like the others. ``loss_fn`` and ``grad_callback``
            are traced, not called, for compiled steps: they must do the same each time,
            branch on no tensor's values, and ask for no earlier weights. The last step's
            loss is compared with that of a plain step.

    Returns:
        The loss of each step, in the graph (with ``tasks=``, those of all tasks; detached in test mode and before the
        point of truncation).

    Raises:
        ValueError: ``fmodel`` and ``diffopt`` don't belong together, an argument is
            out of range, or a fast weight has a hook; with ``check``, the original
            optimizer can't be made again, or is gone.
        CheckError: with ``check``, a step went elsewhere than the original's.
        RuntimeError: in forward mode, something else that requires grad; in the
            low-memory modes, a captured tensor that was computed before and is not
            named; a ``loss_fn`` that assigns to fast weights, or asks for weights that
            aren't kept; in backward, a step that had another loss, gradient or update
            when it ran again, or that made a tensor which is used outside of it;
            differentiating the gradient again.

    ``fmodel.parameters(time=t)`` has the weights of all times, in the graph; those
    that were not kept are computed again when asked for.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batches = list(torch.randn(100, 8, 3))
        >>> with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (fmodel, diffopt):
        ...     losses = higher.unroll(
        ...         fmodel, diffopt, lambda m, x: m(x).square().mean(), batches, memory="low"
        ...     )
        ...     losses[-1].backward()
        >>> len(losses), tuple(model.weight.grad.shape)
        (100, (1, 3))
    """
    if not isinstance(meta_params, Tensor):
        meta_params = list(meta_params)
    module = _checked_pair(fmodel, diffopt)
    around: Any = None
    if compile:
        _check_compile(diffopt, override, mode, check)
    if check and diffopt._shadow is None:
        around = checked(diffopt, module)
    elif diffopt.scheduler is not None and not diffopt.scheduler.driven:
        around = driven(diffopt.scheduler)
    if around is not None:
        with around:
            return unroll(
                *(fmodel, diffopt, loss_fn, batches),
                memory=memory,
                override=override,
                grad_callback=grad_callback,
                truncate=truncate,
                order=order,
                meta_params=meta_params,
                mode=mode,
            )
    loss = loss_fn if diffopt._tasks is None else PerTask(loss_fn)
    degree = checked_order(diffopt._order if order is None else order)
    overrides = Overrides(override, batches)
    plain = partial(_plain, module, diffopt, loss, grad_callback, degree, overrides)
    if memory == "full" and truncate is None and mode == "reverse" and not compile:
        return plain(batches)
    forward = _checked(memory, mode)
    named = Named(tensors_within([meta_params, overrides.listed]))
    steps = Batches(
        batches, fast_weights(module), lambda b: named.add(tensors_within([b]))
    )
    if truncate is not None:
        checked_truncate(truncate)
    if forward:
        refuse_distributed(module.parameters(), FORWARD)
    if forward and degree == 1:
        raise ValueError("mode='forward' is of second order: leave out order=1.")
    overrides.check_count(len(steps))
    if not steps:
        return []
    if not (diffopt._track_higher_grads and torch.is_grad_enabled()):
        return plain(steps.after(0))
    truncation = _truncation_of(diffopt)
    with truncation.during(truncate, len(steps)):
        cut = truncation.cut(len(steps))
        if memory == "full" and not forward and cut is None and not compile:
            return plain(steps.after(0))
        if truncation.steps is not None and (memory != "full" or forward or cut):
            _check_schedule(diffopt)
        _check_steps(diffopt)
        _check_hooks(module)
        if isinstance(override, Mapping):
            # in forward mode derivatives are by what is there at the start
            diffopt._apply_override(override)
            overrides = Overrides(None, steps)
        kind = _compiled_kind() if compile else Inner
        inner = kind(module, diffopt, loss, steps, grad_callback, degree, overrides)
        line = UnrollRun(inner, module, diffopt, named)
        with line:
            if cut is not None:
                line.run_ahead(cut)
            if forward:
                line.run_forward()
            elif memory != "full":
                # the last step's graph is kept: backward begins there
                segments = segments_of(memory, len(steps) - line.done - 1)
                for count in segments:
                    # before the random state is taken down, which they may change
                    steps.draw(line.done + count)
                    line.go(count, keep=max(segments) == 1)
            if compile:
                line.run_step_by_step()
        return line.losses + plain(steps.after(line.done), line.done)


def _plain(
    fmodel: StatelessModule,
    diffopt: DifferentiableOptimizer,
    loss_fn: LossFn,
    callback: GradCallback | None,
    order: int,
    overrides: Overrides,
    steps: Iterable[Any],
    first: int = 0,
) -> list[Tensor]:
    """Steps of an ordinary loop, numbered from ``first`` on."""
    losses: list[Tensor] = []
    usual, diffopt._order = diffopt._order, order
    try:
        for number, batch in enumerate(steps, first):
            override = overrides.at(number)
            if override is not None:
                diffopt._apply_override(override)
            loss = loss_fn(fmodel, batch)
            diffopt.step(loss, grad_callback=callback)
            if diffopt.scheduler is not None:
                diffopt.scheduler._run()
            losses.append(loss if diffopt._track_higher_grads else loss.detach())
    finally:
        diffopt._order = usual
    overrides.check_count(first + len(losses))
    return losses


def _checked(memory: str | int, mode: str) -> bool:
    """Whether it is forward mode."""
    number = isinstance(memory, int) and not isinstance(memory, bool) and memory >= 1
    if not number and memory not in ("full", "step", "low"):
        raise ValueError(
            f"memory must be 'full', 'step', 'low' or a positive int, not {memory!r}."
        )
    if mode not in ("reverse", "forward"):
        raise ValueError(f"mode must be 'reverse' or 'forward', not {mode!r}.")
    return mode == "forward"


def _truncation_of(diffopt: DifferentiableOptimizer) -> Truncation:
    if diffopt._truncation is None:
        diffopt._truncation = Truncation(diffopt, None, diffopt._steps_made)
    return diffopt._truncation


def _checked_pair(
    fmodel: nn.Module, diffopt: DifferentiableOptimizer
) -> StatelessModule:
    if not isinstance(fmodel, StatelessModule):
        raise ValueError(
            "unroll needs a stateless module: the fmodel of higher.innerloop_ctx, not "
            f"a {type(fmodel).__name__}."
        )
    if diffopt._fmodel is not fmodel:
        raise ValueError(
            "This optimizer doesn't step the fast weights of this module: pass the "
            "two that one innerloop_ctx gave, or make the optimizer with fmodel=."
        )
    return fmodel


def _check_compile(
    diffopt: DifferentiableOptimizer, override: Any, mode: str, check: bool
) -> None:
    if mode == "forward":
        raise ValueError("mode='forward' can't be compiled: leave out compile=True.")
    if check or diffopt._shadow is not None:
        raise ValueError("check=True is of plain steps: leave out compile=True.")
    steps = override is not None and not isinstance(override, Mapping)
    if steps or diffopt.scheduler is not None:
        raise ValueError(
            "With compile=True all steps have the same settings: override is a dict, "
            "and there is no scheduler."
        )
    if not (diffopt._track_higher_grads and torch.is_grad_enabled()):
        raise ValueError(
            "compile=True is for steps that are differentiated: leave it out with "
            "track_higher_grads=False or without gradients."
        )


def _compiled_kind() -> type[Inner]:
    # only now: the compiler takes a while to import
    from higher._compile.inner import CompiledInner

    return CompiledInner


def _check_schedule(diffopt: DifferentiableOptimizer) -> None:
    groups = [settings_of(g) for g in diffopt.param_groups]
    if diffopt.scheduler is not None and any(
        t.requires_grad for t in tensors_in(groups)
    ):
        raise ValueError(
            "With truncate, a scheduler's rates that are tensors which require grad are "
            "part of the steps that are cut off. Use memory='full' and no more steps in a "
            "call than truncate has, a plain loop with innerloop_ctx(truncate=...), or "
            "override=lambda step: ... in place of the scheduler."
        )


def _check_steps(diffopt: DifferentiableOptimizer) -> None:
    own = type(diffopt).step
    if own is not DifferentiableOptimizer.step:
        raise ValueError(
            f"{type(diffopt).__name__} has a step of its own, which unroll can't run "
            "again: override _update, or use memory='full' without truncate."
        )


def _check_hooks(fmodel: StatelessModule) -> None:
    if any(p._backward_hooks for p in fmodel.parameters()):
        raise ValueError(
            "A fast weight has a hook, which would see the first step's gradient and "
            "that of the outer loss, too. Remove it, and pass grad_callback for inner "
            "gradients; or use memory='full' without truncate."
        )
