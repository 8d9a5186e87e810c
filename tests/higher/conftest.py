"""What the runtime's tests share: pairs that a test registers are forgotten after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from higher.optim import registry


@pytest.fixture(autouse=True)
def _forgets_what_was_registered() -> Iterator[None]:
    known = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(known)
