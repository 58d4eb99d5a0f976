"""Is a worker VM off, and should it be: facts, suspicion and fencing (design 4.3).

Three sources say that a node may be lost. A HardwareFailure is an intent:
the power is taken away because somebody asked for it. The power agent's
``observed: Off`` is a fact, and the proof that nothing runs there any more. A
kubelet whose Lease is silent is a suspicion only: the worker may be alive and
writing, so its power is taken away first, and nothing else is done before the
agent has seen it go.

Without a power agent (no Lease of its) power is simulated: what is desired
because of an intent counts as observed. A suspicion can then never be proven,
and waits, unless ``fencing: BestEffort`` lets it end after a time-out.
"""

import math
from dataclasses import dataclass

from asetwin import constants
from asetwin.model.failures import InForce
from asetwin.model.hardware import Verdict
from asetwin.model.plan import Recheck
from asetwin.model.snapshot import Snapshot
from asetwin.resources import times
from asetwin.resources.devices import AseDevice, PinnedWorker, Power, PowerState

AGENT_LEASE = "asetwin-power-agent"
AGENT_SILENT_SECONDS = 10.0
"""The agent renews its Lease every two seconds."""
SIMULATED = "Simulated"
STOPPED_BY_US = "stopped by asetwin"
"""In the agent's proof: the run that began at ``startedAt`` ends, or has ended, by its own hand,
and it starts the machine again when On is desired."""
BOOT_SECONDS = 60.0
"""How long a machine may take from its start to its kubelet's first heartbeat."""
CONTRADICTION_SECONDS = 2.0
"""A heartbeat seen this much later than "Off" says that the agent is wrong."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The power agent as its Lease shows it."""

    is_installed: bool = False
    is_alive: bool = False
    fades_at: float | None = None
    """When it will count as silent unless it renews."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The kubelet's Lease: when we last saw it change, and after how long it counts as silent."""

    seen_at: float
    timeout: float
    is_blind: bool = False
    """Whether no Lease at all is fresh, so that it is we who do not see."""
    is_heard: bool = True
    """Whether we saw it change; one that was only found may be of a kubelet long dead."""
    counts_from: float = 0.0
    """From when its silence counts, where since then we had heard nobody for a while."""
    told_at: float = 0.0
    """When it was renewed by the kubelet's own clock; for one that was only found."""
    known_until: float = math.inf
    """Until when we know that it is silent: some time after any kubelet was heard last."""

    @property
    def suspect_at(self) -> float:
        """When its silence has lasted for too long."""
        return max(self.seen_at, self.counts_from) + self.timeout

    def is_silent(self, now: float) -> bool:
        """Whether the kubelet is under suspicion."""
        return not self.is_blind and min(now, self.known_until) >= self.suspect_at


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a worker's power, and what it should be."""

    desired: PowerState = PowerState.ON
    is_intended: bool = False
    is_off: bool = False
    """Proven: nothing runs there any more."""
    is_suspect: bool = False
    """Silent or cut off without an intent, and not proven to be off."""
    is_assumed: bool = False
    """Taken for off without proof (``fencing: BestEffort`` and no agent)."""
    is_contradicted: bool = False
    is_coming_on: bool = False
    """Off, but about to be switched on: its pods are not to be taken away any more."""
    waits_for: str = ""
    wake_at: float | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the node counts as gone."""
        return self.is_intended or self.is_off or self.is_assumed

    @property
    def is_fenced(self) -> bool:
        """Whether its pods may be taken away."""
        return (self.is_off and not self.is_coming_on) or self.is_assumed


def find_agent(snapshot: Snapshot, now: float) -> Agent:
    """The power agent, if one is installed; one that has left in order is not."""
    key = f"{constants.SYSTEM_NAMESPACE}/{AGENT_LEASE}"
    is_installed = any(
        f"{one.namespace}/{one.name}" == key and one.holder for one in snapshot.leases
    )
    if not is_installed:
        return Agent()
    fades_at = snapshot.renewed.get(key, now) + AGENT_SILENT_SECONDS
    return Agent(True, now < fades_at, fades_at)


def find_heartbeat(snapshot: Snapshot, node: str, device: AseDevice) -> Heartbeat | None:
    """The kubelet's heartbeat; None where there is no Lease to judge by."""
    lease = next(
        (
            one
            for one in snapshot.leases
            if one.namespace == constants.LEASE_NAMESPACE and one.name == node
        ),
        None,
    )
    seen_at = snapshot.renewed.get(f"{constants.LEASE_NAMESPACE}/{node}")
    if lease is None or seen_at is None:
        return None
    # kubelets renew four times in a Lease's duration; one that was set up to renew rarely must
    # not be suspected for it.
    timeout = max(float(device.spec.timing.seconds("heartbeat_timeout")), 0.75 * lease.duration)
    freshest = max(
        (at for key, at in snapshot.renewed.items() if key.startswith(constants.LEASE_NAMESPACE)),
        default=seen_at,
    )
    # If even the newest heartbeat of all is old, the watch or the API server is slow, not a node.
    is_blind = freshest - seen_at < timeout / 2
    is_heard = f"{constants.LEASE_NAMESPACE}/{node}" not in snapshot.unheard
    told_at = 0.0 if is_heard else _read_time(lease.renewals)
    counts_from = seen_at
    for gap in snapshot.gaps:
        # A short one makes nobody late who was not. And who had been silent for too long before
        # we heard nobody does not get its time anew.
        is_long = gap.until - gap.since > timeout / 2
        if is_long and counts_from < gap.until and gap.since < counts_from + timeout:
            counts_from = gap.until
    known_until = freshest + lease.duration / 2
    return Heartbeat(seen_at, timeout, is_blind, is_heard, counts_from, told_at, known_until)


