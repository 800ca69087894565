"""A run's process as its supervisor sees it: lines of JSON to and from a child.

The child says {"nodes": [nodes]} when it is connected, and every few seconds from then on; {"ready": true} when it is
idle; it takes {"job_id", "fence"}, and says {"done": job_id} when the job has ended, or {"lost": job_id, "reason"}
when it is to be tried again, after which it ends. A child that dies says nothing more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from common import processes
from common.schemas.cluster import Node
from common.store.jobs import Claim

NICENESS = 15
"""As Ray gives its own workers: answering requests comes before training."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines of the child's cluster."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The child is connected and idle."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The child could not end its job; somebody may try again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The child's job has ended, or has passed to another holder."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The child is gone."""

    status: int


Message = Nodes | Ready | Lost | Done | Exited


@dataclass(eq=False)
class RunChild:
    """A child that runs jobs, one after the other.

    Args:
        address: the Ray cluster it joins.
        log: where its error output goes.
        environment: what it gets beside this process's own.
        tell: called from another thread with each message.

    """

    address: str
    log: Path
    environment: Mapping[str, str]
    tell: Callable[[RunChild, Message], None]
    claim: Claim | None = None
    cpus: float = 0.0
    is_ready: bool = False
    heard: float = 0.0
    _process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "worker.run_process", self.address]
        self._process = processes.start(
            command,
            log=self.log,
            environment=self.environment,
            folder=self.log.parent,
            piped=True,
            niceness=NICENESS,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def give(self, claim: Claim, cpus: float) -> None:
        """Hands it a job. A child that has just died is heard of as `Exited`, with the claim still noted here."""
        self.claim, self.cpus, self.is_ready = claim, cpus, False
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"job_id": claim.job_id, "fence": claim.fence}) + "\n")

    def kill(self) -> None:
        """Ends it at once, and with it, by Ray's doing, the actors of its job."""
        processes.kill_group(self._process)

    def stop(self, seconds: float) -> None:
        """Ends it."""
        processes.stop(self._process, seconds)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = _read_message(line)
            if message is not None:
                self.tell(self, message)
        self.tell(self, Exited(self._process.wait()))


def _read_message(line: str) -> Message | None:
    try:
        said = json.loads(line)
    except ValueError:  # a library printed something
        return None
    match said:
        case {"nodes": list(nodes)}:
            return Nodes(tuple(Node.model_validate(node) for node in nodes))
        case {"ready": True}:
            return Ready()
        case {"lost": str(), "reason": str(reason)}:
            return Lost(reason)
        case {"done": str()}:
            return Done()
    return None
