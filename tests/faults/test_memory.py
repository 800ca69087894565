"""Memory runs out: a small shared memory, and processes of a run that get no more."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.processes import is_there
from tests.conftest import RunningStack
from tests.faults.breaking import actors, events, eventually, lasting, living_actors, own_stack, undisturbed
from tests.integration.data import train, upload_noise

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL_SHARED_MEMORY = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
ROOM = 64 * 1024 * 1024


def can_mount() -> bool:
    """Whether this machine lets us have a /dev/shm of our own."""
    command = shutil.which(SMALL_SHARED_MEMORY[0])
    return command is not None and subprocess.run([*SMALL_SHARED_MEMORY, "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_a_shared_memory_of_one_megabyte_is_enough(tmp_path: Path) -> None:
    with own_stack(tmp_path, within=SMALL_SHARED_MEMORY) as stack:
        undisturbed(stack, lasting(upload_noise(stack.client), 3, network=wide(1024)))


def wide(units: int) -> dict[str, Any]:
    """A network with units x units weights, and some more."""
    return {"layers": [{"kind": "dense", "units": units}, {"kind": "dense", "units": units}]}


@contextmanager
def no_more_memory(processes: list[psutil.Process]) -> Iterator[None]:
    """They can map so much more and not a byte beyond."""
    for process in processes:
        process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms + ROOM, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for process in filter(is_there, processes):
            process.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("kind", ["Worker", "Server"])
def test_a_job_whose_actors_get_no_memory_says_so_and_leaves_a_stack_that_works(
    stack: RunningStack, dataset: str, kind: str
) -> None:
    listed = events(stack, undisturbed(stack, lasting(dataset, 1))["id"])
    eventually(lambda: not actors(listed) and len(living_actors(stack, "Worker")) == 2)
    with no_more_memory(living_actors(stack, kind)):
        job = train(stack.client, lasting(dataset, 1, network=wide(4096)))
    assert job["state"] == "failed"
    assert job["error"]["code"] == "out_of_memory"
    assert "memory" in job["error"]["hint"]
    undisturbed(stack, lasting(dataset, 1))
