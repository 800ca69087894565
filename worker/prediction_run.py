"""One prediction job from start to end: a model, the rows of a data set, and the data set of their predictions."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import polars as pl

from common.dataset_inputs import read_inputs
from common.describing.column import describe_column
from common.describing.stored_columns import StoredColumns
from common.errors import BadData, Conflict, FenceLost, Invalid, StorageFull, lacks_disk
from common.features.table import StoredTable
from common.identifiers import new_id
from common.learned import LearnedNetwork
from common.prediction_table import predicted_columns, table_height
from common.schemas.datasets import Dataset
from common.schemas.jobs import Job, PredictionJob, PredictionProgress
from common.store.jobs import Claim
from common.store.stores import Stores, utc_now
from worker.beside import beside
from worker.pacing import Pacing
from worker.prediction_file import PredictionFile
from worker.run import LOOK_SECONDS, Run

_FIRST_ROWS: Final = 1024
_TELL_SECONDS: Final = 1.0
_SUFFIX: Final = "-predictions"
_LONGEST_NAME: Final = 200
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


class PredictionRun(Run):
    """Predicts the rows of a data set, in their order, and publishes the predictions as a data set.

    What it writes becomes visible in the step that ends its job. A run that takes over begins anew; whatever is left
    of the one before is a draft, which `Housekeeping` removes.

    Args:
        stores: records and data.
        claim: the job and the fence it is held with.
        abandon: ends this process; called from another thread when the job was taken from it while it was busy.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        stores: Stores,
        claim: Claim,
        abandon: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stores, claim, abandon)
        self._clock = clock

    def _carry_out(self, job: Job) -> None:
        assert isinstance(job, PredictionJob)
        with ExitStack() as open_files:
            with beside(LOOK_SECONDS, self._look):
                dataset = self._stores.datasets.get(job.request.dataset_id)
                model = self._stores.models.load(job.request.model_id)
                network = LearnedNetwork.load(model.document, model.weights)
                rows = open_files.enter_context(self._stores.files.rows(dataset.id))
            with self._draft() as (result_id, folder):
                self._write(network, dataset, rows, result_id, folder)

    @contextmanager
    def _draft(self) -> Iterator[tuple[str, Path]]:
        """The id of a data set that is to be written, and a folder for it, which is then removed."""
        result_id = new_id("ds")
        self._stores.jobs.draft(self._claim, result_id)  # first: what is written there is found by that
        try:
            yield result_id, self._stores.files.draft(result_id)
        finally:
            self._stores.files.discard_draft(result_id)

    def _write(self, network: LearnedNetwork, dataset: Dataset, rows: Path, result_id: str, folder: Path) -> None:
        jobs, file = self._stores.jobs, PredictionFile(folder, table_height(network))
        jobs.begin(self._claim, _progress(0, dataset.rows, 0.0))
        with _explained():
            if not self._predict(network, dataset, StoredTable(rows, [c.name for c in dataset.columns]), file):
                jobs.end_cancelled(self._claim)
                return
            with beside(LOOK_SECONDS, self._look):
                whole = file.finish()
                result = _describe(result_id, dataset, whole)
                self._stores.files.keep_draft(result_id, whole)
        try:
            jobs.succeed_predicting(self._claim, result)
        except Conflict:  # a cancel came in between
            jobs.end_cancelled(self._claim)
        except FenceLost:
            if not self._stores.datasets.exists(result_id):  # else a repeated call has found its work done
                self._stores.files.discard_dataset(result_id)
            raise

    def _predict(self, network: LearnedNetwork, dataset: Dataset, table: StoredTable, file: PredictionFile) -> bool:
        """Predicts all rows, some at a time, and tells of it; False when a cancel was asked for."""
        pacing = Pacing(first=_FIRST_ROWS)
        began, told, done = self._clock(), -math.inf, 0
        while done < table.rows:
            stop = done + min(pacing.take(table.rows - done), file.height)
            at = self._clock()
            inputs = read_inputs(network.encoder, dataset, table, done, stop)
            file.add(predicted_columns(network, inputs, done))
            pacing.note(stop - done, self._clock() - at)
            done = stop
            now = self._clock()
            if now >= told + _TELL_SECONDS or done == table.rows:
                told = now
                progress = _progress(done, table.rows, told - began)
                event = progress.model_dump(mode="json")
                wish = self._stores.jobs.record(self._claim, kind="progress", event=event, progress=progress)
            else:
                wish = self._stores.jobs.asked(self._claim)
            if wish == "cancel":
                return False
        return True


def _progress(done: int, rows: int, seconds: float) -> PredictionProgress:
    speed = done / max(seconds, 1e-9)
    return PredictionProgress(
        fraction=done / rows,
        rows_seen=done,
        rows=rows,
        rows_per_second=speed,
        eta_seconds=(rows - done) / speed if done else None,
    )


@contextmanager
def _explained() -> Iterator[None]:
    """Says what is wrong with a row, with the rows as a whole, or with the disk."""
    try:
        yield
    except Invalid as error:
        told = "; ".join(f"{fault.pointer}: {fault.message}" for fault in error.faults[:1]) or error.message
        raise BadData(told, hint="Correct the row, or leave it out, and ask again.") from error
    except (OSError, *_POLARS_ERRORS) as error:
        if lacks_disk(error):
            raise StorageFull("The disk has no room for the predictions.") from error
        if isinstance(error, OSError):
            raise
        raise BadData("The rows of the data set are damaged.") from error


def _describe(result_id: str, dataset: Dataset, path: Path) -> Dataset:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    stored = StoredColumns(path)
    return Dataset(
        id=result_id,
        name=f"{dataset.name[: _LONGEST_NAME - len(_SUFFIX)]}{_SUFFIX}",
        version=0,  # the store gives the real one
        format="parquet",
        bytes=path.stat().st_size,
        sha256=sha256,
        rows=stored.rows,
        columns=tuple(describe_column(name, series) for name, series in stored.each()),
        warnings=(),
        created_at=utc_now(),
    )
