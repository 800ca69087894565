"""The parameter server (Li et al., OSDI 2014): averages what the workers send and applies the update.

Plain classes that know neither Ray nor sockets; `actors.py` gives them processes of their own. One object keeps one
shard, a range of the flat vector; shards work side by side. Where workers are waited for they agree, because each sees
the same posts; with bounded staleness each applies them in its own order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from common.errors import Diverged
from common.network.quiet import quiet
from common.network.structure import initialize
from common.schemas import training
from worker.channel import LONGEST_STEP_SECONDS, LOOK_SECONDS, PeerLost, Vector
from worker.channel.ends import BUSY, EXCHANGE, NORM, POSITION, WEIGHT, WEIGHTS, NormEnd, ServerEnd
from worker.max_norm import MaxNorm
from worker.norm import GrainSums, clipping, is_finite, norm_of
from worker.optimizers import BlockMomentum, Optimizer, Penalties, State, make_optimizer
from worker.schedules import make_schedule
from worker.staleness import Clocks
from worker.task import TrainingTask, penalties_of
from worker.tree_sum import Addition, additions, chain, nodes


@dataclass(frozen=True, slots=True)
class Told:
    """How the workers kept step, as far as their synchrony leaves it open."""

    staleness: tuple[int, ...] = ()
    """Steps that began 0, 1, 2, … steps ahead of the slowest worker."""
    rounds: int = 0
    """Averages that were taken of local steps."""

    def __add__(self, other: Told) -> Told:
        pairs = zip_longest(self.staleness, other.staleness, fillvalue=0)
        return Told(tuple(a + b for a, b in pairs), self.rounds + other.rounds)


class ParameterServer:
    """Keeps one shard of a synchronous training.

    Args:
        task: what is trained.
        end: the shard's side of the traffic, already attached.
        initial: the shard's parameters to start from, copied.
        norms: how to learn the whole gradient's norm; needed where the task clips it.
        state: of the server whose place it takes; then `initial` is not looked at.

    """

    def __init__(
        self,
        task: TrainingTask,
        end: ServerEnd,
        initial: Vector,
        norms: NormEnd | None = None,
        state: State | None = None,
    ) -> None:
        self._task = task
        self._end = end
        self._norms = norms
        self._parameters = end.parameters
        self._parameters[:] = initial if state is None else state["parameters"]
        self._best = self._parameters.copy() if state is None else state["best"].copy()
        self._mean = self._best.copy() if state is None else state.get("mean", state["best"]).copy()
        self._sum = np.empty_like(self._parameters)
        self._optimizer = self._make_optimizer()
        self._schedule = make_schedule(task.schedule, task.extent)
        self._rate = 1.0
        self._limit = MaxNorm.of(task, self._parameters)
        self._grains = None if norms is None else GrainSums(self._sum, norms.grains)
        self._additions = _additions(task, end, self._sum, self._optimizer.blocks)
        self.number = 1
        """Of the last post to the workers."""
        self.updates = 0
        """Applied so far."""
        if state is not None:
            self._restore(state)
        end.publish(self.number, self._note)

    def state(self) -> State:
        """What a server that takes this one's place needs to go on: views, to be copied before the next step."""
        optimizer = {f"optimizer.{name}": array for name, array in self._optimizer.state().items()}
        own = {"parameters": self._parameters, "best": self._best, "mean": self._mean}
        return {**own, "updates": np.array([self.updates]), **optimizer}

    def _restore(self, state: State) -> None:
        self.updates = int(state["updates"][0])
        own = {name.removeprefix("optimizer."): array for name, array in state.items()}
        self._optimizer.restore(own)

    @property
    def _note(self) -> float:
        """What workers are told with the parameters."""
        return 0.0

    def _make_optimizer(self) -> Optimizer:
        return make_optimizer(self._task.optimizer, self._parameters, self._sum, self._penalties)

    @property
    def _penalties(self) -> Penalties:
        return penalties_of(self._task).part(*self._end.span)

    def serve(self, steps: int, rate: float = 1.0) -> None:
        """Takes part in so many steps of an epoch, at so many times the learning rate of the schedule.

        Raises:
            Diverged: a worker met a loss that is no finite number, or a gradient that holds one.
            Halted: the training was halted; the parameters are those of the last whole step.
            PeerLost: a worker's process is gone.

        """
        self._rate = rate
        try:
            with quiet():
                self._serve(steps)
        except BaseException:
            if self._norms is not None:
                self._norms.halt()
            self._end.halt()  # nobody is left waiting for parameters that will not come
            raise

    def _serve(self, steps: int) -> None:
        for _ in range(steps):
            self._exchange()
            self._end.publish(self.number)

    def _exchange(self) -> None:
        """Waits for everyone's post and applies it."""
        self._end.wait(self.number)
        self.number += 1
        weights = [weight for inlet in self._end.inlets for weight in inlet.remarks[WEIGHTS].tolist()]
        if any(weight < 0 for weight in weights):
            raise PeerLost(_BREACH)
        total = math.fsum(weights)
        if self._finite(total):  # rows that all weigh nothing say nothing
            self._apply(1 / total)
        self.updates += 1

    def _apply(self, scale: float) -> None:
        if self._norms is not None:
            scale *= self._clipping(scale, self._norms)
            self._begin_step(scale)
            for block in range(len(self._additions)):
                self._optimizer.update_block(block)
        else:
            self._begin_step(scale)
            for block, operations in enumerate(self._additions):  # added up and applied while it is in the cache
                for add in operations:
                    add()
                self._update(block)
        self._limit.apply()

    def _begin_step(self, scale: float) -> None:
        self._optimizer.begin_step(scale, self._rate * self._schedule.factor(self.updates))

    def _update(self, block: int) -> None:
        """Applies a block of the gradient, which is looked at while it is in the cache."""
        if not is_finite(self._sum[self._optimizer.blocks[block]]):
            self._finite(math.nan)
        self._optimizer.update_block(block)

    def _clipping(self, scale: float, norms: NormEnd) -> float:
        """By what to shorten the gradient, whose norm is known only when all shards have added up theirs."""
        assert self._task.clip_norm is not None
        for operations in self._additions:
            for add in operations:
                add()
        assert self._grains is not None
        self._grains.compute()
        norm = scale * norm_of(np.concatenate(norms.exchange(self.number - 1)))
        return clipping(self._task.clip_norm, self._finite(norm))

    def _finite(self, number: float) -> float:
        if not math.isfinite(number):
            raise Diverged(f"The loss or its gradient stopped being finite numbers at step {self.updates + 1}.")
        return number

    def remember(self, number: int) -> None:
        """Keeps the parameters of an epoch's end: the first as the best so far, all in the mean of those since then.

        Args:
            number: 1 for the best so far, 2 for those of the epoch after it, and so on.

        """
        if number == 1:
            self._best[:] = self._mean[:] = self._parameters
            return
        np.subtract(self._parameters, self._mean, out=self._sum)  # nothing is added up between two segments
        self._sum /= number
        self._mean += self._sum

    @property
    def best(self) -> Vector:
        """The best parameters that were remembered, or the initial ones."""
        return self._best

    @property
    def mean(self) -> Vector:
        """The mean of the best parameters and all that were remembered after them."""
        return self._mean

    def describe_synchrony(self) -> Told:
        """What there is to tell of how the workers kept step since `serve` was last called."""
        return Told()


