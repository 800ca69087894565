"""Settings: read once, all faults told at once, nothing misspelt passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import CannotStart
from common.settings import PREFIX, Settings, read_settings
from common.store.client import connect


def test_without_any_variable_everything_has_a_default() -> None:
    settings = read_settings()
    assert settings.redis_url is None
    assert settings.ray_address is None
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.max_upload_bytes == 4 * 2**30
    assert settings.is_loopback


def test_a_variable_is_read_and_an_option_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_PORT", "9000")
    monkeypatch.setenv("CHAINRULE_LEASE_SECONDS", "2.5")
    assert read_settings().port == 9000
    assert read_settings(port=None).port == 9000
    assert read_settings(port=0).port == 0
    assert read_settings().lease_seconds == 2.5


def test_all_that_is_wrong_is_told_at_once_and_no_value_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_PORTT", "M4RKER")
    monkeypatch.setenv("CHAINRULE_PORT", "M4RKER")
    monkeypatch.setenv("CHAINRULE_MAX_COLUMNS", "0")
    with pytest.raises(CannotStart) as caught:
        read_settings()
    for name in ("CHAINRULE_PORTT: no such setting", "CHAINRULE_PORT: ", "CHAINRULE_MAX_COLUMNS: "):
        assert name in caught.value.message
    assert "M4RKER" not in caught.value.message


@pytest.mark.parametrize("name", ["CHAINRULE_URL", "CHAINRULE_KEY", "CHAINRULE_STACK"])
def test_the_variables_of_the_command_line_are_no_misspelt_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("LEASE_SECONDS", "0.5"),
        ("LEASE_SECONDS", "inf"),
        ("LEASE_SECONDS", "nan"),
        ("MAX_ATTEMPTS", "0"),
        ("MAX_UPLOAD_BYTES", "4GiB"),
        ("MAX_PREDICT_ROWS", ""),
        ("DATA_MEMORY_BYTES", "-1"),
        ("DATA_MEMORY_BYTES", "8GiB"),
    ],
)
def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CHAINRULE_{name}", value)
    with pytest.raises(CannotStart, match=f"CHAINRULE_{name}"):
        read_settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1"])
def test_an_address_of_this_machine_is_loopback(host: str) -> None:
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["::", "", "10.0.0.1", "127.evil.example", "127.0.0.1.nip.io", "localhost.x"])
def test_any_other_address_is_not(host: str) -> None:
    assert not Settings(host=host).is_loopback


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (None, "/state/data"),
        ("/shared", "/shared"),
        ("file:///shared/data", "/shared/data"),
    ],
)
def test_the_data_url_is_a_folder(url: str | None, path: str) -> None:
    assert Settings(state_dir=Path("/state"), data_url=url).data_path == Path(path)


def test_a_data_url_may_be_a_bucket_whose_copies_lie_in_the_state_directory() -> None:
    settings = Settings(state_dir=Path("/state"), data_url="s3://some.bucket/a/prefix")
    assert (settings.bucket_url, settings.data_path) == ("s3://some.bucket/a/prefix", Path("/state/cache"))
    assert Settings(data_url="/shared").bucket_url is None


@pytest.mark.parametrize(
    "url", ["s3://", "s3://B/x", "s3://key:secret@bucket", "s3://bucket?x", "https://host/x", "file://host/x", "data:x"]
)
def test_a_data_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(CannotStart, match="CHAINRULE_DATA_URL"):
        _ = Settings(data_url=url).data_path


def test_the_state_directory_is_absolute_and_may_be_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings().state_path == Path("/home/somebody/.chainrule")
    assert Settings(state_dir=Path("x")).state_path == Path.cwd() / "x"


def test_the_memory_for_rows_is_a_quarter_of_the_machine_unless_told() -> None:
    kibibytes = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert Settings().data_budget == int(kibibytes.split()[1]) * 1024 // 4
    assert Settings(data_memory_bytes=0).data_budget == 0
    assert Settings(data_memory_bytes=7).data_budget == 7


def test_what_is_larger_lies_in_the_state_directory() -> None:
    assert Settings(state_dir=Path("/state")).scratch_path == Path("/state/scratch")


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "", "redis"])
def test_a_redis_url_that_is_none_is_explained_without_its_password(url: str) -> None:
    with pytest.raises(CannotStart, match="CHAINRULE_REDIS_URL must begin with") as caught:
        connect(url, retries=0)
    assert "localhost" not in caught.value.message


def test_the_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [name for name in Settings.model_fields if f"| `{PREFIX}{name.upper()}` |" not in readme] == []
