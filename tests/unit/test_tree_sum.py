"""The reproducible sum: one tree, whoever adds which part of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.tree_sum import LEAVES, Node, additions, nodes


def whole_tree(leaves: NDArray[np.float32]) -> NDArray[np.float32]:
    while len(leaves) > 1:
        leaves = leaves[::2] + leaves[1::2]
    root: NDArray[np.float32] = leaves[0]
    return root


def subtree(leaves: NDArray[np.float32], node: Node) -> NDArray[np.float32]:
    return whole_tree(leaves[node.start : node.start + node.size])


@pytest.mark.parametrize("workers", range(1, LEAVES + 1))
def test_any_number_of_workers_gives_the_same_bits(workers: int) -> None:
    leaves = np.random.default_rng(workers).standard_normal((LEAVES, 500), dtype=np.float32)
    given = tuple(node for rank in range(workers) for node in nodes(rank, workers))
    operands = [subtree(leaves, node) for node in given]
    for addition in additions(given):
        operands.append(operands[addition.left] + operands[addition.right])
    np.testing.assert_array_equal(operands[-1], whole_tree(leaves))


@pytest.mark.parametrize("workers", range(1, LEAVES + 1))
def test_the_workers_nodes_cover_the_leaves_once_and_are_whole_subtrees(workers: int) -> None:
    given = [node for rank in range(workers) for node in nodes(rank, workers)]
    assert [leaf for node in given for leaf in range(node.start, node.start + node.size)] == list(range(LEAVES))
    for node in given:
        assert node.size & (node.size - 1) == 0
        assert node.start % node.size == 0


def test_one_worker_sends_the_whole_sum() -> None:
    assert nodes(0, 1) == (Node(0, LEAVES),)
    assert additions(nodes(0, 1)) == ()
