"""What all tests share: one thread, fixed seeds, no cache but their own."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end, and so do parsed sources: to
    look through them all for garbage took a seventh of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 200)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own is neither read nor written; processes of tests inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("HIGHER_CODEGEN_CACHE", str(place))
        yield


@pytest.fixture(autouse=True, scope="session")
def _checked_passes() -> Iterator[None]:
    """What each pass of the compiler promises is asserted, in processes of tests too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIGHER_CODEGEN_POSTCONDITIONS", "1")
        yield
