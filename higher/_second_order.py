"""Kernels that can be differentiated twice, while higher gradients are tracked.

torch's fused attention kernels and cuDNN's RNNs have no second derivative.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch


class _MathAttention:
    """Leaves scaled_dot_product_attention its math backend alone.

    torch keeps this choice for the whole process, so entries are counted: the first
    one in saves and sets, the last one out restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._saved: tuple[bool, ...] = ()

    def __enter__(self) -> None:
        with self._lock:
            self._entered += 1
            if self._entered == 1:
                self._saved = _enabled_backends()
                _enable_backends(False, False, False, True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                _enable_backends(*self._saved)


# torch leaves these functions without types
_sdp: Any = torch.backends.cuda


def _enabled_backends() -> tuple[bool, ...]:
    return (
        _sdp.flash_sdp_enabled(),
        _sdp.mem_efficient_sdp_enabled(),
        _sdp.cudnn_sdp_enabled(),
        _sdp.math_sdp_enabled(),
    )


def _enable_backends(flash: bool, efficient: bool, cudnn: bool, math: bool) -> None:
    _sdp.enable_flash_sdp(flash)
    _sdp.enable_mem_efficient_sdp(efficient)
    _sdp.enable_cudnn_sdp(cudnn)
    _sdp.enable_math_sdp(math)


math_attention = _MathAttention()
