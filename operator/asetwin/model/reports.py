"""The statuses of a device and of everything that points to it.

``state`` and ``summary`` are for people and are derived here from the same
facts as the conditions, in one place, at the end of a turn.
"""

from collections.abc import Sequence

from asetwin import constants
from asetwin.model import (
    evening,
    failover,
    failures,
    gpus,
    hardware,
    leaves,
    master,
    nodes,
    power,
    quorum,
    quotas,
    readiness,
    reserve,
    shares,
)
from asetwin.model.conditions import Conditions, merge_patch
from asetwin.model.facts import Facts
from asetwin.model.nodes import View
from asetwin.model.plan import WriteStatus
from asetwin.model.references import Answer, References
from asetwin.resources.conditions import Reason
from asetwin.resources.devices import (
    AseDevice,
    AseDeviceStatus,
    AseNode,
    AseNodeStatus,
    DeviceState,
    Failover,
    FailoverPhase,
    FailoverRecord,
    HardwareFailure,
    HardwareFailureStatus,
    MasterPhase,
    NodeState,
    PinnedWorker,
    PinnedWorkerStatus,
    PowerState,
    Rebalance,
    RebalanceOutcome,
    RebalanceRecord,
    ReserveRow,
    Resource,
    Wire,
)
from asetwin.resources.updates import (
    DeviceUpdate,
    DeviceUpdateStatus,
    Stage,
    UpdatePhase,
    UpdateType,
)

PLURALS: dict[type[Resource], str] = {
    AseDevice: "asedevices",
    AseNode: "asenodes",
    PinnedWorker: "pinnedworkers",
    HardwareFailure: "hardwarefailures",
    DeviceUpdate: "deviceupdates",
}


MESSAGE_LIMIT = 4000
"""Characters of a condition's message; the API allows some more."""
Written = list[tuple[WriteStatus, tuple[Resource, Wire]]]
"""Status writes, each with the object as it was and the status that it gets."""


def write(resource: Resource, status: Wire) -> Written:
    """The write that brings a status about; empty where it is so already."""
    before: Wire = resource.status  # type: ignore[attr-defined]
    # The usual case is none, and that is far cheaper to see than by what both look like in the API.
    changed = status.differs_from(before)
    if not changed:
        return []
    patch = merge_patch(before.wire(changed), status.wire(changed))
    if not patch:
        return []
    # NB: compare-and-set only for what two operators must not both advance; a PinnedWorker's
    # status has another writer, and its fields are disjoint from ours.
    is_memory = isinstance(resource, AseDevice | DeviceUpdate)
    version = resource.metadata.resource_version if is_memory else None
    step = WriteStatus(PLURALS[type(resource)], resource.name, patch, version)
    return [(step, (resource, status))]


def device_status(
    facts: Facts, moves: master.Verdict, limits: reserve.Verdict, offered: shares.Verdict
) -> AseDeviceStatus:
    device, record, history = facts.device, facts.record, facts.device.status.history
    if facts.closed is not None:
        history = failover.remember(device, facts.closed)
    conditions = Conditions(device.status.conditions, device.metadata.generation, facts.now)
    problems = _health(facts)
    state = _state(facts, problems)
    _set_available(conditions, facts)
    conditions.set(
        "Healthy",
        not problems,
        _health_reason(facts, problems),
        "; ".join(problems) or "all is well",
    )
    _set_reserve(conditions, facts, limits)
    conditions.set("SharesReady", offered.is_ready, offered.reason, offered.message)
    _set_master(conditions, facts, moves)
    _set_failover(conditions, record)
    _set_failover_ready(conditions, readiness.summarize(facts.if_lost))
    _set_rebalanced(conditions, facts, history)
    _set_gpus(conditions, facts)
    conditions.set(
        "Paused",
        facts.is_paused,
        Reason.PAUSED if facts.is_paused else Reason.ACTIVE,
        ", ".join(device.spec.paused) or "the operator acts on this device",
    )
    return AseDeviceStatus(
        observed_generation=device.metadata.generation,
        state=state,
        summary="; ".join(problems) or "all is well",
        votes=facts.votes,
        master=device.status.master if facts.is_paused else moves.status,
        reserve=reserve.status(device, facts.weighed),
        failover=record,
        rebalance=facts.even.memory,
        gpu_move=facts.lost_gpus.move,
        history=history,
        conditions=conditions.result(),
    )


def _health(facts: Facts) -> list[str]:
    """What needs a person's attention, worst first; empty where nothing does."""
    device, problems = facts.device, list[str]()
    if not facts.views:
        return ["no AseNode names this device"]
    names = [one.name for one in facts.views]
    if not quorum.is_reached(facts.votes):
        problems.append("no quorum: " + quorum.explain(facts.votes, names, device.spec.witness))
    if facts.lost_disks:
        problems.append("data disks failed on both nodes: storage is offline")
    for view in facts.views:
        is_fine = view.in_service and not view.verdict.failed
        if not is_fine:
            problems.append(f"{view.name} {view.state.value}: {view.summary}")
    if device.spec.witness.type != "None" and not device.spec.witness.online:
        problems.append("the witness is offline")
    return problems


def _health_reason(facts: Facts, problems: Sequence[str]) -> Reason:
    """The worst of what is wrong, in one word."""
    if not problems:
        return Reason.ALL_HEALTHY
    if not facts.views:
        return Reason.NO_NODES
    if any(view.verdict.failed for view in facts.views):
        return Reason.HARDWARE_FAILED
    is_witness_alone = all(view.in_service for view in facts.views)
    return Reason.WITNESS_OFFLINE if is_witness_alone else Reason.NODE_OUT


def _state(facts: Facts, problems: Sequence[str]) -> DeviceState:
    if facts.is_paused:
        return DeviceState.MAINTENANCE
    if not facts.views:
        return DeviceState.READY_TO_SETUP
    if not facts.has_quorum or all(one.is_lost for one in facts.views):
        return DeviceState.OFFLINE
    return DeviceState.NEEDS_ATTENTION if problems else DeviceState.ONLINE


def _set_available(conditions: Conditions, facts: Facts) -> None:
    names = [one.name for one in facts.views]
    votes = quorum.explain(facts.votes, names, facts.device.spec.witness)
    if not facts.views:
        conditions.set("Available", False, Reason.NO_NODES, "no AseNode names this device")
    elif not quorum.is_reached(facts.votes):
        conditions.set("Available", False, Reason.QUORUM_LOST, votes)
    elif facts.lost_disks:
        conditions.set(
            "Available", False, Reason.DATA_DISKS_LOST, "data disks failed on both nodes"
        )
    elif len(facts.views) == 1:
        conditions.set(
            "Available", True, Reason.SINGLE_NODE, "one node: there is nowhere to fail over to"
        )
    else:
        conditions.set("Available", True, Reason.QUORUM, votes)


def _set_reserve(conditions: Conditions, facts: Facts, limits: reserve.Verdict) -> None:
    excess = facts.weighed.excess
    if limits.foreign:
        text = (
            f"a ResourceQuota {constants.QUOTA_NAME} that is not ours is in "
            f"{', '.join(limits.foreign[:5])}; rename it and the reserve is kept there too"
        )
        conditions.set("ReserveKept", False, Reason.FOREIGN_OBJECT, text)
    elif limits.others:
        text = f"another device limits {', '.join(limits.others[:5])}; use namespaceSelector"
        conditions.set("ReserveKept", False, Reason.NAMESPACE_SHARED, text)
    elif facts.lifted_for:
        text = "lifted while pods move to another GPU"
        if facts.record is not None:
            text = f"lifted for failover {facts.record.id}"
            if facts.record.update is not None:
                text = f"lifted for update {facts.record.update}"
        elif facts.even.lifted_for:
            text = "lifted while pods move off the fuller node"
        elif facts.lost_gpus.move is None:
            text = f"lifted until {facts.held_out} takes pods again"
        conditions.set("ReserveKept", None, Reason.LIFTED, text)
    elif excess:
        text = reserve.excess_message(facts.weighed)
        conditions.set("ReserveKept", False, Reason.OVER_RESERVE, text)
    else:
        percent = facts.device.spec.reserve.percent
        text = f"requests are within {percent} % of the device"
        conditions.set("ReserveKept", True, Reason.WITHIN_RESERVE, text)


def _set_master(conditions: Conditions, facts: Facts, moves: master.Verdict) -> None:
    # While paused nothing is done to the master: it is what it was.
    status = facts.device.status.master if facts.is_paused else moves.status
    phase = status.phase if status is not None else MasterPhase.WAITING
    reason = {
        MasterPhase.SERVING: Reason.MASTER_SERVING,
        MasterPhase.BOOTING: Reason.MASTER_BOOTING,
        MasterPhase.WAITING: Reason.MASTER_WAITING,
    }[phase]
    text = "is left alone: the device is paused" if facts.is_paused else moves.message
    is_serving = phase is MasterPhase.SERVING
    conditions.set("MasterReady", is_serving, reason, f"the master {text}")


def _set_failover(conditions: Conditions, record: Failover | None) -> None:
    if record is None:
        conditions.set("FailedOver", False, Reason.NO_FAILOVER, "both nodes carry their own")
        return
    if record.update is not None:
        text = f"{record.from_node} has left for update {record.update}"
        conditions.set("FailedOver", False, Reason.PLANNED_LEAVE, text)
        return
    reason = {
        FailoverPhase.RECOVERED: Reason.RECOVERED,
        FailoverPhase.RECOVERED_IN_PART: Reason.RECOVERED_IN_PART,
    }.get(record.came_to, Reason.FAILING_OVER)
    text = (
        f"{record.from_node} to {record.to_node}: "
        f"{record.recovered} of {record.displaced} displaced pods are Ready"
    )
    if record.unplaceable_count:
        first = record.unplaceable[0]
        # No pod is there that could say it itself.
        why = f"Quota: {first.message}" if first.reason == quotas.REASON else first.reason
        text += f"; {record.unplaceable_count} have no place, as {first.pod} ({why})"
    if record.lost:
        text += f"; {record.lost} without a controller are lost, as {record.lost_pods[0]}"
    conditions.set("FailedOver", True, reason, text)


def _set_failover_ready(conditions: Conditions, verdict: readiness.Verdict | None) -> None:
    if verdict is not None:
        text = verdict.message[:MESSAGE_LIMIT]
        conditions.set("FailoverReady", verdict.is_ready, verdict.reason, text)


def _set_rebalanced(
    conditions: Conditions, facts: Facts, history: Sequence[FailoverRecord]
) -> None:
    """Whether the last return has shared the pods out; not there before the first one.

    Nor while a node is out: what was once even is not so any more.
    """
    record = facts.record
    if record is not None:
        told: Rebalance | RebalanceRecord | None = record.rebalance
        if told is not None and told.outcome is None:
            conditions.set("Rebalanced", False, Reason.REBALANCING, told.message)
    elif facts.even.memory is not None:
        told = facts.even.memory
        if told.outcome is None:
            conditions.set("Rebalanced", False, Reason.REBALANCING, told.message)
    else:
        told = history[0].rebalance if history else None
    if told is None or told.outcome is None:
        return
    reason = {
        RebalanceOutcome.BALANCED: Reason.BALANCED,
        RebalanceOutcome.BLOCKED: Reason.REBALANCE_BLOCKED,
        RebalanceOutcome.INTERRUPTED: Reason.REBALANCE_INTERRUPTED,
    }[told.outcome]
    is_even = told.outcome is RebalanceOutcome.BALANCED
    conditions.set("Rebalanced", is_even, reason, told.message)


def _set_gpus(conditions: Conditions, facts: Facts) -> None:
    verdict = facts.lost_gpus
    reason = Reason.GPUS_SUFFICE
    if verdict.stranded:
        reason = Reason.GPU
    elif verdict.move is not None:
        reason = Reason.GPU_PODS_MOVING
    conditions.set("GpusServed", reason is Reason.GPUS_SUFFICE, reason, gpus.message(verdict))


def member_statuses(facts: Facts, found: References) -> Written:
    """The statuses of all that points to this device, accepted or not."""
    snapshot, now = facts.snapshot, facts.now
    written: Written = []
    accepted = {view.name for view in facts.views}
    for view in facts.views:
        written += write(view.member.ase_node, _ase_node_status(view, facts))
        worker_status = nodes.worker_status(view, now)
        if view.member.worker is not None and worker_status is not None:
            brought = _brought(view, facts, UpdateType.KUBERNETES)
            if brought is not None:
                worker_status = worker_status.model_copy(update={"version": brought})
            written += write(view.member.worker, worker_status)
        for one in view.member.failures:
            written += write(one, _failure_status(one, view, facts))
    own = {one.name for one in snapshot.ase_nodes.values() if one.spec.device == facts.device.name}
    for name in sorted(own - accepted):
        ase_node = snapshot.ase_nodes[name]
        written += write(ase_node, refused_node(ase_node, found.ase_nodes[name], now))
    for worker in snapshot.workers.values():
        if worker.spec.ase_node in own and not found.workers[worker.name].is_accepted:
            written += write(worker, refused_worker(worker, found.workers[worker.name], now))
    for failure in snapshot.failures.values():
        answer = found.failures[failure.name]
        if failure.spec.node in own and not answer.is_accepted:
            written += write(failure, failures.rejected(failure, answer, now))
    return written


