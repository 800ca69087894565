"""A run's process, `python -m worker.run_process ADDRESS`: a driver of Ray that takes one job after the other.

What it hears and says is described in `run_child.py`. It ends when its input does.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TextIO

from common.errors import ChainruleError, FenceLost
from common.settings import Settings, read_settings
from common.store.client import connect
from common.store.files import open_files
from common.store.jobs import Claim
from common.store.stores import Stores, open_stores
from worker.actors import ActorPool, ClusterConnection, ProcessLost, nodes
from worker.beside import beside
from worker.prediction_run import PredictionRun
from worker.run import Run
from worker.training_data import FILES_SECONDS
from worker.training_run import TrainingRun

log = logging.getLogger("chainrule.run")

_PATIENCE = 60
_WORKERS_IN_RESERVE = 2
"""As many as a job has by default."""
_REPORT_SECONDS = 5.0
"""Between reports on the cluster, whose machines come and go."""


def main() -> None:
    """Connects, says so, and runs the jobs it is given."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    settings = read_settings()
    assert settings.redis_url is not None
    stores = open_stores(connect(settings.redis_url, retries=_PATIENCE), open_files(settings, patience=FILES_SECONDS))
    cluster = ClusterConnection(sys.argv[1])
    try:
        cluster.open()
        pool = ActorPool()
        while True:
            pool.fill(_WORKERS_IN_RESERVE)
            _tell_nodes(say)
            _say(say, {"ready": True})
            while not select.select([sys.stdin], [], [], _REPORT_SECONDS)[0]:
                _tell_nodes(say)
            line = sys.stdin.readline()
            if not line:
                return
            with beside(_REPORT_SECONDS, partial(_tell_nodes_if_there, say), patience=_REPORT_SECONDS):
                outcome = _run(stores, pool, Claim(**json.loads(line)), settings, say)
            _say(say, outcome)
            if "lost" in outcome:  # with its driver, Ray ends what may still be left of the run
                return
    except ProcessLost as error:
        sys.exit(error.message)


def _say(say: TextIO, message: Mapping[str, object]) -> None:
    print(json.dumps(message), file=say)


def _tell_nodes(say: TextIO) -> None:
    _say(say, {"nodes": [node.model_dump(mode="json") for node in nodes()]})


def _tell_nodes_if_there(say: TextIO) -> None:
    """While a job is at work, for those that wait may fit when machines join; a job finds out itself that Ray is gone."""
    with suppress(ProcessLost):
        _tell_nodes(say)


def _run(stores: Stores, pool: ActorPool, claim: Claim, settings: Settings, say: TextIO) -> dict[str, str]:
    done = {"done": claim.job_id}

    def abandon() -> None:
        _say(say, done)
        os._exit(0)

    log.info("%s begins", claim.job_id)
    try:
        run: Run
        if stores.jobs.kind(claim.job_id) == "prediction":
            run = PredictionRun(stores, claim, abandon)
        else:
            run = TrainingRun(stores, claim, pool, settings, abandon)
        run.run()
    except FenceLost:
        log.warning("%s has passed to another holder", claim.job_id)
    except ChainruleError as error:
        return {"lost": claim.job_id, "reason": error.message}
    log.info("%s is done", claim.job_id)
    gc.collect()  # an error of the job may hold on to its rows
    return done


if __name__ == "__main__":
    main()
