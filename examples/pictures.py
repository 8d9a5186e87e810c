"""Pictures as SVG, without another package: curves in panels, and rows of small images."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

COLORS = ("#2563eb", "#b91c1c", "#64748b", "#15803d")
WIDTH, HEIGHT, LEFT, TOP = 360, 220, 52, 34


@dataclass
class Panel:
    """Curves over 1, 2, 3…: a name and its values, from zero up, for each."""

    title: str
    below: str
    curves: Sequence[tuple[str, Sequence[float]]]


def chart(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels side by side."""
    parts = [_panel(p, 20 + k * (WIDTH + 30)) for k, p in enumerate(panels)]
    _write(path, 20 + len(panels) * (WIDTH + 30), HEIGHT + 20, "\n".join(parts))


def _panel(panel: Panel, x: float) -> str:
    """One panel whose left edge is at ``x``."""
    tick = _tick(max(v for _, curve in panel.curves for v in curve))
    right, bottom = x + WIDTH, HEIGHT - 30
    most = max(len(curve) for _, curve in panel.curves)

    def place(k: int, value: float) -> str:
        across = x + LEFT + (WIDTH - LEFT) * k / max(most - 1, 1)
        return f"{across:.1f},{bottom - (bottom - TOP) * value / (4 * tick):.1f}"

    parts = [f'<text x="{x + LEFT}" y="20" font-weight="bold">{panel.title}</text>']
    for k in range(5):
        y = place(0, k * tick).partition(",")[2]
        parts.append(
            f'<line x1="{x + LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="#ddd"/>'
            f'<text x="{x + LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">'
            f"{k * tick:.3g}</text>"
        )
    middle = (x + LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT}" text-anchor="middle">{panel.below}</text>'
        f'<text x="{x + LEFT}" y="{bottom + 15}" text-anchor="middle">1</text>'
        f'<text x="{right}" y="{bottom + 15}" text-anchor="middle">{most}</text>'
    )
    for k, ((name, curve), color) in enumerate(zip(panel.curves, COLORS)):
        points = " ".join(place(n, value) for n, value in enumerate(curve))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
            f'<text x="{right}" y="{TOP + 12 + 15 * k}" text-anchor="end" '
            f'fill="{color}">{name}</text>'
        )
    return "\n".join(parts)


def _tick(highest: float) -> float:
    """A round number, four of which are above ``highest``."""
    unit = 10.0 ** math.floor(math.log10(highest / 4))
    return next(n * unit for n in (1, 2, 2.5, 5, 10) if 4 * n * unit >= highest)


def rows(path: Path, shown: Sequence[tuple[str, Tensor]]) -> None:
    """Write rows of images: a line of text, and images [n, h, w] with values in 0…1."""
    size, parts = 52, []
    most = max(len(images) for _, images in shown)
    for k, (text, images) in enumerate(shown):
        y = 12 + k * (size + 40)
        parts.append(f'<text x="12" y="{y + 14}">{text}</text>')
        for n, image in enumerate(images):
            parts.append(
                f'<image x="{12 + n * (size + 6)}" y="{y + 22}" width="{size}" '
                f'height="{size}" style="image-rendering:pixelated" href="{_png(image)}"/>'
            )
    _write(
        path, 18 + most * (size + 6), 12 + len(shown) * (size + 40), "\n".join(parts)
    )


def _png(image: Tensor) -> str:
    """A grey image [h, w] as the address of a PNG."""
    height, width = image.shape
    grey = (image.detach().clamp(0, 1) * 255).round().int().tolist()
    data = zlib.compress(b"".join(b"\0" + bytes(line) for line in grey), 9)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)
    text = base64.b64encode(png + chunk(b"IEND", b"")).decode()
    return f"data:image/png;base64,{text}"


def _write(path: Path, width: float, height: float, body: str) -> None:
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )
