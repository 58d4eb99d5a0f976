"""Kubernetes Events that tell the story in plain words, one per transition.

They are derived from the difference between the status that an object has
and the one it is about to get. The key is made of the object's version, so a
turn that is repeated after a crash posts the same Event again, which the API
server refuses as already there.
"""

from collections.abc import Iterable, Iterator

from asetwin.model.plan import Announce, WriteStatus
from asetwin.resources import conditions, times
from asetwin.resources.conditions import Reason
from asetwin.resources.devices import (
    AseDevice,
    AseDeviceStatus,
    AseNode,
    AseNodeStatus,
    DeviceState,
    Failover,
    FailoverPhase,
    FailurePhase,
    HardwareFailure,
    HardwareFailureStatus,
    MasterPhase,
    NodeState,
    PinnedWorker,
    PinnedWorkerStatus,
    Rebalance,
    RebalanceOutcome,
    RebalanceRecord,
    Resource,
    Wire,
)
from asetwin.resources.updates import DeviceUpdate, DeviceUpdateStatus, NodeProgress, Stage

Line = tuple[str, str, bool]
"""Reason, message, whether it is a warning."""


def tell(written: Iterable[tuple[WriteStatus, tuple[Resource, Wire]]]) -> list[Announce]:
    """The Events for a turn's status writes, in the order of the writes."""
    told = []
    for _, (resource, status) in written:
        for reason, message, is_warning in _lines(resource, status):
            told.append(
                Announce(
                    regarding=resource.reference,
                    reason=reason,
                    message=message[:1000],
                    key=f"{resource.metadata.uid}/{resource.metadata.resource_version}/{reason}",
                    is_warning=is_warning,
                )
            )
    return told


def _lines(resource: Resource, status: Wire) -> Iterator[Line]:
    if isinstance(resource, AseDevice) and isinstance(status, AseDeviceStatus):
        yield from _device(resource.status, status)
    elif isinstance(resource, AseNode) and isinstance(status, AseNodeStatus):
        yield from _refusal(resource.status.conditions, status.conditions)
        yield from _node(resource.status, status)
    elif isinstance(resource, PinnedWorker) and isinstance(status, PinnedWorkerStatus):
        yield from _refusal(resource.status.conditions, status.conditions)
        yield from _worker(resource.status, status)
    elif isinstance(resource, DeviceUpdate) and isinstance(status, DeviceUpdateStatus):
        yield from _refusal(resource.status.conditions, status.conditions)
        yield from _update(resource.status, status)
    elif isinstance(resource, HardwareFailure) and isinstance(status, HardwareFailureStatus):
        yield from _failure(resource.status, status)


def _refusal(
    before: tuple[conditions.Condition, ...], after: tuple[conditions.Condition, ...]
) -> Iterator[Line]:
    old, new = conditions.find(before, "Accepted"), conditions.find(after, "Accepted")
    if new is None or (old is not None and old.reason == new.reason):
        return
    if new.status == "False":
        yield new.reason, new.message, True
    elif old is not None:
        yield new.reason, new.message, False


def _device(before: AseDeviceStatus, after: AseDeviceStatus) -> Iterator[Line]:
    yield from _failover(before.failover, after)
    yield from _master(before, after)
    yield from _gpus(before, after)
    yield from _reserve(before, after)
    yield from _readiness(before, after)
    yield from _shares(before, after)
    if after.state is not None and before.state is not after.state:
        is_warning = after.state in (DeviceState.OFFLINE, DeviceState.NEEDS_ATTENTION)
        yield f"Device{after.state.value}", after.summary or "", is_warning


def _readiness(before: AseDeviceStatus, after: AseDeviceStatus) -> Iterator[Line]:
    """Only what a person can do something about: a lost node is told of elsewhere."""
    old = conditions.find(before.conditions, "FailoverReady")
    new = conditions.find(after.conditions, "FailoverReady")
    risks = (Reason.PODS_WOULD_NOT_RUN, Reason.QUORUM_AT_RISK)
    was_at_risk = old is not None and old.reason in risks
    if new is not None and new.reason in risks and not was_at_risk:
        yield "FailoverAtRisk", new.message, True
    elif new is not None and new.status == "True" and was_at_risk:
        yield "FailoverReady", new.message, False


