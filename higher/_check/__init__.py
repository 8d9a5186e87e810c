"""The original optimizer beside every inner step (``check=True``).

The original's own class steps detached copies of the same weights with the same
gradients. It keeps what it has from step to step, its memory and attributes too, and
before each step takes over the values that the differentiable optimizer has then: so a
difference is one of that very step, whatever the user did in between.
"""

from __future__ import annotations

from higher._check.beginning import Shadows, checked, having, shadow_of
from higher._check.errors import CheckError
from higher._check.original import CannotCheck
from higher._check.shadow import Shadow

__all__ = [
    "CannotCheck",
    "CheckError",
    "Shadow",
    "Shadows",
    "checked",
    "having",
    "shadow_of",
]
