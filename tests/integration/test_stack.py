"""`chainrule up`: starts, refuses what it must, survives the death of its parts and of itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sklearn.datasets import load_iris

from service.client import ApiError
from tests.conftest import RunningStack, start_stack
from tests.integration.data import await_epochs, await_job, endless, train, upload, upload_noise

pytestmark = pytest.mark.integration

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # looked at, not written to


def up(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`chainrule up` that is expected to refuse."""
    command = [sys.executable, "-P", "-m", "service.cli", "up", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def parts(stack: RunningStack, module: str) -> list[psutil.Process]:
    """The stack's own children that run a module."""
    children = psutil.Process(stack.process.pid).children()
    return [child for child in children if child.cmdline()[1:3] == ["-m", module]]


def part(stack: RunningStack, module: str) -> psutil.Process:
    """One of the stack's own children."""
    return parts(stack, module)[0]


def descendants(stack: RunningStack) -> list[psutil.Process]:
    return psutil.Process(stack.process.pid).children(recursive=True)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def is_readable(stack: RunningStack, job_id: str) -> bool:
    """Whether the store answers; while it does not, callers are told so."""
    try:
        stack.client.job(job_id)
    except ApiError as error:
        if "store_unavailable" not in str(error):
            raise
        return False
    return True


def test_it_ends_cleanly_and_carries_on_when_started_again(tmp_path: Path) -> None:
    before = set(SHARED_MEMORY.iterdir())
    stack = start_stack(tmp_path / "a state directory")
    columns, target = load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    job = train(stack.client, {"dataset_id": dataset, "target": "target", "name": "iris"})
    family = descendants(stack)
    assert stack.stop() == 0
    assert all(is_gone(process) for process in family)
    assert set(SHARED_MEMORY.iterdir()) == before

    again = start_stack(tmp_path / "a state directory", CHAINRULE_PROCESSES="2")
    assert len(parts(again, "service")) == 2
    assert again.client.job(job["id"]) == job
    assert again.client.call("GET", f"/v1/datasets/{dataset}")["rows"] == 150
    assert again.client.predict("iris", columns[:2].tolist())["model_id"] == job["model_id"]
    assert again.stop() == 0


def test_a_second_start_on_the_same_directory_is_refused_and_harms_nothing(stack: RunningStack) -> None:
    answer = up("--port", "0", "--state-dir", str(stack.state_dir))
    assert answer.returncode == 1
    assert f"already running on {stack.state_dir} (process {stack.process.pid})" in answer.stderr
    assert stack.client.call("GET", "/readyz")["supervisors"] == 1


def test_a_port_in_use_is_a_clear_message(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = up("--port", str(port), "--state-dir", str(tmp_path))
    assert answer.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_binding_beyond_loopback_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_HOST", "0.0.0.0")  # noqa: S104
    answer = up("--port", "0", "--state-dir", str(tmp_path))
    assert answer.returncode == 1
    assert "binds to loopback only" in answer.stderr
    assert "chainrule keys create" in answer.stderr


def test_a_misspelt_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_PROT", "8000")
    answer = up("--state-dir", str(tmp_path))
    assert answer.returncode == 1
    assert "CHAINRULE_PROT: no such setting" in answer.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_a_clear_message(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "filler").write_bytes(bytes(48 * 1024))
        answer = up("--port", "0", "--state-dir", str(disk / "state"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert answer.returncode == 1
    assert "No space left on device" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_job_goes_on_while_its_api_process_is_killed_and_started_again(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    before = await_epochs(stack.client, job_id, 2)["progress"]["epoch"]
    killed = part(stack, "service")
    killed.kill()
    job = await_epochs(stack.client, job_id, before + 5)  # asked through the same address, without a break
    assert job["attempt"] == 1
    assert part(stack, "service").pid != killed.pid
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["state"] == "cancelled"


def test_a_job_goes_on_while_redis_is_killed_and_started_again(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    before = await_epochs(stack.client, job_id, 2)["progress"]["epoch"]
    redis = next(child for child in descendants(stack) if "valkey-server" in child.name())
    redis.kill()
    redis.wait(10)
    assert stack.process.stdout is not None
    assert "Redis ended unexpectedly" in next(line for line in stack.process.stdout if "Redis" in line)
    while not is_readable(stack, job_id):
        pass
    job = await_epochs(stack.client, job_id, before + 5)
    assert job["attempt"] == 1
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["state"] == "cancelled"


@pytest.mark.parametrize("role", ["worker", "server"])
def test_a_job_whose_process_is_killed_is_started_again(stack: RunningStack, role: str) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    await_epochs(stack.client, job_id, 1)
    events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    pid = next(e["data"]["pid"] for e in events if e["data"].get("role") == role)
    os.kill(pid, signal.SIGKILL)
    job = await_job(stack.client, job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
    assert (job["state"], job["attempt"]) == ("running", 2)
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["state"] == "cancelled"


def test_a_job_with_a_frozen_worker_can_be_cancelled(stack: RunningStack) -> None:
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    await_epochs(stack.client, job_id, 1)
    events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    frozen = psutil.Process(next(e["data"]["pid"] for e in events if e["data"].get("role") == "worker"))
    frozen.suspend()
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["state"] == "cancelled"
    frozen.wait(60)


def test_a_job_that_loses_a_process_in_every_attempt_fails_and_the_operator_can_read_why(stack: RunningStack) -> None:
    log = stack.state_dir / "logs" / "runs.log"
    said = log.stat().st_size
    dataset = upload_noise(stack.client)
    job_id = stack.client.submit(endless(dataset))["id"]
    pid = 0
    for attempt in (1, 2, 3):
        job = await_job(stack.client, job_id, lambda job, n=attempt: job["attempt"] == n and job["state"] == "running")
        assert job["state"] == "running"
        events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
        pid = [e["data"]["pid"] for e in events if e["data"].get("role") == "worker"][-1]
        os.kill(pid, signal.SIGSEGV)
    job = await_job(stack.client, job_id, lambda _: False)
    assert job["state"] == "failed"
    assert job["error"]["code"] == "worker_lost"
    assert "log" in job["error"]["hint"]
    _, found, words = log.read_bytes()[said:].decode().rpartition(f"process {pid} has died; the end of its log:")
    assert found
    assert "Fatal Python error: Segmentation fault" in words


def test_after_the_root_process_is_killed_a_new_start_loses_nothing_and_leaves_nothing_of_the_first(
    tmp_path: Path,
) -> None:
    before = set(SHARED_MEMORY.iterdir())
    stack = start_stack(tmp_path)
    columns, target = load_iris(return_X_y=True)
    dataset = upload(stack.client, "iris", columns, target.tolist())
    ended = train(stack.client, {"dataset_id": dataset, "target": "target", "name": "iris"})
    noise = upload_noise(stack.client)
    unfinished = stack.client.submit(endless(noise, stopping={"patience": None, "max_seconds": 2.0}))["id"]
    await_epochs(stack.client, unfinished, 2)
    family = descendants(stack)
    assert len(family) > 8
    stack.kill()

    again = start_stack(tmp_path)
    assert all(is_gone(process) for process in family)
    assert again.client.job(ended["id"]) == ended
    assert again.client.call("GET", f"/v1/datasets/{dataset}")["rows"] == 150
    assert again.client.predict("iris", columns[:2].tolist())["model_id"] == ended["model_id"]
    job = await_job(again.client, unfinished, lambda _: False)
    assert (job["state"], job["attempt"], job["stop_reason"]) == ("succeeded", 2, "time_limit")
    assert again.stop() == 0
    assert set(SHARED_MEMORY.iterdir()) == before
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
