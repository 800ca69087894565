"""`chainrule models` against an API process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from typer.testing import CliRunner, Result

from common.store.stores import Stores
from service.cli import app
from tests.contract import publish
from tests.integration.test_model_registry import url

__all__ = ["url"]

Run = Callable[..., Result]


@pytest.fixture
def models(url: str) -> Run:
    """Runs `chainrule models` and checks its exit status."""

    def run(*arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, ["models", *arguments], env={"CHAINRULE_URL": url, "COLUMNS": "300"})
        assert result.exit_code == status, result.output
        return result

    return run


def test_models_are_listed_shown_aliased_compared_exported_imported_and_deleted(
    models: Run, stores: Stores, tmp_path: Path
) -> None:
    first, second = publish(stores, seed=1), publish(stores, seed=2)
    assert [line.split()[0] for line in models().stdout.splitlines()[1:]] == [second.id, first.id]
    assert json.loads(models("--json", "--limit", "1", "--name", "iris").stdout)[0]["id"] == second.id

    assert models("alias", "iris", "live", "iris@1").stdout == f"iris@live is {first.id}, version 1\n"
    assert "live" in models().stdout
    shown = models("show", "iris@live").stdout
    assert f"id: {first.id}\nname: iris@1\naliases: live\ntask: classification of species\n" in shown
    assert "\nclasses: setosa, virginica\n" in shown
    assert "colour  categorical  2" in shown
    assert json.loads(models("show", "iris@live", "--json").stdout)["id"] == first.id
    models("alias", "iris", "live", second.id)
    moves = json.loads(models("aliases", "iris", "--json").stdout)[0]["history"]
    assert [move["version"] for move in moves] == [2, 1]
    assert [line.split()[:2] for line in models("aliases", "iris").stdout.splitlines()[1:]] == [
        ["live", "2"],
        ["live", "1"],
    ]
    models("unalias", "iris", "live")
    assert "no such alias" in models("unalias", "iris", "live", status=1).stderr
    assert "no whole number" in models("alias", "iris", "3", "iris", status=1).stderr

    compared = models("compare", "iris@1", "iris").stdout
    assert [line.split() for line in compared.splitlines() if "/seed" in line] == [["lineage", "/seed", "1", "2"]]
    assert "0.5000 (+0.0000)" in compared
    assert json.loads(models("compare", "iris@1", "iris", "--json").stdout)["second"]["id"] == second.id

    file = tmp_path / "model.safetensors"
    assert "iris@1 as safetensors" in models("export", "iris@1", "-o", str(file)).stderr
    graph = tmp_path / "graph.onnx"
    assert "iris@1 as onnx" in models("export", "iris@1", "-o", str(graph)).stderr
    assert onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"]).get_inputs()
    for wrong in (("-o", "model.onx"), ("-o", str(graph), "--format", "safetensors")):
        assert "the name must end in" in models("export", "iris@1", *wrong, status=1).stderr
    twin = json.loads(models("import", str(file), "--name", "twin", "--json").stdout)
    assert twin["lineage"]["imported"]["model_id"] == first.id
    assert models("import", str(file)).stdout.endswith(": iris@3\n")
    assert "imported: from a file" in models("show", "twin").stdout
    assert [path.name for path in tmp_path.glob("*model*")] == ["model.safetensors"]

    models("alias", "twin", "live", "twin@1")
    assert "twin@live points to nothing now" in models("delete", "twin@1").stderr
    assert "no such model" in models("show", "twin", status=1).stderr
    assert "must be an id" in models("delete", "iris", status=1).stderr


def test_what_cannot_be_exported_or_imported_is_told(models: Run, stores: Stores, tmp_path: Path) -> None:
    publish(stores)
    file = tmp_path / "file.safetensors"
    assert "no such model. Its name has no such version" in models("export", "iris@9", "-o", str(file), status=1).stderr
    elsewhere = tmp_path / "no" / "file.onnx"
    assert "there is no folder" in models("export", "iris", "-o", str(elsewhere), status=1).stderr
    assert "No such file" in models("import", str(file), status=1).stderr
    file.write_bytes(b"x" * 100)
    refused = models("import", str(file), status=1).stderr
    assert "invalid_model_file" in refused
    assert "safetensors" in refused
    models("show", "../../healthz", status=1)
