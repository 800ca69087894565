"""Everybody who takes part, in the order in which they do."""

from __future__ import annotations

import os
import secrets
from functools import partial

from tests.benchmarks.chainrule import Chainrule, Stack
from tests.benchmarks.contender import Contender, Say
from tests.benchmarks.environments import H2O, RAY, SCIKIT_LEARN, TORCH
from tests.benchmarks.peer import Peer

LOCAL_STEPS, BOUNDED_STALENESS = "local_steps", "bounded_staleness"


def all_contenders(stack: Stack, say: Say) -> list[Contender]:
    """All of ours stand together, so that the stack is started once a round; what is compared most stands beside them."""
    cores = os.cpu_count() or 1
    quiet_ray = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",  # without one of its own it would leave one in the home directory
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    job = partial(Chainrule, stack=stack, workers=2, threads="2 x 1 + server")
    peer = partial(Peer, say=say, alone=stack.stop)  # an idle stack takes some percent of a core
    torch = partial(peer, environment=TORCH)
    return [
        job(name="chainrule-1", title="Chainrule, 1 worker", workers=1, threads="1 x 1 + server"),
        job(
            name="chainrule-servers",
            title="Chainrule, synchronous, 2 servers",
            servers=2,
            threads="2 x 1 + 2 servers",
        ),
        job(name="chainrule-bounded", title="Chainrule, bounded staleness", synchrony=BOUNDED_STALENESS, races=True),
        job(name="chainrule-local", title="Chainrule, local steps", synchrony=LOCAL_STEPS, races=True),
        job(name="chainrule-2", title="Chainrule, synchronous", races=True),
        peer(
            name="limit",
            title="the limit: two halves, each alone",
            threads="2 x 1",
            module="limit",
            environment=None,
            threads_each=1,
        ),
        torch(
            name="torch-ddp",
            title="PyTorch DDP, gloo",
            threads="2 x 1",
            module="torch_ddp",
            threads_each=1,
            races=True,
        ),
        torch(
            name="torch-2",
            title="PyTorch, 2 threads",
            threads="1 x 2",
            module="torch_alone",
            threads_each=2,
            races=True,
        ),
        torch(name="torch-1", title="PyTorch, 1 thread", threads="1 x 1", module="torch_alone", threads_each=1),
        peer(
            name="torch-trainer",
            title="Ray Train's TorchTrainer, gloo",
            threads="2 x 1",
            module="torch_trainer",
            environment=RAY,
            threads_each=1,
            variables=quiet_ray,
        ),
        peer(
            name="scikit-learn",
            title="scikit-learn's MLPClassifier",
            threads=f"1 x {cores}",
            module="sklearn_mlp",
            environment=SCIKIT_LEARN,
            threads_each=cores,
            races=True,
        ),
        peer(
            name="h2o",
            title="H2O Deep Learning",
            threads="1 x 2",
            module="h2o_deep_learning",
            environment=H2O,
            threads_each=2,
            rounds=1,
            patience=60.0,
        ),
    ]
