"""Sums that do not depend on the order in which, or the parts by which, they were taken."""

from __future__ import annotations

import math
from collections.abc import Iterable


def exact_parts(numbers: Iterable[float]) -> tuple[float, ...]:
    """A few numbers whose sum, taken exactly, is that of many: an expansion (Shewchuk, 1997, section 2.2).

    `math.fsum` over the parts of several is the correctly rounded sum of all. What is not finite stays so.
    """
    rest, parts = list(numbers), list[float]()
    while total := math.fsum(rest):
        parts.append(total)
        if not math.isfinite(total):
            break
        rest.append(-total)
    return tuple(parts)
