"""Networks behind Ray Serve: one deployment with one replica.

Arguments: a folder for Ray's files, the port of Ray Serve's proxy, files of networks.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import orjson  # type: ignore[import-not-found]
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from tests.benchmarks.peers.plain_network import PlainNetwork

MOST_AT_ONCE = 1000


@serve.deployment(num_replicas=1, max_ongoing_requests=MOST_AT_ONCE, ray_actor_options={"num_cpus": 1})
class Predictor:
    """Answers for all networks; the length of an instance says which one is meant."""

    def __init__(self, files: list[str]) -> None:
        self._networks = {int(Path(file).stem): PlainNetwork(Path(file)) for file in files}

    async def __call__(self, request: Request) -> Response:
        instances = orjson.loads(await request.body())["instances"]
        found = self._networks[len(instances[0])].probabilities(instances)
        body = orjson.dumps({"probabilities": found}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


def main(scratch: str, port: int, files: list[str]) -> None:
    """Serves until it is ended."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=scratch,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = Predictor.bind(files)  # type: ignore[attr-defined]  # the decorator's types do not tell
    serve.run(application, logging_config={"enable_access_log": False})
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
