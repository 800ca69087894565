"""Ray Train's TorchTrainer, two workers with gloo: DistributedDataParallel in Ray actors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray
import torch  # type: ignore[import-not-found]
import torch.distributed  # type: ignore[import-not-found]
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from tests.benchmarks.peers.task import Task, answer, read_task, task_from_json
from tests.benchmarks.peers.torch_training import Training, agree_by_broadcast, carry_out

WORKERS = 2
BEST = {"gradient_as_bucket_view": True, "static_graph": True}


def wrap(network: Any) -> Any:
    """Shares the gradients, as for best speed."""
    return prepare_model(network, parallel_strategy_kwargs=BEST)


def result_file(task: Task) -> Path:
    """Where the first worker leaves what it found: the trainer keeps no metrics without a checkpoint."""
    return Path(task.scratch) / "result.json"


def work(config: dict[str, Any]) -> None:
    """One worker."""
    task = task_from_json(config["task"])
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    figures = carry_out(task, Training(task, rank, workers, wrap, agree_by_broadcast))
    if rank == 0:
        figures["versions"]["ray"] = ray.__version__
        result_file(task).write_text(json.dumps(figures))


def main() -> None:
    """Measures."""
    task = read_task()
    ray.init(
        address="local",
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=task.scratch,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(task.threads)}},
    )
    trainer = TorchTrainer(
        work,
        train_loop_config={"task": task.to_json()},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(name="run", storage_path=str(Path(task.scratch) / "storage")),
    )
    trainer.fit()
    ray.shutdown()
    answer(json.loads(result_file(task).read_text()))


if __name__ == "__main__":
    main()
