"""One world per seed: two supervisors, their runs, a user, and what may go wrong between them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import redis

from common.errors import ChainruleError, Conflict, CorruptRecord, FenceLost, NotFound, StoreUnavailable
from common.identifiers import new_id
from common.lifecycle import TERMINAL, State, sources
from common.schemas.batch_predictions import BatchPredictionRequest
from common.schemas.cluster import Node, SupervisorReport
from common.schemas.jobs import Job, PredictionJob, PredictionProgress
from common.settings import Settings
from common.store import keys
from common.store.checkpoints import SavedTraining
from common.store.client import text
from common.store.files import DataFolder
from common.store.jobs import Claim, JobStore
from common.store.stores import Stores, open_stores
from common.store.supervisors import SupervisorStore
from tests.contract import a_dataset, a_model, a_progress, an_epoch, create, publish, submit
from tests.steady_ray import SteadyRay
from worker.housekeeping import Housekeeping
from worker.run_child import Done, Exited, Lost, Message, Nodes, Ready
from worker.supervisor import Child, Hear, Supervisor

LEASE_SECONDS = 10.0
EPOCHS = 4
ROWS = 2
"""Of a job that predicts, of which many are to be at their end while there is trouble."""
PROCESSES = 5
"""That speak to the store: a user, two supervisors, and the runs of each."""
RESULT = "predictions"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = Settings(lease_seconds=LEASE_SECONDS, max_attempts=1000)
NODE = Node(id="n", address="127.0.0.1", cpus=1.0, memory_bytes=1, alive=True)


class Broken(AssertionError):
    """A promise was not kept."""


def _execute(client: redis.Redis, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return redis.Redis.execute_command(client, *args, **options)  # type: ignore[no-untyped-call]


class Wire(redis.Redis):
    """A client whose messages have a fate."""

    fate: Callable[[], str] = staticmethod(lambda: "fine")
    late: list[tuple[Wire, tuple[Any, ...], dict[str, Any]]]

    def execute_command(self, *args: Any, **options: Any) -> Any:
        match self.fate():
            case "lost":
                raise redis.ConnectionError
            case "late":  # the caller gives up, and then it arrives
                self.late.append((self, args, options))
                raise redis.TimeoutError
            case "unanswered":
                _execute(self, args, options)
                raise redis.ConnectionError
            case "doubled":  # the answer is lost, and the client tries again
                _execute(self, args, options)
        return _execute(self, args, options)

    def arrive(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Carries out a message that was late."""
        with suppress(redis.RedisError):
            _execute(self, args, options)


def chain(epochs: int) -> str:
    """What is learned in so many epochs, each of which builds on the one before."""
    value = b""
    for epoch in range(1, epochs + 1):
        value = hashlib.sha256(value + bytes([epoch])).digest()
    return value.hex()


