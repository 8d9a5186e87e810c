"""Gradients that somebody computed before a step: accumulated ones, for instance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


def checked_grads(
    grads: Iterable[Tensor | None],
    params: Sequence[Tensor],
    tracked: bool,
    earlier: Sequence[tuple[int, Tensor]] = (),
) -> list[Tensor | None]:
    """``grads`` as a list, if they are gradients of ``params``.

    Args:
        grads: one for each parameter; None where there is none.
        params: the latest weights.
        tracked: whether the step is to be differentiated through them.
        earlier: what weights were before a forward replaced them.

    Raises:
        ValueError: there are too few or too many, one has another shape than its
            parameter, or all are None.
        RuntimeError: they are constants, which nothing flows through, or can't be of
            all uses of a weight.
    """
    given = list(grads)
    if len({k for k, _ in earlier}) < len(earlier):
        raise RuntimeError(
            "An embedding with max_norm has renormalized its weight several times since "
            "the last step, and gradients by the latest are not all. Pass the sum of the "
            "losses to step instead."
        )
    if len(given) != len(params):
        raise ValueError(
            f"step was given {len(given)} gradients; its reference parameters are "
            f"{len(params)}. Give one for each, None where there is none."
        )
    for k, (g, p) in enumerate(zip(given, params)):
        if g is not None and g.shape != p.shape:
            raise ValueError(
                f"Gradient {k} has shape {tuple(g.shape)}; its parameter has "
                f"{tuple(p.shape)}."
            )
    there = [g for g in given if g is not None]
    if not there:
        raise ValueError("step was given no gradient: all are None.")
    if tracked and not any(g.requires_grad for g in there):
        raise RuntimeError(
            "The gradients that step was given carry no graph, so that nothing would "
            "flow back through them. Compute them with torch.autograd.grad(loss, "
            "params, create_graph=True); p.grad does not carry one. If they are "
            "constants, say so: innerloop_ctx(..., order=1)."
        )
    return given
