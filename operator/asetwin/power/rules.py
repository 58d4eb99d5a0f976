"""Desired power, a look at the machine, the last status → a command and the next status.

Pure. Called by :mod:`asetwin.power.agent` in every turn; it writes the status
first and carries out the command after, in this order for a reason:

A machine that the agent has stopped must be started again when On is desired,
one that a person has stopped must not be. Only the status can remember which
of the two it was, because the agent may die at any moment. So the intent to
stop is on record, with the start time of the run that is to end, before the
run ends. A run ends once: if the machine stands still, and the record of this
very run has the mark, the stop was ours, whoever looks and however late.
"""

from dataclasses import dataclass
from typing import Any

from asetwin.model.power import STOPPED_BY_US
from asetwin.power.drivers import Command, Machine, Network, Reading
from asetwin.resources import times
from asetwin.resources.devices import Power, PowerState

DETAIL_LIMIT = 640
TROUBLE_LIMIT = 320
"""Together with the mark within the 1024 characters of the field."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from one look."""

    observed: PowerState
    command: Command | None
    changes: dict[str, Any]
    """The agent's fields of ``status.power`` as a merge patch; empty if they are right."""


def judge(
    desired: PowerState,
    reading: Reading,
    last: Power,
    *,
    method: str,
    now: float,
    has_killed: bool = False,
    trouble: str = "",
) -> Verdict:
    """Decide.

    ``has_killed``: this very process has killed the machine since it last
    looked. ``trouble``: why the last command failed; goes into the proof as
    long as a command is due.
    """
    is_ours = has_killed or _is_our_stop(reading, last)
    command = _command(desired, reading, is_ours=is_ours)
    observed = _observed(reading)
    proof = _prove(desired, reading, is_ours=is_ours)
    if trouble and command is not None:
        proof = f"{proof}; {trouble[:TROUBLE_LIMIT]}"
    facts = {
        "observed": observed.value,
        "method": method,
        "proof": proof,
        # What cannot be seen now stays as it was: the mark in the proof belongs to that run.
        "startedAt": _moment(reading.started_at if _is_seen(reading) else last.started_at),
        "finishedAt": _moment(reading.finished_at if _is_seen(reading) else last.finished_at),
    }
    return Verdict(observed=observed, command=command, changes=_changes(facts, last, now))


def _command(desired: PowerState, reading: Reading, *, is_ours: bool) -> Command | None:
    machine, network = reading.machine, reading.network
    if desired is PowerState.OFF:
        is_alive = machine in (Machine.RUNNING, Machine.PAUSED, Machine.RESTARTING)
        return Command.KILL if is_alive else None
    if desired not in (PowerState.ON, PowerState.ISOLATED):
        return None
    if machine is Machine.STOPPED:
        return Command.START if is_ours else None
    if machine is not Machine.RUNNING:
        # Paused by somebody; or it will be something else when we look again.
        return None
    if desired is PowerState.ISOLATED:
        is_reachable = network not in (Network.CUT, Network.DETACHED)
        return Command.CUT if is_reachable else None
    return Command.RESTORE if network in (Network.CUT, Network.PARTLY_CUT) else None


def _observed(reading: Reading) -> PowerState:
    if reading.machine is Machine.STOPPED:
        return PowerState.OFF
    if reading.machine is not Machine.RUNNING:
        return PowerState.UNKNOWN
    if reading.network is Network.OPEN:
        return PowerState.ON
    is_cut_off = reading.network in (Network.CUT, Network.DETACHED)
    return PowerState.ISOLATED if is_cut_off else PowerState.UNKNOWN


def _is_seen(reading: Reading) -> bool:
    """Whether the reading speaks of a machine at all."""
    return reading.machine not in (Machine.MISSING, Machine.REFUSED, Machine.UNREACHABLE)


def _is_our_stop(reading: Reading, last: Power) -> bool:
    if STOPPED_BY_US not in (last.proof or ""):
        return False
    return not _is_seen(reading) or _moment(reading.started_at) == _moment(last.started_at)


def _prove(desired: PowerState, reading: Reading, *, is_ours: bool) -> str:
    detail = reading.detail[:DETAIL_LIMIT]
    if reading.machine is Machine.STOPPED:
        return f"{STOPPED_BY_US}: {detail}" if is_ours else detail
    if not _is_seen(reading):
        return f"{detail}; it was {STOPPED_BY_US}" if is_ours else detail
    return f"{detail}, to be {STOPPED_BY_US}" if desired is PowerState.OFF else detail


def _changes(facts: dict[str, Any], last: Power, now: float) -> dict[str, Any]:
    before = {
        "observed": last.observed.value,
        "method": last.method,
        "proof": last.proof,
        "startedAt": _moment(last.started_at),
        "finishedAt": _moment(last.finished_at),
    }
    if facts == before and last.observed_at is not None:
        return {}
    # The proof may say the same in other words, and a run ends once, whatever the first account
    # of its end was: neither is a new observation.
    keys = ("observed", "method", "startedAt")
    is_new = last.observed_at is None or any(facts[key] != before[key] for key in keys)
    return facts | {"observedAt": _moment(now if is_new else last.observed_at)}


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else times.render(seconds)
