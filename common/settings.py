"""All settings, read once from CHAINRULE_* variables by the composition root of each process."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import psutil
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common.errors import CannotStart

PREFIX = "CHAINRULE_"
CLIENT_VARIABLES = {"CHAINRULE_URL", "CHAINRULE_KEY"}
"""Read by the command line when it speaks to a server; no settings of the server."""
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
"""The name of a bucket."""
STACK_VARIABLE = "CHAINRULE_STACK"
"""Set by `chainrule up` in all that it starts, so that a later start finds what was left running."""


def _listed(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


class Settings(BaseSettings):
    """What an operator may choose; each field is the CHAINRULE_ variable of the same name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    redis_url: str | None = None
    """The Redis to use, e.g. redis://host:6379/0. Unset: an embedded one."""
    ray_address: str | None = None
    """The Ray cluster to use, e.g. ray-head:6379. Unset: a local Ray of our own."""
    host: str = "127.0.0.1"
    """The address the API binds to. Beyond loopback it needs an API key first: `chainrule keys create`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port of the API; 0 takes a free one."""
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """API processes that answer on that port."""
    state_dir: Path = Path("~/.chainrule")
    """Where the embedded stack keeps its database, data sets and logs."""
    data_url: str | None = None
    """Where uploaded data sets and checkpoints are kept, for all processes: a folder, or s3://bucket/prefix, whose
    credentials and endpoint are in the usual AWS_* variables. Unset: `data` below the state directory."""
    data_cache_bytes: Annotated[int, Field(ge=0)] = 32 * 2**30
    """Copies of what is kept in a bucket, on each machine, in bytes; they lie below the state directory."""
    import_sources: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Places that data sets may be fetched from, separated by commas, e.g. https://data.example.org/,s3://bucket/prefix/,
    file:///srv/data/. Unset: none."""
    import_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Networks that hosts of these places may have addresses in beside public ones, separated by commas, e.g. 10.1.0.0/16."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    """Largest data set that may be uploaded, and largest file that may be predicted, in bytes."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 2**20
    """Largest body of any other request, in bytes."""
    max_predict_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    """Largest body of a prediction as JSON, in bytes; of one in binary tensors, its JSON part."""
    max_tensor_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Largest body of a prediction in binary tensors, in bytes, and largest answer to any inference."""
    max_predict_rows: Annotated[int, Field(ge=1)] = 100_000
    """Most rows in one prediction as JSON."""
    model_cache_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Models that an API process keeps in memory to predict with, in bytes; the least recently used go first."""
    max_model_bytes: Annotated[int, Field(ge=1024)] = 2**28
    """Largest file of a model that may be imported, in bytes."""
    default_model: str | None = None
    """The model behind /invocations and /ping, for clients that cannot name one: any reference. Unset: none."""
    max_columns: Annotated[int, Field(ge=1)] = 10_000
    """Most columns of a data set."""
    max_cells: Annotated[int, Field(ge=1)] = 2_000_000_000
    """Most cells (rows x columns) of a data set."""
    max_parameters: Annotated[int, Field(ge=1)] = 50_000_000
    """Most parameters of a network."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 10_000
    """Most jobs waiting at once."""
    max_workers: Annotated[int, Field(ge=1)] | None = None
    """Most workers of a job. Unset: as many as any request may ask for."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Most rows that a job may learn from. Unset: no limit."""
    max_job_seconds: Annotated[float, Field(gt=0)] | None = None
    """Training time after which a job fails as `operator_limit`. Unset: no limit."""
    keep_jobs: Annotated[int, Field(ge=1)] = 10_000
    """Most ended jobs that are kept; the oldest are deleted first, their models stay."""
    keep_jobs_days: Annotated[float, Field(gt=0)] | None = None
    """For how many days an ended job is kept. Unset: however old."""
    keep_model_versions: Annotated[int, Field(ge=1)] | None = None
    """How many of the newest versions of each model's name are kept, beside those that an alias points to or a job that
    has not ended begins with. Unset: all."""
    parser_memory_bytes: Annotated[int, Field(ge=2**28)] = 4 * 2**30
    """Address space that reading one upload may take; the memory in use is less."""
    parser_seconds: Annotated[int, Field(ge=1)] = 600
    """Time that reading one upload may take."""
    data_memory_bytes: Annotated[int, Field(ge=0)] | None = None
    """Encoded rows that one job may hold in memory, per machine, in bytes; what is larger is mapped from the disk of the
    state directory. Unset: a quarter of the machine's memory."""
    lease_seconds: Annotated[float, Field(ge=1)] = 10.0
    """How long the holder of a job may be silent before another supervisor takes the job over."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """How many attempts in a row may be lost without a checkpoint in between before a job fails as `worker_lost`."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Between two checkpoints of a running job; more where writing them would take over 2 % of its time."""

    @property
    def state_path(self) -> Path:
        """The state directory as an absolute path."""
        return self.state_dir.expanduser().absolute()

    @property
    def bucket_url(self) -> str | None:
        """The bucket that `data_url` names, if it is none of a folder.

        Raises:
            CannotStart: the URL is of a kind that is not supported.

        """
        if self.data_url is None:
            return None
        url = urlsplit(self.data_url)
        if url.scheme == "s3" and re.fullmatch(BUCKET, url.netloc) and not (url.query or url.fragment):
            return self.data_url
        if url.scheme in ("", "file") and not url.netloc:
            return None
        raise CannotStart(f"{PREFIX}DATA_URL must be a folder, a file:// URL of one, or s3://bucket/prefix.")

    @property
    def data_path(self) -> Path:
        """The folder that `data_url` names; for a bucket, that of the copies on this machine.

        Raises:
            CannotStart: the URL is of a kind that is not supported.

        """
        if self.bucket_url is not None:
            return self.state_path / "cache"
        if self.data_url is None:
            return self.state_path / "data"
        return Path(urlsplit(self.data_url).path).expanduser().absolute()

    @property
    def data_budget(self) -> int:
        """Bytes of encoded rows that one job may hold in memory."""
        if self.data_memory_bytes is None:
            return psutil.virtual_memory().total // 4
        return self.data_memory_bytes

    @property
    def scratch_path(self) -> Path:
        """The folder on a local disk for what is larger; it always looks empty."""
        return self.state_path / "scratch"

    @property
    def is_loopback(self) -> bool:
        """Whether the API can be reached from this machine only."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host == "localhost"


def read_settings(**overrides: object) -> Settings:
    """The settings from the environment; `overrides` are options of the command line, None meaning not given.

    Raises:
        CannotStart: a variable is unknown or its value is not allowed; all of them are named.

    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES | {STACK_VARIABLE}
    complaints = [
        f"{name}: no such setting" for name in sorted(os.environ) if name.startswith(PREFIX) and name not in known
    ]
    settings = None
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        complaints += [f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
    if settings is None or complaints:
        raise CannotStart("Settings are wrong. " + "; ".join(complaints) + ".")
    return settings
