"""The folder of what is too large for Redis: data sets as canonical Parquet files, uploads on their way, checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from common.errors import NotFound
from common.identifiers import is_id


class DataFolder:
    """Names files; ids come from `new_id`, so no name of a caller ever becomes a path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Makes the folders, for their owner only."""
        for folder in (self.root, self._uploads, self._datasets, self._checkpoints):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sweep(self, is_known: Callable[[str], bool]) -> None:
        """Removes what was left half uploaded or half read, and rows whose data set `is_known` does not know.

        Only for a folder that no other process writes to.
        """
        for leftover in self._uploads.iterdir():
            leftover.unlink(missing_ok=True)
        for file in self._datasets.iterdir():
            if file.suffix != ".parquet" or not is_known(file.stem):
                file.unlink(missing_ok=True)

    def new_upload(self) -> Path:
        """A fresh place for bytes that come in."""
        return self._uploads / secrets.token_hex(16)

    def dataset(self, dataset_id: str) -> Path:
        """Where the rows of a data set lie.

        Raises:
            NotFound: that is no id of a data set.

        """
        if not is_id(dataset_id, "ds"):
            raise NotFound("There is no such data set.", code="dataset_not_found")
        return self._datasets / f"{dataset_id}.parquet"

    def checkpoints(self, job_id: str) -> Path:
        """The folder of a job's checkpoints.

        Raises:
            NotFound: that is no id of a job.

        """
        if not is_id(job_id, "job"):
            raise NotFound("There is no such job.", code="job_not_found")
        return self._checkpoints / job_id

    def jobs_with_checkpoints(self) -> list[str]:
        """The jobs that have a folder of checkpoints."""
        return [folder.name for folder in self._checkpoints.iterdir()] if self._checkpoints.exists() else []

    @property
    def _uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def _datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def _checkpoints(self) -> Path:
        return self.root / "checkpoints"
