"""The fifth suite: predictions under load, beside MLServer and Ray Serve with the same weights; and whole tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import numpy as np

from common import processes
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import open_stores
from service.redis_server import start_redis
from tests.benchmarks import tables
from tests.benchmarks.contender import Failed, NotAvailable, Say
from tests.benchmarks.environments import python_of
from tests.benchmarks.load import Bodies, Load, load
from tests.benchmarks.served import ServedNetwork, publish, write_bodies
from tests.benchmarks.servers import Chainrule, DirectRayServe, MLServer, RayServe, Running, Server
from tests.benchmarks.tables import Tables

SIZES = ((20, 64, 32, 2), (784, 512, 256, 10))
CONNECTIONS = (1, 8, 64)
SECONDS, QUICK_SECONDS = 3, 1
WARM_UP_SECONDS = 1
WARM_UP_CONNECTIONS = 8
CHECKED = 8
"""Instances whose answers are compared before a measurement."""
TOLERANCE = 1e-5
HEALTH = "GET /healthz"
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Loaded:
    """A server under load, once; `subject` is the health check, or the network that predicted."""

    round: int
    server: str
    subject: str
    connections: int
    load: Load
    cpu: float
    """Seconds that all processes of the server took for a request; the clock of the kernel ticks every 10 ms."""


@dataclass
class Predictions:
    """All that was found; filled as it is found."""

    titles: dict[str, str] = field(default_factory=dict)
    """Of the servers, by name."""
    networks: list[str] = field(default_factory=list)
    loads: list[Loaded] = field(default_factory=list)
    tables: list[Tables] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    """What went wrong with a server, by its name."""


def measure(found: Predictions, folder: Path, *, quick: bool, rounds: int, say: Say) -> None:
    """All servers in turn; every other round in reverse order, so that nobody is always first."""
    folder.mkdir()
    with _redis(folder) as redis_url:
        networks = _publish(redis_url, folder)
        servers = (
            Chainrule(networks=networks, redis_url=redis_url),
            MLServer(networks=networks),
            RayServe(networks=networks),
            DirectRayServe(networks=networks),
        )
        found.titles = {server.name: server.title for server in servers}
        found.networks = [network.title for network in networks]
        for server in servers:
            with suppress(NotAvailable):  # it says so again when it is to be measured
                python_of(server.environment, say)
        missing = set[str]()
        for number in range(1, rounds + 1):
            for server in servers if number % 2 else reversed(servers):
                if server.name in missing:
                    continue
                try:
                    with server.running(say) as running:
                        _measure(found, server, running, folder, number, quick=quick, say=say)
                except NotAvailable as reason:
                    missing.add(server.name)
                    _note(found, server, f"not available: {reason}", say)
                except Failed as reason:
                    _note(found, server, f"round {number} failed: {reason}", say)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    socket = folder / "redis.sock"
    process = start_redis(folder / "redis", socket, folder / "redis.log", {})
    try:
        yield f"unix://{socket}"
    finally:
        processes.stop(process)


def _publish(redis_url: str, folder: Path) -> list[ServedNetwork]:
    client = connect(redis_url, retries=1)
    stores = open_stores(client, DataFolder(folder / "data"))
    networks = [publish(sizes, stores, folder) for sizes in SIZES]
    client.close()
    return networks


def _note(found: Predictions, server: Server, problem: str, say: Say) -> None:
    found.problems.setdefault(server.name, []).append(problem)
    say(f"{server.title}: {problem}")


def _measure(
    found: Predictions, server: Server, running: Running, folder: Path, number: int, *, quick: bool, say: Say
) -> None:
    url = running.url
    asked: dict[str, tuple[str, Bodies | None]] = {}
    if isinstance(server, Chainrule):
        asked[HEALTH] = (f"{url}/healthz", None)
    for network in server.networks:
        check(server, url, network)
        asked[network.title] = (url + server.path(network), _bodies(server, network, folder))
    for subject, (address, bodies) in asked.items():
        load(address, bodies, WARM_UP_CONNECTIONS, WARM_UP_SECONDS)
        for connections in CONNECTIONS:
            used = running.cpu_seconds()
            one = load(address, bodies, connections, QUICK_SECONDS if quick else SECONDS)
            cpu = (running.cpu_seconds() - used) / one.answers
            found.loads.append(Loaded(number, server.name, subject, connections, one, cpu))
            say(
                f"prediction, round {number}: {server.title}, {subject}, connections: {connections}; "
                f"{one.requests_per_second:,.0f} requests/s, p50 {one.p50 * 1e3:.2f} ms, p99 {one.p99 * 1e3:.2f} ms, "
                f"CPU {cpu * 1e3:.2f} ms"
            )
    if isinstance(server, Chainrule):
        narrow, wide = server.networks
        one_round = tables.measure(url, narrow, wide, quick=quick)
        found.tables.append(one_round)
        say(f"prediction, round {number}: whole tables: {one_round}")


def check(server: Server, url: str, network: ServedNetwork) -> None:
    """Asks about some instances.

    Raises:
        Failed: the answers are not those of the network.

    """
    with httpx2.Client(base_url=url, trust_env=False, timeout=ANSWER_SECONDS) as client:
        ask = partial(client.post, server.path(network))
        answers = [ask(json=server.question(instance)) for instance in network.instances[:CHECKED].tolist()]
    if refused := [answer.status_code for answer in answers if answer.status_code != 200]:
        raise Failed(f"a prediction was answered with {refused[0]}")
    told = np.array([server.probabilities(answer.json()) for answer in answers])
    if not np.allclose(told, network.probabilities[:CHECKED], rtol=0, atol=TOLERANCE):
        raise Failed(f"its answers for {network.title} are not those of the weights")


def _bodies(server: Server, network: ServedNetwork, folder: Path) -> Bodies:
    questions: Sequence[object] = [server.question(instance) for instance in network.instances.tolist()]
    file = folder / f"{server.name}-{network.inputs}.jsonl"
    return Bodies("application/json", write_bodies(file, questions))
