"""Several machines for real: network namespaces, each a Ray node with an address of its own, and a job over all."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
from numpy.typing import NDArray

from common import processes
from tests.conftest import RunningStack, start_stack
from tests.integration.data import await_epochs, await_job, endless, train, upload
from tests.integration.namespaces import Machine, can_make, inside, machines
from worker.ray_node import QUIET

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_make(), reason="makes network namespaces: needs root and /dev/net/tun"),
]

ROWS = 600
_random = np.random.default_rng(3)
COLUMNS = _random.standard_normal((ROWS, 20)).round(3)
LABELS = (COLUMNS[:, 0] * COLUMNS[:, 1] > 0).astype(int).tolist()
PORT = 6380


def request(dataset_id: str, **cluster: Any) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id,
        "target": "target",
        "name": "nodes",
        "network": {"layers": [{"kind": "dense", "units": 300, "dropout": 0.1}, {"kind": "dense", "units": 20}]},
        "training": {"epochs": 4, "batch_size": 64, "seed": 11},
        "regularization": {"clip_norm": 0.5},
        "cluster": {"workers": 2, **cluster},
    }


def probabilities(stack: RunningStack, job: dict[str, Any]) -> NDArray[np.float64]:
    predictions = stack.client.predict(job["model_id"], COLUMNS[:100].tolist())["predictions"]
    return np.array([list(p["probabilities"].values()) for p in predictions])


def processes_of(stack: RunningStack, job_id: str, phase: str = "started") -> list[dict[str, Any]]:
    events = stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"]
    return [event["data"] for event in events if event["kind"] == "worker" and event["data"]["phase"] == phase]


@pytest.fixture(scope="module")
def expected(stack: RunningStack) -> NDArray[np.float64]:
    """What the job's model says when it is trained on one machine by one worker."""
    dataset = upload(stack.client, "one-node", COLUMNS, LABELS)
    return probabilities(stack, train(stack.client, request(dataset, workers=1)))


class Cluster:
    """Ray on several machines of one processor each, and a stack on the first that uses it."""

    def __init__(self, found: list[Machine], folder: Path) -> None:
        self.machines, self._folder = found, folder
        self._environment = {**QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.address = f"{found[0].address}:{PORT}"
        self._temporary = tempfile.TemporaryDirectory(prefix="crn", dir="/tmp")
        self.nodes: list[subprocess.Popen[str]] = []

    def start_node(self, number: int) -> None:
        """Starts Ray on a machine; the first one is the head."""
        machine = self.machines[number]
        role = (
            ["--head", f"--port={PORT}", f"--temp-dir={self._temporary.name}"]
            if number == 0
            else [f"--address={self.address}"]
        )
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role),
            *(f"--node-ip-address={machine.address}", "--num-cpus=1", "--disable-usage-stats"),
            "--object-store-memory=100000000",
        ]
        if number == 0:
            command.append("--include-dashboard=false")
        with inside(machine.name):
            log = self._folder / f"ray{number}.log"
            node = processes.start(command, log=log, environment=self._environment, folder=self._folder)
            self.nodes.append(node)
            while "Ray runtime started" not in log.read_text():  # one after the other: they share a folder
                assert node.poll() is None, log.read_text()
                time.sleep(0.1)

    def start_stack(self) -> RunningStack:
        return start_stack(self._folder / "state", CHAINRULE_RAY_ADDRESS=self.address, **self._environment)

    def stop(self) -> None:
        for node in reversed(self.nodes):
            processes.stop(node, seconds=10)
            processes.kill_group(node)
        self._temporary.cleanup()


@contextmanager
def cluster(
    folder: Path, count: int, started: int | None = None, **wire: float
) -> Iterator[tuple[Cluster, RunningStack]]:
    """So many machines, Ray on the first of them (all, unless said otherwise), a stack, and this thread on machine 0."""
    with machines(count, **wire) as found:
        ray = Cluster(found, folder)
        with inside(found[0].name):
            try:
                for number in range(started or count):
                    ray.start_node(number)
                running = ray.start_stack()
                try:
                    await_nodes(running, started or count)
                    yield ray, running
                finally:
                    assert running.stop() == 0
            finally:
                ray.stop()


def await_nodes(stack: RunningStack, count: int) -> None:
    until = time.monotonic() + 60
    while len(stack.client.call("GET", "/v1/cluster")["nodes"]) < count:
        assert time.monotonic() < until, "a node is missing"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_job_that_is_too_large_waits_says_why_and_starts_when_a_machine_joins(tmp_path: Path) -> None:
    with cluster(tmp_path, 2, started=1) as (ray, stack):
        dataset = upload(stack.client, "rows", COLUMNS, LABELS)
        job_id = stack.client.submit(request(dataset, workers=5))["id"]
        job = await_job(stack.client, job_id, lambda job: job["waiting_for"])
        assert job["state"] == "queued"
        assert "5 workers" in job["waiting_for"]
        assert "the cluster has 1" in job["waiting_for"]
        # Others go ahead of it meanwhile.
        assert train(stack.client, request(dataset, workers=1))["state"] == "succeeded"
        ray.start_node(1)
        job = await_job(stack.client, job_id, lambda _: False)
        assert job["state"] == "succeeded"
        assert job["waiting_for"] is None
        warnings = [
            e["data"] for e in stack.client.call("GET", f"/v1/jobs/{job_id}/events")["data"] if e["kind"] == "warning"
        ]
        assert len([w for w in warnings if "the cluster has 1" in str(w)]) == 1


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, RunningStack]]:
    with cluster(tmp_path_factory.mktemp("three"), 3) as found:
        yield found


