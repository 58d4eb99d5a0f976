"""Small wrong versions of rules, each of which the simulation must find.

A mutant changes one decision and nothing else, as a slip of the hand would.
"""

from collections.abc import Callable

import pytest

Mutant = Callable[[pytest.MonkeyPatch], None]
ALL: dict[str, Mutant] = {}


def mutant(function: Mutant) -> Mutant:
    """Add one to the list."""
    ALL[function.__name__] = function
    return function


from sim.mutants import fencing, loops, marking, masters, reserving, returning  # noqa: E402

__all__ = ["ALL", "fencing", "loops", "marking", "masters", "mutant", "reserving", "returning"]
