"""What a run's process says to its supervisor, line by line."""

from __future__ import annotations

import json

import pytest

from common.schemas.cluster import Node
from worker.run_child import Done, Lost, Message, Nodes, Ready, _read_message

NODE = Node(id="n", address="10.0.0.1", cpus=2.0, memory_bytes=1, alive=True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"nodes": [NODE.model_dump(mode="json")]}, Nodes((NODE,))),
        ({"ready": True}, Ready()),
        ({"lost": "job_x", "reason": "A process of the run died."}, Lost("A process of the run died.")),
        ({"done": "job_x"}, Done()),
        ({"something": "else"}, None),
    ],
)
def test_every_message_is_understood(said: dict[str, object], message: Message | None) -> None:
    assert _read_message(json.dumps(said)) == message


def test_what_a_library_prints_is_no_message() -> None:
    assert _read_message("INFO: hello\n") is None
