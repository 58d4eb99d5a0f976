"""One device node: lost or not, fenced or not, in service or on its way back (4.3, 4.4, 4.6)."""

from dataclasses import dataclass, replace

from asetwin import constants
from asetwin.model import failures, hardware, marks, power, quarantine
from asetwin.model.conditions import Conditions
from asetwin.model.leaves import Leave
from asetwin.model.references import Member
from asetwin.resources import conditions as conditions_of
from asetwin.resources.conditions import Condition, Reason
from asetwin.resources.core import Node
from asetwin.resources.devices import (
    AseDevice,
    KubeletRestart,
    NodeState,
    PinnedWorkerStatus,
    Power,
    PowerState,
    Timing,
)
from asetwin.resources.updates import Stage

NO_AGENT = power.Agent()
NO_LEAVE = Leave("", Stage.PENDING)


@dataclass(frozen=True, slots=True)
class View:
    """What is true of one device node now."""

    member: Member
    node: Node | None
    failure: failures.InForce
    verdict: hardware.Verdict
    state: NodeState
    judged: power.Judgement
    agent: power.Agent
    record: quarantine.Record
    is_out: bool
    """Whether our cordon or taints are on its Node."""
    returns_at: float | None
    """When a healthy node that is still out will be taken back."""
    conditions: tuple[Condition, ...]
    summary: str
    leave: Leave | None = None
    """What an update asks of it."""

    @property
    def name(self) -> str:
        """The AseNode's name."""
        return self.member.ase_node.name

    @property
    def is_lost(self) -> bool:
        """Whether the node counts as gone."""
        return self.judged.is_lost

    @property
    def is_held_out(self) -> bool:
        """Whether an update keeps it out of service, healthy or not."""
        return self.leave is not None and self.leave.is_out

    @property
    def is_fenced(self) -> bool:
        """Whether it is proven that nothing runs there any more."""
        return self.judged.is_lost and self.judged.is_fenced

    @property
    def fence(self) -> str:
        """What shows that nothing runs there any more; empty where it is not fenced."""
        worker = self.member.worker
        seen = worker.status.power if worker is not None else None
        if not self.is_fenced:
            return ""
        if self.judged.is_assumed:
            return "taken for off without proof (fencing: BestEffort)"
        if seen is None or seen.method == power.SIMULATED or not seen.proof:
            return "power is simulated"
        return seen.proof[:300]

    @property
    def is_waiting(self) -> bool:
        """Whether something is under way that no watch event tells of: a heartbeat, a proof."""
        worker = self.member.worker
        seen = worker.status.power if worker is not None else None
        is_settled = seen is not None and seen.observed is self.judged.desired
        ready = conditions_of.is_true(self.conditions, "WorkerReady")
        return worker is not None and (not is_settled or (not self.is_lost and not ready))

    @property
    def in_service(self) -> bool:
        """Whether workloads may land on it and be expected to run there."""
        return self.state is NodeState.UP

    @property
    def is_voting(self) -> bool:
        """Whether its machine takes part in the infrastructure cluster."""
        return not self.is_lost

    @property
    def gpus(self) -> int:
        """How many GPUs it offers: what the worker has, less what failed."""
        worker = self.member.worker
        has = self.member.ase_node.spec.hardware.gpus
        if worker is not None and worker.spec.gpus is not None:
            has = min(has, worker.spec.gpus)
        return max(0, has - self.verdict.failed_gpus)

    @property
    def place(self) -> Node | None:
        """Its Node as pods will find it: a GPU that has just failed is still offered by it."""
        node = self.node
        mark = marks.read(node) if node is not None else None
        is_ours = mark is not None and mark.device == self.member.ase_node.spec.device
        if node is None or mark is None or not is_ours or mark.gpus is None:
            return node
        if node.allocatable.get(constants.GPU_RESOURCE, 0) <= self.gpus:
            return node
        return replace(node, allocatable={**node.allocatable, constants.GPU_RESOURCE: self.gpus})


