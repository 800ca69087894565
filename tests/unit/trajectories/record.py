"""Records how PyTorch's optimizers and schedules move: `python tests/unit/trajectories/record.py > torch.json`.

Runs in any environment that has torch and numpy; `make bench` makes one, and compares the record with what it finds.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

STEPS = 25
SIZE = 7

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd l2": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.3, "eps": 1e-10}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}),
    "adam": (torch.optim.Adam, {"lr": 0.02, "betas": (0.9, 0.999), "eps": 1e-8}),
    "adam l2": (torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.3}),
}

SCHEDULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "step": (torch.optim.lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.5}),
    "exponential": (torch.optim.lr_scheduler.ExponentialLR, {"gamma": 0.9}),
    "cosine": (torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 24, "eta_min": 0.01}),
    "cosine restarts": (torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 3, "T_mult": 2}),
    "one cycle": (
        torch.optim.lr_scheduler.OneCycleLR,
        {"max_lr": 1.0, "total_steps": 24, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
    ),
}

LOSSES_OF_PLATEAU = [1.0, 0.8, 0.8, 0.79999, 0.85, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]


def gradients() -> np.ndarray:
    """The same on every machine: of sizes from a thousandth to a hundred."""
    generator = np.random.default_rng(7)
    return generator.normal(size=(STEPS, SIZE)) * 10.0 ** np.linspace(-3, 2, SIZE)


def optimizer_moves(kind: Any, options: dict[str, Any]) -> list[list[float]]:
    """The parameters after every step."""
    parameters = torch.linspace(-1, 1, SIZE, dtype=torch.float64, requires_grad=True)
    optimizer = kind([parameters], **options)
    moves = []
    for gradient in gradients():
        parameters.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        moves.append(parameters.tolist())
    return moves


def schedule_factors(kind: Any, options: dict[str, Any], steps: int = 24) -> list[float]:
    """The learning rate of every step, of a base of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = kind(optimizer, **options)
    if isinstance(schedule, torch.optim.lr_scheduler.OneCycleLR):
        schedule = kind(optimizer, **options, cycle_momentum=False)
    factors = []
    for step in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            schedule.step()
    return factors


def plateau_factors() -> list[float]:
    """The learning rate after each epoch's loss."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=1e-4)
    factors = []
    for loss in LOSSES_OF_PLATEAU:
        schedule.step(loss)
        factors.append(optimizer.param_groups[0]["lr"])
    return factors


def record() -> dict[str, Any]:
    """All of it."""
    return {
        "torch": torch.__version__,
        "gradients": gradients().tolist(),
        "optimizers": {name: optimizer_moves(*given) for name, given in OPTIMIZERS.items()},
        "schedules": {name: schedule_factors(*given) for name, given in SCHEDULES.items()},
        "plateau": {"losses": LOSSES_OF_PLATEAU, "factors": plateau_factors()},
    }


if __name__ == "__main__":
    json.dump(record(), sys.stdout, indent=1)