def _ase_node_status(view: View, facts: Facts) -> AseNodeStatus:
    worker, verdict = view.member.worker, facts.if_lost[view.name]
    ase_node = view.member.ase_node
    told = Conditions(ase_node.status.conditions, ase_node.metadata.generation, facts.now)
    _set_share_kept(told, view, facts)
    _set_failover_ready(told, verdict)
    return AseNodeStatus(
        observed_generation=view.member.ase_node.metadata.generation,
        state=view.state,
        summary=view.summary,
        worker=worker.name if worker else None,
        node_name=worker.spec.node_name if worker else None,
        version=_brought(view, facts, UpdateType.DEVICE_SOFTWARE)
        or view.member.ase_node.status.version,
        failed_components=view.verdict.failed,
        failed_summary=hardware.in_short(view.verdict.failed) or None,
        booted_at=view.record.booted_at,
        recent_failures=view.record.failures,
        resources=_node_rows(view, facts),
        if_lost=verdict.loss,
        conditions=(*view.conditions, *told.result()),
    )


def _set_share_kept(conditions: Conditions, view: View, facts: Facts) -> None:
    """Whether one node carries no more than its share, so that the other one can take all of it."""
    percent = facts.device.spec.reserve.percent
    if facts.record is not None:
        text = f"one node carries what both carried: failover {facts.record.id}"
        conditions.set("ReserveKept", None, Reason.LIFTED, text)
        return
    text = evening.excess(view, facts.pods, percent)
    if text:
        conditions.set("ReserveKept", False, Reason.OVER_RESERVE, text)
    else:
        text = f"requests are within {percent} % of the node"
        conditions.set("ReserveKept", True, Reason.WITHIN_RESERVE, text)


def _brought(view: View, facts: Facts, kind: UpdateType) -> str | None:
    """The version that the update of this kind has brought to a node; None where none has."""
    update = leaves.active(facts.device.name, facts.snapshot)
    progress = update.status.node(view.name) if update is not None else None
    if update is None or progress is None or update.spec.type is not kind:
        return None
    is_done = progress.stage in (Stage.RETURNING, Stage.UPDATED)
    return update.version if is_done else None


def refused_update(one: DeviceUpdate, answer: Answer, now: float) -> DeviceUpdateStatus:
    conditions = Conditions(one.status.conditions, one.metadata.generation, now)
    conditions.set("Accepted", False, answer.reason, answer.message)
    # Without what it remembers of a device that is gone: another one of its name begins anew.
    return DeviceUpdateStatus(
        observed_generation=one.metadata.generation,
        phase=UpdatePhase.REJECTED,
        summary=answer.message,
        conditions=conditions.result(),
    )


def _node_rows(view: View, facts: Facts) -> tuple[ReserveRow, ...]:
    """What the pods on one node request against its share of the reserve."""
    if view.node is None:
        return ()
    pods = [
        one for one in facts.pods.by_node.get(view.node.name, ()) if reserve.counts(one, facts.now)
    ]
    rows = []
    for name in reserve.RESOURCES:
        capacity = view.node.allocatable.get(name, 0)
        used = len(pods) if name == "pods" else sum(pod.requests.get(name, 0) for pod in pods)
        if capacity:
            budget = capacity * facts.device.spec.reserve.percent // 100
            rows.append(reserve.row(name, used, budget, capacity))
    return tuple(rows)


def _failure_status(one: HardwareFailure, view: View, facts: Facts) -> HardwareFailureStatus:
    worker = view.member.worker
    power = worker.status.power if worker else None
    proof: str | None = "recorded on the AseNode"
    if view.judged.is_intended:
        proof = None
        # A storage port takes the network first: that is what this failure does, the power
        # goes because the node is fenced.
        is_done = power is not None and power.observed in (PowerState.OFF, PowerState.ISOLATED)
        if worker is not None and power is not None and is_done:
            proof = power.proof or f"{worker.name} is {power.observed.value} (simulated power)"
    effect = view.verdict.summary or ("reboots" if view.failure.is_rebooting else "repaired")
    return failures.report(one, facts.device.spec.timing, effect=effect, proof=proof, now=facts.now)


def refused_node(one: AseNode, answer: Answer, now: float) -> AseNodeStatus:
    conditions = Conditions(one.status.conditions, one.metadata.generation, now)
    conditions.set("Accepted", False, answer.reason, answer.message)
    return AseNodeStatus(
        observed_generation=one.metadata.generation,
        state=NodeState.UNKNOWN,
        summary=answer.message,
        conditions=conditions.result(),
    )


def refused_worker(one: PinnedWorker, answer: Answer, now: float) -> PinnedWorkerStatus:
    conditions = Conditions(one.status.conditions, one.metadata.generation, now)
    conditions.set("Accepted", False, answer.reason, answer.message)
    # Whoever holds the Node now says what its power should be; else it gets back what was taken.
    is_others = answer.reason is Reason.NODE_TAKEN
    seen = one.status.power if not is_others else None
    return PinnedWorkerStatus(
        observed_generation=one.metadata.generation,
        summary=answer.message,
        power=power.given_back(seen) if seen is not None else None,
        conditions=conditions.result(),
    )
