"""The API from Python: what the command line and the demonstration speak with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx2

from common.lifecycle import TERMINAL

FORMATS = {
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
}
DOWNLOADS = (".csv", ".ndjson", ".jsonl", ".parquet")
"""How names of files end that rows of a data set are written to."""
_WAIT_SECONDS = 25
"""For a change, in one request."""
_RETRY_SECONDS = 0.5


class ApiError(Exception):
    """The API refused, or did not answer; the message says why, fault by fault."""


class Unreachable(ApiError):
    """The API, or the store behind it, does not answer just now."""


class FileAnswer:
    """What a file is answered with, as it comes."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._answer = answer

    @property
    def model_id(self) -> str:
        """Of the model that predicted."""
        return str(self._answer.headers["X-Model-Id"])

    def texts(self) -> Iterator[str]:
        """The answer in pieces."""
        return self._answer.iter_text()

    def save(self, file: Path) -> None:
        """Writes the answer to a file; on any error no part of it is left.

        Raises:
            ApiError: the file cannot be written.

        """
        _save(self._answer, file)

    def objects(self) -> Iterator[dict[str, Any]]:
        """The predictions, of an answer as NDJSON.

        Raises:
            ApiError: a row behind those that came is wrong.

        """
        rest = b""
        for piece in self._answer.iter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            for prediction in map(json.loads, lines):
                if "error" in prediction:
                    raise ApiError(_explain(prediction["error"]))
                yield prediction


