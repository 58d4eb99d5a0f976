"""A planned update of a device, node by node (design 4.9): what comes next, and what it waits for.

One DeviceUpdate of a device has its turn, in the order of their creation. Its
status is its memory: a stage is written there in one turn, by compare-and-set,
and done in the next (:mod:`asetwin.model.leaves` reads it). A node that leaves
opens a record like that of a failover, so that the lifted reserve, the return
and the rebalancing are the same; what differs is that its pods are asked to go
(:mod:`asetwin.model.drains`) and nothing is fenced.

Source: the device's documentation of updates. They are rolling and reboot each
node; that of the Kubernetes service moves the master, updates it, and drains
and updates each worker, with management available throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from asetwin.model import drains, leaves, marks, master, outages, quorum, quotas
from asetwin.model.conditions import Conditions
from asetwin.model.facts import Facts
from asetwin.model.nodes import View
from asetwin.model.plan import DeletePod, Evict
from asetwin.model.power import BOOT_SECONDS
from asetwin.resources import conditions as conditions_of
from asetwin.resources.conditions import Reason
from asetwin.resources.devices import Failover, NodeState
from asetwin.resources.updates import (
    DeviceUpdate,
    DeviceUpdateStatus,
    Drain,
    MasterProgress,
    NodeProgress,
    OnDrainTimeout,
    Stage,
    UpdatePhase,
    UpdateType,
)

MESSAGE_LIMIT = 4000

Obstacle = tuple[Reason, str]


@dataclass(slots=True)
class Verdict:
    """The next statuses of the updates of a device, and what they ask for."""

    statuses: list[tuple[DeviceUpdate, DeviceUpdateStatus]] = field(default_factory=list)
    evictions: tuple[Evict, ...] = ()
    deletions: tuple[DeletePod, ...] = ()
    wakes: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    """One look at the update whose turn it is, and what this turn makes of it."""

    update: DeviceUpdate
    facts: Facts
    moves: master.Verdict
    nodes: dict[str, NodeProgress]
    master: MasterProgress | None
    drain: drains.Verdict | None = None
    obstacle: Obstacle | None = None
    result: Reason | None = None
    message: str = ""
    wakes: list[float] = field(default_factory=list)

    @property
    def now(self) -> float:
        return self.facts.now

    @property
    def current(self) -> NodeProgress | None:
        """The node whose turn it is."""
        return next((one for one in self.nodes.values() if one.stage is not Stage.UPDATED), None)

    @property
    def record(self) -> Failover | None:
        """The open record of a leave for this update."""
        record = self.facts.record
        return record if record is not None and record.update == self.update.name else None

    def view(self, name: str) -> View | None:
        return next((one for one in self.facts.views if one.name == name), None)

    def other(self, name: str) -> View | None:
        return next((one for one in self.facts.views if one.name != name), None)

    def enter(self, node: NodeProgress, stage: Stage, **changes: object) -> None:
        """The node begins another stage."""
        update = {"stage": stage, "since": self.now, "message": None, **changes}
        self.nodes[node.name] = node.model_copy(update=update)

    def wait(self, reason: Reason, text: str) -> None:
        self.obstacle = (reason, text)


def rule(facts: Facts, moves: master.Verdict) -> Verdict:
    """The next step of the update whose turn it is; the others of the device are told to wait."""
    verdict = Verdict()
    queue = leaves.queue(facts.device.name, facts.snapshot)
    for place, one in enumerate(queue):
        if place:
            verdict.statuses.append((one, _queued(one, queue[0], facts)))
            continue
        status = one.status
        nodes = {node.name: node for node in status.nodes}
        turn = _Turn(one, facts, moves, nodes, status.master)
        if facts.is_paused:
            reasons = ", ".join(facts.device.spec.paused)
            turn.wait(Reason.PAUSED, f"the pause of the device to end: {reasons}")
        else:
            _advance(turn)
        if turn.drain is not None:
            verdict.evictions, verdict.deletions = turn.drain.evictions, turn.drain.deletions
        verdict.wakes = [at for at in turn.wakes if at > facts.now]
        verdict.statuses.append((one, _status(turn)))
    return verdict


def _advance(turn: _Turn) -> None:
    if not turn.nodes and not _plan(turn):
        return
    if turn.update.spec.type is UpdateType.KUBERNETES and not _is_master_updated(turn):
        return
    node = turn.current
    if node is None:
        _finish(turn)
        return
    STEPS[node.stage](turn, node)


def _plan(turn: _Turn) -> bool:
    """Lay down the order of the nodes, once everything is well; False while it is not.

    DeviceSoftware begins with the node without the master, so that it moves
    once only. A Kubernetes update moves it first, and begins where it was.
    """
    home = turn.moves.status.node if turn.moves.status is not None else ""
    names = [one.name for one in turn.facts.views]
    is_device_software = turn.update.spec.type is UpdateType.DEVICE_SOFTWARE
    names.sort(key=lambda name: (name == home) is is_device_software)
    obstacle = _obstacle(turn, names[0]) if names else (Reason.NO_NODES, "the device has no nodes")
    if obstacle is not None:
        turn.wait(*obstacle)
        return False
    turn.nodes = {name: NodeProgress(name=name) for name in names}
    if not is_device_software:
        turn.master = MasterProgress(from_node=home)
    return True


# --- The master ----------------------------------------------------------------------------------


def _is_master_updated(turn: _Turn) -> bool:
    """Advance the master's part; True when it is over."""
    part, status = turn.master, turn.moves.status
    assert part is not None
    if part.stage is Stage.UPDATED:
        return True
    if part.stage is Stage.PENDING:
        obstacle = _obstacle(turn, part.from_node)
        if obstacle is not None:
            turn.wait(*obstacle)
            return False
        _enter_master(turn, part, Stage.MOVING_MASTER)
        return False
    if turn.update.spec.paused:
        turn.wait(Reason.PAUSED, "spec.paused to be false")
        return False
    turn.message = f"the master {turn.moves.message}"
    if status is None or not turn.moves.is_serving:
        return False
    if part.stage is Stage.MOVING_MASTER and status.node != part.from_node:
        _enter_master(turn, part, Stage.UPDATING_MASTER, moved_at=turn.now)
    elif part.stage is Stage.UPDATING_MASTER and status.version == turn.update.version:
        _enter_master(turn, part, Stage.UPDATED, updated_at=turn.now)
    return False


