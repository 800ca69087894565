"""Checkpoints: whole states of trainings, as files beside the data sets; Redis points to those that are whole.

A file is written under another name, flushed to its disk and hashed before it is pointed to, so that a pointer never
leads to half of one. Its name holds the fence of the holder that wrote it: nobody writes over, or removes, the file of
a later holder.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from json import JSONDecodeError, loads
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.errors import CorruptRecord, FenceLost, FilesUnavailable
from common.schemas.checkpoints import Checkpoint
from common.schemas.record import Record
from common.store import keys
from common.store.client import Client, Script, new_token, stored, text, to_json
from common.store.files import DataFolder
from common.store.jobs import Claim

log = logging.getLogger("chainrule.store")

KEPT = 3
"""The newest of each job: should one turn out damaged, the one before it serves."""


@dataclass(frozen=True, slots=True)
class SavedTraining:
    """What a checkpoint holds."""

    document: dict[str, Any]
    """All but the arrays, as JSON can say it."""
    arrays: Mapping[str, NDArray[Any]]
    """`shard.0.parameters`, `worker.1.optimizer.…`: the states of servers' shards and of workers."""

    def states(self, kind: str, count: int) -> list[dict[str, NDArray[Any]]]:
        """The states of so many shards or workers, by number."""
        return [
            {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}
            for prefix in (f"{kind}.{number}." for number in range(count))
        ]

    @property
    def best(self) -> NDArray[Any]:
        """The best parameters so far, the whole vector."""
        parts: list[NDArray[Any]] = []
        while (part := self.arrays.get(f"shard.{len(parts)}.best")) is not None:
            parts.append(part)
        return np.concatenate(parts)


class _Pointer(Record):
    """What Redis keeps of a checkpoint."""

    file: str
    checkpoint: Checkpoint


class CheckpointStore:
    """Writes, lists and reads checkpoints.

    Args:
        client: Redis.
        files: where the files lie.
        now: the time written into descriptions; no decision rests on it.

    """

    def __init__(self, client: Client, files: DataFolder, now: Callable[[], datetime]) -> None:
        self._client = client
        self._files = files
        self._now = now
        self._record = Script(client, "record_checkpoint")

    @stored
    def save(
        self, claim: Claim, saved: SavedTraining, *, attempt: int, epoch: int, step: int, seconds: Callable[[], float]
    ) -> Checkpoint:
        """Writes a checkpoint, and points to it once it is whole.

        Args:
            claim: the holder's.
            saved: what to write.
            attempt: which of the job.
            epoch: epochs done.
            step: steps done of the next.
            seconds: how long it has taken, asked when all but the pointer is written.

        Raises:
            FenceLost: the job is no longer the caller's.
            StorageFull: the disk does not take it, or Redis has no room.
            FilesUnavailable: the object store does not take it.

        """
        pointers = self._pointers(claim.job_id)
        number = 1 + max((pointer.checkpoint.number for pointer in pointers), default=0)
        file = f"{number:08d}-{claim.fence}.safetensors"
        content = save(dict(saved.arrays), {"document": to_json(saved.document)})
        self._files.keep_checkpoint(claim.job_id, file, content)
        now = self._now()
        checkpoint = Checkpoint(
            number=number,
            attempt=attempt,
            epoch=epoch,
            step=step,
            bytes=len(content),
            seconds=seconds(),
            sha256=hashlib.sha256(content).hexdigest(),
            created_at=now.replace(microsecond=now.microsecond // 1000 * 1000),
        )
        answer = self._record(
            [keys.job(claim.job_id), keys.job_events(claim.job_id), keys.job_checkpoints(claim.job_id)],
            [
                claim.job_id,
                claim.fence,
                new_token(),
                now.isoformat(timespec="milliseconds"),
                checkpoint.model_dump_json(),
                _Pointer(file=file, checkpoint=checkpoint).model_dump_json(),
                KEPT,
                keys.CHANGES,
            ],
        )
        if answer[0] != "ok":
            self._files.discard_checkpoint(claim.job_id, file)
            raise FenceLost("The job has passed to another holder.")
        self._tidy(claim, keep={file, *(pointer.file for pointer in pointers[: KEPT - 1])})
        return checkpoint

    @stored
    def of_job(self, job_id: str) -> list[Checkpoint]:
        """The checkpoints of a job, newest first."""
        return [pointer.checkpoint for pointer in self._pointers(job_id)]

    @stored
    def load(self, job_id: str, checkpoint: Checkpoint) -> SavedTraining:
        """What a checkpoint holds, checked against its checksum.

        Raises:
            CorruptRecord: the file is gone, or is not what was written (`checkpoint_corrupt`).
            FilesUnavailable: it is in an object store that does not answer.

        """
        known = {pointer.checkpoint.number: pointer for pointer in self._pointers(job_id)}
        pointer = known.get(checkpoint.number)
        if pointer is None:
            raise _corrupt(checkpoint)
        try:
            with self._files.checkpoint(job_id, pointer.file) as path:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != checkpoint.sha256:
                        raise _corrupt(checkpoint)
                with safe_open(path, "numpy") as content:
                    arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
                    return SavedTraining(loads(content.metadata()["document"]), arrays)
        except (OSError, CorruptRecord, SafetensorError, JSONDecodeError, KeyError) as error:
            raise _corrupt(checkpoint) from error

    def discard(self, job_id: str) -> None:
        """Removes the files of a job that needs none any more; where they cannot be reached, a later tidying up will."""
        try:
            self._files.discard_checkpoints(job_id)
        except FilesUnavailable as error:
            log.warning("the checkpoints of %s stay for now: %s", job_id, error.message)

    def _pointers(self, job_id: str) -> list[_Pointer]:
        found: list[_Pointer] = []
        for value in self._client.lrange(keys.job_checkpoints(job_id), 0, -1):
            with suppress(ValueError):  # a damaged one does not hide the others
                found.append(_Pointer.model_validate_json(text(value)))
        return found

    def _tidy(self, claim: Claim, keep: set[str]) -> None:
        """Removes the files that nothing points to, but those of later holders."""
        try:
            for name in self._files.checkpoint_names(claim.job_id):
                fence = name.partition("-")[2].partition(".")[0]
                if name not in keep and fence.isdigit() and int(fence) <= claim.fence:
                    self._files.discard_checkpoint(claim.job_id, name)
        except FilesUnavailable as error:  # the next checkpoint tidies up
            log.warning("old checkpoints of %s stay for now: %s", claim.job_id, error.message)


def _corrupt(checkpoint: Checkpoint) -> CorruptRecord:
    return CorruptRecord(f"Checkpoint {checkpoint.number} is damaged or gone.", code="checkpoint_corrupt")
