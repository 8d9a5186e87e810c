"""A translation that verification accepts, if there is one.

Settings that are off at zero keep their derivative there (R7): the update takes the
same branch at zero as beside it. That changes nothing for a weight decay. It does for
a momentum that also turns another term on: there the update itself jumps, and exactly
at zero the branch must stay off. Which settings do so shows when they are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from codegen import emit
from codegen.diagnostics import CodegenError, Diagnostic
from codegen.loading import load_text
from codegen.translate import Translation, translate
from codegen.upstream import Library
from codegen.verify import Report, verify
from higher.optim.base import DifferentiableOptimizer

_STEPS = 3


def translate_and_verify(
    original: type[torch.optim.Optimizer],
    translation: Translation,
    library: Library | None = None,
) -> tuple[Translation, Report]:
    """The translation, or the one with its jumping settings named, and the report. What
    verification could not run is told in the text.

    Raises:
        CodegenError: verification fails; the message has the figures.
    """
    compiled = _load(translation)
    report = verify(original, compiled)
    if not report.ok:
        jumps = frozenset(jumping_settings(original, compiled))
        if jumps:
            translation = translate(translation.target, library, jumps)
            report = verify(original, _load(translation))
    if not report.ok:
        raise CodegenError(
            [
                Diagnostic(
                    "verify",
                    f"the translation of {original.__name__} is wrong\n{report}",
                    "nothing was written; this is a bug of the compiler's: please "
                    "report it with the optimizer's source",
                )
            ]
        )
    return _telling(translation, report), report


def _telling(translation: Translation, report: Report) -> Translation:
    text = emit.with_not_run(translation.text, report.original.lines_missed)
    more = text.count("\n") - translation.text.count("\n")
    lines = (line._replace(number=line.number + more) for line in translation.lines)
    return replace(translation, text=text, lines=tuple(lines))


def _load(translation: Translation) -> type[DifferentiableOptimizer]:
    return load_text(translation.text, translation.target, translation.class_name)


def jumping_settings(
    original: type[torch.optim.Optimizer], compiled: type[DifferentiableOptimizer]
) -> Iterator[str]:
    """Settings, zero by default, at which a tensor goes another way than a number."""
    params = _parameters()
    try:
        optimizer = original(params)  # type: ignore[call-arg]
        usual = _run(compiled, optimizer, params, {})
    except Exception:  # whatever keeps it from running is the verification's to tell
        return
    for name, value in optimizer.param_groups[0].items():
        if isinstance(value, bool) or value != 0 or not isinstance(value, (int, float)):
            continue
        zero = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        try:
            moved = _run(compiled, optimizer, params, {name: [zero]})
        except Exception:
            yield name
            continue
        if not all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(usual, moved)):
            yield name


def _parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (2, 2))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]


def _run(
    compiled: type[DifferentiableOptimizer],
    optimizer: torch.optim.Optimizer,
    params: list[Tensor],
    override: dict[str, list[Tensor]],
) -> list[Tensor]:
    stepper = compiled(optimizer, params, override=override)
    weights = list(params)
    for step in range(_STEPS):
        loss = sum(((w - 0.1 * step).sin() ** 2).sum() for w in weights)
        assert isinstance(loss, Tensor)
        weights = stepper.step(loss, params=weights)
    return weights
