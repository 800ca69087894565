"""Triton's own client, unchanged, against an API process: it gets what `/v1/models/{ref}/predict` says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from common import processes
from common.features.numbers import Scaled
from common.features.target import ClassTarget
from common.schemas.losses import CrossEntropy
from common.store.client import connect
from common.store.files import DataFolder
from common.store.stores import open_stores
from tests.conftest import start_api
from tests.integration.learned_models import KINDS, Kind, Row, publish_kind

ROOT = Path(__file__).parents[2]

NUMPY = {"FP64": np.float64, "BOOL": np.bool_, "BYTES": np.object_}
WHOLE = {name: [row for row in kind.rows if None not in row.values()] for name, kind in KINDS.items()}
"""Rows without a missing value, which a binary BOOL or BYTES tensor cannot say."""
FLOWERS = Kind(
    [
        Scaled(name=f"{part}_{measure}", kind="numeric", mean=3.0, scale=2.0)
        for part in ("sepal", "petal")
        for measure in ("length", "width")
    ],
    ClassTarget(classes=("setosa", "versicolor", "virginica")),
    CrossEntropy(),
    [],
)
"""As the documentation's."""
EXAMPLES = [
    block
    for block in re.findall(r"```(?:sh|python)\n(.*?)```", (ROOT / "docs" / "protocols.md").read_text(), re.DOTALL)
    if "mlflow" not in block  # which is not installed here
]


@pytest.fixture(scope="module")
def address(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an API process in whose store there is a model of each kind."""
    folder = tmp_path_factory.mktemp("api")
    client = connect(redis_url, retries=1)
    client.flushall()
    stores = open_stores(client, DataFolder(folder / "data"))
    for name, kind in KINDS.items():
        publish_kind(stores, kind, name, seed=1)
        publish_kind(stores, kind, name, seed=2)
    publish_kind(stores, FLOWERS, "flowers")
    client.close()
    process = start_api(folder / "api.log", redis_url, CHAINRULE_STATE_DIR=str(folder / "state"))
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition("//")[2]
        processes.stop(process)


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


def tensors(client: triton.InferenceServerClient, name: str, rows: list[Row], *, binary: bool) -> list[Any]:
    """A tensor for each input that the server describes."""
    made = []
    for given in client.get_model_metadata(name)["inputs"]:
        values: NDArray[Any] = np.array([[row[given["name"]]] for row in rows], NUMPY[given["datatype"]])
        tensor = triton.InferInput(given["name"], list(values.shape), given["datatype"])
        tensor.set_data_from_numpy(values, binary_data=binary)
        made.append(tensor)
    return made


def said(address: str, ref: str, rows: list[Row]) -> dict[str, NDArray[Any]]:
    """What `/v1` says, as the outputs of the protocol."""
    answer = httpx2.post(f"http://{address}/v1/models/{ref}/predict", json={"instances": rows})
    predictions = answer.json()["predictions"]
    columns = {name: [[p[name]] for p in predictions] for name in ("label", "value") if name in predictions[0]}
    for name in ("probabilities", "quantiles"):
        if name in predictions[0]:
            columns[name] = [list(prediction[name].values()) for prediction in predictions]
    return {name: np.array(column) for name, column in columns.items()}


def check(answer: Any, expected: dict[str, NDArray[Any]]) -> None:
    assert {output["name"] for output in answer.get_response()["outputs"]} == set(expected)
    for name, values in expected.items():
        found = answer.as_numpy(name)
        assert found.shape == values.shape
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found, values, rtol=0, atol=1e-6)
        elif values.dtype.kind == "U":
            assert [text if isinstance(text, str) else text.decode() for text in found.ravel()] == list(values.ravel())
        else:
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_answers_as_it_does_below_v1(
    address: str, client: triton.InferenceServerClient, name: str, binary: bool
) -> None:
    rows = WHOLE[name]
    expected = said(address, name, rows)
    inputs = tensors(client, name, rows, binary=binary)
    check(client.infer(name, inputs), expected)  # everything binary
    outputs = [triton.InferRequestedOutput(output, binary_data=binary) for output in reversed(expected)]
    answer = client.infer(name, inputs, outputs=outputs, request_id="7")
    check(answer, expected)
    assert answer.get_response()["id"] == "7"
    assert [output["name"] for output in answer.get_response()["outputs"]] == list(reversed(expected))


@pytest.mark.parametrize("name", ["numbers", "digits", "quantiles"])
def test_a_matrix_of_all_columns_answers_as_its_rows_do(
    address: str, client: triton.InferenceServerClient, name: str
) -> None:
    kind = KINDS[name]
    rows = kind.rows * 50
    expected = said(address, name, rows)
    matrix = np.array([[row[column.name] for column in kind.columns] for row in rows], np.float64)  # None is NaN
    tensor = triton.InferInput("instances", list(matrix.shape), "FP64")
    tensor.set_data_from_numpy(matrix)
    check(client.infer(name, [tensor]), expected)
    check(client.infer(name, [tensor], request_compression_algorithm="gzip"), expected)
    waiting = [client.async_infer(name, [tensor]) for _ in range(3)]
    for one in waiting:
        check(one.get_result(), expected)


def test_a_version_is_asked_for_as_such(address: str, client: triton.InferenceServerClient) -> None:
    rows = WHOLE["digits"]
    inputs = tensors(client, "digits", rows, binary=True)
    for version in ("1", "2"):
        check(client.infer("digits", inputs, model_version=version), said(address, f"digits@{version}", rows))
        assert client.is_model_ready("digits", version)
    assert not client.is_model_ready("digits", "3")
    assert client.get_model_metadata("digits", "1")["versions"] == ["1", "2"]


def test_a_server_and_its_models_are_described(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "chainrule"
    assert client.is_model_ready("texts")
    assert not client.is_model_ready("nothing")
    config = client.get_model_config("texts")
    assert [tensor["name"] for tensor in config["output"]] == ["label", "probabilities"]


def test_the_client_tells_what_is_wrong(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("instances", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
    with pytest.raises(InferenceServerException) as caught:
        client.infer("numbers", [tensor])
    assert caught.value.status() == "422"
    assert caught.value.message() == (
        "The request has a fault. /inputs/0/shape: must be [rows, 4], a number for each input."
    )
    with pytest.raises(InferenceServerException, match="There is no such model"):
        client.get_model_metadata("nothing")
    tensor = triton.InferInput("instances", [1, 4], "FP32")
    tensor.set_shared_memory("region", 16)
    with pytest.raises(InferenceServerException, match="shared memory are not taken"):
        client.infer("numbers", [tensor])


@pytest.mark.parametrize("block", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_documentation_work(address: str, block: str) -> None:
    command = [sys.executable, "-c"]
    if block.startswith("curl"):
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        command = ["sh", "-c"]
    ran = subprocess.run(
        [*command, block.replace("127.0.0.1:8000", address)], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.search("setosa|versicolor|virginica", ran.stdout), ran.stdout
    assert "error" not in ran.stdout
