"""Descriptions of data sets in Redis; their bytes lie under the data URL."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from common.errors import Conflict, CorruptRecord, Invalid, NotFound
from common.identifiers import is_id
from common.lifecycle import HELD
from common.schemas.datasets import Dataset
from common.store import keys
from common.store.client import Client, Script, raw, stored, text
from common.store.page import Page, newest_first, readable


@dataclass(frozen=True, slots=True)
class Created:
    """The id of what was created, and whether an earlier request with the same Idempotency-Key did it."""

    id: str
    replayed: bool


class DatasetStore:
    """Creates, reads, lists and deletes data sets."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._create = Script(client, "create_dataset")
        self._delete = Script(client, "delete_dataset")

    @stored
    def create(
        self, dataset: Dataset, *, idempotency_key: str | None = None, digest: str = "", content: str = ""
    ) -> Created:
        """Publishes a data set; the store gives it the next version of its name.

        Args:
            dataset: its description, of whatever version.
            idempotency_key: what the caller named the request.
            digest: of the whole request.
            content: of what its rows were read from, and how; for `of_content`.

        Raises:
            Invalid: the key was used for something else (`idempotency_key_reused`).

        """
        record = dataset.model_copy(update={"version": 0}).model_dump_json()
        answer = self._create(
            [
                keys.dataset(dataset.id),
                keys.DATASETS,
                keys.dataset_versions(dataset.name),
                keys.SEQUENCE,
                keys.idempotency("datasets", idempotency_key) if idempotency_key else "",
                keys.DATASET_CONTENTS,
                keys.DATASETS_OF_CONTENT,
            ],
            [dataset.id, record, digest, content],
        )
        if answer[0] == "reused":
            raise reused()
        return Created(answer[1], replayed=answer[0] == "replayed")

    @stored
    def get(self, dataset_id: str) -> Dataset:
        """The data set of that id.

        Raises:
            NotFound: there is none.

        """
        found = self._client.get(keys.dataset(dataset_id)) if is_id(dataset_id, "ds") else None
        if found is None:
            raise NotFound("There is no such data set.", code="dataset_not_found")
        return _read(found)

    def of_content(self, content: str) -> Dataset | None:
        """The newest data set that was created with that `content`, if it is still there and whole."""
        try:
            found = self._id_of_content(content)
            return None if found is None else self.get(found)
        except (NotFound, CorruptRecord):
            return None

    @stored
    def _id_of_content(self, content: str) -> str | None:
        found = self._client.hget(keys.DATASETS_OF_CONTENT, content)
        return None if found is None else text(found)

    @stored
    def exists(self, dataset_id: str) -> bool:
        """Whether there is a data set of that id."""
        return bool(self._client.exists(keys.dataset(dataset_id)))

    @stored
    def is_draft(self, dataset_id: str) -> bool:
        """Whether a run is writing a data set of that id, or was, and nobody has tidied up yet."""
        return bool(self._client.hexists(keys.DATASET_DRAFTS, dataset_id))

    def is_known(self, dataset_id: str) -> bool:
        """Whether rows of that id may be needed."""
        return self.is_draft(dataset_id) or self.exists(dataset_id)  # in the order in which one becomes the other

    @stored
    def abandoned_drafts(self) -> list[str]:
        """Drafts that no run writes any more: those of jobs that are gone, have ended, wait, or are run anew."""
        drafts = {text(draft): text(job_id) for draft, job_id in self._client.hgetall(keys.DATASET_DRAFTS).items()}
        pipeline = self._client.pipeline(transaction=False)
        for job_id in drafts.values():
            pipeline.hmget(keys.job(job_id), "state", "draft")
        jobs = zip(drafts, pipeline.execute(raise_on_error=False), strict=True)
        return [draft for draft, found in jobs if not (isinstance(found, list) and _writes(found, draft))]

    @stored
    def forget_draft(self, dataset_id: str) -> None:
        """Forgets a draft whose rows are gone, or published."""
        self._client.hdel(keys.DATASET_DRAFTS, dataset_id)

    @stored
    def page(self, limit: int, cursor: str | None = None) -> Page[Dataset]:
        """A page of data sets, newest first."""
        page = newest_first(self._client, keys.DATASETS, limit, cursor)
        found = self._client.mget([keys.dataset(identifier) for identifier in page.data]) if page.data else []
        return Page(readable(filter(None, found), _read), page.next_cursor)

    @stored
    def delete(self, dataset_id: str) -> None:
        """Removes the description.

        Raises:
            NotFound: there is none.
            Conflict: a job that has not ended reads it (`dataset_in_use`).

        """
        names = [
            keys.dataset(dataset_id),
            keys.DATASETS,
            keys.dataset_jobs(dataset_id),
            keys.DATASET_CONTENTS,
            keys.DATASETS_OF_CONTENT,
        ]
        answer = self._delete(names, [dataset_id, keys.job("")]) if is_id(dataset_id, "ds") else "missing"
        if answer == "missing":
            raise NotFound("There is no such data set.", code="dataset_not_found")
        if answer == "in_use":
            raise Conflict(
                "A job that has not ended uses this data set.",
                code="dataset_in_use",
                hint="Cancel the job first.",
            )


def _writes(job: list[bytes | None], draft: str) -> bool:
    """Whether a job, of which there is the state and the newest draft, is held and writes that one."""
    state, newest = job
    return newest == draft.encode() and state is not None and state.decode(errors="replace") in HELD


def reused() -> Invalid:
    """The error for an Idempotency-Key that comes again with another request."""
    return Invalid("This Idempotency-Key was used for a different request.", code="idempotency_key_reused")


def _read(record: object) -> Dataset:
    try:
        return Dataset.model_validate_json(raw(record))
    except ValidationError as error:
        raise CorruptRecord("The description of a data set is damaged.") from error
