"""Checkpoints: where a run can be resumed."""

from __future__ import annotations

from common.schemas.record import Record, Time


class Checkpoint(Record):
    """A whole state of a training, written down."""

    number: int
    """Rises from 1 over all attempts of a job."""
    attempt: int
    """Which one wrote it."""
    epoch: int
    """Epochs done."""
    step: int
    """Steps done in the epoch after these."""
    bytes: int
    """Of the file."""
    seconds: float
    """That it took to write, in which the training waited."""
    sha256: str
    """Of the file."""
    created_at: Time
