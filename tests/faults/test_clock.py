"""The time of day jumps by an hour, forth and back, under every process of a stack: nothing rests on it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import RunningStack
from tests.faults.breaking import (
    await_same_end,
    events,
    lasting,
    own_stack,
    parts,
    states,
    submit_and_await_checkpoints,
    undisturbed,
)
from tests.integration.data import await_epochs, upload_noise

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="the shim needs a C compiler"),
]

HOUR = 3600


class Clock:
    """The time of day of the processes that were started with its `environment`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "jump"
        self.set(0)
        shim = folder / "jumping_clock.so"
        source = Path(__file__).with_name("jumping_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(shim), "JUMPING_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Moves it so far from what it is."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """One that is right."""
    return Clock(tmp_path)


@pytest.fixture
def stack(tmp_path: Path, clock: Clock) -> Iterator[RunningStack]:
    """A stack that lives by it."""
    with own_stack(tmp_path / "stack", **clock.environment) as running:
        yield running


def test_jobs_go_on_and_are_taken_over_by_nobody_when_the_clock_jumps(stack: RunningStack, clock: Clock) -> None:
    dataset = upload_noise(stack.client)
    twin = undisturbed(stack, lasting(dataset))
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    for jump in (HOUR, -HOUR, 0):
        clock.set(jump)
        epoch = stack.client.job(job_id)["progress"]["epoch"]
        await_epochs(stack.client, job_id, epoch + 10)
    await_same_end(stack, job_id, twin, attempts=(1,))
    assert states(stack, job_id) == ["queued", "starting", "running", "succeeded"]
    times = [datetime.fromisoformat(event["at"]) for event in events(stack, job_id)]
    assert max(times) - min(times) > timedelta(seconds=HOUR)  # the jumps were real


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_job_whose_supervisor_dies_as_the_clock_jumps_is_resumed_in_time(
    stack: RunningStack, clock: Clock, jump: int
) -> None:
    dataset = upload_noise(stack.client)
    twin = undisturbed(stack, lasting(dataset))
    job_id = submit_and_await_checkpoints(stack, lasting(dataset))
    clock.set(jump)
    (supervisor,) = parts(stack, "worker")
    supervisor.kill()
    await_same_end(stack, job_id, twin)
    said = datetime.fromisoformat(stack.client.job(job_id)["finished_at"])
    assert abs(said - datetime.now(UTC) - timedelta(seconds=jump)) < timedelta(seconds=HOUR / 2)