def _read_time(text: str) -> float:
    try:
        return times.parse(text)
    except ValueError:
        # A Lease that nobody has renewed yet.
        return 0.0


def judge(
    worker: PinnedWorker,
    verdict: Verdict,
    failure: InForce,
    device: AseDevice,
    *,
    agent: Agent,
    heartbeat: Heartbeat | None,
    is_evacuated: bool,
    is_out: bool = False,
    was_suspect: bool = False,
    now: float,
) -> Judgement:
    """Decide on one worker's power.

    ``is_evacuated``: whether a fenced node has nothing left that could be
    taken away, so that its power may come back. ``is_out``: whether its Node
    is out of service by our hand. ``was_suspect``: whether the last turn had it
    under suspicion.
    """
    power = worker.status.power or Power()
    is_real = agent.is_installed
    is_intended = verdict.is_lost or failure.is_rebooting
    contradicted = is_real and _is_contradicted(power, heartbeat, now)
    is_off = power.observed is PowerState.OFF and not contradicted
    if not is_real and not is_intended:
        # Simulated power follows in this very turn: what is still seen as off is on.
        is_off = False
    is_silent = _is_silent(power, heartbeat, now, is_out=is_out)
    is_cut_off = _is_being_cut_off(power, agent, was_suspect=was_suspect)
    is_suspect = not is_intended and not is_off and (is_silent or is_cut_off)
    is_assumed, waits_for, wake_at = False, "", None
    if is_suspect:
        silent = heartbeat if is_silent else None
        is_assumed, waits_for, wake_at = _await_proof(worker, device, agent, silent, now)
    elif is_intended and not is_off and is_real and not agent.is_alive:
        waits_for = _wait_words(worker, agent, device)
    elif heartbeat is not None and not is_intended and not is_off:
        wake_at = heartbeat.suspect_at
    if contradicted and heartbeat is not None:
        wake_at = heartbeat.seen_at + heartbeat.timeout
        waits_for = (
            f"the power agent says that {worker.spec.node_name} is off, but its kubelet is alive"
        )
    desired = _desired(
        power,
        verdict,
        failure,
        is_real=is_real,
        is_intended=is_intended,
        is_off=is_off,
        is_suspect=is_suspect and agent.is_alive,
        is_evacuated=is_evacuated,
    )
    if device.spec.paused:
        # Hands off means off the power, too.
        desired = power.desired
    is_ours = STOPPED_BY_US in (power.proof or "")
    return Judgement(
        desired=desired,
        is_intended=is_intended,
        is_off=is_off,
        is_suspect=is_suspect,
        is_assumed=is_assumed,
        is_contradicted=contradicted,
        is_coming_on=is_off and is_ours and desired is PowerState.ON,
        waits_for=waits_for,
        wake_at=wake_at,
    )


def _is_silent(power: Power, heartbeat: Heartbeat | None, now: float, *, is_out: bool) -> bool:
    if heartbeat is None or not heartbeat.is_silent(now):
        return False
    return not is_booting(power, heartbeat, now, is_out=is_out)


def _is_being_cut_off(power: Power, agent: Agent, *, was_suspect: bool) -> bool:
    """Whether a machine is off the network, or its power is being taken on suspicion.

    A fence once begun is finished: to kill a frozen machine it is thawed, and
    its kubelet may say a last word. Taken for alive then, it would be switched
    on again with its pods lost.
    """
    is_being_fenced = was_suspect and agent.is_alive and power.desired is PowerState.OFF
    return is_being_fenced or (agent.is_installed and power.observed is PowerState.ISOLATED)