@dataclass(eq=False)
class SimulatedChild:
    """A run's process: does one call of its life at a time."""

    world: World
    stores: Stores
    tell: Hear
    address: str = "ray"
    claim: Claim | None = None
    cpus: float = 0.0
    is_ready: bool = False
    heard: float = 0.0
    is_alive: bool = True
    is_frozen: bool = False
    _life: Iterator[None] | None = None
    _job_id: str | None = None

    def give(self, claim: Claim, cpus: float) -> None:
        self.claim, self.cpus, self.is_ready = claim, cpus, False
        self._job_id, self._life = claim.job_id, self._run(claim)

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self.tell(self, Exited(-9))

    def stop(self, seconds: float) -> None:
        del seconds
        self.kill()

    def step(self) -> None:
        """One call."""
        if not self.is_alive or self.is_frozen:
            return
        if self._life is None:
            if not self.is_ready and self.claim is None:
                self.say(Nodes((NODE,)))
                self.say(Ready())
            return
        try:
            next(self._life)
        except (StopIteration, FenceLost):
            self._life = None
            self.say(Done())
        except StoreUnavailable as error:
            self._life = None
            self.say(Lost(error.message))
            self.kill()

    def say(self, message: Message) -> None:
        self.tell(self, message)

    def _run(self, claim: Claim) -> Iterator[None]:
        jobs, world = self.stores.jobs, self.world
        job = jobs.get(claim.job_id)
        yield
        if jobs.asked(claim) is not None:
            jobs.requeue(claim, "It was asked for.", lost=False)
            return
        yield
        if isinstance(job, PredictionJob):
            yield from self._predict(claim)
            return
        epoch, value, number = self._newest(job)
        yield
        jobs.begin(claim, a_progress(epoch) if epoch else None, checkpoint=number)
        world.note_write(claim)
        yield
        wish = None
        while epoch < EPOCHS:
            epoch += 1
            if value != chain(epoch - 1):
                raise Broken(f"epoch {epoch} builds on something else than the epochs before")
            value = chain(epoch)
            wish = jobs.record(
                claim,
                kind="progress",
                event={"fence": claim.fence, "epoch": epoch},
                epoch=an_epoch(epoch),
                progress=a_progress(epoch),
            )
            world.note_write(claim)
            yield
            if wish == "cancel":
                jobs.end_cancelled(claim)
                return
            if wish == "pause" or world.dice.random() < 0.5:
                yield from self._save(claim, epoch)
            if wish == "pause":
                if jobs.end_paused(claim):
                    return
                yield
        model = a_model(claim.job_id, name=f"m{chain(epoch)[:20]}")
        self.stores.models.save(model)
        yield
        named = (model.record.id, model.record.name)
        try:
            jobs.succeed(claim, "epochs_done", {"accuracy": 1.0}, named)
        except Conflict:
            jobs.end_cancelled(claim, None, named)

    def _predict(self, claim: Claim) -> Iterator[None]:
        jobs, files, world = self.stores.jobs, self.stores.files, self.world
        result = a_dataset(RESULT)
        jobs.draft(claim, result.id)
        world.note_write(claim)
        yield
        part = files.draft(result.id) / "part"
        part.touch()
        for rows in range(ROWS):
            progress = PredictionProgress(
                fraction=rows / ROWS, rows_seen=rows, rows=ROWS, rows_per_second=1.0, eta_seconds=None
            )
            if rows == 0:
                jobs.begin(claim, progress)
            else:
                event = {"fence": claim.fence, "rows_seen": rows}
                if jobs.record(claim, kind="progress", event=event, progress=progress) == "cancel":
                    world.note_write(claim)
                    yield
                    jobs.end_cancelled(claim)
                    return
            world.note_write(claim)
            yield
        with suppress(FileNotFoundError):  # its job has passed on, and somebody has tidied up: as the next call says
            files.keep_draft(result.id, part)
        yield
        try:
            jobs.succeed_predicting(claim, result)
        except Conflict:
            jobs.end_cancelled(claim)

    def _newest(self, job: Job) -> tuple[int, str, int | None]:
        for checkpoint in self.stores.checkpoints.of_job(job.id):
            try:
                saved = self.stores.checkpoints.load(job.id, checkpoint)
            except CorruptRecord as error:
                raise Broken(f"a checkpoint that was pointed to cannot be read: {error.message}") from error
            epoch = int(saved.document["epoch"])
            if epoch < self.world.promised.get(job.id, 0):
                raise Broken(f"resumed from epoch {epoch}; {self.world.promised[job.id]} was written down")
            return epoch, str(saved.document["value"]), checkpoint.number
        if self.world.promised.get(job.id):
            raise Broken("a job that had a checkpoint begins from its beginning")
        return 0, chain(0), None

    def _save(self, claim: Claim, epoch: int) -> Iterator[None]:
        saved = SavedTraining({"epoch": epoch, "value": chain(epoch)}, {"x": np.zeros(1, np.float32)})
        self.stores.checkpoints.save(claim, saved, attempt=1, epoch=epoch, step=0, seconds=lambda: 0.0)
        self.world.note_write(claim)
        self.world.promised[claim.job_id] = epoch
        yield


@dataclass(eq=False)
class Holder:
    """A supervisor, its runs, and whether it moves."""

    supervisor: Supervisor
    children: list[SimulatedChild]
    is_frozen: bool = False


@dataclass(eq=False)
class Universe:
    """What worlds have in common: a server, and a client for each process."""

    url: str
    folder: Path
    wall_clock_leases: bool = False
    """Plants a fault: leases are judged by the time of day."""
    stores: list[Stores] = field(init=False)

    def __post_init__(self) -> None:
        pool = redis.ConnectionPool.from_url(self.url)
        files = DataFolder(self.folder)
        files.prepare()
        self.wall = NOON
        wires = [Wire(connection_pool=pool) for _ in range(PROCESSES)]
        self.wires: Sequence[Wire] = wires
        self.stores = [open_stores(wire, files, lambda: self.wall) for wire in wires]


