"""Slips about the one master."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from asetwin.model import epochs, master
from asetwin.model.plan import DeletePod
from sim.mutants import mutant

REMOVE = master._remove


@mutant
def starts_the_master_before_the_old_one_is_gone(patch: pytest.MonkeyPatch) -> None:
    """The next epoch's pod is created beside the older one, and does not wait for its Lease."""
    settle = master._settle

    def wrong(device, before, current, pods, *args, **rest):  # type: ignore[no-untyped-def]
        kept = [pod for pod in pods if pod is current]
        return settle(device, before, current, kept, *args, **rest)

    def only_of_lost_nodes(pods, views, why="older epoch"):  # type: ignore[no-untyped-def]
        return tuple(one for one in REMOVE(pods, views, why) if one.force)

    patch.setattr(master, "_settle", wrong)
    patch.setattr(master, "_remove", only_of_lost_nodes)
    patch.setattr(epochs, "_clear_at", lambda me, terms, memory, *, now: now)


@mutant
def moves_the_master_without_proof(patch: pytest.MonkeyPatch) -> None:
    """A lost home is enough to start the master elsewhere."""
    target = master._target

    def wrong(device, before, current, views, order):  # type: ignore[no-untyped-def]
        fenced: list[Any] = [_Fenced(one) for one in views]
        return target(device, before, current, fenced, order)

    patch.setattr(master, "_target", wrong)
    patch.setattr(master, "_remove", lambda pods, views, why="": _forced(REMOVE(pods, views, why)))


def _forced(steps: Iterable[DeletePod]) -> tuple[DeletePod, ...]:
    return tuple(replace(one, force=True) for one in steps)


class _Fenced:
    """A view that takes a lost node for a fenced one."""

    def __init__(self, view) -> None:  # type: ignore[no-untyped-def]
        self._view = view

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self._view, "is_lost" if name == "is_fenced" else name)


@mutant
def leaves_the_master_where_it_was(patch: pytest.MonkeyPatch) -> None:
    """A lost master is not moved."""
    patch.setattr(master, "_target", lambda *args: None)
