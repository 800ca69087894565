"""Checkpoints: whole or not there, the newest kept, and nobody's file written over by who has lost the job."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import CorruptRecord, FenceLost, StorageFull
from common.identifiers import new_id
from common.store import keys
from common.store.checkpoints import KEPT, SavedTraining
from common.store.stores import Stores
from tests.contract import claimed, running, save_checkpoint, submit


def files_of(stores: Stores, job_id: str) -> list[Path]:
    return sorted(stores.files.checkpoints(job_id).iterdir())


def test_a_checkpoint_comes_back_as_it_was_written_to_the_bit(stores: Stores) -> None:
    claim = running(stores)
    random = np.random.default_rng(1)
    arrays = {
        "shard.0.best": random.standard_normal(1000).astype(np.float32),
        "shard.1.best": random.standard_normal(10).astype(np.float32),
        "worker.0.optimizer.steps": np.array([2**40]),
        "worker.1.optimizer.scale": np.array([0.1 + 0.2]),
        "worker.1.empty": np.zeros(0, np.float64),
    }
    document = {"standing": {"epoch": 3, "losses": [0.1, 1e-300]}, "name": "Größe ✓"}
    saved = SavedTraining(document, arrays)
    checkpoint = stores.checkpoints.save(claim, saved, attempt=2, epoch=3, step=17, seconds=lambda: 0.5)
    assert (checkpoint.number, checkpoint.attempt, checkpoint.epoch, checkpoint.step) == (1, 2, 3, 17)
    assert checkpoint.seconds == 0.5
    assert stores.checkpoints.of_job(claim.job_id) == [checkpoint]
    (file,) = files_of(stores, claim.job_id)
    assert file.stat().st_size == checkpoint.bytes

    loaded = stores.checkpoints.load(claim.job_id, checkpoint)
    assert loaded.document == document
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.arrays[name], array)
    np.testing.assert_array_equal(loaded.best, np.concatenate([arrays["shard.0.best"], arrays["shard.1.best"]]))
    assert [*loaded.states("worker", 2)[1]] == ["empty", "optimizer.scale"]
    event = stores.history.events(claim.job_id)[-1]
    assert (event.kind, event.data["number"], event.data["bytes"]) == ("checkpoint", 1, checkpoint.bytes)


def test_the_newest_are_kept_and_the_files_of_the_others_are_gone(stores: Stores) -> None:
    claim = running(stores)
    for epoch in range(1, KEPT + 3):
        save_checkpoint(stores, claim, epoch)
    numbers = [checkpoint.number for checkpoint in stores.checkpoints.of_job(claim.job_id)]
    assert numbers == [*range(KEPT + 2, 2, -1)]
    assert len(files_of(stores, claim.job_id)) == KEPT
    for checkpoint in stores.checkpoints.of_job(claim.job_id):
        assert stores.checkpoints.load(claim.job_id, checkpoint).document["standing"]["epoch"] == checkpoint.epoch


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_told_of_and_never_read(stores: Stores, damage: str) -> None:
    claim = running(stores)
    earlier, checkpoint = save_checkpoint(stores, claim, 1), save_checkpoint(stores, claim, 2)
    file = files_of(stores, claim.job_id)[-1]
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes(content[:middle] if damage == "cut" else flipped)
    with pytest.raises(CorruptRecord) as caught:
        stores.checkpoints.load(claim.job_id, checkpoint)
    assert caught.value.stable_code == "checkpoint_corrupt"
    assert stores.checkpoints.load(claim.job_id, earlier).document["standing"]["epoch"] == 1


def test_whoever_lost_the_job_neither_points_to_a_file_nor_removes_that_of_the_next_holder(stores: Stores) -> None:
    old = running(stores)
    save_checkpoint(stores, old, 1)
    assert stores.jobs.requeue(old, "silent")
    new = running(stores, old.job_id)
    mine = save_checkpoint(stores, new, 2)
    before = files_of(stores, old.job_id)
    with pytest.raises(FenceLost):
        save_checkpoint(stores, old, 3)
    stores.checkpoints._tidy(old, keep=set())  # as one that was frozen just before
    assert set(before) - set(files_of(stores, old.job_id)) == {before[0]}
    assert stores.checkpoints.load(new.job_id, mine).document["standing"]["epoch"] == 2
    assert [checkpoint.number for checkpoint in stores.checkpoints.of_job(new.job_id)] == [2, 1]


def test_what_an_earlier_holder_left_half_written_is_removed_with_the_next_checkpoint(stores: Stores) -> None:
    old = running(stores)
    folder = stores.files.checkpoints(old.job_id)
    folder.mkdir(parents=True)
    (folder / f"00000001-{old.fence}.safetensors.part").write_bytes(b"half")
    (folder / f"00000009-{old.fence}.safetensors").write_bytes(b"whole, and never pointed to")
    assert stores.jobs.requeue(old, "lost")
    new = running(stores, old.job_id)
    save_checkpoint(stores, new)
    assert [file.name for file in files_of(stores, old.job_id)] == [f"00000001-{new.fence}.safetensors"]


def test_a_full_disk_is_a_typed_error_and_leaves_the_checkpoints_as_they_were(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = running(stores)
    kept = save_checkpoint(stores, claim)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull):
            save_checkpoint(stores, claim, 2)
    assert stores.checkpoints.of_job(claim.job_id) == [kept]
    assert len(files_of(stores, claim.job_id)) == 1
    assert save_checkpoint(stores, claim, 2).number == 2


def test_no_pointer_is_written_before_the_bytes_are_on_the_disk(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = running(stores)
    seen = []

    def flushed(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_size > 100, stores.checkpoints.of_job(claim.job_id)))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", flushed)
        save_checkpoint(stores, claim)
    assert seen[0] == (True, [])
    assert all(pointers == [] for _, pointers in seen)
    assert len(seen) == 2  # the file, and then the folder that names it


def test_a_damaged_pointer_does_not_hide_the_others(stores: Stores) -> None:
    claim = running(stores)
    kept = save_checkpoint(stores, claim)
    stores.client.lpush(keys.job_checkpoints(claim.job_id), "garbage")
    assert stores.checkpoints.of_job(claim.job_id) == [kept]


def test_deleting_a_job_removes_its_pointers(stores: Stores) -> None:
    claim = running(stores)
    save_checkpoint(stores, claim)
    stores.jobs.end_cancelled(claim)
    stores.jobs.delete(claim.job_id)
    stores.checkpoints.discard(claim.job_id)
    assert not stores.client.exists(keys.job_checkpoints(claim.job_id))
    assert stores.files.jobs_with_checkpoints() == []


def test_there_are_none_of_a_job_that_has_not_written_any(stores: Stores) -> None:
    assert stores.checkpoints.of_job(submit(stores)) == []
    assert stores.checkpoints.of_job(new_id("job")) == []
    assert stores.checkpoints.of_job(claimed(stores).job_id) == []
