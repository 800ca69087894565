"""docker-compose.yml and deploy/: valid, closed by default, and in step with the code they run."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from common.settings import CLIENT_VARIABLES, PREFIX, Settings, read_settings
from worker.ray_node import QUIET

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "docker-compose.yml", ROOT / "deploy" / "key-from-file.yml"]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
# The official schema; the file says where it comes from.
SCHEMA = json.loads((ROOT / "tests" / "integration" / "compose-spec.json").read_text())


def load(file: Path) -> dict[str, Any]:
    """A Compose file with its variables at their defaults."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


COMPOSE = load(FILES[0])
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def copied() -> list[str]:
    """What the Dockerfile copies out of the source tree."""
    arguments = [words.split() for name, words in instructions() if name == "COPY"]
    return [source for words in arguments if not words[0].startswith("--from") for source in words[:-1]]


# The schema


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_compose_file_is_valid(file: Path) -> None:
    faults = Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(file.read_text()))
    assert [f"{fault.json_path}: {fault.message}" for fault in faults] == []


def test_the_schema_refuses_a_key_that_compose_does_not_know() -> None:
    assert not Draft202012Validator(SCHEMA).is_valid({"services": {"api": {"image": "x", "read_onyl": True}}})


# Closed by default


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published.pop("api") == ["127.0.0.1:8000:8000"]
    assert not any(published.values())
    assert not any("network_mode" in service for service in SERVICES.values())


def test_redis_and_ray_are_on_networks_that_lead_nowhere_and_the_api_is_not_on_rays() -> None:
    inside = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert all(set(SERVICES[name]["networks"]) <= inside for name in ("redis", "ray-head", "worker"))
    assert "ray" not in SERVICES["api"]["networks"]


@every_service
def test_service_runs_as_a_plain_user_with_no_power_to_lose(service: dict[str, Any]) -> None:
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"}


@every_service
def test_service_is_watched_and_started_again(service: dict[str, Any]) -> None:
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


@every_service
def test_service_waits_for_others_to_be_healthy(service: dict[str, Any]) -> None:
    for name, wait in service.get("depends_on", {}).items():
        assert "healthcheck" in SERVICES[name]
        assert wait == {"condition": "service_healthy"}


@every_service
def test_service_mounts_named_volumes_only(service: dict[str, Any]) -> None:
    assert all(mount.split(":")[0] in COMPOSE["volumes"] for mount in service["volumes"])


def test_all_that_is_named_is_used_and_all_that_is_used_is_named() -> None:
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service["volumes"]}
    assert used == set(COMPOSE["volumes"])
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(COMPOSE["networks"])
    for file in FILES:
        loaded = load(file)
        secrets = {secret for service in loaded["services"].values() for secret in service.get("secrets", [])}
        assert secrets == set(loaded.get("secrets", {}))
        assert set(loaded["services"]) <= set(SERVICES)


# In step with the code


@pytest.mark.parametrize(
    "file",
    [*FILES, DOCKERFILE, ROOT / "deploy" / "worker.sh", ROOT / "deploy" / "health.py", ROOT / "docs" / "cluster.md"],
    ids=lambda file: file.name,
)
def test_names_only_settings_that_exist(file: Path) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", file.read_text()))
    assert named <= {PREFIX + field.upper() for field in Settings.model_fields} | CLIENT_VARIABLES


@pytest.mark.parametrize("name", ["worker", "api"])
def test_variables_of_a_service_are_settings_that_it_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = read_settings()
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.data_path == Path("/var/lib/chainrule/data")
    assert (settings.ray_address is None) == (name == "api")
    assert settings.is_loopback == (name == "worker")


@pytest.mark.parametrize("name", ["ray-head", "worker"])
def test_ray_wants_the_shared_token_and_tells_nobody(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    [mount] = [mount.split(":") for mount in SERVICES[name]["volumes"] if mount.startswith("ray:")]
    assert Path(environment["RAY_AUTH_TOKEN_PATH"]).parent == Path(mount[1])
    assert mount[2:] == ([] if name == "ray-head" else ["ro"])
    of_the_image = dict(pair.split("=", 1) for kind, words in instructions() if kind == "ENV" for pair in words.split())
    assert QUIET.items() <= (of_the_image | environment).items()
    assert "shm_size" in SERVICES[name]


def test_redis_writes_everything_to_disk_and_throws_nothing_away() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


# The image


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored
    assert {"common", "service", "worker", "constraints.txt", "pyproject.toml"} <= set(copied())
    for source in copied():
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in sent)


def test_the_image_has_what_services_run_and_owners_for_their_volumes() -> None:
    for service in SERVICES.values():
        if "build" not in service:
            continue
        assert (ROOT / service["build"]["dockerfile"]) == DOCKERFILE
        words = [*service["command"], *service["healthcheck"]["test"]]
        for script in [word for word in words if word.startswith("/usr/local/lib/chainrule/")]:
            assert f"deploy/{Path(script).name}" in copied()
        made = next(words for kind, words in instructions() if kind == "RUN" and "install --directory" in words)
        user, group = service["user"].split(":")
        assert f"--owner={user} --group={group}" in made
        for mount in service["volumes"]:
            assert f" {mount.split(':')[1]} " in made


def test_the_image_is_pinned_and_runs_as_the_user_of_the_services() -> None:
    bases = [words.split()[0] for kind, words in instructions() if kind == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])
    assert [words for kind, words in instructions() if kind == "USER"] == [SERVICES["api"]["user"]]
    assert all(not service["image"].endswith(":latest") for service in SERVICES.values())


def test_key_from_a_file_is_read_where_the_secret_is_mounted() -> None:
    [api] = load(FILES[1])["services"].values()
    assert f"--key-file /run/secrets/{api['secrets'][0]}\n" in api["command"][-1]
    assert api["command"][-1].endswith("exec chainrule serve\n")
