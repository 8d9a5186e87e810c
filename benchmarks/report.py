"""Figures as a table and as a plot."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import torch
from workloads import Workload

Found = Mapping[str, list[dict[str, Any]]]
"""Contestant -> what its processes printed."""


def caption(runs: Mapping[str, Found]) -> str:
    """The machine and versions, and what the figures are."""
    counts = {len(r) for found in runs.values() for r in found.values() if _able(r)}
    rounds = (
        " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"
    )
    several = (
        f"Medians of {rounds} processes, in parentheses lowest to highest"
        if rounds != "1"
        else "One process each"
    )
    return (
        f"{os.cpu_count()} shared {platform.machine()} cores, one thread; torch "
        f"{torch.__version__}, Python {platform.python_version()}. {several}; ratios to "
        "the classic library's plain loop, or to ours where that has none."
    )


def base_of(found: Found) -> str | None:
    """By whose figures the others are divided."""
    able = [c for c in ("classic", "ours") if _able(found.get(c, []))]
    return able[0] if able else None


def _able(runs: list[dict[str, Any]]) -> bool:
    return bool(runs) and not any("unable" in run for run in runs)


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def table(runs: Mapping[str, Found], workloads: Mapping[str, Workload]) -> str:
    """All workloads that were run, in Markdown."""
    return "\n\n".join(
        f"### {work.title}\n\n{_rows(runs[name])}"
        for name, work in workloads.items()
        if name in runs
    )


def _rows(found: Found) -> str:
    base = base_of(found)
    lines = [
        "| contestant | CPU seconds | ratio | peak memory, MB | ratio | compiling, CPU s |",
        "|---|---|---|---|---|---|",
    ]
    unable: dict[str, list[str]] = {}
    for contestant, runs in found.items():
        if not _able(runs):
            reason = next((run["unable"] for run in runs if "unable" in run), "")
            unable.setdefault(_sentence(reason), []).append(contestant)
            continue
        seconds, size = _median(runs, "seconds"), _median(runs, "bytes")
        spread = sorted(run["seconds"] for run in runs)
        time = f"{seconds:.3g}"
        if len(spread) > 1:
            time += f" ({spread[0]:.3g} to {spread[-1]:.3g})"
        ratios = ["", ""]
        if base is not None:
            ratios = [
                f"{seconds / _median(found[base], 'seconds'):.2f}",
                _fraction(size / max(1.0, _median(found[base], "bytes"))),
            ]
        compiling = f"{runs[0]['compile']:.0f}" if "compile" in runs[0] else ""
        lines.append(
            f"| {contestant} | {time} | {ratios[0]} | {size / 1e6:.0f} | {ratios[1]} "
            f"| {compiling} |"
        )
    if unable:
        lines += ["", "Not measured:", ""]
    for reason, contestants in unable.items():
        lines.append(f"- {', '.join(f'`{c}`' for c in contestants)}: {reason}.")
    return "\n".join(lines)


def _sentence(reason: str) -> str:
    """The first one of what an error says."""
    message = reason.removeprefix("failed: ").partition("Error: ")[2] or reason
    return message.partition(". ")[0].rstrip(". ")


def _fraction(ratio: float) -> str:
    return f"1/{1 / ratio:.1f}" if 0 < ratio < 0.5 else f"{ratio:.2f}"


_COLOURS = ("#3b6ea8", "#c0603a")
_KEYS = (("bytes", "peak memory"), ("seconds", "CPU time"))
_ROW, _LEFT, _WIDTH = 16, 190, 330


def svg(runs: Mapping[str, Found], workloads: Mapping[str, Workload]) -> str:
    """Bars of memory and time, on a logarithmic axis of ratios from 1/100 to 4."""
    parts: list[str] = []
    y = 40
    for name, work in workloads.items():
        found = runs.get(name, {})
        base = base_of(found)
        if base is None:
            continue
        parts.append(_text(12, y + 12, f"{work.title}; {base} = 1", True))
        y += 20
        for contestant, one in found.items():
            if not _able(one):
                continue
            parts.append(_text(_LEFT - 8, y + 11, contestant, anchor="end"))
            for column, (key, _) in enumerate(_KEYS):
                ratio = _median(one, key) / max(1.0, _median(found[base], key))
                parts.append(_bar(column, y, ratio))
            y += _ROW
        y += 10
    width, height = _LEFT + 2 * (_WIDTH + 30), y + 10
    heads = [
        _text(_LEFT + i * (_WIDTH + 30), 22, f"{title}, ratio (log scale)", True)
        for i, (_, title) in enumerate(_KEYS)
    ]
    lines = [_line(i, height) for i in range(len(_KEYS))]
    body = "\n".join([*heads, *lines, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def _x(column: int, ratio: float) -> float:
    low, high = math.log(0.01), math.log(4)
    place = (math.log(min(max(ratio, 0.01), 4)) - low) / (high - low)
    return _LEFT + column * (_WIDTH + 30) + place * (_WIDTH - 40)


def _bar(column: int, y: int, ratio: float) -> str:
    left, right = _x(column, 0.01), _x(column, ratio)
    return (
        f'<rect x="{left:.0f}" y="{y + 2}" width="{max(1, right - left):.0f}" '
        f'height="{_ROW - 4}" fill="{_COLOURS[column]}"/>'
        + _text(right + 4, y + 11, _fraction(ratio))
    )


def _line(column: int, height: int) -> str:
    x = _x(column, 1)
    return (
        f'<line x1="{x:.0f}" x2="{x:.0f}" y1="30" y2="{height - 8}" stroke="#999" '
        'stroke-dasharray="3 3"/>'
    )


def _text(
    x: float, y: float, text: str, bold: bool = False, anchor: str = "start"
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{weight}>'
        f"{escape(text)}</text>"
    )