class StaleServer(ParameterServer):
    """Keeps one shard of a training with bounded staleness: every worker's gradient is applied when it comes."""

    def __init__(self, task: TrainingTask, end: ServerEnd, initial: Vector, state: State | None = None) -> None:
        super().__init__(task, end, initial, None, state)
        assert isinstance(task.synchrony, training.BoundedStaleness)
        self._clocks = Clocks(task.workers, task.synchrony.max_staleness)
        self._told = list(self._clocks.counts)

    def _serve(self, steps: int) -> None:
        clocks = self._clocks
        self._told = list(clocks.counts)
        clocks.begin_epoch(steps)  # everyone has been posted to already, at the end of the epoch before
        while not clocks.is_epoch_done:
            for rank in self._await_some():
                self._apply_one(rank)
                for granted in clocks.applied(rank):
                    self._end.release(granted, clocks.clock(granted) + 1)
        self.number += steps
        self._end.publish(self.number)

    def _await_some(self) -> list[int]:
        """The workers whose next gradient has come; one at least."""
        nap, began = _SHORTEST_NAP, time.perf_counter()
        look_at = began + LOOK_SECONDS
        while True:
            ready = [rank for rank, inlet in enumerate(self._end.inlets) if self._has_come(rank, inlet.arrived())]
            if ready:
                return ready
            time.sleep(nap)  # a post of any of them ends the waiting, and there is no event that all would raise
            nap = min(2 * nap, _LONGEST_NAP)
            if (now := time.perf_counter()) > look_at:
                look_at = now + LOOK_SECONDS
                for inlet in self._end.inlets:
                    inlet.check()
                if now - began > LONGEST_STEP_SECONDS:
                    raise PeerLost("No worker answers.")

    def _has_come(self, rank: int, arrived: int) -> bool:
        """Whether a worker's next gradient has come, by the number of its last post."""
        if not self._clocks.clock(rank) <= arrived <= self._clocks.begun(rank):
            raise PeerLost(_BREACH)
        return arrived > self._clocks.clock(rank)

    def _apply_one(self, rank: int) -> None:
        inlet = self._end.inlets[rank]
        weight = self._finite(float(inlet.remarks[WEIGHT]))
        if weight < 0:
            raise PeerLost(_BREACH)
        if weight:
            scale = 1 / weight
            if self._task.clip_norm is not None:
                scale *= clipping(self._task.clip_norm, self._finite(scale * float(inlet.remarks[NORM])))
            self._begin_step(scale)
            for block, span in enumerate(self._optimizer.blocks):
                np.copyto(self._sum[span], inlet.vector[0, span])
                self._update(block)
            self._limit.apply()
        self.updates += 1

    def describe_synchrony(self) -> Told:
        counts = [now - before for now, before in zip(self._clocks.counts, self._told, strict=True)]
        while len(counts) > 1 and not counts[-1]:
            counts.pop()
        return Told(staleness=tuple(counts))