def _enter_master(turn: _Turn, part: MasterProgress, stage: Stage, **changes: object) -> None:
    turn.master = part.model_copy(update={"stage": stage, "since": turn.now, **changes})
    # Nothing happens by itself when only our own memory has changed.
    turn.message = ""


# --- One node ------------------------------------------------------------------------------------


def _begin(turn: _Turn, node: NodeProgress) -> None:
    """The node stays until everything is well; then the master leaves it first."""
    obstacle = _obstacle(turn, node.name)
    if obstacle is not None:
        turn.wait(*obstacle)
        return
    home = turn.moves.status.node if turn.moves.status is not None else ""
    is_device_software = turn.update.spec.type is UpdateType.DEVICE_SOFTWARE
    if home == node.name and is_device_software:
        turn.enter(node, Stage.MOVING_MASTER)
    else:
        turn.enter(node, Stage.DRAINING, drain=Drain(since=turn.now), drained_at=None, off_at=None)


def _move_master(turn: _Turn, node: NodeProgress) -> None:
    if _is_taken_back(turn, node):
        return
    turn.message = f"the master {turn.moves.message}"
    status = turn.moves.status
    if status is not None and status.node != node.name and turn.moves.is_serving:
        turn.enter(node, Stage.DRAINING, drain=Drain(since=turn.now), drained_at=None, off_at=None)


def _drain(turn: _Turn, node: NodeProgress) -> None:
    if _is_taken_back(turn, node):
        return
    view, other, record = turn.view(node.name), turn.other(node.name), turn.record
    assert view is not None
    assert other is not None
    memory = node.drain or Drain(since=turn.now)
    if record is None:
        turn.wait(Reason.NOT_HEALTHY, "a quorum of the device")
        return
    spec = turn.update.spec
    timeout = spec.drain_timeout_seconds or turn.facts.device.spec.timing.seconds("drain_timeout")
    is_late = turn.now >= memory.since + timeout
    request = drains.Request(
        timeout=timeout,
        allow_unready=spec.allow_unready,
        is_forced=is_late and spec.on_drain_timeout is OnDrainTimeout.FORCE,
        why=f"update {turn.update.name}",
    )
    facts = turn.facts
    books = quotas.in_force(facts.device, facts.snapshot, turn.now)
    drain = drains.rule(
        view, other, record, facts.pods, facts.snapshot, memory, request, turn.now, books
    )
    turn.drain, turn.message = drain, drain.message
    turn.wakes += drain.wakes
    changes = {"drain": drain.memory, "message": drain.message}
    turn.nodes[node.name] = node.model_copy(update=changes)
    if drain.is_done:
        is_reboot = spec.type is UpdateType.DEVICE_SOFTWARE
        after = Stage.REBOOTING if is_reboot else Stage.RESTARTING
        turn.enter(turn.nodes[node.name], after, drained_at=turn.now)
        turn.message = ""
    elif is_late and spec.on_drain_timeout is OnDrainTimeout.FAIL:
        turn.result, turn.drain = Reason.DRAIN_TIMED_OUT, None
        text = f"{node.name} was not drained within {timeout} s: {drain.message}"
        turn.enter(turn.nodes[node.name], Stage.PENDING, message=text)
        turn.message = text
    elif is_late and not request.is_forced:
        text = f"{node.name}, not drained after {timeout} s: {drain.message}"
        turn.wait(Reason.DRAIN_TIMED_OUT, text)
    elif drain.is_stuck:
        turn.wait(Reason.DRAIN_BLOCKED, f"{node.name}: {drain.message}")


