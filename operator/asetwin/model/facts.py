"""What one turn derives once from a snapshot, for the rules that come after."""

from dataclasses import dataclass

from asetwin.model import failover, nodes, quorum, references, reserve
from asetwin.model.nodes import View
from asetwin.model.references import References
from asetwin.model.snapshot import Snapshot
from asetwin.resources.core import Node
from asetwin.resources.devices import AseDevice, Failover, FailoverRecord, Votes


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
    workload: set[str]
    weighed: reserve.Balance

    @property
    def has_quorum(self) -> bool:
        """Whether the device as a whole may act."""
        return quorum.is_reached(self.votes) and not self.lost_disks

    @property
    def is_paused(self) -> bool:
        """Whether somebody has asked the operator to keep its hands off."""
        return bool(self.device.spec.paused)


def gather(device: AseDevice, snapshot: Snapshot, found: References, now: float) -> Facts:
    """Judge the members of a device, count its votes, open or close a failover, weigh requests."""
    views = tuple(
        nodes.view(member, _node(member, snapshot), device, now)
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
    closed: FailoverRecord | None = None
    if record is not None and failover.is_over(record, views):
        closed, record = failover.close(record, now), None
    if record is None and quorum.is_reached(votes) and not lost_disks and not device.spec.paused:
        pair = failover.to_start(views)
        if pair is not None:
            record = failover.start(*pair, pods, now)
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
        workload=workload,
        weighed=reserve.balance(device, views, snapshot, workload, now),
    )


def _node(member: references.Member, snapshot: Snapshot) -> Node | None:
    return snapshot.nodes.get(member.worker.spec.node_name) if member.worker else None
