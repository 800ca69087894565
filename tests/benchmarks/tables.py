"""Whole tables, predicted in one request: a matrix as a binary tensor beside the bare forward pass, and CSV."""

from __future__ import annotations

import http.client
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from common import processes
from tests.benchmarks.contender import Failed, NotAvailable
from tests.benchmarks.environments import ROOT
from tests.benchmarks.peer import run_script
from tests.benchmarks.peers.plain_network import PlainNetwork
from tests.benchmarks.served import ServedNetwork

ROWS = 10_000
CSV_ROWS, QUICK_CSV_ROWS = 100_000, 10_000
SECONDS, QUICK_SECONDS = 3.0, 0.3
PATIENCE = 60.0
CHECKED = 64
TOLERANCE = 1e-5
NOT_THERE = (404, 405, 415)


@dataclass(frozen=True)
class Tables:
    """One round; medians of the requests of some seconds.

    Attributes:
        binary: seconds from sending `ROWS` rows as a binary tensor to the whole answer.
        bare: seconds of the forward pass alone on as many rows, in a process of its own.
        csv: bytes of input per second, CSV in and CSV out.
        problems: why something is None.

    """

    binary: float | None
    bare: float | None
    csv: float | None
    problems: tuple[str, ...]

    def __str__(self) -> str:
        parts = []
        if self.binary is not None:
            parts.append(f"binary {self.binary * 1e3:.0f} ms")
        if self.bare is not None:
            parts.append(f"bare forward pass {self.bare * 1e3:.0f} ms")
        if self.csv is not None:
            parts.append(f"CSV {self.csv / 1e6:.1f} MB/s")
        return ", ".join((*parts, *self.problems))


def measure(url: str, narrow: ServedNetwork, wide: ServedNetwork, *, quick: bool) -> Tables:
    """A matrix for the wide network, CSV for the narrow one."""
    seconds = QUICK_SECONDS if quick else SECONDS
    found: dict[str, float] = {}
    problems = list[str]()
    rows = _rows(wide, ROWS)
    csv_rows = _rows(narrow, QUICK_CSV_ROWS if quick else CSV_ROWS)
    wanted: dict[str, Callable[[], float]] = {
        "bare": partial(_bare, wide, rows, seconds),
        "binary": partial(_binary, url, wide, rows, seconds),
        "csv": partial(_csv, url, narrow, csv_rows, seconds),
    }
    for name, one in wanted.items():
        try:
            found[name] = one()
        except (NotAvailable, Failed) as reason:
            problems.append(f"{name}: {reason}")
    return Tables(found.get("binary"), found.get("bare"), found.get("csv"), tuple(problems))


def _rows(network: ServedNetwork, count: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(1).normal(size=(count, network.inputs)).astype(np.float32)
    rows[rows == 0] = 1.0
    return rows


def _bare(network: ServedNetwork, rows: NDArray[np.float32], seconds: float) -> float:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        np.save(scratch / "rows.npy", rows)
        (scratch / "document.json").write_text(json.dumps(network.model.document))
        (scratch / "weights").write_bytes(network.model.weights)
        command = [sys.executable, "-P", "-m", "tests.benchmarks.peers.bare_forward", str(scratch), str(seconds)]
        variables = {**processes.ONE_BLAS_THREAD, "PYTHONPATH": str(ROOT)}
        taken: list[float] = run_script(command, scratch, variables, PATIENCE)["seconds"]
        return statistics.median(taken)


def _binary(url: str, network: ServedNetwork, rows: NDArray[np.float32], seconds: float) -> float:
    path = f"/v2/models/{network.model.record.id}/infer"
    _ask(url, path, *_tensor(rows[:1]), 0.0)  # a refusal may break the connection while much is being sent
    taken, answer, said = _ask(url, path, *_tensor(rows), seconds)
    told = _probabilities(answer, said)
    expected = PlainNetwork(network.arrays, np.float64).probabilities(rows[:CHECKED])
    if len(told) != len(rows) or not np.allclose(told[:CHECKED], expected, rtol=0, atol=TOLERANCE):
        raise Failed("the probabilities are not those of the weights")
    return taken


def _tensor(rows: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    """A body of the binary tensor extension, and its headers."""
    values = rows.tobytes()
    size = {"binary_data_size": len(values)}
    tensor = {"name": "instances", "shape": rows.shape, "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + values, headers


def _probabilities(answer: bytes, said: http.client.HTTPMessage) -> NDArray[np.float32]:
    """From the answer: a JSON document, and behind it the outputs in their order."""
    length = int(said["Inference-Header-Content-Length"])
    start = length
    for output in json.loads(answer[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        if output["name"] == "probabilities":
            return np.frombuffer(answer[start : start + size], "<f4").reshape(output["shape"])
        start += size
    raise Failed("there are no probabilities")


def _csv(url: str, network: ServedNetwork, rows: NDArray[np.float32], seconds: float) -> float:
    text = io.StringIO()
    text.write(",".join(column.name for column in network.model.record.inputs) + "\n")
    np.savetxt(text, rows, fmt="%.6f", delimiter=",")
    body = text.getvalue().encode()
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    path = f"/v1/models/{network.model.record.id}/predict"
    taken, answer, _ = _ask(url, path, body, headers, seconds)
    if (lines := answer.count(b"\n")) != len(rows) + 1:
        raise Failed(f"there are {lines:,} lines for {len(rows):,} rows and their header")
    return len(body) / taken


def _ask(
    url: str, path: str, body: bytes, headers: dict[str, str], seconds: float
) -> tuple[float, bytes, http.client.HTTPMessage]:
    """The median of the times until the whole answer was there, after one to warm up; the last answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        answer, said = _one(connection, path, body, headers)
        taken = list[float]()
        while not taken or sum(taken) < seconds:
            start = time.perf_counter()
            answer, said = _one(connection, path, body, headers)
            taken.append(time.perf_counter() - start)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"the connection broke: {error!r}") from error
    finally:
        connection.close()
    return statistics.median(taken), answer, said


def _one(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> tuple[bytes, http.client.HTTPMessage]:
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status in NOT_THERE:
        raise NotAvailable(f"not available: answered with {response.status}")
    if response.status != 200:
        raise Failed(f"answered with {response.status}")
    return answer, response.headers
