"""Fixtures of the runtime's tests."""

from __future__ import annotations

import torch

import higher
from higher.optim.registry import _generated_optimizers

from handwritten import HandAdam, HandSGD

if not _generated_optimizers():
    higher.register_optim(torch.optim.SGD, HandSGD)
    higher.register_optim(torch.optim.Adam, HandAdam)
