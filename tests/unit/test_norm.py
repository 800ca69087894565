"""The norm of a gradient: exact, however the vector is split, far beyond what float32 can square."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.network.parameters import GRAIN
from worker.norm import GrainSums, norm_of


@given(size=st.integers(0, 40 * GRAIN), cut=st.integers(0, 40), seed=st.integers(0, 100))
def test_the_norm_has_the_same_bits_however_the_vector_is_split(size: int, cut: int, seed: int) -> None:
    vector = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    whole = GrainSums(vector).norm()
    assert whole == pytest.approx(np.linalg.norm(vector.astype(np.float64)), rel=1e-12)
    parts = [vector[: cut * GRAIN], vector[cut * GRAIN :]]
    sums = np.concatenate([GrainSums(part).compute() for part in reversed(parts)])
    assert norm_of(sums) == whole


def test_numbers_whose_squares_float32_does_not_hold_have_a_norm() -> None:
    assert GrainSums(np.full(100, 1e30, np.float32)).norm() == pytest.approx(1e31, rel=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_vector_that_is_not_finite_has_none(bad: float) -> None:
    vector = np.zeros(3000, np.float32)
    vector[1500] = bad
    assert math.isnan(GrainSums(vector).norm())
