"""Differentiate through training loops.

``innerloop_ctx`` gives a stateless version of any ``torch.nn.Module`` and a
differentiable version of any ``torch.optim`` optimizer; the steps they take
together are ordinary nodes of the autograd graph.
"""

_COMPILED = True  # before anything else: how higher._intact knows this file

from higher import optim, patch, utils
from higher._check import CheckError
from higher._tasks.module import map_tasks
from higher._unroll import unroll
from higher.innerloop import innerloop_ctx
from higher.optim import create_diff_optim, get_diff_optim, register_optim
from higher.patch import monkeypatch

__version__ = "0.1.0"

__all__ = [
    "CheckError",
    "create_diff_optim",
    "get_diff_optim",
    "innerloop_ctx",
    "map_tasks",
    "monkeypatch",
    "optim",
    "patch",
    "register_optim",
    "unroll",
    "utils",
]
