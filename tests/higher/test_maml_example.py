"""The MAML example runs, and learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "maml_omniglot.py"


def test_the_maml_example_learns_better_than_chance() -> None:
    spec = importlib.util.spec_from_file_location("maml_omniglot", EXAMPLE)
    assert spec is not None and spec.loader is not None
    maml = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maml)
    db = maml.Characters(50, n_way=3, k_spt=1, k_qry=2, tasks=2, seed=0)
    net = maml.make_net(3)
    start = [p.detach().clone() for p in net.parameters()]
    maml.train(db, net, torch.optim.Adam(net.parameters(), lr=1e-2), steps=2)
    assert all(not torch.equal(p, q) for p, q in zip(net.parameters(), start))
    # three classes: chance is 33
    assert maml.test(db, net, batches=3) > 45