def _failover(before: Failover | None, status: AseDeviceStatus) -> Iterator[Line]:
    after = status.failover
    is_same = before is not None and after is not None and before.id == after.id
    if before is not None and before.rebalance is None:
        is_back = after is None or (is_same and after.rebalance is not None)
        if is_back or not is_same:
            yield "NodeReturned", f"{before.from_node} is back in service", False
    if after is not None and after.update is not None:
        yield from _leave(before if is_same else None, after)
        yield from _rebalance(before, after if is_same else None, status)
        return
    if is_same and before is not None and before.update is not None:
        # It was to leave as planned, and is lost now.
        is_same, before = False, None
    yield from _rebalance(before, after if is_same else None, status)
    if after is None:
        return
    if not is_same:
        before = None
    if before is None:
        yield (
            "NodeLost",
            f"{after.from_node} is lost ({after.trigger}); "
            f"displaced pods: {after.displaced}, to go to {after.to_node}",
            True,
        )
        if after.lost:
            names = ", ".join(after.lost_pods)
            yield "PodsLost", f"lost, because no controller replaces them: {names}", True
    if after.fenced_at is not None and (before is None or before.fenced_at is None):
        yield "NodeFenced", f"{after.from_node} is off: {after.fenced_by}", False
    if after.evacuated_at is not None and (before is None or before.evacuated_at is None):
        yield "PodsRemoved", f"no pod is left on {after.from_node}", False
    if after.pods_ready_at is not None and (before is None or before.pods_ready_at is None):
        seconds = after.pods_ready_at - after.detected_at
        yield (
            "PodsReady",
            f"{after.recovered} of {after.displaced} displaced pods are Ready again "
            f"after {seconds:.1f} s",
            False,
        )
    if before is None or before.came_to is not after.came_to:
        yield from _failover_end(after)


def _leave(before: Failover | None, after: Failover) -> Iterator[Line]:
    """A planned leave: no loss, and nothing that anybody has to be warned of."""
    if before is None:
        text = f"{after.from_node} is drained for update {after.update}; pods to go to "
        yield "NodeLeaving", f"{text}{after.to_node}: {after.displaced}", False
    if after.evacuated_at is not None and (before is None or before.evacuated_at is None):
        yield "NodeDrained", f"the pods have left {after.from_node}", False


def _rebalance(
    before: Failover | None, after: Failover | None, status: AseDeviceStatus
) -> Iterator[Line]:
    """That pods begin to go back, and what it came to; nothing where none had to."""
    old = before.rebalance if before is not None else None
    told: Rebalance | RebalanceRecord | None = after.rebalance if after is not None else None
    if told is None and before is not None and status.history:
        last = status.history[0]
        told = last.rebalance if last.id == before.id else None
    if isinstance(told, Rebalance) and told.outcome is None:
        has_begun = old is not None and bool(old.moves or old.planned)
        if not has_begun and (told.planned or told.moves):
            text = f"pods to go back from {told.from_node} to {told.to_node}: {told.planned}"
            yield "Rebalancing", text, False
        return
    if told is None or told.outcome is None or (old is not None and old.outcome is not None):
        return
    if told.outcome is not RebalanceOutcome.BALANCED:
        yield "NotRebalanced", told.message, True
    elif told.moved:
        yield "Rebalanced", told.message, False


def _failover_end(after: Failover) -> Iterator[Line]:
    if after.came_to is FailoverPhase.RECOVERED and after.recovered_at is not None:
        seconds = after.recovered_at - after.detected_at
        yield "FailedOver", f"pods and master recovered after {seconds:.1f} s", False
    elif after.came_to is FailoverPhase.RECOVERED_IN_PART:
        names = ", ".join(f"{one.pod} ({one.reason})" for one in after.unplaceable[:5])
        yield (
            "FailedOverInPart",
            f"{after.unplaceable_count} pods have no place on {after.to_node}: {names}",
            True,
        )


def _master(before: AseDeviceStatus, after: AseDeviceStatus) -> Iterator[Line]:
    old, new = before.master, after.master
    if new is None or old == new:
        return
    if old is None or old.epoch != new.epoch:
        source = f"from {old.node} " if old is not None and old.node != new.node else ""
        yield "MasterMoving", f"{source}to {new.node}, epoch {new.epoch}", False
    elif new.phase is MasterPhase.SERVING:
        yield "MasterServing", f"on {new.node} under epoch {new.epoch}", False
    elif old.phase is MasterPhase.SERVING:
        yield "MasterStopped", f"on {new.node} under epoch {new.epoch}", True


def _gpus(before: AseDeviceStatus, after: AseDeviceStatus) -> Iterator[Line]:
    old = conditions.find(before.conditions, "GpusServed")
    new = conditions.find(after.conditions, "GpusServed")
    if new is None or (old is not None and old.reason == new.reason):
        return
    if new.status == "False":
        yield ("GpuMissing" if new.reason == Reason.GPU else new.reason), new.message, True
    elif old is not None:
        yield "GpusServed", new.message, False


def _reserve(before: AseDeviceStatus, after: AseDeviceStatus) -> Iterator[Line]:
    old = conditions.find(before.conditions, "ReserveKept")
    new = conditions.find(after.conditions, "ReserveKept")
    if new is None or (old is not None and old.reason == new.reason):
        return
    if new.reason == Reason.LIFTED:
        yield "ReserveLifted", new.message, False
    elif new.status == "False":
        yield new.reason, new.message, True
    elif old is not None:
        yield "ReserveRestored", new.message, False


