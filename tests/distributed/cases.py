"""All cases."""

from __future__ import annotations

import ddp_cases  # noqa: F401
import dtensor_cases  # noqa: F401
import fsdp_cases  # noqa: F401
import wrappers  # noqa: F401
from ranks import CASES, main

__all__ = ["CASES", "main"]
