"""What the runtime's tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from higher.optim import registry


@pytest.fixture(autouse=True)
def _forgets_what_was_registered() -> Iterator[None]:
    """Pairs that a test registers are there for that test alone."""
    known = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(known)


@pytest.fixture
def only_new() -> None:
    """``gc.get_objects`` has nothing that was there before: what other tests have left
    is neither counted nor looked through."""
    gc.collect()
    gc.freeze()
