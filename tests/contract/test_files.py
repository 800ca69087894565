"""Files of data sets and checkpoints: the same promises for a folder and for a bucket, and those of a bucket's copies."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import CorruptRecord, FilesUnavailable, NotFound, StorageFull
from common.identifiers import new_id
from common.settings import Settings
from common.store.bucket import Bucket, _connect
from common.store.files import BucketFolder, DataFolder, _locked, open_files
from tests.object_store import ObjectStore

BIG = 64 << 20


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> DataFolder:
    """Each kind, prepared."""
    if request.param == "folder":
        found = DataFolder(tmp_path / "data")
    else:
        found = BucketFolder(tmp_path / "cache", a_bucket(request.getfixturevalue("bucket")), BIG)
    found.prepare()
    return found


def a_bucket(name: str, patience: float = 2.0) -> Bucket:
    _connect.cache_clear()  # each test has an environment of its own
    return Bucket(f"s3://{name}/some/prefix", patience)


def keep(files: DataFolder, content: bytes = b"rows") -> str:
    dataset_id = new_id("ds")
    files.dataset(dataset_id).write_bytes(content)
    files.keep_dataset(dataset_id)
    return dataset_id


def read(files: DataFolder, dataset_id: str) -> bytes:
    with files.rows(dataset_id) as path:
        return path.read_bytes()


# Both


def test_a_draft_becomes_the_rows_of_its_data_set_when_it_is_kept(files: DataFolder) -> None:
    dataset_id, other = new_id("ds"), new_id("ds")
    for draft in (dataset_id, other):
        folder = files.draft(draft)
        (folder / "part").write_bytes(b"half")
        (folder / "whole").write_bytes(b"rows")
    files.sweep(lambda _: False)  # an API process starts
    assert set(files.drafts()) == {dataset_id, other}
    with pytest.raises(NotFound):
        read(files, dataset_id)
    files.keep_draft(dataset_id, files.root / "drafts" / dataset_id / "whole")
    assert read(files, dataset_id) == b"rows"
    assert files.drafts() == [other]
    files.discard_draft(other)
    files.discard_draft(other)
    assert files.drafts() == []
    with pytest.raises(NotFound):
        files.draft("../elsewhere")


def test_rows_come_back_as_they_were_written_until_they_are_discarded(files: DataFolder) -> None:
    content = os.urandom(20 << 20)  # several parts
    dataset_id, other = keep(files, content), keep(files, b"other")
    assert read(files, dataset_id) == content
    files.discard_dataset(dataset_id)
    files.discard_dataset(dataset_id)
    with pytest.raises(NotFound) as caught, files.rows(dataset_id):
        pass
    assert caught.value.stable_code == "dataset_not_found"
    assert read(files, other) == b"other"


def test_rows_that_were_written_but_not_kept_can_be_discarded(files: DataFolder) -> None:
    dataset_id = new_id("ds")
    files.dataset(dataset_id).write_bytes(b"rows")
    files.discard_dataset(dataset_id)
    assert [path for path in files.root.rglob("*") if path.is_file()] == []


def test_checkpoints_are_listed_read_and_discarded_by_job(files: DataFolder) -> None:
    job, other = new_id("job"), new_id("job")
    assert files.checkpoint_names(job) == []
    assert files.jobs_with_checkpoints() == []
    big = os.urandom(9 << 20)
    files.keep_checkpoint(job, "00000001-1.safetensors", big)
    files.keep_checkpoint(job, "00000002-1.safetensors", b"two")
    files.keep_checkpoint(other, "00000001-7.safetensors", b"other")
    assert sorted(files.checkpoint_names(job)) == ["00000001-1.safetensors", "00000002-1.safetensors"]
    assert sorted(files.jobs_with_checkpoints()) == sorted([job, other])
    with files.checkpoint(job, "00000001-1.safetensors") as path:
        assert path.read_bytes() == big
    files.discard_checkpoint(job, "00000001-1.safetensors")
    with pytest.raises(FileNotFoundError), files.checkpoint(job, "00000001-1.safetensors") as path:
        path.read_bytes()
    files.discard_checkpoints(job)
    files.discard_checkpoints(job)
    assert (files.checkpoint_names(job), files.jobs_with_checkpoints()) == ([], [other])


@pytest.mark.parametrize("identifier", ["../../etc/passwd", "ds_../../x", "ds_", "job_", "", "/", "*"])
def test_no_name_of_a_caller_becomes_a_path_or_a_key(files: DataFolder, identifier: str) -> None:
    for act in (files.dataset, files.discard_dataset, read.__get__(files)):
        with pytest.raises(NotFound):
            act(identifier)
    for act in (files.checkpoint_names, files.discard_checkpoints, files.checkpoints):
        with pytest.raises(NotFound):
            act(identifier)


def test_a_sweep_removes_uploads_and_rows_that_nobody_knows(files: DataFolder) -> None:
    known, unknown, upload = keep(files), keep(files), files.new_upload()
    upload.write_bytes(b"half")
    files.sweep(lambda dataset_id: dataset_id == known)
    assert not upload.exists()
    assert read(files, known) == b"rows"
    with pytest.raises(NotFound):
        read(files, unknown)


def test_files_can_be_sent_to_another_process(files: DataFolder) -> None:
    dataset_id = keep(files)
    assert read(pickle.loads(pickle.dumps(files)), dataset_id) == b"rows"  # noqa: S301


# Buckets


@pytest.fixture
def two(bucket: str, tmp_path: Path) -> tuple[BucketFolder, BucketFolder]:
    """Two machines with one bucket."""
    places = [BucketFolder(tmp_path / name, a_bucket(bucket), BIG) for name in ("one", "two")]
    for place in places:
        place.prepare()
    return places[0], places[1]


Two = tuple[BucketFolder, BucketFolder]


def test_another_machine_reads_what_one_has_kept_and_needs_no_store_for_it_again(
    two: Two, object_store: ObjectStore
) -> None:
    one, other = two
    dataset_id = keep(one)
    assert read(other, dataset_id) == b"rows"
    object_store.kill()
    try:
        assert read(other, dataset_id) == b"rows"
    finally:
        object_store.start()


def test_nothing_is_left_in_the_bucket_when_all_is_discarded(two: Two, object_store: ObjectStore, bucket: str) -> None:
    one, other = two
    dataset_id, job = keep(one), new_id("job")
    one.keep_checkpoint(job, "00000001-1.safetensors", b"state")
    names = [str(path.relative_to(object_store.folder / bucket)) for path in object_store.files(bucket)]
    assert names == [
        f"some/prefix/checkpoints/{job}/00000001-1.safetensors",
        f"some/prefix/datasets/{dataset_id}.parquet",
    ]
    other.discard_dataset(dataset_id)
    other.discard_checkpoints(job)
    assert object_store.files(bucket) == []


def test_bytes_that_are_not_those_that_were_written_are_told_of_and_no_copy_stays(two: Two) -> None:
    one, other = two
    dataset_id = keep(one, b"x" * 1000)
    one._bucket.put(f"datasets/{dataset_id}.parquet", b"x" * 999 + b"y", hashlib.sha256(b"x" * 1000).hexdigest())
    with pytest.raises(CorruptRecord):
        read(other, dataset_id)
    assert list((other.root / "copies").iterdir()) == []


def copies(files: BucketFolder) -> set[str]:
    return {path.stem for path in (files.root / "copies").iterdir()}


def test_the_longest_unused_copies_make_room_but_none_that_is_being_read(bucket: str, tmp_path: Path) -> None:
    files = BucketFolder(tmp_path, a_bucket(bucket), 2500)
    files.prepare()
    first, second = keep(files, b"1" * 1000), keep(files, b"2" * 1000)
    for age, dataset_id in ((20, first), (10, second)):
        path = tmp_path / "copies" / f"{dataset_id}.parquet"
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    with files.rows(second):
        third = keep(files, b"3" * 1000)
        assert copies(files) == {second, third}
        with files.rows(third):
            fourth = keep(files, b"4" * 2000)
            assert {second, third} <= copies(files)
    assert read(files, first) == b"1" * 1000
    assert read(files, fourth) == b"4" * 2000


def test_a_copy_larger_than_all_the_room_is_read_and_then_goes(bucket: str, tmp_path: Path) -> None:
    files = BucketFolder(tmp_path, a_bucket(bucket), 10)
    files.prepare()
    large, small = keep(files, b"x" * 1000), keep(files, b"x")
    assert read(files, large) == b"x" * 1000
    keep(files, b"y")
    assert large not in copies(files)
    assert read(files, small) == b"x"


def test_halves_of_a_process_that_died_are_removed_and_those_of_a_living_one_are_not(
    bucket: str, tmp_path: Path
) -> None:
    files = BucketFolder(tmp_path, a_bucket(bucket), BIG)
    files.prepare()
    (tmp_path / "copies" / "dead.part").write_bytes(b"half")
    with _locked(tmp_path / "copies" / "alive.part"):
        keep(files)
        assert {path.name for path in (tmp_path / "copies").glob("*.part")} == {"alive.part"}


def _read_many(root: Path, url: str, ids: list[str], rounds: int) -> int:
    files = BucketFolder(root, Bucket(url, 5.0), 3000)
    return sum(read(files, dataset_id) == dataset_id.encode() * 30 for _ in range(rounds) for dataset_id in ids)


def test_processes_share_one_folder_of_copies_that_is_far_too_small(bucket: str, tmp_path: Path) -> None:
    files = BucketFolder(tmp_path, a_bucket(bucket), 3000)
    files.prepare()
    ids = []
    for _ in range(8):
        dataset_id = new_id("ds")
        files.dataset(dataset_id).write_bytes(dataset_id.encode() * 30)
        files.keep_dataset(dataset_id)
        ids.append(dataset_id)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        orders = [ids, ids[::-1]]
        answers = pool.starmap(_read_many, [(tmp_path, f"s3://{bucket}/some/prefix", order, 5) for order in orders])
    assert answers == [40, 40]
    assert sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()) <= 3000
    assert list((tmp_path / "copies").glob("*.part")) == []


def test_threads_may_ask_for_the_same_copy_at_once(two: Two) -> None:
    one, other = two
    dataset_id = keep(one, b"x" * (1 << 20))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: len(read(other, dataset_id)), range(16))) == {1 << 20}
    assert copies(other) == {dataset_id}


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_store_that_does_not_answer_is_told_of_in_time_and_works_again_afterwards(
    two: Two, object_store: ObjectStore, fault: str
) -> None:
    one, other = two
    dataset_id, job = keep(one), new_id("job")
    impatient = BucketFolder(other.root, Bucket(other._bucket.url, 0.3), BIG)
    (object_store.kill if fault == "killed" else object_store.freeze)()
    try:
        calls = (
            lambda: read(impatient, dataset_id),
            lambda: keep(impatient),
            lambda: impatient.keep_checkpoint(job, "00000001-1.safetensors", b"state"),
            lambda: impatient.discard_dataset(new_id("ds")),  # a frozen store does as it was told when it thaws
            impatient.jobs_with_checkpoints,
        )
        for call in calls:
            with pytest.raises(FilesUnavailable) as caught:
                call()
            assert caught.value.stable_code == "store_unavailable"
            assert "127.0.0.1" not in str(caught.value)
    finally:
        (object_store.start if fault == "killed" else object_store.thaw)()
    assert read(other, dataset_id) == b"rows"


def test_a_short_absence_is_waited_for(two: Two, object_store: ObjectStore) -> None:
    one, other = two
    dataset_id = keep(one)
    object_store.kill()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, BucketFolder(other.root, Bucket(other._bucket.url, 20.0), BIG), dataset_id)
        object_store.start()
        assert waiting.result(20) == b"rows"


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_without_the_right_keys_nothing_is_prepared(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv(wrong, "not-the-right-one")
    with pytest.raises(FilesUnavailable):
        BucketFolder(tmp_path, a_bucket(bucket), BIG).prepare()


def test_the_settings_choose(tmp_path: Path) -> None:
    assert type(open_files(Settings(state_dir=tmp_path), patience=1)) is DataFolder
    assert type(open_files(Settings(state_dir=tmp_path, data_url="s3://bucket/x"), patience=1)) is BucketFolder


def test_a_full_disk_of_copies_is_told_of(two: Two) -> None:
    one, other = two
    dataset_id = keep(one, b"x" * (1 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StorageFull):
            read(other, dataset_id)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list((other.root / "copies").iterdir()) == []
    assert len(read(other, dataset_id)) == 1 << 20
