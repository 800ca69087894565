"""PyTorch in one process."""

from __future__ import annotations

import torch  # type: ignore[import-not-found]

from tests.benchmarks.peers.task import answer, read_task
from tests.benchmarks.peers.torch_training import Training, carry_out


def main() -> None:
    """Measures."""
    task = read_task()
    torch.set_num_interop_threads(1)
    answer(carry_out(task, Training(task)))


if __name__ == "__main__":
    main()