def _shares(before: AseDeviceStatus, after: AseDeviceStatus) -> Iterator[Line]:
    old = conditions.find(before.conditions, "SharesReady")
    new = conditions.find(after.conditions, "SharesReady")
    if new is None or (old is not None and old.reason == new.reason):
        return
    # That it takes a moment is no news; what came before it is told only when it is over.
    if new.reason != Reason.SHARE_PENDING:
        yield new.reason, new.message, new.status == "False"


def _node(before: AseNodeStatus, after: AseNodeStatus) -> Iterator[Line]:
    old, new = before.booted_at, after.booted_at
    was_available = conditions.is_true(before.conditions, "Available")
    is_available = conditions.is_true(after.conditions, "Available")
    if old is not None and new is not None and new > old and was_available and is_available:
        yield (
            "NodeRebooted",
            f"its machine started anew at {times.render(new)} and was never seen to be down",
            True,
        )
    failed = sorted(set(after.failed_components) - set(before.failed_components))
    repaired = sorted(set(before.failed_components) - set(after.failed_components))
    if failed:
        yield "ComponentFailed", after.summary or ", ".join(failed), True
    if repaired:
        yield "ComponentRepaired", ", ".join(repaired), False
    if after.state is not None and before.state is not after.state:
        is_warning = after.state not in (NodeState.UP, NodeState.RETURNING, NodeState.UPDATING)
        if after.state is not NodeState.UNKNOWN or before.state is not None:
            yield f"Node{after.state.value}", after.summary or "", is_warning


def _worker(before: PinnedWorkerStatus, after: PinnedWorkerStatus) -> Iterator[Line]:
    new = after.power
    # NB: not by what was observed before: the agent writes that itself, before we look. The
    # summary is ours, and names it.
    accepted = conditions.find(after.conditions, "Accepted")
    is_refused = accepted is not None and accepted.status == "False"
    if new is not None and before.summary != after.summary and not is_refused:
        how = f" ({new.method.lower()})" if new.method else ""
        proof = f": {new.proof}" if new.proof else ""
        yield f"Power{new.observed.value}", f"power is {new.observed.value}{how}{proof}", False
    if before.address and after.address and before.address != after.address:
        text = f"the InternalIP of its Node was {before.address}, and is {after.address} now"
        yield "AddressChanged", text, False


def _update(before: DeviceUpdateStatus, after: DeviceUpdateStatus) -> Iterator[Line]:
    old = conditions.find(before.conditions, "Progressing")
    new = conditions.find(after.conditions, "Progressing")
    if after.started_at is not None and before.started_at is None:
        yield "UpdateStarted", after.summary or "", False
    has_waited = old is not None and old.status == "False"
    if after.result is not None and before.result is None:
        yield f"Update{after.result}", after.summary or "", after.result != "Succeeded"
    elif new is not None and new.status == "False" and (not has_waited or old != new):
        if old is None or old.reason != new.reason:
            yield new.reason, new.message, new.reason in _WORTH_A_WARNING
    elif new is not None and new.status == "True" and has_waited and before.started_at is not None:
        yield "UpdateGoesOn", after.summary or "", False
    was = before.master.stage if before.master is not None else Stage.PENDING
    if after.master is not None and after.master.stage is not was:
        word = "MasterUpdated" if after.master.stage is Stage.UPDATED else after.master.stage.value
        yield word, after.summary or "", False
    for node in after.nodes:
        known = before.node(node.name)
        if node.stage is not (known.stage if known is not None else Stage.PENDING):
            yield f"Node{_STAGES[node.stage]}", f"{node.name}: {_words(node)}", False


_WORTH_A_WARNING = (Reason.DRAIN_BLOCKED, Reason.DRAIN_TIMED_OUT)
_STAGES = {stage: stage.value for stage in Stage} | {
    Stage.PENDING: "Waits",
    Stage.MOVING_MASTER: "WaitsForMaster",
}


def _words(node: NodeProgress) -> str:
    if node.stage is Stage.PENDING:
        return node.message or "is taken back, and begun anew later"
    if node.stage is Stage.REBOOTING and node.drain is not None:
        return f"{node.drain.moved} of {node.drain.total} pods have left; it reboots"
    return {
        Stage.MOVING_MASTER: "the master leaves it",
        Stage.DRAINING: "its pods are asked to leave",
        Stage.RESTARTING: "its kubelet is restarted",
        Stage.RETURNING: "it comes back",
    }.get(node.stage, "is updated")


def _failure(before: HardwareFailureStatus, after: HardwareFailureStatus) -> Iterator[Line]:
    if after.phase is None or before.phase is after.phase:
        return
    is_warning = after.phase in (FailurePhase.REJECTED, FailurePhase.ACTIVE)
    yield f"Failure{after.phase.value}", after.summary or "", is_warning
