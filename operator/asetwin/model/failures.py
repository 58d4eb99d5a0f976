"""HardwareFailures: which are in force now, and what their status says (design 2, 4.1)."""

from collections.abc import Iterable
from dataclasses import dataclass

from asetwin.model.conditions import Conditions
from asetwin.model.references import Answer
from asetwin.resources.conditions import Reason
from asetwin.resources.devices import (
    FailureAction,
    FailurePhase,
    HardwareFailure,
    HardwareFailureStatus,
    Timing,
)


@dataclass(frozen=True, slots=True)
class InForce:
    """The failures of one node that count at this moment."""

    components: tuple[str, ...] = ()
    is_rebooting: bool = False
    names: tuple[str, ...] = ()
    expires: tuple[float, ...] = ()
    """When each of them that ends by itself will end."""


def started_at(one: HardwareFailure, now: float) -> float:
    """Since when it is in force: when the operator first saw it."""
    return now if one.status.started_at is None else one.status.started_at


def expires_at(one: HardwareFailure, timing: Timing, now: float) -> float | None:
    """When it ends by itself; None: when it is deleted.

    Without ``durationSeconds`` a reboot takes ``timing.rebootSeconds``.
    """
    duration = one.spec.duration_seconds
    if duration is None and one.spec.action is FailureAction.REBOOT:
        duration = timing.seconds("reboot")
    return None if duration is None else started_at(one, now) + duration


def in_force(failures: Iterable[HardwareFailure], timing: Timing, now: float) -> InForce:
    """The failures of one node that count now; a deleted or expired one is a repair."""
    components: list[str] = []
    names: list[str] = []
    expires: list[float] = []
    is_rebooting = False
    for one in failures:
        end = expires_at(one, timing, now)
        if one.is_deleting or (end is not None and end <= now):
            continue
        if end is not None:
            expires.append(end)
        names.append(one.name)
        if one.spec.action is FailureAction.REBOOT:
            is_rebooting = True
        else:
            components.append(one.spec.component)
    return InForce(tuple(components), is_rebooting, tuple(names), tuple(expires))


def rejected(one: HardwareFailure, answer: Answer, now: float) -> HardwareFailureStatus:
    """The status of a failure that names something that is not there."""
    conditions = Conditions(one.status.conditions, one.metadata.generation, now)
    conditions.set("Accepted", False, answer.reason, answer.message)
    return HardwareFailureStatus(
        observed_generation=one.metadata.generation,
        phase=FailurePhase.REJECTED,
        summary=answer.message,
        conditions=conditions.result(),
    )


def report(
    one: HardwareFailure, timing: Timing, *, effect: str, proof: str | None, now: float
) -> HardwareFailureStatus:
    """The status of an accepted failure.

    ``effect`` says in words what it does to its node; ``proof`` what shows
    that it was really done, None while that is still awaited.
    """
    start, end = started_at(one, now), expires_at(one, timing, now)
    is_over = end is not None and end <= now
    conditions = Conditions(one.status.conditions, one.metadata.generation, now)
    conditions.set(
        "Accepted", True, Reason.ACCEPTED, f"{one.spec.component} of AseNode {one.spec.node}"
    )
    if is_over:
        phase, summary = FailurePhase.EXPIRED, "over; delete it whenever you like"
        conditions.set("Injected", False, Reason.EXPIRED, summary)
    elif proof is None:
        phase, summary = FailurePhase.PENDING, effect
        conditions.set("Injected", False, Reason.POWER_PENDING, f"{effect}; waiting for its proof")
    else:
        phase, summary = FailurePhase.ACTIVE, effect
        conditions.set("Injected", True, Reason.INJECTED, proof)
    return HardwareFailureStatus(
        observed_generation=one.metadata.generation,
        phase=phase,
        summary=summary,
        started_at=start,
        expires_at=end,
        proof=proof or one.status.proof,
        conditions=conditions.result(),
    )
