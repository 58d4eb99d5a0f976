"""Slips about when the quotas limit something."""

from collections.abc import Callable
from typing import cast

import pytest

from asetwin.model.facts import Facts
from asetwin.resources.devices import FailoverPhase
from sim.mutants import mutant


@mutant
def does_not_lift_the_quota(patch: pytest.MonkeyPatch) -> None:
    """The reserve stays in force during a failover."""
    patch.setattr(Facts, "lifted_for", "")


@mutant
def lifts_the_quota_late(patch: pytest.MonkeyPatch) -> None:
    """The quotas are lifted only when the pods are being moved already."""
    lifted = _right()

    def wrong(facts):  # type: ignore[no-untyped-def]
        record = facts.record
        is_early = record is not None and record.evacuated_at is None
        return "" if is_early else lifted(facts)

    patch.setattr(Facts, "lifted_for", property(wrong))


@mutant
def restores_the_quota_early(patch: pytest.MonkeyPatch) -> None:
    """The reserve is in force again when the pods are Ready, with a node still out."""
    lifted = _right()

    def wrong(facts):  # type: ignore[no-untyped-def]
        record = facts.record
        has_recovered = record is not None and record.phase is FailoverPhase.RECOVERED
        return "" if has_recovered else lifted(facts)

    patch.setattr(Facts, "lifted_for", property(wrong))


@mutant
def never_restores_the_quota(patch: pytest.MonkeyPatch) -> None:
    """Once lifted, the reserve stays lifted."""
    lifted = _right()

    def wrong(facts):  # type: ignore[no-untyped-def]
        history = facts.device.status.history
        return lifted(facts) or (history[0].id if history else "")

    patch.setattr(Facts, "lifted_for", property(wrong))


def _right() -> Callable[[Facts], str]:
    found = vars(Facts)["lifted_for"].fget
    assert callable(found)
    return cast(Callable[[Facts], str], found)
