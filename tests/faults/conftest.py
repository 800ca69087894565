"""A real stack to be broken, and what its jobs would have learned undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningStack
from tests.faults.breaking import eventually, lasting, own_stack, undisturbed
from tests.integration.data import upload_noise

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # looked at, not written to


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that tests share."""
    with own_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="package")
def dataset(stack: RunningStack) -> str:
    """A table of random numbers."""
    return upload_noise(stack.client)


@pytest.fixture(scope="package")
def twin(stack: RunningStack, dataset: str) -> dict[str, Any]:
    """The job that most tests disturb, undisturbed."""
    return undisturbed(stack, lasting(dataset))


@pytest.fixture(autouse=True)
def _shared_memory_is_as_before() -> Iterator[None]:
    before = set(SHARED_MEMORY.iterdir())
    yield
    eventually(lambda: set(SHARED_MEMORY.iterdir()) <= before)
