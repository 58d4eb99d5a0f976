"""Slips about what on a Node is ours."""

from dataclasses import replace

import pytest

from asetwin.model import marks
from sim.mutants import mutant


@mutant
def takes_off_a_foreign_cordon(patch: pytest.MonkeyPatch) -> None:
    """The way back uncordons, whoever has cordoned."""
    put_back = marks.put_back

    def wrong(node, *, why=""):  # type: ignore[no-untyped-def]
        step = put_back(node, why=why)
        return None if step is None else replace(step, unschedulable=False)

    patch.setattr(marks, "put_back", wrong)


@mutant
def takes_off_foreign_taints(patch: pytest.MonkeyPatch) -> None:
    """The way back removes every taint."""
    put_back = marks.put_back

    def wrong(node, *, why=""):  # type: ignore[no-untyped-def]
        step = put_back(node, why=why)
        return None if step is None else replace(step, taints=())

    patch.setattr(marks, "put_back", wrong)


@mutant
def forgets_the_mark(patch: pytest.MonkeyPatch) -> None:
    """The Node is cordoned and tainted without a note of whose that is."""
    put_out = marks.put_out

    def wrong(node, device, *, tainted, why=""):  # type: ignore[no-untyped-def]
        step = put_out(node, device, tainted=tainted, why=why)
        return None if step is None else replace(step, owned=None)

    patch.setattr(marks, "put_out", wrong)


@mutant
def keeps_the_steering_taint(patch: pytest.MonkeyPatch) -> None:
    """The taint that steers pods back is never removed."""
    steer = marks.steer

    def wrong(node, device, *, wanted, why=""):  # type: ignore[no-untyped-def]
        return steer(node, device, wanted=wanted or marks.is_steered(node, device), why=why)

    patch.setattr(marks, "steer", wrong)