def view(
    member: Member,
    node: Node | None,
    device: AseDevice,
    now: float,
    *,
    agent: power.Agent = NO_AGENT,
    heartbeat: power.Heartbeat | None = None,
    is_evacuated: bool = True,
    leave: Leave | None = None,
) -> View:
    """Judge one device node from its failures, its power, its kubelet and its Node."""
    timing, ase_node = device.spec.timing, member.ase_node
    failure = failures.in_force(member.failures, timing, now)
    verdict = hardware.judge(failure.components, ase_node.spec.hardware)
    is_out = node is not None and marks.is_out_of_service(node, device.name)
    asked = leave or NO_LEAVE
    planned = asked if asked.is_off and not verdict.is_lost and not failure.is_rebooting else None
    # To the power it is a reboot like that of a failure.
    reboot = replace(failure, is_rebooting=failure.is_rebooting or asked.is_off)
    judged = power.Judgement(is_intended=verdict.is_lost or reboot.is_rebooting)
    if member.worker is not None:
        judged = power.judge(
            member.worker,
            verdict,
            reboot,
            device,
            agent=agent,
            # A kubelet that restarts is late without being dead.
            heartbeat=None if asked.is_restarting else heartbeat,
            is_evacuated=is_evacuated,
            is_out=is_out,
            was_suspect=_is_suspected(ase_node.status.conditions),
            now=now,
        )
    conditions = Conditions(ase_node.status.conditions, ase_node.metadata.generation, now)
    _set_hardware(conditions, verdict, f"in slot {ase_node.spec.slot} of {device.name}")
    available = _set_available(conditions, member, judged, verdict, failure, planned)
    is_stale = heartbeat is not None and _is_stale(heartbeat, member, now, is_out=is_out)
    ready = _set_worker_ready(conditions, member, node, heartbeat, now, is_stale=is_stale)
    record = quarantine.record(
        device, ase_node, member.worker, judged, now, is_out=is_out, is_planned=planned is not None
    )
    quarantined = _set_quarantined(conditions, record, device)
    may_return = is_out and not asked.is_out
    returns_at = _stable_at(available, ready, record, timing, now) if may_return else None
    state = _state(member, node, failure, verdict, judged, asked, is_out=is_out)
    if state is NodeState.RETURNING and record.is_quarantined:
        state, returns_at = NodeState.QUARANTINED, None
    why = verdict.summary or judged.waits_for or _loss_words(member, judged, failure)
    if state is NodeState.QUARANTINED:
        why = quarantined.message
    elif state in (NodeState.UPDATING, NodeState.RETURNING):
        why = judged.waits_for or asked.words or _loss_words(member, judged, failure)
    summary = _set_in_service(conditions, state, node, stable=timing.seconds("stable"), why=why)
    return View(
        member=member,
        node=node,
        failure=failure,
        verdict=verdict,
        judged=judged,
        agent=agent,
        record=record,
        state=state,
        is_out=is_out,
        returns_at=returns_at,
        conditions=conditions.result(),
        summary=summary,
        leave=leave,
    )


def _is_suspected(conditions: tuple[Condition, ...]) -> bool:
    found = conditions_of.find(conditions, "Available")
    return found is not None and found.reason == Reason.SUSPECTED


def _stable_at(
    available: Condition, ready: Condition, record: quarantine.Record, timing: Timing, now: float
) -> float | None:
    """When a node has been healthy for long enough; None where it is not healthy."""
    if available.status != "True" or ready.status != "True":
        return None
    since = max(available.last_transition_time, ready.last_transition_time)
    # Nobody may have been there to see that it was off meanwhile; its start is on record. One that
    # lies ahead was told by a clock that has been set since.
    if record.booted_at is not None and record.booted_at <= now:
        since = max(since, record.booted_at)
    return since + timing.seconds("stable")


def _loss_words(member: Member, judged: power.Judgement, failure: failures.InForce) -> str:
    """Why a node is lost although no component has failed; empty where it is not lost."""
    if not judged.is_lost:
        return ""
    if failure.is_rebooting:
        return "rebooting"
    if judged.is_coming_on:
        return "being switched on"
    seen = member.worker.status.power if member.worker else None
    if judged.is_assumed:
        return "silent, and taken for off without proof"
    return (seen and seen.proof) or "its worker VM is off"