_BREACH = "A worker breaks the protocol."
_SHORTEST_NAP, _LONGEST_NAP = 0.00005, 0.001


class AveragingServer(ParameterServer):
    """Keeps one shard of a training by local steps: averages how far the workers have moved."""

    def __init__(self, task: TrainingTask, end: ServerEnd, initial: Vector, state: State | None = None) -> None:
        assert isinstance(task.synchrony, training.LocalSteps)
        self._pace = Pace(task.synchrony.steps)
        self._rounds = 0
        super().__init__(task, end, initial, None, state)
        self._limit = MaxNorm([])  # workers keep to it, and so does their mean

    def state(self) -> State:
        return {**super().state(), "pace": self._pace.state()}

    def _restore(self, state: State) -> None:
        super()._restore(state)
        self._pace.restore(state["pace"])

    @property
    def _note(self) -> float:
        return self._pace.steps

    def _make_optimizer(self) -> Optimizer:
        assert isinstance(self._task.synchrony, training.LocalSteps)
        return BlockMomentum(self._task.synchrony.outer_momentum, self._parameters, self._sum)

    def _begin_step(self, scale: float) -> None:
        self._optimizer.begin_step(scale)  # learning rates are the workers' affair

    def _serve(self, steps: int) -> None:
        self._rounds = done = 0
        while done < steps:
            self._exchange()
            self._rounds += 1
            remarks = [inlet.remarks for inlet in self._end.inlets]
            position, busy, exchange = (fmean(r[which] for r in remarks) for which in (POSITION, BUSY, EXCHANGE))
            if not (done < position <= steps and 0 < busy < math.inf and 0 <= exchange < math.inf):
                raise PeerLost(_BREACH)
            done = int(position)
            self._pace.note(busy, exchange, steps)
            self._end.publish(self.number, self._note)

    def describe_synchrony(self) -> Told:
        return Told(rounds=self._rounds)


