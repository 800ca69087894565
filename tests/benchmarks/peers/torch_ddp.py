"""PyTorch's DistributedDataParallel with gloo, two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
import torch.distributed  # type: ignore[import-not-found]
import torch.multiprocessing  # type: ignore[import-not-found]
from torch.nn.parallel import DistributedDataParallel  # type: ignore[import-not-found]

from tests.benchmarks.peers.task import Task, answer, read_task
from tests.benchmarks.peers.torch_training import Training, agree_by_broadcast, carry_out

PROCESSES = 2
BEST = {"gradient_as_bucket_view": True, "static_graph": True}


def wrap(network: Any) -> Any:
    """Shares the gradients, as for best speed."""
    return DistributedDataParallel(network, **BEST)


def work(rank: int, task: Task, result: Path) -> None:
    """One process."""
    meeting = Path(task.scratch) / "meeting"
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=PROCESSES)
    figures = carry_out(task, Training(task, rank, PROCESSES, wrap, agree_by_broadcast))
    if rank == 0:
        result.write_text(json.dumps(figures))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main() -> None:
    """Measures."""
    task = read_task()
    result = Path(task.scratch) / "result.json"
    torch.multiprocessing.spawn(work, (task, result), PROCESSES)
    answer(json.loads(result.read_text()))


if __name__ == "__main__":
    main()
