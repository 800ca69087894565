"""Processors that a job asks Ray for: waited for without haste, granted when they are free, and given back."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from worker.ray_node import QUIET

pytestmark = pytest.mark.integration

_SCRIPT = """
import logging, time, ray
from worker.actors import Reservation
ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
first, second = Reservation(2), Reservation(2)
assert first.wait(30)
began = time.monotonic()
assert not second.wait(0.3)
assert time.monotonic() - began >= 0.3, "came back before its time: whoever asks again and again would not rest"
assert len(first.nodes) == 2
first.release()
assert second.wait(30)
for _ in range(20):  # taken back as soon as asked for, as by a job that is cancelled at its start
    second.release()
    second = Reservation(2)
assert second.wait(30)
second.release()
"""


@pytest.mark.slow
def test_processors_are_waited_for_without_haste_and_can_be_had_again_after_any_release() -> None:
    environment = {**os.environ, **QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    subprocess.run([sys.executable, "-P", "-c", _SCRIPT], env=environment, check=True, timeout=200)
