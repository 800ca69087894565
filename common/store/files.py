"""What is too large for Redis: data sets as canonical Parquet files, uploads on their way, checkpoints.

They lie in a folder that all processes see, or in a bucket, of which each machine keeps copies of what it reads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from common.errors import CorruptRecord, FilesUnavailable, NotFound, StorageFull
from common.identifiers import is_id
from common.settings import Settings
from common.store.bucket import Bucket, Found


def open_files(settings: Settings, *, patience: float) -> DataFolder:
    """The files that the settings name; a bucket is waited for `patience` seconds."""
    if settings.bucket_url is None:
        return DataFolder(settings.data_path)
    return BucketFolder(settings.data_path, Bucket(settings.bucket_url, patience), settings.data_cache_bytes)


class DataFolder:
    """Names files; ids come from `new_id`, so no name of a caller ever becomes a path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Makes the folders, for their owner only."""
        for folder in (self.root, self._uploads, self._datasets, self._drafts, self._checkpoints):
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
        """A fresh place for bytes that come in, for the calling process."""
        return self._uploads / f"{os.getpid()}-{secrets.token_hex(16)}"

    def discard_uploads(self, process_id: int) -> None:
        """Removes what a process that died left half uploaded; others go on."""
        for leftover in self._uploads.glob(f"{process_id}-*"):
            leftover.unlink(missing_ok=True)

    # Data sets

    def dataset(self, dataset_id: str) -> Path:
        """Where the rows of a data set are written, before `keep_dataset`.

        Raises:
            NotFound: that is no id of a data set.

        """
        return self._datasets / _name_of_rows(dataset_id)

    def keep_dataset(self, dataset_id: str) -> None:
        """Makes rows that were written last.

        Raises:
            FilesUnavailable: a bucket does not take them.

        """

    @contextmanager
    def rows(self, dataset_id: str) -> Iterator[Path]:
        """The rows of a data set, to be read as long as the context lasts.

        Raises:
            NotFound: that is no id of a data set, or there are none.
            FilesUnavailable: they are in a bucket that does not answer.
            StorageFull: there is no room for a copy of them.

        """
        path = self.dataset(dataset_id)
        if not path.exists():
            raise _rows_are_gone()
        yield path

    def discard_dataset(self, dataset_id: str) -> None:
        """Removes the rows of a data set, if there are any.

        Raises:
            FilesUnavailable: they are in a bucket that does not answer.

        """
        self.dataset(dataset_id).unlink(missing_ok=True)

    # Data sets that jobs write

    def draft(self, dataset_id: str) -> Path:
        """An empty folder of this machine, where a job writes the rows of a data set before `keep_draft`."""
        folder = self._drafts / _name_of_rows(dataset_id).removesuffix(_ROWS)
        self._drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        return folder

    def keep_draft(self, dataset_id: str, path: Path) -> None:
        """Makes a file of a draft the rows of its data set, and removes the rest of the draft.

        Raises:
            FilesUnavailable: a bucket does not take them.

        """
        path.replace(self.dataset(dataset_id))
        self.discard_draft(dataset_id)

    def discard_draft(self, dataset_id: str) -> None:
        """Removes what was written of a data set on this machine."""
        shutil.rmtree(self._drafts / _name_of_rows(dataset_id).removesuffix(_ROWS), ignore_errors=True)

    def drafts(self) -> list[str]:
        """The data sets of which something was written on this machine."""
        return [folder.name for folder in self._drafts.iterdir()] if self._drafts.exists() else []

    # Checkpoints

    def checkpoints(self, job_id: str) -> Path:
        """The folder of a job's checkpoints.

        Raises:
            NotFound: that is no id of a job.

        """
        return self._checkpoints / _checked_job(job_id)

    def keep_checkpoint(self, job_id: str, name: str, content: bytes) -> None:
        """Writes a file that is whole as soon as it has its name, whatever happens to the machine.

        Raises:
            StorageFull: the disk does not take it.
            FilesUnavailable: a bucket does not take it.

        """
        path = self.checkpoints(job_id) / name
        try:
            _write(path, content)
        except OSError as error:
            with suppress(OSError):
                _part(path).unlink(missing_ok=True)
            raise StorageFull(
                f"A checkpoint could not be written: {error.strerror}.", hint="Look at the disk of CHAINRULE_DATA_URL."
            ) from error

    @contextmanager
    def checkpoint(self, job_id: str, name: str) -> Iterator[Path]:
        """A checkpoint's file, to be read as long as the context lasts; it may not be there.

        Raises:
            FilesUnavailable: it is in a bucket that does not answer.
            StorageFull: there is no room for a copy of it.

        """
        yield self.checkpoints(job_id) / name

    def checkpoint_names(self, job_id: str) -> list[str]:
        """The names of a job's checkpoints, and of halves of them."""
        folder = self.checkpoints(job_id)
        return [file.name for file in folder.iterdir()] if folder.exists() else []

    def discard_checkpoint(self, job_id: str, name: str) -> None:
        """Removes one checkpoint, if it is there."""
        (self.checkpoints(job_id) / name).unlink(missing_ok=True)

    def discard_checkpoints(self, job_id: str) -> None:
        """Removes all checkpoints of a job."""
        shutil.rmtree(self.checkpoints(job_id), ignore_errors=True)

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
    def _drafts(self) -> Path:
        return self.root / "drafts"

    @property
    def _checkpoints(self) -> Path:
        return self.root / "checkpoints"