def _await_proof(
    worker: PinnedWorker, device: AseDevice, agent: Agent, silent: Heartbeat | None, now: float
) -> tuple[bool, str, float | None]:
    """A suspicion: may it be acted on without proof, what is awaited, when to look again."""
    if agent.is_alive:
        return False, f"waiting for proof that {worker.spec.node_name} is off", None
    words = _wait_words(worker, agent, device)
    # An agent that is installed but silent comes back, and tells what it sees: only where there
    # is none will proof never come.
    if device.spec.fencing != "BestEffort" or silent is None or agent.is_installed:
        return False, words, None
    fencing_seconds = device.spec.timing.seconds("fencing_timeout")
    gives_up_at = silent.suspect_at + fencing_seconds
    if now >= gives_up_at:
        return True, "", None
    return False, words, gives_up_at


def came_on_at(power: Power, *, is_out: bool) -> float | None:
    """Since when a machine is on; None where it is not, or where power is simulated.

    A machine in service is on since it was started: the first look of an agent
    that was installed later is no start. One that is out may also have had its
    network back since then, which only the observation tells.
    """
    if power.method == SIMULATED or power.observed is not PowerState.ON:
        return None
    return (None if is_out else power.started_at) or power.observed_at


def is_booting(power: Power, heartbeat: Heartbeat, now: float, *, is_out: bool) -> bool:
    """Whether a machine was switched on and its kubelet has not been heard since.

    That is no silence yet: without this a node that comes back would be
    fenced again before it could say a word.
    """
    since = came_on_at(power, is_out=is_out)
    return since is not None and heartbeat.seen_at < since and now - since < BOOT_SECONDS


def given_back(power: Power) -> Power:
    """The power of a worker that is no device's any more: it gets back what was taken."""
    changes: dict[str, object] = {"desired": PowerState.ON}
    if power.method == SIMULATED:
        changes["observed"] = PowerState.ON
    return power.model_copy(update=changes)


def is_proven_off(worker: PinnedWorker) -> bool:
    """Whether a power agent has seen that nothing runs on the worker any more."""
    seen = worker.status.power
    return seen is not None and seen.observed is PowerState.OFF and seen.method != SIMULATED


def rechecks(worker: PinnedWorker) -> tuple[Recheck, Recheck]:
    """What proves a worker off, to be read once more before anything is taken from it for good."""
    node = worker.spec.node_name
    lease = Recheck("leases", node, constants.LEASE_NAMESPACE)
    seen = PowerState.OFF.value if is_proven_off(worker) else ""
    return Recheck("pinnedworkers", worker.name, power=seen), lease


def is_owed(power: Power) -> bool:
    """Whether the power agent has taken something from the machine that it can give back.

    One that a person has stopped is not ours to start.
    """
    is_stopped_by_us = power.observed is PowerState.OFF and STOPPED_BY_US in (power.proof or "")
    is_real = power.method not in (None, SIMULATED)
    return is_real and (is_stopped_by_us or power.observed is PowerState.ISOLATED)


def _is_contradicted(power: Power, heartbeat: Heartbeat | None, now: float) -> bool:
    """Whether a kubelet was heard after the agent had seen its machine off.

    A Lease that we saw change says so, as long as it goes on changing: a renewal
    from before the end may have reached us late. One that we only found, as
    after our own start, says so by the kubelet's clock, until it should have
    changed under our eyes.
    """
    if power.observed is not PowerState.OFF or power.method == SIMULATED or heartbeat is None:
        return False
    last = heartbeat.seen_at if heartbeat.is_heard else heartbeat.told_at
    is_later = last > (power.observed_at or 0.0) + CONTRADICTION_SECONDS
    return is_later and now < heartbeat.seen_at + heartbeat.timeout


def _desired(
    power: Power,
    verdict: Verdict,
    failure: InForce,
    *,
    is_real: bool,
    is_intended: bool,
    is_off: bool,
    is_suspect: bool,
    is_evacuated: bool,
) -> PowerState:
    if is_intended:
        # The failure itself first, then the fence: the network goes, then the power.
        is_cut = power.observed in (PowerState.ISOLATED, PowerState.OFF)
        starts_isolated = verdict.power is PowerState.ISOLATED and not failure.is_rebooting
        return PowerState.ISOLATED if starts_isolated and is_real and not is_cut else PowerState.OFF
    if is_suspect:
        return PowerState.OFF
    # Fenced on suspicion: the power comes back when there is nothing left to take away. After a
    # repaired failure the same holds, so that a pod is never removed from a node that runs again.
    holds = power.desired is PowerState.OFF and is_off and is_real and not is_evacuated
    return PowerState.OFF if holds else PowerState.ON


def _wait_words(worker: PinnedWorker, agent: Agent, device: AseDevice) -> str:
    who = "the power agent is silent" if agent.is_installed else "there is no power agent"
    text = f"waiting for proof that {worker.spec.node_name} is off: {who}"
    if device.spec.fencing == "BestEffort" and not agent.is_installed:
        text += f"; taken for off after {device.spec.timing.seconds('fencing_timeout')} s"
    return text
