"""Arithmetic that lets infinities pass without a warning."""

from __future__ import annotations

import numpy as np


def quiet() -> np.errstate:
    """A context in which overflow and what follows from it warn nobody.

    A network that diverges shows it in its loss, which its caller checks; a warning per step would add nothing.
    Entering it costs as much as several operations on a small array, so whoever takes many steps enters it once.
    """
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")
