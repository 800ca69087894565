"""Descriptions of data sets in the store, and the folder that their rows lie in."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import CorruptRecord, Invalid, NotFound
from common.schemas.datasets import Dataset
from common.store import keys
from common.store.files import DataFolder
from common.store.stores import Stores
from tests.contract import a_dataset, create

FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANY_NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def test_what_is_stored_comes_back_as_it_was(stores: Stores) -> None:
    dataset = a_dataset("naïve 名 🙂")
    created = stores.datasets.create(dataset)
    assert (created.id, created.replayed) == (dataset.id, False)
    assert stores.datasets.get(dataset.id) == dataset


@FEW
@given(st.lists(st.sampled_from(["a", "b"]) | ANY_NAME, min_size=1, max_size=6))
def test_versions_count_from_one_for_each_name(stores: Stores, names: list[str]) -> None:
    stores.client.flushall()
    for place, name in enumerate(names):
        dataset = create(stores, name)
        assert (dataset.name, dataset.version) == (name, names[: place + 1].count(name))


@pytest.mark.parametrize("name", ['"version":0', '","version":0,"', "%1", "\\", "version", ":version", "a\0b"])
def test_a_name_that_looks_like_the_record_changes_nothing_else(stores: Stores, name: str) -> None:
    first = a_dataset(name)
    stores.datasets.create(first)
    second = a_dataset(name)
    stores.datasets.create(second)
    assert stores.datasets.get(first.id) == first
    assert stores.datasets.get(second.id) == second.model_copy(update={"version": 2})


def test_a_version_is_never_given_twice(stores: Stores) -> None:
    stores.datasets.delete(create(stores).id)
    assert create(stores).version == 2


def test_the_newest_data_set_of_a_content_is_found_while_it_is_there(stores: Stores) -> None:
    assert stores.datasets.of_content("c") is None
    first, second, other = (a_dataset(name) for name in "abc")
    for dataset, content in ((first, "c"), (second, "c"), (other, "")):
        stores.datasets.create(dataset, content=content)
    assert stores.datasets.of_content("c") == second
    assert stores.datasets.of_content("") is None
    stores.datasets.delete(first.id)
    assert stores.datasets.of_content("c") == second
    stores.datasets.delete(second.id)
    assert stores.datasets.of_content("c") is None
    stores.datasets.delete(other.id)
    assert not stores.client.exists(keys.DATASET_CONTENTS, keys.DATASETS_OF_CONTENT)


@pytest.mark.parametrize("value", [b"\xff", b"no id", b""])
def test_a_damaged_index_of_contents_finds_nothing_and_stops_nothing(stores: Stores, value: bytes) -> None:
    stores.client.hset(keys.DATASETS_OF_CONTENT, "c", value)
    assert stores.datasets.of_content("c") is None
    for key in (keys.DATASET_CONTENTS, keys.DATASETS_OF_CONTENT):
        stores.client.set(key, value)
    assert stores.datasets.of_content("c") is None
    dataset = a_dataset()
    stores.datasets.create(dataset, content="c")
    assert stores.datasets.get(dataset.id) == dataset
    stores.datasets.delete(dataset.id)


def test_a_repeated_creation_makes_one_data_set(stores: Stores) -> None:
    dataset = a_dataset()
    stores.datasets.create(dataset)
    assert stores.datasets.create(dataset).id == dataset.id
    assert [(found.id, found.version) for found in stores.datasets.page(10).data] == [(dataset.id, 1)]


def test_the_same_key_and_body_give_the_same_data_set_and_another_body_is_refused(stores: Stores) -> None:
    first = stores.datasets.create(a_dataset(), idempotency_key="k", digest="one")
    again = stores.datasets.create(a_dataset(), idempotency_key="k", digest="one")
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(Invalid) as caught:
        stores.datasets.create(a_dataset(), idempotency_key="k", digest="other")
    assert caught.value.stable_code == "idempotency_key_reused"
    assert len(stores.datasets.page(10).data) == 1


def test_keys_of_jobs_and_of_data_sets_do_not_meet(stores: Stores) -> None:
    stores.datasets.create(a_dataset(), idempotency_key="k", digest="one")
    assert keys.idempotency("datasets", "k") != keys.idempotency("jobs", "k")
    assert 0 < int(stores.client.ttl(keys.idempotency("datasets", "k"))) <= 86_400


@FEW
@given(count=st.integers(0, 7), limit=st.integers(1, 4))
def test_cursors_walk_all_data_sets_once_and_newest_first(stores: Stores, count: int, limit: int) -> None:
    stores.client.flushall()
    ids = [create(stores).id for _ in range(count)]
    found, cursor = list[Dataset](), None
    for _ in range(count // limit + 1):
        page = stores.datasets.page(limit, cursor)
        found += page.data
        cursor = page.next_cursor
        if cursor is None:
            break
    assert cursor is None
    assert [dataset.id for dataset in found] == ids[::-1]


def test_deleting_twice_finds_nothing_the_second_time(stores: Stores) -> None:
    dataset_id = create(stores).id
    stores.datasets.delete(dataset_id)
    assert stores.datasets.page(10).data == []
    for call in (stores.datasets.delete, stores.datasets.get):
        with pytest.raises(NotFound) as caught:
            call(dataset_id)
        assert caught.value.stable_code == "dataset_not_found"
    assert [key for key in stores.client.keys("*") if dataset_id.encode() in key] == []


@pytest.mark.parametrize("garbage", [b"{", b"{}", b"\xff\xfe", b'{"id": NaN}'])
def test_a_damaged_description_is_told_of_and_hides_no_other(stores: Stores, garbage: bytes) -> None:
    ids = [create(stores).id for _ in range(3)]
    stores.client.set(keys.dataset(ids[1]), garbage)
    with pytest.raises(CorruptRecord) as caught:
        stores.datasets.get(ids[1])
    assert caught.value.stable_code == "corrupt_record"
    assert [dataset.id for dataset in stores.datasets.page(10).data] == [ids[2], ids[0]]


def test_a_description_of_another_type_is_told_of_and_hides_no_other(stores: Stores) -> None:
    ids = [create(stores).id for _ in range(3)]
    stores.client.delete(keys.dataset(ids[1]))
    stores.client.sadd(keys.dataset(ids[1]), "x")
    with pytest.raises(CorruptRecord):
        stores.datasets.get(ids[1])
    assert [dataset.id for dataset in stores.datasets.page(10).data] == [ids[2], ids[0]]


# The folder


@pytest.mark.parametrize(
    "identifier", ["../../etc/passwd", "ds_../../x", "ds_", "job_0000000000000000000000000", "", "/"]
)
def test_no_name_of_a_caller_becomes_a_path(tmp_path: Path, identifier: str) -> None:
    with pytest.raises(NotFound):
        DataFolder(tmp_path).dataset(identifier)


def test_the_folders_are_their_owners_only_and_rows_lie_by_id(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    folder.prepare()
    for path in (folder.root, *folder.root.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    identifier = a_dataset().id
    assert folder.dataset(identifier).relative_to(folder.root) == Path("datasets", f"{identifier}.parquet")


def test_a_sweep_removes_what_was_half_uploaded_half_read_or_never_described_and_nothing_else(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.prepare()
    known, unknown = a_dataset().id, a_dataset().id
    rows, orphan, upload = folder.dataset(known), folder.dataset(unknown), folder.new_upload()
    half_read = rows.with_suffix(".parquet.part")
    assert folder.new_upload() != upload
    for file in (rows, orphan, upload, half_read):
        file.touch()
    folder.sweep(lambda dataset_id: dataset_id == known)
    assert [file.exists() for file in (rows, orphan, upload, half_read)] == [True, False, False, False]