def worker_status(one: View, now: float) -> PinnedWorkerStatus | None:
    """The status of the node's PinnedWorker; None where it has none."""
    worker = one.member.worker
    if worker is None:
        return None
    after = _next_power(one, worker.status.power or Power(), now)
    conditions = Conditions(worker.status.conditions, worker.metadata.generation, now)
    conditions.set(
        "Accepted",
        True,
        Reason.ACCEPTED,
        f"Node {worker.spec.node_name} is the worker VM of AseNode {one.name}",
    )
    how = (after.method or "power agent").lower()
    if one.judged.is_contradicted:
        conditions.set("PowerSettled", False, Reason.POWER_CONTRADICTED, one.judged.waits_for)
    elif one.judged.waits_for:
        conditions.set("PowerSettled", False, Reason.WAITING_FOR_PROOF, one.judged.waits_for)
    elif after.observed is after.desired:
        text = f"{after.desired.value} ({how})"
        conditions.set("PowerSettled", True, Reason.POWER_AS_DESIRED, text)
    else:
        text = f"{after.observed.value}, to be {after.desired.value} ({how})"
        conditions.set("PowerSettled", False, Reason.POWER_PENDING, text)
    return PinnedWorkerStatus(
        observed_generation=worker.metadata.generation,
        summary=f"Node {worker.spec.node_name}, power {after.observed.value} ({how})",
        power=after,
        kubelet=_kubelet(one, worker.status.kubelet),
        version=worker.status.version,
        address=(one.node.address if one.node is not None else "") or None,
        gpus=one.gpus,
        conditions=conditions.result(),
    )


def _kubelet(one: View, before: KubeletRestart | None) -> KubeletRestart | None:
    """The restart that is asked for; what was done is the power agent's to say."""
    if one.leave is None or not one.leave.is_restarting or not one.agent.is_installed:
        return before
    return (before or KubeletRestart()).model_copy(update={"asked": one.leave.token})


def _next_power(one: View, before: Power, now: float) -> Power:
    """Power as our status write leaves it: with an agent, what it observes is its own."""
    desired = one.judged.desired
    if one.agent.is_installed:
        return before.model_copy(update={"desired": desired})
    observed = desired
    if one.judged.is_suspect:
        observed = PowerState.UNKNOWN
    observed_at = now if before.observed is not observed else before.observed_at
    # What an agent that has left in order found out stays: its successor tells by the proof
    # whether the machine stands still by our hand, and starts it only then.
    return before.model_copy(
        update={
            "desired": desired,
            "observed": observed,
            "observed_at": observed_at,
            "method": power.SIMULATED,
        }
    )


def _set_hardware(conditions: Conditions, verdict: hardware.Verdict, place: str) -> None:
    conditions.set("Accepted", True, Reason.ACCEPTED, place)
    if verdict.failed:
        conditions.set("HardwareHealthy", False, Reason.COMPONENT_FAILED, verdict.summary)
    else:
        conditions.set("HardwareHealthy", True, Reason.COMPONENTS_WORK, "every component works")


def _set_available(
    conditions: Conditions,
    member: Member,
    judged: power.Judgement,
    verdict: hardware.Verdict,
    failure: failures.InForce,
    planned: Leave | None,
) -> Condition:
    if judged.is_lost and planned is not None:
        return conditions.set("Available", False, Reason.UPDATING, planned.words)
    if judged.is_lost:
        why = verdict.summary or _loss_words(member, judged, failure)
        reason = Reason.COMPONENT_FAILED if judged.is_intended else Reason.POWER_LOST
        return conditions.set("Available", False, reason, why)
    if judged.is_suspect:
        return conditions.set("Available", None, Reason.SUSPECTED, judged.waits_for)
    return conditions.set("Available", True, Reason.COMPONENTS_WORK, "powered and connected")


