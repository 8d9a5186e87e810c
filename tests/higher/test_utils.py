"""``higher.utils``."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from higher.utils import flatten, get_func_params


def test_flatten() -> None:
    t = torch.ones(2)
    nested = [1, (2, [3, []]), {"a": 4, "b": OrderedDict(c=(5, t))}, "six", None]
    assert flatten(nested) == [1, 2, 3, 4, 5, t, "six", None]
    assert flatten(3) == [3] and flatten({}) == []


def test_get_func_params() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    copies = get_func_params(model)
    for p, c in zip(model.parameters(), copies, strict=True):
        assert torch.equal(p, c) and c.is_leaf and c.requires_grad == p.requires_grad
        assert c.data_ptr() != p.data_ptr()
    aliases = get_func_params(model, safe_copy=False)
    assert [a.data_ptr() for a in aliases] == [p.data_ptr() for p in model.parameters()]
    assert [a.requires_grad for a in aliases] == [True, False]
    assert get_func_params(model, device="meta")[0].is_meta
