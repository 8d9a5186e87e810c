"""The context in which an inner training loop is differentiable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from higher import _ddp
from higher._attention import twice_differentiable
from higher._check import shadow_of
from higher._dtensor import TRUNCATE, refuse_distributed
from higher._hints import add_hint
from higher._reference import MakeOptimizer, made_for, reference_of
from higher._second_order import math_attention
from higher._truncation import Truncation
from higher.optim import get_diff_optim
from higher.optim.arguments import checked_order, checked_truncate
from higher.optim.base import DifferentiableOptimizer
from higher.optim.original import OriginalSettings
from higher.optim.schedule import branched
from higher.patch import Model, monkeypatch


@contextmanager
def innerloop_ctx(
    model: Model,
    opt: torch.optim.Optimizer | MakeOptimizer,
    device: torch.device | str | None = None,
    copy_initial_weights: bool = True,
    override: Mapping[str, Any] | None = None,
    track_higher_grads: bool = True,
    *,
    truncate: int | None = None,
    order: Literal[1, 2] = 2,
    tasks: int | None = None,
    check: bool = False,
    scheduler: Any = None,
) -> Iterator[tuple[Model, DifferentiableOptimizer]]:
    """Yields ``(fmodel, diffopt)`` for one inner loop.

    ``fmodel`` is a stateless version of ``model`` with fast weights of its own;
    ``diffopt.step(loss)`` replaces them by updated ones that are part of the
    graph. Neither ``model`` nor ``opt`` is changed.

    Args:
        model: any module; also the ``fmodel`` of another context, for a loop within
            a loop.
        opt: an optimizer of ``model.parameters()`` or of a subset, in any groups;
            ``diffopt`` continues from its present state. For an ``fmodel`` it is one
            of the original model's parameters, or what makes a new one of a list of
            parameters: ``lambda params: torch.optim.SGD(params, lr=0.1)``.
        device: where fast weights, buffers and optimizer state go; by default
            each stays where it is.
        copy_initial_weights: whether the fast weights start as detached copies,
            so that nothing flows back to ``model.parameters()``. ``False`` to
            learn the initial weights (MAML).
        override: setting name -> list of one value for all groups or of one per
            group; values may be tensors that require grad, or tuples of them.
        track_higher_grads: ``False`` keeps no graph across steps ("test mode"):
            memory does not grow with the number of steps.
        truncate: gradients flow through the last ``truncate`` steps only; the
            graphs of earlier ones are let go, and their fast weights but for the
            initial ones. A loss from before can't be part of the outer loss.
        order: 1: inner gradients are constants (first-order MAML, Finn et al.
            2017): cheaper, and not exact. 2: they are differentiated, too.
        tasks: T, for the inner loops of T tasks at once. Fast weights, buffers and
            state of the optimizer get a leading dimension of T, and all start alike.
            ``fmodel(x)`` is mapped over the first dimension of its inputs, T or 1 for
            what all tasks share; ``diffopt.step`` is given the losses of all tasks, of
            shape (T,), and each task gets its own gradient. A setting in ``override``
            may be a tensor of shape (T,). ``grad_callback`` is called with the
            gradients of one task, and mapped. ``fmodel.task(i)`` is one task's module;
            ``higher.map_tasks`` maps anything else. Parameters that don't require
            grad are shared by all tasks, without memory of their own.
        check: the original optimizer steps detached copies beside every inner step; the
            first difference is an error.
        scheduler: a learning-rate scheduler of ``opt`` (for an ``opt`` that is made here,
            a function that makes one of it). ``diffopt.scheduler`` continues from its
            present state, and is stepped where the original would have been; ``unroll``
            does it after each step. An ``lr`` in ``override`` is the base rate that it
            makes others of.

    Raises:
        ValueError: ``opt`` holds a parameter that is not the model's, its type
            has no differentiable version, ``override`` does not fit it, or
            ``truncate``, ``order`` or ``tasks`` is out of range; with ``check``, ``opt``
            can't be made again as it is; ``scheduler`` is another optimizer's.
        TypeError: ``model`` can't be made stateless, ``opt`` is no optimizer, or
            ``scheduler`` no scheduler; the message says what to do.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = torch.optim.Adam(model.parameters())
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> lr = torch.tensor(1e-2, requires_grad=True)
        >>> with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (fmodel, diffopt):
        ...     for _ in range(3):
        ...         loss = ((fmodel(x) - y) ** 2).mean()
        ...         weights = diffopt.step(loss)
        ...     ((fmodel(x) - y) ** 2).mean().backward()
        >>> lr.grad.shape, [tuple(w.shape) for w in weights]
        (torch.Size([]), [(1, 3), (1,)])
    """
    reference: Iterable[Tensor]
    if isinstance(opt, torch.optim.Optimizer):
        reference = reference_of(model, opt)
    elif callable(opt):
        opt, reference = made_for(model, opt)
    else:
        raise TypeError(_no_optimizer(opt))
    fmodel = monkeypatch(
        model,
        device,
        copy_initial_weights=copy_initial_weights,
        track_higher_grads=track_higher_grads,
        tasks=tasks,
    )
    if track_higher_grads:
        _ddp.warn_outside(model, copy_initial_weights, override)
    diffopt = get_diff_optim(
        opt,
        reference,
        fmodel=fmodel,
        device=device,
        override=override,
        track_higher_grads=track_higher_grads,
    )
    diffopt._order = checked_order(order)
    if truncate is not None:
        refuse_distributed(fmodel.parameters(), TRUNCATE)
        diffopt._truncation = Truncation(diffopt, checked_truncate(truncate))
    if scheduler is not None:
        if not hasattr(scheduler, "optimizer") and callable(scheduler):
            scheduler = scheduler(opt)
        diffopt.scheduler = branched(scheduler, opt, diffopt, override)
    diffopt._told = OriginalSettings(opt)
    if check:
        diffopt._shadow = shadow_of(diffopt, fmodel, opt)
    # also for submodules and methods of the model that are called directly
    with math_attention if track_higher_grads else twice_differentiable:
        try:
            yield fmodel, diffopt
        except RuntimeError as error:
            add_hint(error, copy_initial_weights)
            raise
        finally:
            diffopt._told = None


def _no_optimizer(opt: Any) -> str:
    text = f"opt must be a torch.optim.Optimizer, not {type(opt).__name__}."
    if isinstance(opt, DifferentiableOptimizer):
        text += (
            " Pass the original one, whose present state the steps continue from, or a "
            "function that makes one: lambda params: torch.optim.SGD(params, lr=0.1)."
        )
    return text