def _set_worker_ready(
    conditions: Conditions,
    member: Member,
    node: Node | None,
    heartbeat: power.Heartbeat | None,
    now: float,
    *,
    is_stale: bool,
) -> Condition:
    if node is None or member.worker is None:
        return conditions.set(
            "WorkerReady", None, Reason.NO_WORKER, "no accepted PinnedWorker names this AseNode"
        )
    if heartbeat is not None and is_stale:
        # The Ready condition of a Node that went off stays True for a while: the Lease is faster.
        text = f"the kubelet of {node.name} has not been heard since it was started"
        if now >= heartbeat.suspect_at:
            text = f"the kubelet of {node.name} is silent"
        return conditions.set("WorkerReady", False, Reason.NODE_NOT_READY, text)
    if node.is_ready:
        return conditions.set("WorkerReady", True, Reason.NODE_READY, f"Node {node.name} is Ready")
    return conditions.set(
        "WorkerReady", False, Reason.NODE_NOT_READY, f"Node {node.name} is not Ready"
    )


def _is_stale(heartbeat: power.Heartbeat, member: Member, now: float, *, is_out: bool) -> bool:
    observed = (member.worker.status.power if member.worker else None) or Power()
    since = power.came_on_at(observed, is_out=is_out)
    return heartbeat.is_silent(now) or (since is not None and heartbeat.seen_at < since)


def _set_quarantined(
    conditions: Conditions, record: quarantine.Record, device: AseDevice
) -> Condition:
    limit, window = device.spec.quarantine.failures, device.spec.quarantine.window_seconds
    text = f"failures in {window} s: {len(record.failures)}, allowed: {limit}"
    if record.is_quarantined:
        text += "; set spec.failuresForgivenUntil to now to take it back into service"
        return conditions.set("Quarantined", True, Reason.TOO_MANY_FAILURES, text)
    return conditions.set("Quarantined", False, Reason.FEW_FAILURES, text)


def _state(
    member: Member,
    node: Node | None,
    failure: failures.InForce,
    verdict: hardware.Verdict,
    judged: power.Judgement,
    asked: Leave,
    *,
    is_out: bool,
) -> NodeState:
    if member.worker is None or node is None:
        return NodeState.UNKNOWN
    if judged.is_lost and asked.is_off and not verdict.is_lost and not failure.is_rebooting:
        return NodeState.UPDATING
    if judged.is_lost:
        if failure.is_rebooting and not verdict.is_lost:
            return NodeState.REBOOTING
        if judged.is_coming_on and not judged.is_intended:
            return NodeState.RETURNING
        is_isolated = verdict.power is PowerState.ISOLATED and not judged.is_off
        return NodeState.ISOLATED if is_isolated else NodeState.DOWN
    if judged.is_suspect:
        return NodeState.ISOLATED
    if asked.is_out:
        return NodeState.UPDATING
    if is_out:
        return NodeState.RETURNING
    return NodeState.UP if node.is_ready else NodeState.UNKNOWN


def _set_in_service(
    conditions: Conditions, state: NodeState, node: Node | None, *, stable: int, why: str
) -> str:
    """Set InService, and answer with the node's one-line summary."""
    if state is NodeState.RETURNING and why:
        conditions.set("InService", False, Reason.RETURNING, why)
        return why
    if state is NodeState.RETURNING:
        text = f"back; taken into service when healthy for {stable} s"
        conditions.set("InService", False, Reason.RETURNING, text)
        return text
    if state is not NodeState.UP or node is None:
        text = why or ("no accepted worker" if node is None else f"state is {state.value}")
        conditions.set("InService", False, Reason.OUT_OF_SERVICE, text)
        return text
    if marks.has_foreign_cordon(node):
        text = f"Node {node.name} was cordoned by someone else; asetwin leaves that alone"
        conditions.set("InService", False, Reason.FOREIGN_CORDON, text)
        return f"{why}; {text}" if why else text
    conditions.set("InService", True, Reason.IN_SERVICE, "workloads may run here")
    return why or "healthy"
