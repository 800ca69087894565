"""The order of rows in an epoch: every row once, the same for all, and local where rows lie on a disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.epoch_order import WINDOW, epoch_order

ROWS = st.integers(0, 3000)
BLOCK = st.none() | st.integers(1, 500)
SEED = st.integers(0, 2**63 - 1)


@given(ROWS, st.integers(1, 1000), SEED, st.booleans(), BLOCK)
def test_every_row_comes_once_and_the_same_way_again(
    rows: int, epoch: int, seed: int, shuffle: bool, block: int | None
) -> None:
    order = epoch_order(rows, epoch, seed, shuffle, block)
    assert sorted(order.tolist()) == list(range(rows))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(epoch_order(rows, epoch, seed, shuffle, block), order)


@given(ROWS, st.integers(1, 1000), SEED)
def test_without_blocks_it_is_the_permutation_that_numpy_draws(rows: int, epoch: int, seed: int) -> None:
    drawn = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, epoch))).permutation(rows)
    np.testing.assert_array_equal(epoch_order(rows, epoch, seed, True), drawn)


@given(ROWS, SEED, BLOCK)
def test_without_shuffling_rows_come_as_they_are(rows: int, seed: int, block: int | None) -> None:
    assert epoch_order(rows, 7, seed, False, block).tolist() == list(range(rows))


@given(st.integers(1, 3000), SEED, st.integers(1, 100))
def test_rows_that_come_together_lie_in_few_blocks_which_are_then_done_with(rows: int, seed: int, block: int) -> None:
    blocks = epoch_order(rows, 1, seed, True, block) // block
    sizes = np.bincount(blocks)
    start, windows = 0, 0
    while start < rows:
        windows += 1
        window: set[int] = set()
        stop = start
        while stop < rows and (len(window) < WINDOW or blocks[stop] in window):
            window.add(int(blocks[stop]))
            stop += 1
        assert stop - start == sizes[list(window)].sum()  # nothing of a block is left for later
        start = stop
    assert windows == -(-len(sizes) // WINDOW)


@pytest.mark.parametrize("block", [None, 10])
def test_epochs_and_seeds_differ(block: int | None) -> None:
    first = epoch_order(5000, 1, 0, True, block)
    assert (first == epoch_order(5000, 2, 0, True, block)).mean() < 0.01
    assert (first == epoch_order(5000, 1, 1, True, block)).mean() < 0.01


def test_with_blocks_a_row_comes_early_as_often_as_any_other() -> None:
    early = np.zeros(400)
    for epoch in range(2000):
        early[epoch_order(400, epoch, 3, True, 5)[:100]] += 1
    assert np.abs(early - 500).max() < 100  # five standard deviations
    assert early.sum() == 200_000