def test_a_job_over_several_machines_follows_the_synchronous_trajectory(
    expected: NDArray[np.float64], three: tuple[Cluster, RunningStack]
) -> None:
    _, stack = three
    dataset = upload(stack.client, "rows", COLUMNS, LABELS)
    job = train(stack.client, request(dataset, workers=3, servers=2))
    assert job["state"] == "succeeded"
    np.testing.assert_allclose(probabilities(stack, job), expected, rtol=0, atol=1e-5)
    taking_part = processes_of(stack, job["id"])
    assert len({p["node"] for p in taking_part if p["role"] == "worker"}) == 3
    assert len({p["node"] for p in taking_part if p["role"] == "server"}) == 2


@pytest.mark.parametrize("synchrony", ["bounded_staleness", "local_steps"])
def test_every_synchrony_learns_over_several_machines(three: tuple[Cluster, RunningStack], synchrony: str) -> None:
    _, stack = three
    dataset = upload(stack.client, "rows", COLUMNS, LABELS)
    body = request(dataset, workers=3, servers=2, synchrony=synchrony)
    job = train(stack.client, {**body, "training": {"epochs": 60, "batch_size": 64, "seed": 11}})
    assert job["state"] == "succeeded"
    assert job["metrics"]["accuracy"] > 0.7


def test_a_foreign_process_gets_nothing_from_a_socket_and_disturbs_nobody(three: tuple[Cluster, RunningStack]) -> None:
    ray, stack = three
    dataset = upload(stack.client, "rows", COLUMNS, LABELS)
    job_id = stack.client.submit({**endless(dataset), "cluster": {"workers": 3}})["id"]
    await_epochs(stack.client, job_id, 1)
    server = next(p for p in processes_of(stack, job_id) if p["role"] == "server")
    ports = listening_ports(server["pid"])
    assert ports, "the server listens for the workers of other machines"
    context = zmq.Context()
    home = next(m for m in ray.machines if m.address in {host for host, _ in ports})
    for host, port in ports:
        assert host == home.address  # and nowhere else
        with socket.create_connection((host, port), timeout=10) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        keys = zmq.curve_keypair()
        for is_curve in (False, True):
            foreign = context.socket(zmq.DEALER)
            foreign.linger = 0
            if is_curve:
                foreign.curve_publickey, foreign.curve_secretkey = keys
                foreign.curve_serverkey = keys[0]
            foreign.connect(f"tcp://{host}:{port}")
            foreign.send(b"hello")
            assert not foreign.poll(500)
            foreign.close()
    context.term()
    epoch = stack.client.job(job_id)["progress"]["epoch"]
    await_epochs(stack.client, job_id, epoch + 3)
    stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert await_job(stack.client, job_id, lambda _: False)["attempt"] == 1


def listening_ports(pid: int) -> set[tuple[str, int]]:
    """Where a process listens for the socket channel: Ray's own ports are bound to no address in particular."""
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    listening = {line.split()[9]: line.split()[1] for line in table if line.split()[3] == "0A"}
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(file.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:[") and (where := listening.get(target[8:-1])):
            address, port = where.split(":")
            host = socket.inet_ntoa(int(address, 16).to_bytes(4, "little"))
            if host != "0.0.0.0":  # noqa: S104  # compared, not bound
                found.add((host, int(port, 16)))
    return found


@pytest.mark.slow
def test_delay_and_loss_only_slow_a_job(expected: NDArray[np.float64], tmp_path: Path) -> None:
    with cluster(tmp_path, 2, delay=0.02, loss=0.01) as (_, stack):
        dataset = upload(stack.client, "rows", COLUMNS, LABELS)
        job = train(stack.client, request(dataset, servers=2))
        assert job["state"] == "succeeded"
        assert job["attempt"] == 1
        np.testing.assert_allclose(probabilities(stack, job), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_wire_that_is_pulled_out_costs_an_attempt_and_no_more(tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as (ray, stack):
        dataset = upload(stack.client, "rows", COLUMNS, LABELS)
        body = request(dataset)
        job_id = stack.client.submit(
            {**body, "training": {**body["training"], "epochs": 2000}, "stopping": {"patience": None}}
        )["id"]
        await_epochs(stack.client, job_id, 2)
        pids = [p["pid"] for p in processes_of(stack, job_id)]
        ray.machines[1].cut()
        await_job(stack.client, job_id, lambda job: job["state"] != "running" or job["attempt"] > 1)
        ray.machines[1].mend()
        job = await_job(stack.client, job_id, lambda job: job["attempt"] == 2 and job["state"] == "running")
        assert (job["state"], job["attempt"]) == ("running", 2)
        stack.client.call("POST", f"/v1/jobs/{job_id}/cancel")
        await_job(stack.client, job_id, lambda _: False)
        until = time.monotonic() + 60
        while any(map(psutil.pid_exists, pids)):
            assert time.monotonic() < until, "a process of the lost attempt is left"
            time.sleep(0.1)
