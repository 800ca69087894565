"""The command line, against a whole stack."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import psutil
import pytest
from sklearn.datasets import load_iris

from tests.conftest import RunningStack, start_api, start_stack
from tests.integration.data import as_csv, await_epochs, endless, insistently, upload_noise

pytestmark = pytest.mark.integration


def chainrule(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    command = [sys.executable, "-P", "-m", "service.cli", *arguments]
    variables = {**os.environ, "CHAINRULE_URL": url, "COLUMNS": "300", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables, check=False)


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    columns, target = load_iris(return_X_y=True)
    file = tmp_path / "iris.csv"
    file.write_bytes(as_csv(columns, [["setosa", "versicolor", "virginica"][i] for i in target]))
    return file


def test_a_file_becomes_a_model_that_predicts_and_everything_is_listed(stack: RunningStack, iris: Path) -> None:
    trained = chainrule(stack.url, "train", str(iris), "--target", "target", "--epochs", "60", "--workers", "1")
    assert trained.returncode == 0, trained.stderr
    assert "150 rows" in trained.stdout
    assert "succeeded" in trained.stdout
    assert "loss" in trained.stderr  # progress is told beside the answer
    predicted = chainrule(stack.url, "predict", "iris", str(iris))
    assert predicted.returncode == 0, predicted.stderr
    lines = predicted.stdout.split()
    assert len(lines) == 150
    assert sum(line == "setosa" for line in lines[:50]) >= 45
    rows = pl.read_csv(iris)
    rows.write_ndjson(iris.with_suffix(".ndjson"))
    rows.write_csv(iris.with_suffix(".tsv"), separator="\t")
    iris.with_suffix(".csv.gz").write_bytes(gzip.compress(iris.read_bytes()))
    for suffix in (".ndjson", ".tsv", ".csv.gz"):
        assert chainrule(stack.url, "predict", "iris", str(iris.with_suffix(suffix))).stdout.split() == lines
    rows.with_columns(x0=pl.lit("short")).write_csv(iris.with_suffix(".tsv"), separator=";")
    refused = chainrule(stack.url, "predict", "iris", str(iris.with_suffix(".tsv")), "--delimiter", ";", "--json")
    assert refused.returncode == 1
    assert "row 1, column x0: expected a number" in refused.stderr
    assert "must end in" in chainrule(stack.url, "predict", "iris", "iris.xlsx").stderr
    assert_written(stack, iris, lines)
    for verb, column in (("jobs", "succeeded"), ("models", "classification"), ("datasets", "csv")):
        listed = chainrule(stack.url, verb)
        assert listed.returncode == 0
        assert "iris" in listed.stdout
        assert column in listed.stdout
        assert json.loads(chainrule(stack.url, verb, "--json", "--limit", "1").stdout)[0]["id"]


def test_a_data_set_is_shown_with_what_goes_along_with_its_target(stack: RunningStack, iris: Path) -> None:
    dataset_id = stack.client.upload(iris, "flowers")["id"]
    shown = chainrule(stack.url, "datasets", "show", dataset_id, "--target", "target")
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert [line[:2] for line in lines[2:6]] == [[f"x{place}", "numeric"] for place in range(4)]
    assert "█" in lines[2][-1]
    assert {line[0] for line in lines[9:11]} == {"x2", "x3"}  # the petals tell most
    whole = json.loads(chainrule(stack.url, "datasets", "show", dataset_id, "--target", "target", "--json").stdout)
    assert whole["columns"][0]["quantiles"]["50"] == 5.8
    assert whole["associations"]["data"][0]["measure"] == "eta"
    wrong = chainrule(stack.url, "datasets", "show", dataset_id, "--target", "kind")
    assert (wrong.returncode, "target: the data set has no column of this name" in wrong.stderr) == (1, True)


def test_a_data_set_is_added_from_a_file_or_by_a_uri_that_the_server_may_fetch(
    redis_url: str, iris: Path, tmp_path: Path
) -> None:
    places = {"CHAINRULE_IMPORT_SOURCES": f"file://{tmp_path}/", "CHAINRULE_STATE_DIR": str(tmp_path / "state")}
    with start_api(tmp_path / "log", redis_url, **places) as api:
        assert api.stdout is not None
        url = api.stdout.readline().split()[-1]
        sent = json.loads(chainrule(url, "datasets", "add", str(iris), "--json").stdout)
        fetched = json.loads(chainrule(url, "datasets", "add", f"file://{iris}", "--json").stdout)
        assert (sent["name"], fetched["name"]) == ("iris", "iris")
        assert sent["sha256"] == fetched["sha256"]
        assert "150 rows" in chainrule(url, "datasets", "add", f"file://{iris}", "--name", "other").stdout
        refused = chainrule(url, "datasets", "add", "file:///etc/passwd")
        assert refused.returncode == 1
        assert "source_not_allowed" in refused.stderr
        assert "other" in chainrule(url, "datasets").stdout
        back = iris.with_name("back.csv")
        assert chainrule(url, "datasets", "download", sent["id"], str(back)).returncode == 0
        assert pl.read_csv(back).equals(pl.read_csv(iris))
        assert "must end in" in chainrule(url, "datasets", "download", sent["id"], "back.txt").stderr
        assert chainrule(url, "datasets", "delete", sent["id"]).returncode == 0
        assert sent["id"] not in chainrule(url, "datasets").stdout
        api.terminate()


def test_scripts_get_json_and_an_exit_status(stack: RunningStack, iris: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.json"
    more.write_text('{"stopping": {"target_error": 0.5}, "training": {"seed": 1}}')
    how = ["--servers", "2", "--synchrony", "local_steps"]
    trained = chainrule(stack.url, "train", str(iris), "--target", "target", "--request", str(more), "--json", *how)
    job = json.loads(trained.stdout)
    cluster = job["request"]["cluster"]
    assert (cluster["workers"], cluster["servers"], cluster["synchrony"]["kind"]) == (2, 2, "local_steps")
    assert (job["state"], job["stop_reason"]) == ("succeeded", "target_reached")
    instance = '{"x0": 5.1, "x1": 3.5, "x2": 1.4, "x3": 0.2}'
    answer = chainrule(stack.url, "predict", job["model_id"], "--instance", instance, "--json")
    assert json.loads(answer.stdout)["model_id"] == job["model_id"]
    assert_explained(stack, job["model_id"])
    watched = chainrule(stack.url, "watch", job["id"], "--json")
    assert json.loads(watched.stdout)["id"] == job["id"]


def assert_written(stack: RunningStack, file: Path, labels: list[str]) -> None:
    """Predictions of a file go to another, whole and in the form that its name tells, or not at all."""
    for ending, read in ((".csv", pl.read_csv), (".parquet", pl.read_parquet), (".ndjson", pl.read_ndjson)):
        answer = file.with_name(f"answer{ending}")
        done = chainrule(stack.url, "predict", "iris", str(file), "-o", str(answer))
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert read(answer)["label"].to_list() == labels
        assert "predicted by mdl_" in done.stderr
    before = {path.name for path in file.parent.iterdir()}
    assert "would replace the rows" in chainrule(stack.url, "predict", "iris", str(file), "-o", str(file)).stderr
    absent = chainrule(stack.url, "predict", "iris", str(file.with_name("absent.csv")), "-o", str(file))
    assert absent.stderr.endswith("absent.csv: No such file or directory\n")
    assert "Traceback" not in absent.stderr
    elsewhere = file.parent / "nowhere" / "answer.csv"
    for output, complaint in (("answer.xlsx", "must end in"), (str(elsewhere), "there is no folder")):
        assert complaint in chainrule(stack.url, "predict", "iris", str(file), "-o", output).stderr
    wrong = ("predict", "iris", str(file), "--delimiter", ";", "-o", str(file.with_name("other.csv")))
    assert "is the delimiter another one?" in chainrule(stack.url, *wrong).stderr
    assert {path.name for path in file.parent.iterdir()} == before


def assert_explained(stack: RunningStack, model: str) -> None:
    """Rows are explained, more than at a time, and strange values told of beside them, by the row that they are of."""
    instances = [json.dumps({"x0": x0, "x1": 3.5, "x2": 1.4, "x3": 0.2}) for x0 in (*[5.1] * 8, 900, 5.2)]
    given = [part for instance in instances for part in ("--instance", instance)]
    told = chainrule(stack.url, "predict", model, *given, "--explain", "--top-k", "2")
    assert told.returncode == 0, told.stderr
    assert told.stderr.startswith("note: /instances/8/x0: is far outside the range")
    lines = told.stdout.splitlines()
    assert len(lines) == 10
    added = r"(\w+)  \1=[01]\.\d{4}  \w+=[01]\.\d{4}(  x[0-3] [+-]\S+){4}"
    assert all(re.fullmatch(added, line) for line in lines), lines
    refused = chainrule(stack.url, "predict", model, *given[:2], "--threshold", "0.5")
    assert refused.returncode == 1
    assert "/threshold: is for two classes only" in refused.stderr


def test_a_running_job_is_watched_and_cancelled(stack: RunningStack) -> None:
    job_id = stack.client.submit(endless(upload_noise(stack.client)))["id"]
    await_epochs(stack.client, job_id, 1)
    assert chainrule(stack.url, "cancel", job_id).stdout.strip() == "cancelling"
    watched = chainrule(stack.url, "watch", job_id)
    assert watched.returncode == 1
    assert "cancelled" in watched.stdout


def test_a_job_is_watched_through_a_restart_of_the_api(stack: RunningStack) -> None:
    job_id = stack.client.submit(endless(upload_noise(stack.client)))["id"]
    await_epochs(stack.client, job_id, 1)
    command = [sys.executable, "-P", "-m", "service.cli", "watch", job_id]
    variables = {**os.environ, "CHAINRULE_URL": stack.url}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as watch:
        while not psutil.Process(watch.pid).net_connections():  # until it asks
            threading.Event().wait(0.02)
        api = next(p for p in psutil.Process(stack.process.pid).children() if "service" in p.cmdline())
        api.kill()
        insistently(lambda: stack.client.call("POST", f"/v1/jobs/{job_id}/cancel"))
        said, _ = watch.communicate(timeout=60)
    assert watch.returncode == 1
    assert "cancelled" in said


def test_a_european_file_becomes_a_model_that_predicts_dates_in_parquet(stack: RunningStack, tmp_path: Path) -> None:
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(200)]
    file = tmp_path / "sales.csv"
    file.write_text("day;price\n" + "".join(f"{day};{n % 7},5\n" for n, day in enumerate(days)))
    options = ("--delimiter", ";", "--decimal", ",")
    trained = chainrule(stack.url, "train", str(file), "--target", "price", "--epochs", "2", *options)
    assert trained.returncode == 0, trained.stderr
    dataset = stack.client.call("GET", "/v1/datasets", params={"limit": 1})["data"][0]
    assert [column["kind"] for column in dataset["columns"]] == ["datetime", "numeric"]
    again = chainrule(stack.url, "train", dataset["id"], "--target", "price", "--epochs", "1", "--name", "again")
    assert again.returncode == 0, again.stderr
    pl.DataFrame({"day": days}).write_parquet(tmp_path / "days.parquet")
    predicted = chainrule(stack.url, "predict", "again", str(tmp_path / "days.parquet"))
    assert len(predicted.stdout.split()) == 200, predicted.stderr


def test_a_compressed_file_is_uploaded_as_what_it_is(stack: RunningStack, tmp_path: Path) -> None:
    file = tmp_path / "table.tsv.gz"
    file.write_bytes(gzip.compress(b"a\tb\n1\tx, y\n"))
    dataset = stack.client.upload(file, "compressed")
    assert [column["name"] for column in dataset["columns"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "absent.csv", "--target", "a"], "absent.csv: No such file or directory"),
        (
            ["train", "README", "--target", "a"],
            "the name must end in one of .csv, .tsv, .parquet, .ndjson, .jsonl, .json, and may then in .gz",
        ),
        (["watch", "job_0"], "There is no such job. (job_not_found)"),
        (["predict", "nobody", "--instance", "{}"], "There is no such model. (model_not_found)"),
        (["predict", "nobody", "--instance", "{"], "--instance is not JSON"),
        (["predict", "nobody"], "Give either a file or --instance."),
        (["evaluate", "nobody", "iris"], "iris: no id of a data set"),
        (["predict", "nobody", "ds_0"], "ds_0: neither a file nor the id of a data set"),
        (["predict", "nobody", "rows.csv", "--top-k", "2"], "--output writes all probabilities"),
        (["predict", "nobody", "--instance", "{}", "-o", "x.csv"], "--output is for"),
        (["jobs", "--label", "team"], "must be `key:value`"),
    ],
)
def test_a_mistake_is_a_message_and_not_a_traceback(stack: RunningStack, arguments: list[str], complaint: str) -> None:
    answer = chainrule(stack.url, *arguments)
    assert answer.returncode == 1
    assert complaint in answer.stderr
    assert "Traceback" not in answer.stderr


def test_faults_of_a_request_are_told_one_by_one(stack: RunningStack, iris: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.json"
    more.write_text('{"optimizer": "lion", "training": {"epochs": 0}}')
    answer = chainrule(stack.url, "train", str(iris), "--target", "kind", "--request", str(more))
    assert answer.returncode == 1
    assert "/optimizer: must be one of: sgd, momentum, nesterov" in answer.stderr
    assert "/training/epochs: should be greater than or equal to 1" in answer.stderr
    assert "/target: the data set has no column of this name" in answer.stderr
    kept = stack.client.call("GET", "/v1/datasets", params={"limit": 1})["data"][0]["id"]
    assert f"{kept} is kept; `chainrule train {kept}` uses it" in answer.stderr


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    answer = chainrule("http://127.0.0.1:9", "jobs")
    assert answer.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in answer.stderr


@pytest.mark.slow
def test_with_a_key_the_stack_may_be_reached_from_elsewhere_and_nobody_else_may_use_it(tmp_path: Path) -> None:
    first = start_stack(tmp_path)
    key = chainrule(first.url, "keys", "create", CHAINRULE_STATE_DIR=str(tmp_path)).stdout.strip()
    assert key.startswith("ck_")
    assert first.stop() == 0
    again = start_stack(tmp_path, CHAINRULE_HOST="0.0.0.0")  # noqa: S104
    url = again.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert "valid API key" in chainrule(url, "jobs").stderr
    assert chainrule(url, "jobs", CHAINRULE_KEY=key).returncode == 0
    assert again.stop() == 0