class Pace:
    """How many local steps to take: as asked, or as few as keep the exchange under a share of the time.

    Args:
        steps: a number, or "auto".

    """

    def __init__(self, steps: int | str) -> None:
        self._is_measured = steps == "auto"
        self.steps = 1 if isinstance(steps, str) else steps
        self._exchange = 0.0
        self._busy = 0.0

    def note(self, busy: float, exchange: float, most: int) -> None:
        """Takes in a round's seconds per step and seconds of exchange; `most`: steps that are taken in one go."""
        if not self._is_measured or not exchange:
            return
        self._exchange = _blend(self._exchange, exchange)
        self._busy = _blend(self._busy, busy)
        wanted = math.ceil(self._exchange / self._busy * (1 / SHARE - 1))
        self.steps = max(1, min(wanted, 2 * self.steps, most, MOST_STEPS))

    def state(self) -> NDArray[np.float64]:
        """What another one needs to go on."""
        return np.array([self.steps, self._exchange, self._busy])

    def restore(self, state: NDArray[np.float64]) -> None:
        """Goes on where the pace stood whose `state` this is."""
        self.steps, self._exchange, self._busy = int(state[0]), float(state[1]), float(state[2])


SHARE = 0.04
"""Of the time for communication: under the five hundredths promised, for single rounds differ."""
MOST_STEPS = 256
"""However long the exchange is: waiting for a worker that is always slower would not end with more steps."""


def _blend(before: float, now: float) -> float:
    return now if not before else 0.7 * before + 0.3 * now


def initial_parameters(task: TrainingTask) -> Vector:
    """The whole vector to start from, drawn from the task's seed."""
    initial = np.empty(task.parameters, task.dtype)
    generator = np.random.default_rng(np.random.SeedSequence(task.seed, spawn_key=(_INITIAL,)))
    initialize(task.shape, task.inputs, task.outputs, generator, initial, task.embeddings)
    return initial


_INITIAL = 0  # keeps these draws apart from others made with the same seed


def make_server(
    task: TrainingTask, end: ServerEnd, initial: Vector, norms: NormEnd | None, state: State | None = None
) -> ParameterServer:
    """The server of one shard, as the task's synchrony demands; `state`: of the one whose place it takes."""
    match task.synchrony:
        case training.BoundedStaleness():
            return StaleServer(task, end, initial, state)
        case training.LocalSteps():
            return AveragingServer(task, end, initial, state)
    return ParameterServer(task, end, initial, norms, state)


def _additions(
    task: TrainingTask, end: ServerEnd, out: Vector, blocks: tuple[slice, ...]
) -> list[list[Callable[[], object]]]:
    """What adds up everyone's posts, block by block, put together once."""
    if task.reproducible:
        given = [nodes(rank, task.workers) for rank in range(task.workers)]
        posts = [inlet.vector[slot] for inlet, own in zip(end.inlets, given, strict=True) for slot in range(len(own))]
        plan = additions(tuple(node for own in given for node in own))
    else:
        posts = [inlet.vector[0] for inlet in end.inlets]
        plan = chain(len(posts))
    return [_bound([post[block] for post in posts], plan, out[block]) for block in blocks]


def _bound(operands: list[Vector], plan: tuple[Addition, ...], out: Vector) -> list[Callable[[], object]]:
    if not plan:
        return [partial(np.copyto, out, operands[0])]
    bound: list[Callable[[], object]] = []
    for addition in plan:
        result = out if addition is plan[-1] else np.empty_like(out)
        bound.append(partial(np.add, operands[addition.left], operands[addition.right], result))
        operands.append(result)
    return bound
