"""A node that fails too often stays out until a person takes it back (design 4.6).

Source: Windows Server failover clustering quarantines a node that leaves the
cluster too often in an hour. The failures are remembered in the AseNode's
status; a person forgives them with ``spec.failuresForgivenUntil``.
"""

from dataclasses import dataclass

from asetwin.model.power import Judgement
from asetwin.resources import conditions
from asetwin.resources.devices import AseDevice, AseNode, PinnedWorker

REMEMBERED = 10
RESTART_SECONDS = 0.5
"""Two start times this close are the same start, told with different precision."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a node's failures."""

    failures: tuple[float, ...] = ()
    is_quarantined: bool = False
    has_restarted: bool = False
    """Whether its machine has started anew without having been seen to go."""
    booted_at: float | None = None


def record(
    device: AseDevice,
    ase_node: AseNode,
    worker: PinnedWorker | None,
    judged: Judgement,
    now: float,
    *,
    is_out: bool = False,
    is_planned: bool = False,
) -> Record:
    """The failures that count now, this turn's included.

    ``is_planned``: it is off for an update, which is no failure.
    ``is_out``: our marks are on its Node, so it has not been back in service since the last one.
    """
    status, limits = ase_node.status, device.spec.quarantine
    before = conditions.find(status.conditions, "Available")
    # Unknown is a suspicion; one that proves true is a failure, if the node was up before it.
    was_suspect = before is not None and before.status == "Unknown" and not is_out
    was_available = was_suspect or conditions.is_true(status.conditions, "Available")
    power = worker.status.power if worker is not None else None
    started_at = power.started_at if power is not None else None
    booted_at = status.booted_at
    has_restarted = (
        was_available
        and not judged.is_lost
        and started_at is not None
        and booted_at is not None
        and started_at > booted_at + RESTART_SECONDS
    )
    failed = list(status.recent_failures)
    if (was_available and judged.is_lost and not is_planned) or has_restarted:
        failed.append(now)
    forgiven = ase_node.spec.failures_forgiven_until or 0.0
    was_quarantined = conditions.is_true(status.conditions, "Quarantined")
    # What put it into quarantine is kept while it is there: an hour alone does not heal it.
    horizon = 0.0 if was_quarantined else now - limits.window_seconds
    kept = tuple(at for at in failed if at > max(forgiven, horizon))[-REMEMBERED:]
    return Record(
        failures=kept,
        is_quarantined=len(kept) > limits.failures,
        has_restarted=has_restarted,
        booted_at=_boot(booted_at, started_at, judged),
    )


def _boot(booted_at: float | None, started_at: float | None, judged: Judgement) -> float | None:
    if judged.is_contradicted:
        # Some run that the agent has not seen: whatever it will see next is no second failure.
        return None
    return booted_at if judged.is_lost or started_at is None else started_at