def _reboot(turn: _Turn, node: NodeProgress) -> None:
    """Its machine is off for as long as a reboot takes, counted from the proof that it is."""
    view = turn.view(node.name)
    if view is None:
        turn.wait(Reason.NOT_HEALTHY, f"AseNode {node.name}, which is gone")
        return
    turn.message = view.summary
    if node.off_at is None:
        if not view.judged.is_off:
            text = _needs(turn, node)
            if text:
                _take_back(turn, node, Reason.NOT_HEALTHY, text)
                return
            if view.judged.waits_for:
                turn.wait(Reason.WAITING_FOR_PROOF, view.judged.waits_for)
            return
        node = node.model_copy(update={"off_at": turn.now})
        turn.nodes[node.name] = node
    assert node.off_at is not None
    on_at = node.off_at + turn.facts.device.spec.timing.seconds("reboot")
    if turn.now < on_at:
        turn.wakes.append(on_at)
        return
    turn.enter(node, Stage.RETURNING)


def _restart(turn: _Turn, node: NodeProgress) -> None:
    """Its kubelet is restarted by the power agent; without one there is nothing to restart."""
    view = turn.view(node.name)
    worker = view.member.worker if view is not None else None
    if view is None or worker is None or view.is_lost:
        turn.enter(node, Stage.RETURNING)
        return
    turn.message = view.summary
    if not view.agent.is_installed:
        turn.enter(node, Stage.RETURNING)
        return
    done = worker.status.kubelet
    is_done = done is not None and done.done == turn.update.token(node.name)
    if not is_done or done is None:
        if not view.agent.is_alive:
            turn.wait(Reason.NOT_HEALTHY, "the power agent, which is silent")
        return
    done_at = done.done_at or turn.now
    key = f"kube-node-lease/{worker.spec.node_name}"
    snapshot = turn.facts.snapshot
    # A Lease that was only found, as after a start of the operator, is no sign of life.
    is_heard = key not in snapshot.unheard and snapshot.renewed.get(key, 0.0) > done_at
    if is_heard or turn.now >= done_at + BOOT_SECONDS:
        turn.enter(node, Stage.RETURNING)
    else:
        # A renewal is no event that wakes anybody.
        turn.wakes.append(turn.now + 1.0)


def _return(turn: _Turn, node: NodeProgress) -> None:
    """Back in service and pods shared out; a failure meanwhile is waited for."""
    view, record = turn.view(node.name), turn.record
    if view is None:
        turn.wait(Reason.NOT_HEALTHY, f"AseNode {node.name}, which is gone")
        return
    turn.message = view.summary
    if record is not None and record.rebalance is not None:
        turn.message = record.rebalance.message
    is_away = view.state in (NodeState.DOWN, NodeState.ISOLATED, NodeState.QUARANTINED)
    if is_away:
        turn.wait(Reason.NOT_HEALTHY, _which_is(view))
    if view.in_service and record is None:
        turn.enter(node, Stage.UPDATED, updated_at=turn.now)


STEPS: dict[Stage, Callable[[_Turn, NodeProgress], None]] = {
    Stage.PENDING: _begin,
    Stage.MOVING_MASTER: _move_master,
    Stage.DRAINING: _drain,
    Stage.REBOOTING: _reboot,
    Stage.RESTARTING: _restart,
    Stage.RETURNING: _return,
}


# --- What is in the way --------------------------------------------------------------------------