class BucketFolder(DataFolder):
    """The same in a bucket. Here, on this machine, are uploads on their way, and copies of what is read.

    A copy has its name only when it is whole, and is locked by who reads it; several processes may use one folder.

    Args:
        root: of this machine.
        bucket: where everything is kept.
        most_bytes: of copies; the longest unused go first, but none that is being read.

    """

    def __init__(self, root: Path, bucket: Bucket, most_bytes: int) -> None:
        super().__init__(root)
        self._bucket = bucket
        self._most_bytes = most_bytes

    def prepare(self) -> None:
        for folder in (self.root, self._uploads, self._drafts, self._copies):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._bucket.names("datasets")  # fails now rather than at the first upload

    def sweep(self, is_known: Callable[[str], bool]) -> None:
        for leftover in self._uploads.iterdir():
            leftover.unlink(missing_ok=True)
        for name in self._bucket.names("datasets"):
            if not is_known(name.removesuffix(".parquet")):
                self._bucket.delete(f"datasets/{name}")
                (self._copies / name).unlink(missing_ok=True)

    def dataset(self, dataset_id: str) -> Path:
        return self._uploads / _name_of_rows(dataset_id)

    def keep_dataset(self, dataset_id: str) -> None:
        self._keep(self.dataset(dataset_id), dataset_id)

    def keep_draft(self, dataset_id: str, path: Path) -> None:
        self._keep(path, dataset_id)
        self.discard_draft(dataset_id)

    def _keep(self, path: Path, dataset_id: str) -> None:
        name = _name_of_rows(dataset_id)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._bucket.put(f"datasets/{name}", path, sha256)
        self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.replace(self._copies / name)
        self._evict()

    @contextmanager
    def rows(self, dataset_id: str) -> Iterator[Path]:
        name = _name_of_rows(dataset_id)
        try:
            copy = self._copy(f"datasets/{name}", name)
        except FileNotFoundError as error:
            raise _rows_are_gone() from error
        with copy:
            yield self._copies / name

    def discard_dataset(self, dataset_id: str) -> None:
        name = _name_of_rows(dataset_id)
        for path in (self.dataset(dataset_id), self._copies / name):
            path.unlink(missing_ok=True)
        self._bucket.delete(f"datasets/{name}")

    def keep_checkpoint(self, job_id: str, name: str, content: bytes) -> None:
        key = f"checkpoints/{_checked_job(job_id)}/{name}"
        self._bucket.put(key, content, hashlib.sha256(content).hexdigest())

    @contextmanager
    def checkpoint(self, job_id: str, name: str) -> Iterator[Path]:
        copy = f"{_checked_job(job_id)}.{name}"
        with self._copy(f"checkpoints/{job_id}/{name}", copy):
            yield self._copies / copy

    def checkpoint_names(self, job_id: str) -> list[str]:
        return self._bucket.names(f"checkpoints/{_checked_job(job_id)}")

    def discard_checkpoint(self, job_id: str, name: str) -> None:
        self._bucket.delete(f"checkpoints/{_checked_job(job_id)}/{name}")
        (self._copies / f"{job_id}.{name}").unlink(missing_ok=True)

    def discard_checkpoints(self, job_id: str) -> None:
        for name in self.checkpoint_names(job_id):
            self.discard_checkpoint(job_id, name)

    def jobs_with_checkpoints(self) -> list[str]:
        return self._bucket.folders("checkpoints")

    @property
    def _copies(self) -> Path:
        return self.root / "copies"

    def _copy(self, key: str, name: str) -> IO[bytes]:
        """A copy of an object, open, and locked against its removal until it is closed."""
        try:
            return _held(self._copies / name) or self._fetch(key, self._copies / name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StorageFull(
                    "The disk has no room for a copy from the object store.",
                    hint="Look at the disk of CHAINRULE_STATE_DIR, or lower CHAINRULE_DATA_CACHE_BYTES.",
                ) from error
            raise

    def _fetch(self, key: str, path: Path) -> IO[bytes]:
        found = self._bucket.get(key)
        self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_PART}")
        file = _locked(part)
        try:
            _fill(file, found)
            part.replace(path)
            self._evict()
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        return file

    def _evict(self) -> None:
        """Removes the longest unused copies until the others fit, and halves that nobody writes any more."""
        files = list[tuple[float, int, Path]]()
        for path in self._copies.iterdir():
            with suppress(FileNotFoundError):
                stat = path.stat()
                files.append((0.0 if path.suffix == _PART else stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            if used and total <= self._most_bytes:
                return
            if _remove_unused(path):
                total -= size


_PART = ".part"
_ROWS = ".parquet"


def _fill(file: IO[bytes], found: Found) -> None:
    checksum = hashlib.sha256()
    for chunk in found.chunks:
        checksum.update(chunk)
        file.write(chunk)
    if file.tell() != found.size:
        raise FilesUnavailable("The object store sent less than there is.")
    if found.sha256 not in (None, checksum.hexdigest()):
        raise CorruptRecord("A file in the object store is damaged.")
    file.flush()


def _locked(path: Path) -> IO[bytes]:
    """A new file, locked so that `_remove_unused` does not take it for what a dead process left."""
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_SH)
        if _is_at(file, path):
            return file
        file.close()


def _held(path: Path) -> IO[bytes] | None:
    """A file, open and locked so that `_remove_unused` leaves it; None if there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _is_at(file, path):
        file.close()
        return None
    os.utime(file.fileno())
    return file


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether a file is still there: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> bool:
    """Removes a file that nobody holds; whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _name_of_rows(dataset_id: str) -> str:
    if not is_id(dataset_id, "ds"):
        raise NotFound("There is no such data set.", code="dataset_not_found")
    return f"{dataset_id}{_ROWS}"


def _checked_job(job_id: str) -> str:
    if not is_id(job_id, "job"):
        raise NotFound("There is no such job.", code="job_not_found")
    return job_id


def _rows_are_gone() -> NotFound:
    return NotFound("The rows of this data set are gone.", code="dataset_not_found")


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}{_PART}")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = _part(path)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
