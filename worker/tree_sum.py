"""Sums whose bits do not depend on how many processes they are spread over.

A batch is cut into eight *leaves*, whose gradients are added in one fixed binary tree. A worker owns neighbouring
leaves and sends the sums of the largest whole subtrees among them, its *nodes*; the server adds those on along the
same tree. Rounding differs between trees, but this tree is always the same (on pairwise summation: Higham, SIAM
Journal on Scientific Computing 14, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

from common.schemas.training import MAX_REPRODUCIBLE_WORKERS
from worker.task import share

LEAVES = MAX_REPRODUCIBLE_WORKERS


@dataclass(frozen=True, slots=True)
class Node:
    """A whole subtree: leaves `start` … `start + size - 1`; `size` is a power of two that divides `start`."""

    start: int
    size: int


def nodes(rank: int, workers: int) -> tuple[Node, ...]:
    """The largest whole subtrees that make up a worker's leaves, in their order."""
    start, stop = share(0, LEAVES, rank, workers)
    found = []
    while start < stop:
        size = 1
        while start % (2 * size) == 0 and start + 2 * size <= stop:
            size *= 2
        found.append(Node(start, size))
        start += size
    return tuple(found)


def most_nodes(workers: int) -> int:
    """How many nodes the worker with the most of them has."""
    return max(len(nodes(rank, workers)) for rank in range(workers))


@dataclass(frozen=True, slots=True)
class Addition:
    """One inner node of the tree: `left` and `right` are numbers of given nodes, or of earlier additions after them."""

    left: int
    right: int


def additions(given: tuple[Node, ...]) -> tuple[Addition, ...]:
    """How to add up nodes that together cover all leaves, in order: the result of the last one is the whole sum."""
    steps: list[Addition] = []
    stack: list[tuple[Node, int]] = []
    for number, node in enumerate(given):
        stack.append((node, number))
        while (
            len(stack) > 1
            and stack[-2][0].size == stack[-1][0].size
            and stack[-2][0].start % (2 * stack[-2][0].size) == 0
        ):
            (right, right_number), (left, left_number) = stack.pop(), stack.pop()
            stack.append((Node(left.start, left.size + right.size), len(given) + len(steps)))
            steps.append(Addition(left_number, right_number))
    return tuple(steps)


def chain(count: int) -> tuple[Addition, ...]:
    """How to add up so many vectors one after the other, where the order of summation does not matter."""
    return tuple(Addition(0 if i == 1 else count + i - 2, i) for i in range(1, count))