def _obstacle(turn: _Turn, leaving: str) -> Obstacle | None:
    """Why nothing may be begun with a node now; None where it may."""
    facts, spec = turn.facts, turn.update.spec
    view, other = turn.view(leaving), turn.other(leaving)
    if spec.paused:
        return Reason.PAUSED, "spec.paused to be false"
    if view is None:
        return Reason.NOT_HEALTHY, f"AseNode {leaving}, which is gone"
    if other is None:
        return Reason.NOT_HEALTHY, f"another node: {leaving} is the only one"
    record = facts.record
    if record is not None:
        what = f"update {record.update}" if record.update else f"failover {record.id}"
        return Reason.NOT_HEALTHY, f"{what} to end: {record.phase.value}"
    for one in facts.views:
        if not one.in_service:
            return Reason.NOT_HEALTHY, _which_is(one)
    if other.node is not None and marks.has_foreign_cordon(other.node):
        return Reason.NOT_HEALTHY, f"Node {other.node.name} to be uncordoned by someone else"
    text = _votes_without(leaving, facts)
    if text:
        return Reason.NOT_HEALTHY, text
    if facts.lost_gpus.move is not None:
        return Reason.NOT_HEALTHY, f"pods to leave a failed GPU of {facts.lost_gpus.move.node}"
    if facts.even.lifted_for:
        return Reason.NOT_HEALTHY, "pods to be shared out evenly"
    if not turn.moves.is_serving:
        return Reason.NOT_HEALTHY, f"the master, which {turn.moves.message}"
    ready = conditions_of.find(view.member.ase_node.status.conditions, "FailoverReady")
    if ready is not None and ready.status == "False" and not spec.allow_unready:
        said = "FailoverReady is False, and spec.allowUnready is not set"
        text = f"{leaving}: {said}: {ready.message}"
        return Reason.FAILOVER_NOT_READY, text[:MESSAGE_LIMIT]
    return None


def _votes_without(leaving: str, facts: Facts) -> str:
    """Why the device could not do without a node's vote; "" where it can."""
    witness = facts.device.spec.witness
    if witness.type != "None" and not witness.online:
        return "the witness, which is offline"
    if facts.lost_disks:
        return "data disks, which failed on both nodes"
    members = [
        quorum.Member(one.name, one.member.ase_node.spec.slot, one.name != leaving)
        for one in facts.views
    ]
    votes = quorum.count(members, witness, facts.votes)
    if quorum.is_reached(votes):
        return ""
    return f"a quorum without {leaving}: {votes.present} of {votes.total} votes"


def _which_is(view: View) -> str:
    return f"{view.name}, which is {view.state.value}: {view.summary}"


def _is_taken_back(turn: _Turn, node: NodeProgress) -> bool:
    """Take a leave back that has begun: the node is the last good one, or somebody says so.

    It is begun anew when everything is well again.
    """
    facts, view = turn.facts, turn.view(node.name)
    reason, text = Reason.NOT_HEALTHY, ""
    if turn.update.spec.paused:
        reason, text = Reason.PAUSED, "spec.paused to be false"
    elif view is None or view.is_lost or view.state is NodeState.ISOLATED:
        text = _which_is(view) if view is not None else f"AseNode {node.name}, which is gone"
    elif needed := _needs(turn, node):
        text = needed
    elif not facts.has_quorum:
        text = "a quorum of the device"
    elif facts.record is not None and turn.record is None:
        text = f"failover {facts.record.id} to end: {facts.record.phase.value}"
    if text:
        _take_back(turn, node, reason, text)
    return bool(text)


def _needs(turn: _Turn, node: NodeProgress) -> str:
    """What the device needs the node for, in words; "" where the other one is in service."""
    other = turn.other(node.name)
    if other is not None and other.in_service:
        return ""
    what = _which_is(other) if other is not None else "another node"
    return f"{what}; {node.name} stays in service, it is the last good one"


def _take_back(turn: _Turn, node: NodeProgress, reason: Reason, text: str) -> None:
    turn.enter(node, Stage.PENDING, drain=None)
    turn.wait(reason, text)


# --- Words ---------------------------------------------------------------------------------------


def _finish(turn: _Turn) -> None:
    """Every node is updated; over when the versions are on record, too."""
    version = turn.update.version
    for view in turn.facts.views:
        worker = view.member.worker
        told = view.member.ase_node.status.version
        if turn.update.spec.type is UpdateType.KUBERNETES:
            told = worker.status.version if worker is not None else version
        if told != version:
            turn.message = f"version {version} to be recorded for {view.name}"
            return
    turn.result = Reason.UPDATED


