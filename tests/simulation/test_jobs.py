"""Ten thousand worlds in which every promise holds; and six faults, each of which breaks one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from common import processes
from common.schemas.datasets import Dataset
from common.store import files
from common.store.client import Script, stored
from common.store.jobs import Claim
from service.redis_server import start_redis
from tests.simulation.world import Broken, Universe, World

SEEDS = 10_000
_PARTS = 2
_MOST_UNTIL_FOUND = 3_000


def explore(seeds: range, plant: Callable[[Universe], None] | None = None) -> str | None:
    """Runs worlds until one breaks a promise; says which, and which promise."""
    logging.disable(logging.CRITICAL)  # all that goes wrong here is told of
    with tempfile.TemporaryDirectory(prefix="cr", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # no world loses its power, and a disk takes its time
        socket = Path(folder) / "redis.sock"
        server = start_redis(Path(folder) / "redis", socket, Path(folder) / "redis.log", {})
        try:
            universe = Universe(f"unix://{socket}", Path(folder) / "data")
            universe.stores[0].client.config_set("appendfsync", "no")
            if plant is not None:
                plant(universe)
            for seed in seeds:
                try:
                    World(universe, seed).run()
                except Broken as error:
                    return f"seed {seed}: {error}"
        finally:
            processes.stop(server)
            logging.disable(logging.NOTSET)
    return None


@pytest.mark.timeout(1200)
def test_every_promise_holds_in_every_world() -> None:
    parts = [range(part, SEEDS, _PARTS) for part in range(_PARTS)]
    with ProcessPoolExecutor(_PARTS, multiprocessing.get_context("spawn")) as pool:
        assert [*pool.map(explore, parts)] == [None] * _PARTS


def without(script: Script, line: str, instead: str = "") -> None:
    """Takes a line out of a script."""
    source = script._run.script
    assert isinstance(source, str)
    assert line in source
    script._run = script._run.registered_client.register_script(source.replace(line, instead))


def no_fence(universe: Universe) -> None:
    for stores in universe.stores:
        fence = 'redis.call("HGET", KEYS[1], "fence") ~= ARGV[{}] then return {"fenced"} end'
        without(stores.jobs._move, 'if ARGV[4] ~= "" and ' + fence.replace("{}", "4"))
        without(stores.jobs._record, "if " + fence.replace("{}", "1"))
        without(stores.checkpoints._record, "if " + fence.replace("{}", "2"))


def late_terminal_write(universe: Universe) -> None:
    check = 'if not string.find("," .. ARGV[3] .. ",", "," .. state .. ",", 1, true) then'
    for stores in universe.stores:
        without(stores.jobs._move, check, f'if ARGV[10] ~= "1" and {check[3:]}')


def lease_by_wall_clock(universe: Universe) -> None:
    universe.wall_clock_leases = True


def claim_without_compare_and_set(universe: Universe) -> None:
    for stores in universe.stores:
        jobs = stores.jobs

        @stored
        def claim(job_id: str, jobs: object = jobs) -> Claim | None:
            held = ("queued", "starting", "running")
            answer = jobs._apply(job_id, "starting", sources_only=held, raise_fence=True, is_claim=True)  # type: ignore[attr-defined]
            return Claim(job_id, int(answer[1])) if answer[0] == "ok" else None

        jobs.claim = claim  # type: ignore[method-assign]


def published_before_the_end(universe: Universe) -> None:
    for stores in universe.stores:
        succeed, create = stores.jobs.succeed_predicting, stores.datasets.create

        def in_two_steps(
            claim: Claim,
            result: Dataset,
            succeed: Callable[[Claim, Dataset], None] = succeed,
            create: Callable[[Dataset], object] = create,
        ) -> None:
            create(result)
            succeed(claim, result)

        stores.jobs.succeed_predicting = in_two_steps  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "plant",
    [
        no_fence,
        late_terminal_write,
        lease_by_wall_clock,
        claim_without_compare_and_set,
        pytest.param(published_before_the_end, marks=pytest.mark.slow),
    ],
)
def test_a_planted_fault_is_found(plant: Callable[[Universe], None]) -> None:
    assert explore(range(_MOST_UNTIL_FOUND), plant) is not None


def test_a_pointer_before_its_bytes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies between the two leaves a pointer to nothing."""
    write, dice = files._write, iter(range(10**9))

    def often_too_late(path: Path, content: bytes) -> None:
        if next(dice) % 5:
            write(path, content)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(files, "_write", often_too_late)
    assert explore(range(_MOST_UNTIL_FOUND)) is not None