class World:
    """Everything that happens with one seed.

    Args:
        universe: where it happens.
        seed: of all chance.

    """

    def __init__(self, universe: Universe, seed: int) -> None:
        self._universe = universe
        self.dice = random.Random(seed)
        self.seconds = 0.0
        self.promised: dict[str, int] = {}
        """Epochs that the newest acknowledged checkpoint of a job holds."""
        self._renewed: dict[str, float] = {}
        self._cancelled: set[str] = set()
        self._late: list[tuple[Wire, tuple[Any, ...], dict[str, Any]]] = []
        self._is_healing = True
        for wire in universe.wires:
            wire.fate, wire.late = self._fate, self._late
        universe.wall = NOON
        self._user = universe.stores[0]
        self._user.client.flushall()
        self._holders = [self._new_holder(place) for place in (0, 1)]
        dataset = create(self._user).id
        self._jobs = [self._submit(dataset) for _ in range(self.dice.randint(1, 2))]

    def _submit(self, dataset: str) -> str:
        """A job that trains, or one that predicts."""
        priority = self.dice.randrange(3)
        if self.dice.random() < 0.7:
            return submit(self._user, dataset, priority=priority, cluster={"workers": 1})
        request = BatchPredictionRequest(dataset_id=dataset, model_id=publish(self._user).id, priority=priority)
        return self._user.jobs.submit(new_id("job"), request, "classification", max_queued=10).id

    def run(self) -> None:
        """Trouble, then peace; in the end every promise is checked."""
        self._is_healing = False
        for _ in range(self.dice.randint(15, 35)):
            self._happen()
        self._is_healing = True
        for holder in self._holders:
            holder.is_frozen = False
            for child in holder.children:
                child.is_frozen = False
        for _ in range(80):
            self._advance(LEASE_SECONDS / 4)
            for holder in self._holders:
                self._step(holder)
            while self._late and self.dice.random() < 0.5:
                self._arrive()
            states = {job_id: self._raw(job_id, "state") for job_id in self._jobs}
            for job_id, state in states.items():
                if state == "paused":
                    with suppress(Conflict):
                        self._user.jobs.resume(job_id, max_queued=len(self._jobs))
            if not self._late and TERMINAL.issuperset(states.values()):
                break
        self._check()

    def note_write(self, claim: Claim) -> None:
        """A run's write was taken; it must have been the holder's."""
        fence = int(self._raw(claim.job_id, "fence"))
        if fence != claim.fence:
            raise Broken(f"a write with fence {claim.fence} was taken, the job's is {fence}")

    # What happens

    def _fate(self) -> str:
        if self._is_healing or self.dice.random() > 0.08:
            return "fine"
        return self.dice.choice(("lost", "late", "unanswered", "doubled"))

    def _happen(self) -> None:
        roll = self.dice.random()
        holder = self.dice.choice(self._holders)
        if roll < 0.40:
            self._step(holder)
        elif roll < 0.70:
            for child in holder.children:
                child.step()
        elif roll < 0.80:
            self._advance(self.dice.choice((0.3, 1.0, 3.0, LEASE_SECONDS + 1)))
        elif roll < 0.84:
            self._universe.wall += timedelta(seconds=self.dice.choice((-7200, 3600)))
        elif roll < 0.88:
            holder.is_frozen = not holder.is_frozen
        elif roll < 0.91 and holder.children:
            child = self.dice.choice(holder.children)
            child.is_frozen = not child.is_frozen
        elif roll < 0.93 and holder.children:
            self.dice.choice(holder.children).kill()
        elif roll < 0.94:  # a supervisor dies, and its runs with it
            place = self._holders.index(holder)
            for child in holder.children:
                child.is_alive = False
            self._holders[place] = self._new_holder(place)
        elif roll < 0.97 and self._late:
            self._arrive()
        else:
            self._steer()

    def _step(self, holder: Holder) -> None:
        if holder.is_frozen:
            return
        for child in holder.children * 4 * self._is_healing:
            child.step()
        with suppress(ChainruleError):  # as `Supervisor.run` does
            holder.supervisor.step()
        with suppress(ChainruleError):
            holder.supervisor.listen(0)

    def _steer(self) -> None:
        job_id = self.dice.choice(self._jobs)
        verb = self.dice.choice(("cancel", "pause", "resume", "resume"))
        try:
            if verb == "resume":
                self._user.jobs.resume(job_id, max_queued=len(self._jobs))
            else:
                getattr(self._user.jobs, verb)(job_id)
        except ChainruleError:
            return
        if verb == "cancel":
            self._cancelled.add(job_id)

    def _arrive(self) -> None:
        wire, args, options = self._late.pop(self.dice.randrange(len(self._late)))
        wire.arrive(args, options)

    def _advance(self, seconds: float) -> None:
        self.seconds += seconds
        self._universe.wall += timedelta(seconds=seconds)

    def _new_holder(self, place: int) -> Holder:
        stores, run_stores = self._universe.stores[1 + 2 * place : 3 + 2 * place]
        children: list[SimulatedChild] = []

        def start_child(address: str, environment: Mapping[str, str], hear: Hear) -> Child:
            del address, environment
            children[:] = [child for child in children if child.is_alive]
            children.append(SimulatedChild(self, run_stores, hear))
            return children[-1]

        offset = self.dice.random() * 1e6

        def clock() -> float:
            if self._universe.wall_clock_leases:
                return self._universe.wall.timestamp()
            return self.seconds + offset

        supervisor = Supervisor(
            SETTINGS,
            _noting(stores, self),
            SteadyRay(),
            start_child,
            clock,
            lambda: self._universe.wall,
            lambda: None,
        )
        return Holder(supervisor, children)

    # Promises

    def note_renewal(self, job_id: str) -> None:
        """A holder has shown that it lives."""
        self._renewed[job_id] = self.seconds

    def note_takeover(self, job_id: str) -> None:
        """A contender takes a job over."""
        silent = self.seconds - self._renewed.get(job_id, -LEASE_SECONDS)
        if silent < LEASE_SECONDS - 1e-6:
            raise Broken(f"a job was taken over whose holder was heard of {silent:g} seconds ago")

    def _all(self) -> list[Job]:
        return [self._user.jobs.get(job_id) for job_id in self._jobs]

    def _raw(self, job_id: str, name: str) -> str:
        was, self._is_healing = self._is_healing, True
        try:
            return text(self._user.client.hget(keys.job(job_id), name))
        finally:
            self._is_healing = was

    def _check(self) -> None:
        for job in self._all():
            if job.state not in TERMINAL:
                raise Broken(f"{job.state} in the end")
            if job.id in self._cancelled and job.state == "succeeded":
                raise Broken("succeeded after a cancel was acknowledged")
            events = self._user.history.events(job.id)
            self._check_moves([str(event.data["state"]) for event in events if event.kind == "state"])
            fences = [int(str(event.data["fence"])) for event in events if event.kind == "progress"]
            if fences != sorted(fences):
                raise Broken("an earlier holder wrote after a later one")
            if isinstance(job, PredictionJob):
                self._check_result(job)
            elif job.state == "succeeded":
                self._check_success(job)
        self._check_results()

    def _check_result(self, job: PredictionJob) -> None:
        if (job.state == "succeeded") != (job.result_dataset_id is not None):
            raise Broken("predictions without a success, or the other way round")
        if job.result_dataset_id is None:
            return
        self._user.datasets.get(job.result_dataset_id)
        try:
            with self._user.files.rows(job.result_dataset_id):
                pass
        except NotFound as error:
            raise Broken("the rows of published predictions are gone") from error

    def _check_results(self) -> None:
        """Every result is the one of a job, and nothing is left of what became none."""
        results = {job.result_dataset_id for job in self._all()} - {None}
        if results != {found.id for found in self._user.datasets.page(100).data if found.name == RESULT}:
            raise Broken("predictions that no job tells of")
        Housekeeping(SETTINGS, self._user, lambda: self._universe.wall).tidy()
        files = self._user.files
        if files.drafts() or self._user.client.exists(keys.DATASET_DRAFTS):
            raise Broken("a draft is left")
        rows = {file.stem for file in (files.root / "datasets").iterdir()}
        if rows != results:
            raise Broken("rows are left that nobody knows of")
        for result in rows:
            files.discard_dataset(result)

    def _check_moves(self, states: list[str]) -> None:
        at: State = "queued"
        for state in states[1:]:
            if at not in sources(state):  # type: ignore[arg-type]
                raise Broken(f"moved from {at} to {state}")
            at = state  # type: ignore[assignment]
        if sum(state in TERMINAL for state in states) != 1:
            raise Broken("more or fewer than one terminal state")

    def _check_success(self, job: Job) -> None:
        assert job.model_id is not None
        model = self._user.models.get(job.model_id)
        if model.name != f"m{chain(EPOCHS)[:20]}":
            raise Broken("the model is not what an undisturbed run learns")
        if [row.epoch for row in self._user.history.metrics(job.id)] != list(range(1, EPOCHS + 1)):
            raise Broken("the history is not that of every epoch once")


class _Noting:
    """A supervisor's jobs, which tell the world of renewals and takeovers."""

    def __init__(self, jobs: JobStore, world: World) -> None:
        self._jobs = jobs
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def claim(self, job_id: str) -> Claim | None:
        self._world.note_renewal(job_id)  # a claim whose answer is lost makes a holder, too
        return self._jobs.claim(job_id)

    def renew(self, claim: Claim) -> bool:
        done = self._jobs.renew(claim)
        if done:
            self._world.note_renewal(claim.job_id)
        return done

    def requeue(self, claim: Claim, reason: str, *, lost: bool = True) -> bool:
        if reason == "Its supervisor fell silent.":
            self._world.note_takeover(claim.job_id)
        return self._jobs.requeue(claim, reason, lost=lost)


class _NoReports:
    """Where reports go: no decision rests on one."""

    def report(self, report: SupervisorReport) -> None:
        del report


def _noting(stores: Stores, world: World) -> Stores:
    jobs, reports = _Noting(stores.jobs, world), _NoReports()
    return replace(stores, jobs=cast("JobStore", jobs), supervisors=cast("SupervisorStore", reports))