def _status(turn: _Turn) -> DeviceUpdateStatus:
    update, before, now = turn.update, turn.update.status, turn.now
    nodes = tuple(turn.nodes.values())
    has_begun = bool(nodes)
    done = sum(1 for one in nodes if one.stage is Stage.UPDATED)
    stage = _stage(turn)
    lost = outages.follow(before, turn.facts, turn.moves, turn.record) if has_begun else before
    waiting = turn.obstacle[1] if turn.obstacle is not None else None
    ended_well = turn.result is Reason.UPDATED
    result = None if turn.result is None else "Succeeded" if ended_well else "Failed"
    status = DeviceUpdateStatus(
        observed_generation=update.metadata.generation,
        phase=_phase(turn, stage),
        stage=stage if turn.result is None and has_begun else None,
        waiting_for=waiting,
        progress=f"{done}/{len(nodes)}" if has_begun else None,
        started_at=before.started_at or (now if has_begun else None),
        finished_at=now if result is not None else None,
        result=result,
        reason=turn.result.value if turn.result is not None else None,
        master=turn.master,
        nodes=nodes,
        outage_count=lost.outage_count,
        outages=lost.outages,
        conditions=_conditions(turn),
    )
    return status.model_copy(update={"summary": _summary(turn, status)[:MESSAGE_LIMIT]})


def _stage(turn: _Turn) -> Stage:
    if turn.master is not None and turn.master.stage is not Stage.UPDATED:
        return turn.master.stage
    return turn.current.stage if turn.current is not None else Stage.UPDATED


def _phase(turn: _Turn, stage: Stage) -> UpdatePhase:
    if turn.result is not None:
        is_good = turn.result is Reason.UPDATED
        return UpdatePhase.SUCCEEDED if is_good else UpdatePhase.FAILED
    if turn.obstacle is not None and turn.obstacle[0] is Reason.PAUSED:
        return UpdatePhase.PAUSED
    has_begun = bool(turn.nodes) and stage is not Stage.PENDING
    is_waiting = turn.obstacle is not None and not has_begun
    return UpdatePhase.WAITING if is_waiting else UpdatePhase.RUNNING


def _summary(turn: _Turn, status: DeviceUpdateStatus) -> str:
    update = turn.update
    head = f"{update.spec.type.value} {update.version}"
    if status.result is not None and status.started_at is not None:
        seconds = turn.now - status.started_at
        text = f"{head}: {status.result} after {seconds:.0f} s"
        longest = max(status.outages, key=lambda one: one.milliseconds, default=None)
        if turn.result is not Reason.UPDATED:
            return f"{text}: {turn.message}"
        if longest is None:
            return f"{text}; no workload was without a Ready pod"
        is_master = longest.kind == outages.MASTER
        name = "the master" if is_master else f"{longest.namespace}/{longest.name}"
        return f"{text}; {name} had no Ready pod for {longest.milliseconds / 1000:.1f} s"
    if status.waiting_for:
        return f"{head}: waiting for {status.waiting_for}"
    where = turn.current.name if turn.current is not None else "done"
    if turn.master is not None and turn.master.stage is not Stage.UPDATED:
        where = "the master"
    text = f"{head}: {where} {status.stage.value if status.stage is not None else ''}".rstrip()
    return f"{text}: {turn.message}" if turn.message else text


def _conditions(turn: _Turn) -> tuple[conditions_of.Condition, ...]:
    update = turn.update
    conditions = Conditions(update.status.conditions, update.metadata.generation, turn.now)
    conditions.set("Accepted", True, Reason.ACCEPTED, f"updates AseDevice {update.spec.device}")
    if turn.result is not None:
        is_good = turn.result is Reason.UPDATED
        text = turn.message or "every node is updated"
        conditions.set("Progressing", False, turn.result, text)
        conditions.set("Succeeded", is_good, turn.result, text)
        return conditions.result()
    if turn.obstacle is not None:
        reason, text = turn.obstacle
        conditions.set("Progressing", False, reason, f"waiting for {text}")
    else:
        text = turn.message or "goes on"
        conditions.set("Progressing", True, Reason.UPDATING, text)
    conditions.set("Succeeded", None, Reason.UPDATING, "not over")
    return conditions.result()


def _queued(one: DeviceUpdate, first: DeviceUpdate, facts: Facts) -> DeviceUpdateStatus:
    conditions = Conditions(one.status.conditions, one.metadata.generation, facts.now)
    text = f"update {first.name} of {first.spec.device} to end"
    conditions.set("Accepted", True, Reason.ACCEPTED, f"updates AseDevice {one.spec.device}")
    conditions.set("Progressing", False, Reason.QUEUED, f"waiting for {text}")
    conditions.set("Succeeded", None, Reason.QUEUED, "not begun")
    return DeviceUpdateStatus(
        observed_generation=one.metadata.generation,
        phase=UpdatePhase.QUEUED,
        summary=f"{one.spec.type.value} {one.version}: waiting for {text}",
        waiting_for=text,
        conditions=conditions.result(),
    )
