"""Every Redis key of the product, with its type.

Numbers of a job never decrease: `seq` orders all jobs by submission, `revision` counts changes, `fence` counts
holders, `lease` is raised by the holder while it lives.
"""

from __future__ import annotations

ROOT = "chainrule:"

# Strings
SEQUENCE = ROOT + "sequence"  # counter: order of creation, over data sets, jobs and models

# Sorted sets of ids, scored by their place in SEQUENCE
DATASETS = ROOT + "datasets"
DATASET_CONTENTS = ROOT + "dataset_contents"
"""From ids to digests of what the rows were read from."""
DATASETS_OF_CONTENT = ROOT + "datasets_of_content"
"""The other way round."""
DATASET_DRAFTS = ROOT + "dataset_drafts"
"""From ids of data sets that runs are writing to those of their jobs; their rows may lie about until they are published."""
JOBS = ROOT + "jobs"
MODELS = ROOT + "models"

# Sorted set of job ids, lowest score first: -priority x 2^40 + seq
QUEUE = ROOT + "queue"

# Set of ids of ended jobs whose events and metrics have not been compressed yet
TO_ARCHIVE = ROOT + "jobs:to_archive"

# Hash: SHA-256 of an API key (hex) -> its name
ACCESS_KEYS = ROOT + "access_keys"

# Channel: the id of every job that changed, as it changes, and of every model that was deleted
CHANGES = ROOT + "changes"

# Sorted set of supervisor ids (score unused); an entry counts while supervisor(id) exists
SUPERVISORS = ROOT + "supervisors"


def dataset(dataset_id: str) -> str:
    """String: the record as JSON."""
    return f"{ROOT}dataset:{dataset_id}"


def dataset_jobs(dataset_id: str) -> str:
    """Set: ids of jobs that have not ended and read this data set."""
    return f"{ROOT}dataset:{dataset_id}:jobs"


def dataset_versions(name: str) -> str:
    """String, a counter: the newest version of that name."""
    return f"{ROOT}dataset_name:{name}:version"


def job(job_id: str) -> str:
    """Hash: the fields of a job, JSON where they are not text or whole numbers.

    Beside them `given` (the request as it came), `seq`, `fence`, `lease`, `wish` (what its holder was asked for: `cancel` or `pause`), `losses` (attempts
    lost since the last checkpoint), `kept` (1 while the next claim goes on with the same attempt), `draft` (the data set
    that its run is writing) and `token` (of the last write, so that a repeated write is applied once).
    """
    return f"{ROOT}job:{job_id}"


def job_events(job_id: str) -> str:
    """Stream: fields `kind`, `at`, `data` (JSON)."""
    return f"{ROOT}job:{job_id}:events"


def job_metrics(job_id: str) -> str:
    """Hash: epoch -> its metrics as JSON."""
    return f"{ROOT}job:{job_id}:metrics"


def job_history(job_id: str) -> str:
    """String: events and metrics of an ended job as JSON, compressed by zlib; takes their place some time after its end."""
    return f"{ROOT}job:{job_id}:history"


def job_checkpoints(job_id: str) -> str:
    """List, newest first: descriptions of checkpoints as JSON."""
    return f"{ROOT}job:{job_id}:checkpoints"


def jobs_in_state(state: str) -> str:
    """Sorted set of job ids by seq."""
    return f"{ROOT}jobs:state:{state}"


def jobs_with_label(label: str) -> str:
    """Sorted set of job ids by seq; `label` is `key:value`."""
    return f"{ROOT}jobs:label:{label}"


def idempotency(scope: str, key: str) -> str:
    """Hash with `digest` and `id` of what an Idempotency-Key created; kept for a day."""
    return f"{ROOT}idempotency:{scope}:{key}"


def model(model_id: str) -> str:
    """Hash with `record`, `version`, `sha256`, `chunks` and the fields that `model_chunk` names.

    The chunks, so many, are one file of the form `common/store/model_content.py` has; `sha256` is that of the whole.
    Models of earlier versions have `document` (encoder, target and network as JSON) and `weights` (float32 in little
    endian) in place of them. Without `version` a model is not published, and expires.
    """
    return f"{ROOT}model:{model_id}"


def model_chunk(number: int) -> str:
    """The field of a model's hash that holds that part of its file, counted from 0."""
    return f"chunk:{number}"


def model_jobs(model_id: str) -> str:
    """Set: ids of jobs that have not ended and begin with this model, or predict with it."""
    return f"{ROOT}model:{model_id}:jobs"


def model_versions(name: str) -> str:
    """Sorted set of model ids scored by version."""
    return f"{ROOT}model_name:{name}:versions"


def model_counter(name: str) -> str:
    """String, a counter: the newest version ever given to that name."""
    return f"{ROOT}model_name:{name}:counter"


def model_aliases(name: str) -> str:
    """Hash: alias -> id of the model that it points to; empty once it was removed."""
    return f"{ROOT}model_name:{name}:aliases"


def alias_history(name: str, alias: str) -> str:
    """List, newest first: what the alias pointed to, as JSON."""
    return f"{ROOT}model_name:{name}:alias_history:{alias}"


def name_in(key: str) -> str:
    """The name in a key of `model_versions` or `model_aliases`."""
    return key.removeprefix(f"{ROOT}model_name:").partition(":")[0]


def supervisor(supervisor_id: str) -> str:
    """String with an expiry: the last report of a supervisor as JSON. Only for show: no decision rests on it."""
    return f"{ROOT}supervisor:{supervisor_id}"