class ApiClient:
    """Speaks to one server.

    Args:
        url: e.g. http://127.0.0.1:8000.
        key: an API key, if the server wants one.

    """

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=httpx2.Timeout(30, write=None, read=900))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; its answer as Python values, None for an empty one.

        Raises:
            Unreachable: there is no answer.
            ApiError: the answer is a problem.

        """
        try:
            answer = self._request(method, path, **options)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if answer.is_success:
            return answer.json() if answer.content else None
        raise _refusal(answer)

    def _unreachable(self, error: httpx2.TransportError) -> Unreachable:
        return Unreachable(f"{self._http.base_url} does not answer ({error}). Is `chainrule up` running?")

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            return self._http.request(method, path, **options)
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
            if method != "GET":
                raise
            # A kept connection dies with the process that served it; to ask anew is safe (RFC 9110, section 9.2.2).
            return self._http.request(method, path, **options)

    def download(self, path: str, file: Path, params: Mapping[str, str] | None = None, accept: str = "*/*") -> None:
        """Writes an answer to a file; on any error no part of it is left.

        Raises:
            ApiError: as for `call`, or the file cannot be written.

        """
        try:
            with self._http.stream("GET", path, params=dict(params or {}), headers={"Accept": accept}) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                _save(answer, file)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def upload(self, file: Path, name: str, options: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Uploads a file whose name ends in one of `FORMATS`, or in one of them and `.gz`; answers its description.

        `options` say how it is to be read, as in the query of an upload.

        Raises:
            ApiError: the file's ending is not known, it cannot be read, or it was refused.

        """
        headers = _headers_of(file, FORMATS)
        try:
            with file.open("rb") as body:
                answer = self.call(
                    "POST",
                    "/v1/datasets",
                    params={"name": name, **(options or {})},
                    content=body,
                    headers=headers,
                )
        except OSError as error:
            raise ApiError(f"{file}: {error.strerror}") from error
        return dict(answer)

    def add(self, source: str, name: str | None = None, options: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Uploads a file, or has the server fetch one by its URI; answers its description.

        Args:
            source: the path of a file, or https://…, s3://…, file:///…
            name: of the data set; without one that of the file.
            options: how it is to be read, as in the query of an upload.

        Raises:
            ApiError: as for `upload`, or the server does not fetch it.

        """
        name = name or name_of(source)
        if "://" not in source:
            return self.upload(Path(source), name, options)
        body = {"uri": source, "name": name}
        return dict(self.call("POST", "/v1/datasets", params=dict(options or {}), json=body))

    def submit(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Submits a training job."""
        return dict(self.call("POST", "/v1/jobs", json=request))

    def predict_dataset(self, reference: str, dataset_id: str) -> dict[str, Any]:
        """Submits a job that predicts every row of a stored data set."""
        return dict(self.call("POST", f"/v1/models/{reference}/predictions", json={"dataset_id": dataset_id}))

    def download_rows(self, dataset_id: str, file: Path) -> None:
        """Writes all rows of a data set to a file whose name ends in .csv, .ndjson, .jsonl or .parquet.

        Raises:
            ApiError: as for `download`.

        """
        self.download(f"/v1/datasets/{dataset_id}/content", file, accept=FORMATS[file.suffix.lower()])

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as it stands."""
        return dict(self.call("GET", f"/v1/jobs/{job_id}"))

    def follow(self, job_id: str, patience: float = 0.0) -> Iterator[dict[str, Any]]:
        """The job as it stands, whenever it has changed, the last time when it has ended.

        Where the API stops answering on the way, it is asked again for `patience` seconds.
        """
        job = self.job(job_id)
        while True:
            yield job
            if job["state"] in TERMINAL:
                return
            revision = job["revision"]
            while job["revision"] == revision:
                parameters = {"wait": _WAIT_SECONDS, "revision": revision}
                job = self._insist(partial(self.call, "GET", f"/v1/jobs/{job_id}", params=parameters), patience)

    @staticmethod
    def _insist(call: Callable[[], Any], patience: float) -> dict[str, Any]:
        until: float | None = None
        while True:
            try:
                return dict(call())
            except Unreachable:
                until = until or time.monotonic() + patience
                if time.monotonic() >= until:
                    raise
                threading.Event().wait(_RETRY_SECONDS)

    def predict(self, reference: str, instances: list[Any], **options: Any) -> dict[str, Any]:
        """Predicts instances with a model."""
        body = {"instances": instances, **options}
        return dict(self.call("POST", f"/v1/models/{reference}/predict", json=body))

    @contextmanager
    def predict_file(
        self, reference: str, file: Path, accept: str, options: Mapping[str, Any] | None = None
    ) -> Iterator[FileAnswer]:
        """Predicts the rows of a file of one of `FORMATS` but JSON, which `options` say how to read; the answer as it comes.

        Raises:
            Unreachable: there is no answer, or it broke off.
            ApiError: the file's ending is not known, it cannot be read, or it was refused.

        """
        headers = _headers_of(file, [ending for ending in FORMATS if ending != ".json"]) | {"Accept": accept}
        path = f"/v1/models/{reference}/predict"
        try:
            body = file.open("rb")
        except OSError as error:
            raise ApiError(f"{file}: {error.strerror}") from error
        try:
            with (
                body,
                self._http.stream("POST", path, params={**(options or {})}, content=body, headers=headers) as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                yield FileAnswer(answer)
        except httpx2.RemoteProtocolError as error:
            raise Unreachable(
                "The answer broke off: a row behind those that were answered is wrong, or the API ended. "
                "An answer as NDJSON tells which row."
            ) from error
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def pages(self, path: str, limit: int, **filters: str | None) -> list[dict[str, Any]]:
        """Up to `limit` items of a list, newest first."""
        items: list[dict[str, Any]] = []
        cursor = None
        while len(items) < limit:
            parameters = {"limit": min(200, limit - len(items)), "cursor": cursor, **filters}
            page = self.call(
                "GET", path, params={name: value for name, value in parameters.items() if value is not None}
            )
            items += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items


def check_output(file: Path, endings: Collection[str]) -> str:
    """How the name of a file ends that is to be written, and whose folder is there.

    Raises:
        ApiError: in none of these, or the folder is not there.

    """
    ending = file.suffix.lower()
    if ending not in endings:
        raise ApiError(f"{file}: the name must end in one of {', '.join(endings)}")
    if not file.parent.is_dir():
        raise ApiError(f"{file}: there is no folder {file.parent}")
    return ending


def _save(answer: httpx2.Response, file: Path) -> None:
    """Writes what comes to a file; on any error no part of it is left."""
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as sink:
            for chunk in answer.iter_bytes():
                sink.write(chunk)
        part.replace(file)
    except OSError as error:
        raise ApiError(f"{file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def name_of(source: str) -> str:
    """What a data set is called that comes from a file or a URI."""
    return PurePosixPath(unquote(urlsplit(source).path)).stem if "://" in source else Path(source).stem


def _headers_of(file: Path, endings: Collection[str]) -> dict[str, str]:
    """What a request says of a file whose name ends in one of these, or in one of them and `.gz`."""
    compressed = file.suffix.lower() == ".gz"
    ending = (Path(file.stem) if compressed else file).suffix.lower()
    if ending not in endings:
        raise ApiError(f"{file.name}: the name must end in one of {', '.join(endings)}, and may then in .gz")
    return {"Content-Type": FORMATS[ending], **({"Content-Encoding": "gzip"} if compressed else {})}


def _refusal(answer: httpx2.Response) -> ApiError:
    """What a problem says, as an error."""
    kind = Unreachable if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE else ApiError
    try:
        return kind(_explain(answer.json()))
    except (ValueError, KeyError, TypeError):
        return kind(f"The server answered {answer.status_code}.")


def _explain(problem: Mapping[str, Any]) -> str:
    lines = [f"{problem['detail']} ({problem['code']})"]
    lines += [f"  {fault['pointer'] or 'the request'}: {fault['message']}" for fault in problem["errors"]]
    return "\n".join(lines)
