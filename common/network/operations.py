"""Array operations bound to their operands.

A training step does the same operations on the same arrays every time. They are put together once, as a list, and a
step runs down that list: on a small network, choosing views and looking up attributes anew would take as long as the
arithmetic. Results are passed by position because keywords cost more than some of the operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from common.network.parameters import Floats

Operation: TypeAlias = Callable[[], object]
"""Reads and writes arrays that were given to it when it was made."""


def product(a: Floats, b: Floats, out: Floats) -> Operation:
    """Writes a @ b into `out`, shape (rows, columns), which lies in one piece in C or Fortran order."""
    # ndarray.dot reaches BLAS with the least ado, but wants `out` in C order.
    if out.flags.c_contiguous:
        return partial(a.dot, b, out)
    return partial(b.T.dot, a.T, out.T)
