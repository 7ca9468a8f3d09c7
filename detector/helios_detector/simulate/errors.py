"""Errors of the simulator.

ValueError
└── SimulationError   a scenario that cannot be simulated; the message says why and what would work
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SimulationError(ValueError):
    """A scenario that cannot be simulated; trying again with the same arguments cannot help."""


def unknown(what: str, name: str, known: Iterable[str]) -> SimulationError:
    """An error for a name that is not among the known ones, with the nearest and all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return SimulationError(f"unknown {what} {name!r}: {hint}known are {', '.join(names)}")
