"""Slips about when to look again, and what to write."""

import pytest

from asetwin.model import plan, reports
from sim.mutants import mutant


@mutant
def forgets_to_ask_again(patch: pytest.MonkeyPatch) -> None:
    """No plan says when it wants to be asked again."""
    finish = plan.Draft.finish
    patch.setattr(plan.Draft, "finish", lambda draft: plan.Plan(finish(draft).stages))


@mutant
def writes_what_is_written_already(patch: pytest.MonkeyPatch) -> None:
    """Statuses are written in every turn."""

    def wrong(resource, status):  # type: ignore[no-untyped-def]
        step = plan.WriteStatus(
            reports.PLURALS[type(resource)], resource.name, {"seenAt": str(len(status.wire()))}
        )
        return [*write(resource, status), (step, (resource, status))]

    write = reports.write
    patch.setattr(reports, "write", wrong)
