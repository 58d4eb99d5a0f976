"""What one turn derives once from a snapshot, for the rules that come after."""

from dataclasses import dataclass

from asetwin.model import (
    evening,
    failover,
    gpus,
    leaves,
    marks,
    nodes,
    power,
    quorum,
    readiness,
    rebalance,
    references,
    reserve,
)
from asetwin.model.nodes import View
from asetwin.model.references import References
from asetwin.model.snapshot import Snapshot
from asetwin.resources.core import Node
from asetwin.resources.devices import (
    AseDevice,
    DeviceState,
    Failover,
    FailoverRecord,
    NodeState,
    Votes,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is derived once per turn and that several rules look at."""

    device: AseDevice
    snapshot: Snapshot
    now: float
    views: tuple[View, ...]
    pods: failover.Pods
    votes: Votes
    lost_disks: bool
    record: Failover | None
    closed: FailoverRecord | None
    back: rebalance.Verdict | None
    """What a return, or a node that is too full, asks for; None where neither does."""
    even: evening.Verdict
    lost_gpus: gpus.Verdict
    workload: set[str]
    weighed: reserve.Balance
    if_lost: dict[str, readiness.Verdict]
    """Whether each device node may be lost now, by its name."""

    @property
    def has_quorum(self) -> bool:
        """Whether the device as a whole may act."""
        return quorum.is_reached(self.votes) and not self.lost_disks

    @property
    def lifted_for(self) -> str:
        """For what the reserve is lifted; "" in regular operation.

        Lifted from the detection of a loss until its node is back and the pods are
        shared out again: until then one node carries what the reserve forbids. Also
        while pods move from a failed GPU or off a node that is too full, or the
        quota would count them twice.
        """
        if self.record is not None and not self.record.is_shared_out:
            return self.record.id
        if self.lost_gpus.move is not None:
            return self.lost_gpus.move.id
        return self.even.lifted_for or self.held_out

    @property
    def held_out(self) -> str:
        """The node that our taints keep pods off although no failover is open; "" for none.

        What it carried is on the other one all the same. So it is when a pin was deleted and
        made again before the marks were off its Node, or a node waits to be forgiven while
        the failover of the other one ends.
        """
        name = self.device.name
        return next(
            (one.name for one in self.views if one.node and marks.keeps_pods_off(one.node, name)),
            "",
        )

    @property
    def is_paused(self) -> bool:
        """Whether somebody has asked the operator to keep its hands off."""
        return bool(self.device.spec.paused)


def gather(device: AseDevice, snapshot: Snapshot, found: References, now: float) -> Facts:
    """Judge the members of a device, count its votes, open or close a failover, weigh requests."""
    agent = power.find_agent(snapshot, now)
    update = leaves.active(device.name, snapshot)
    views = tuple(
        nodes.view(
            member,
            _node(member, snapshot),
            device,
            now,
            agent=agent,
            heartbeat=_heartbeat(member, snapshot, device),
            is_evacuated=_is_evacuated(member, found.members[device.name], device),
            leave=leaves.of_node(update, member.ase_node.name),
        )
        for member in found.members[device.name]
    )
    pods = failover.Pods.of(snapshot)
    votes = quorum.count(
        [quorum.Member(one.name, one.member.ase_node.spec.slot, one.is_voting) for one in views],
        device.spec.witness,
        device.status.votes,
    )
    lost_disks = len(views) > 1 and all(one.verdict.failed_disks for one in views)
    workload = reserve.workload_namespaces(device.spec.reserve, snapshot.namespaces.values())
    record = device.status.failover
    if record is not None and not device.spec.paused:
        record = failover.overtaken(record, views, now)
    closed: FailoverRecord | None = None
    back: rebalance.Verdict | None = None
    is_returning = record is not None and (
        failover.is_back(record, views) or record.rebalance is not None
    )
    # A device whose storage is offline starts nothing that could wait: nobody could say where the
    # data of a pod is that moves now.
    may_move = not device.spec.paused and not lost_disks
    if record is not None and is_returning and may_move:
        back = rebalance.rule(record, views, pods, snapshot, device, now)
        if not back.is_over:
            record = record.model_copy(update={"rebalance": back.memory})
        else:
            told = rebalance.remembered(back, now)
            closed, record = failover.close(record, now, rebalance=told), None
    if record is None and quorum.is_reached(votes) and may_move:
        record = _started(views, pods, now)
    even = evening.rule(
        device, views, pods, snapshot, is_free=_is_regular(record, votes) and may_move, now=now
    )
    return Facts(
        device=device,
        snapshot=snapshot,
        now=now,
        views=views,
        pods=pods,
        votes=votes,
        lost_disks=lost_disks,
        record=record,
        closed=closed,
        back=back or even.back,
        even=even,
        lost_gpus=gpus.rule(
            device, views, pods, snapshot, is_free=record is None and not lost_disks, now=now
        ),
        workload=workload,
        weighed=reserve.balance(device, views, snapshot, workload, now),
        if_lost=readiness.judge(device, views, pods, snapshot, votes),
    )


def _is_regular(record: Failover | None, votes: Votes) -> bool:
    return record is None and quorum.is_reached(votes)


def _started(views: tuple[View, ...], pods: failover.Pods, now: float) -> Failover | None:
    """A new record: of a loss, or else of a leave that the update's memory asks for."""
    pair = failover.to_start(views)
    if pair is not None:
        return failover.start(*pair, pods, now)
    pair = failover.to_leave(views)
    leave = pair[0].leave if pair is not None else None
    if pair is None or leave is None:
        return None
    return failover.start(*pair, pods, now, update=leave.update)


def _heartbeat(
    member: references.Member, snapshot: Snapshot, device: AseDevice
) -> power.Heartbeat | None:
    if member.worker is None:
        return None
    return power.find_heartbeat(snapshot, member.worker.spec.node_name, device)


def _is_evacuated(
    member: references.Member, members: tuple[references.Member, ...], device: AseDevice
) -> bool:
    """Whether a fenced node may have its power back: nothing is being taken away from it."""
    record, name = device.status.failover, member.ase_node.name
    if device.status.state is DeviceState.OFFLINE:
        # Without quorum nothing is taken away from it, and its vote may be the one that is missing.
        return True
    if record is not None and record.from_node == name and record.update is not None:
        # Its pods have been asked to leave; only a leave by force takes any away, while it is off.
        return True
    if record is not None and record.from_node == name and record.evacuated_at is not None:
        # A node that is lost again while its return is not over has not been evacuated anew.
        return record.rebalance is None
    # With nobody left to take over, holding the power back would keep the device Offline.
    others = [one.ase_node for one in members if one.ase_node.name != name]
    return not any(one.status.state is NodeState.UP for one in others)


def _node(member: references.Member, snapshot: Snapshot) -> Node | None:
    return snapshot.nodes.get(member.worker.spec.node_name) if member.worker else None
