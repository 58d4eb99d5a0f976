"""The loss of a node: what it displaces, and how far that has come back (design 4.4).

A failover is a record in ``AseDevice.status.failover``. It is written before
anything is done about the loss, because the pods that it remembers are gone
afterwards; everything else is derived from the cluster in every turn.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from asetwin import constants
from asetwin.model import marks, quotas, volumes
from asetwin.model.nodes import View
from asetwin.model.plan import DeletePod
from asetwin.model.snapshot import Snapshot
from asetwin.resources import times
from asetwin.resources.core import Node, Owner, Pod, Workload
from asetwin.resources.devices import (
    AseDevice,
    DisplacedWorkload,
    Failover,
    FailoverPhase,
    FailoverRecord,
    NodeState,
    PodProblem,
    RebalanceRecord,
)

STARTING_SECONDS = 60.0
"""A pod that is not Ready but younger than this is expected to become so."""
SCALED = frozenset({"Deployment", "Job", "ReplicaSet", "StatefulSet"})
"""Controllers that we watch: one of these that is not there any more was deleted."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a snapshot, by Node and by the workload that they belong to."""

    by_node: Mapping[str, tuple[Pod, ...]]
    by_owner: Mapping[str, tuple[Pod, ...]]
    owners: Mapping[str, Owner]
    workloads: Mapping[str, Workload]
    tied: volumes.Tied

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Pods":
        """Group the pods of a snapshot."""
        by_node: dict[str, list[Pod]] = defaultdict(list)
        by_owner: dict[str, list[Pod]] = defaultdict(list)
        owners: dict[str, Owner] = {}
        for pod in snapshot.pods:
            if pod.node:
                by_node[pod.node].append(pod)
            owner = top_owner(pod, snapshot.workloads)
            if owner is not None:
                by_owner[owner.uid].append(pod)
                owners[owner.uid] = owner
        return cls(
            {name: tuple(pods) for name, pods in by_node.items()},
            {uid: tuple(pods) for uid, pods in by_owner.items()},
            owners,
            snapshot.workloads,
            volumes.find_tied(snapshot),
        )


def top_owner(pod: Pod, workloads: Mapping[str, Workload]) -> Owner | None:
    """The controller that a person knows: a Deployment rather than its ReplicaSet."""
    owner = pod.owner
    while owner is not None and owner.uid in workloads:
        above = workloads[owner.uid].owner
        if above is None:
            break
        owner = above
    return owner


def still_wanted(kind: str, uid: str, want: int, pods: Pods) -> int:
    """How many of so many pods are missed if they are not there.

    None of a workload that was deleted meanwhile, and fewer of one that was scaled down.
    """
    if kind not in SCALED:
        return want
    known = pods.workloads.get(uid)
    return min(want, known.replicas) if known is not None else 0


def is_master(pod: Pod) -> bool:
    """Whether it is a master stand-in; those move by their own rule (design 4.7)."""
    return (
        pod.namespace == constants.SYSTEM_NAMESPACE
        and pod.labels.get(constants.LABEL_ROLE) == constants.ROLE_MASTER
    )


def movable(pods: Iterable[Pod], workloads: Mapping[str, Workload]) -> list[Pod]:
    """The pods that a crash removes: not mirror pods, not those of a living DaemonSet.

    Source: the classes of kubectl's drain filters. Pods that have ended by
    themselves stay as they are; they take no room.
    """
    return [
        pod
        for pod in pods
        if not pod.is_mirror
        and not pod.is_over
        and not (pod.owner and pod.owner.kind == "DaemonSet" and pod.owner.uid in workloads)
    ]


def start(
    lost: View, survivor: View, pods: Pods, now: float, *, update: str | None = None
) -> Failover:
    """The record of a loss that has just been detected, or of a leave for an update."""
    assert lost.node is not None
    gone = [
        pod
        for pod in movable(pods.by_node.get(lost.node.name, ()), pods.workloads)
        if not is_master(pod)
    ]
    displaced = Counter[str]()
    bare: list[str] = []
    for pod in gone:
        if pod.deleting is not None:
            continue
        owner = top_owner(pod, pods.workloads)
        # What is left of a DaemonSet that was deleted comes back as little as a bare pod.
        if owner is None or owner.kind == "DaemonSet":
            bare.append(pod.key)
        else:
            displaced[owner.uid] += 1
    workloads = [_displaced(uid, count, pods, now) for uid, count in displaced.items()]
    workloads.sort(key=lambda one: (one.namespace, one.kind, one.name))
    stamp = times.render(now).replace("-", "").replace(":", "").replace(".", "").lower()
    return Failover(
        id=f"{lost.name}-{stamp}",
        trigger=f"update {update}" if update else lost.verdict.summary or lost.summary,
        update=update,
        phase=FailoverPhase.DRAINING if update else FailoverPhase.FENCING,
        from_node=lost.name,
        to_node=survivor.name,
        detected_at=now,
        displaced=sum(displaced.values()),
        lost=len(bare),
        lost_pods=tuple(sorted(bare)[: constants.STATUS_LIST_LIMIT]),
        workloads=tuple(workloads),
    )


def _displaced(uid: str, count: int, pods: Pods, now: float) -> DisplacedWorkload:
    owner, own = pods.owners[uid], pods.by_owner[uid]
    want = sum(
        1
        for pod in own
        if pod.is_serving
        or (pod.deleting is None and not pod.is_over and now - pod.created < STARTING_SECONDS)
    )
    return DisplacedWorkload(
        namespace=own[0].namespace,
        kind=owner.kind,
        name=owner.name,
        uid=uid,
        displaced=count,
        want=want,
    )


def evacuation(record: Failover, lost: View, pods: Pods) -> tuple[DeletePod, ...]:
    """The pods that are still bound to a lost and fenced Node, to be force-deleted.

    One that has no grace period left was force-deleted before: only somebody's
    finalizer keeps its object. One that has come straight back is left where it
    is: it would do so again and again.
    """
    assert lost.node is not None
    return tuple(
        DeletePod(pod.namespace, pod.name, pod.uid, force=True, why=f"{record.from_node} is lost")
        for pod in movable(pods.by_node.get(lost.node.name, ()), pods.workloads)
        if (pod.deleting is None or pod.grace_seconds != 0) and not _has_come_back(pod, record)
    )


def _has_come_back(pod: Pod, record: Failover) -> bool:
    """Whether the scheduler has put a pod on the lost Node after it was fenced.

    It may, if the pod tolerates the cordon and our taints. Source: the
    scheduler's NodeUnschedulable and TaintToleration filters.
    """
    if record.fenced_at is None or pod.created <= record.fenced_at:
        return False
    return all(any(one.matches(taint) for one in pod.demands.tolerations) for taint in marks.GUARDS)


def follow(
    record: Failover,
    views: Sequence[View],
    pods: Pods,
    *,
    is_master_ready: bool,
    now: float,
    books: quotas.Books | None = None,
) -> Failover:
    """Bring an open record up to date with what the cluster shows.

    ``books`` are those of the quotas that stay in force; None where there are none.
    """
    lost = next((one for one in views if one.name == record.from_node), None)
    survivors = [one.node for one in views if one.node is not None and one.in_service]
    serving = {one.name for one in survivors}
    is_fenced = lost is not None and lost.is_fenced
    fenced_at = record.fenced_at or (now if is_fenced else None)
    remaining = evacuation(record, lost, pods) if lost is not None and lost.node else ()
    # By our mark, or because others had done all of it before us and left us nothing to mark.
    is_closed = (
        lost is not None and lost.node is not None and (lost.is_out or marks.is_closed(lost.node))
    )
    is_evacuated = fenced_at is not None and is_closed and not remaining
    if record.update is not None:
        is_evacuated = lost is not None and lost.leave is not None and lost.leave.is_drained
        # The master has moved before, or runs on: a worker's leave is no outage of it.
        is_master_ready = True
    workloads = tuple(_followed(one, record, serving, pods) for one in record.workloads)
    missing = sum(max(0, min(one.want - one.ready, one.displaced)) for one in workloads)
    problems = _problems(workloads, pods, survivors, record)
    if books is not None:
        problems += [one for each in workloads for one in _kept_out(each, pods, record, books)]
    fenced_by = lost.fence if lost is not None and lost.is_fenced else None
    changes: dict[str, object] = {
        "fenced_at": fenced_at,
        "fenced_by": record.fenced_by or fenced_by,
        "evacuated_at": record.evacuated_at or (now if is_evacuated else None),
        "master_ready_at": record.master_ready_at or (now if is_master_ready else None),
        "workloads": workloads,
        "recovered": record.displaced - missing,
        "unplaceable_count": len(problems),
        "unplaceable": tuple(problems[: constants.STATUS_LIST_LIMIT]),
    }
    is_moving = changes["evacuated_at"] is None
    all_ready = not is_moving and missing == 0
    changes["pods_ready_at"] = record.pods_ready_at or (now if all_ready else None)
    if record.update is not None and is_moving:
        phase = FailoverPhase.DRAINING
    elif record.update is None and fenced_at is None:
        phase = FailoverPhase.FENCING
    elif is_moving or changes["master_ready_at"] is None:
        phase = FailoverPhase.MOVING
    elif record.pods_ready_at is not None or all_ready:
        # Once recovered it stays so: what happens to those pods later is not this failover's.
        phase = FailoverPhase.RECOVERED
        changes["recovered_at"] = record.recovered_at or now
    elif missing <= len(problems):
        phase = FailoverPhase.RECOVERED_IN_PART
    else:
        phase = FailoverPhase.MOVING
    if record.rebalance is not None:
        # A pod that is moved back is missing for a moment, which is no step back for this.
        if record.pods_ready_at is not None:
            changes["recovered"] = record.recovered
        changes["rebalance"] = record.rebalance.model_copy(update={"came_to": phase})
        phase = FailoverPhase.REBALANCING
    return record.model_copy(update={**changes, "phase": phase})


def _followed(
    one: DisplacedWorkload, record: Failover, serving: set[str], pods: Pods
) -> DisplacedWorkload:
    want = still_wanted(one.kind, one.uid, one.want, pods)
    ready = sum(
        1
        for pod in pods.by_owner.get(one.uid, ())
        if (pod.is_serving and pod.node in serving) or _is_done(pod, record)
    )
    return one.model_copy(update={"want": want, "ready": ready})


def _problems(
    workloads: Iterable[DisplacedWorkload], pods: Pods, survivors: Sequence[Node], record: Failover
) -> list[PodProblem]:
    """The pods of displaced workloads that have no place on what is left."""
    return [
        problem
        for one in workloads
        if one.ready < one.want
        for pod in pods.by_owner.get(one.uid, ())
        if (problem := _problem(pod, pods.tied, survivors, record)) is not None
    ]


def _kept_out(
    one: DisplacedWorkload, pods: Pods, record: Failover, books: quotas.Books
) -> Iterator[PodProblem]:
    """The pods of a displaced workload that a quota does not let its controller create."""
    own, known = pods.by_owner.get(one.uid, ()), pods.workloads.get(one.uid)
    model = next(iter(own), known.template if known is not None else None)
    there = sum(1 for pod in own if pod.deleting is None and _is_wanted(pod, record))
    for _ in range(min(one.want - there, one.displaced) if model is not None else 0):
        assert model is not None
        refusal = books.admit(model)
        if refusal is not None:
            key = f"{one.namespace}/{one.name}"
            yield PodProblem(pod=key, reason=refusal.reason, message=refusal.message)


def _is_wanted(pod: Pod, record: Failover) -> bool:
    """Whether it is one of the pods that its workload should have now."""
    return not pod.is_over or _is_done(pod, record)


def _is_done(pod: Pod, record: Failover) -> bool:
    """Whether it has done its work since the failover began, as a Job's pods do."""
    return pod.phase == "Succeeded" and pod.created >= math.floor(record.detected_at)


def _problem(
    pod: Pod, tied: volumes.Tied, survivors: Sequence[Node], record: Failover
) -> PodProblem | None:
    """Why a pod has no place: by its volumes, which is sure at once, else by the scheduler."""
    is_elsewhere = pod.node and all(one.name != pod.node for one in survivors)
    if is_elsewhere and pod.deleting is None and not pod.is_over and _has_come_back(pod, record):
        text = f"it tolerates every taint, and the scheduler put it on {pod.node} again"
        return PodProblem(pod=pod.key, reason="Taint", message=text)
    if pod.node or pod.deleting is not None or pod.is_over:
        return None
    tie = volumes.explain_tie(pod, tied, survivors)
    if tie:
        return PodProblem(pod=pod.key, reason="NodeLocalVolume", message=tie)
    if not pod.unschedulable:
        return None
    reason = scheduler_reason(pod.unschedulable)
    return PodProblem(pod=pod.key, reason=reason, message=pod.unschedulable[:300])


_SCHEDULER_WORDS = (
    ("Insufficient nvidia.com/gpu", "GPU"),
    ("Insufficient", "Capacity"),
    ("Too many pods", "PodSlots"),
    ("didn't match PersistentVolume's node affinity", "NodeLocalVolume"),
    ("volume node affinity conflict", "NodeLocalVolume"),  # its older wording
    ("didn't find available persistent volumes to bind", "NodeLocalVolume"),
    ("didn't match pod topology spread constraints", "TopologySpread"),
    ("didn't match pod anti-affinity rules", "PodAntiAffinity"),
    ("didn't satisfy existing pods anti-affinity rules", "PodAntiAffinity"),
    ("didn't match pod affinity rules", "PodAffinity"),
    ("didn't match Pod's node affinity/selector", "NodeAffinity"),
    ("didn't have free ports", "HostPort"),
    ("had untolerated taint", "Taint"),
    ("were unschedulable", "Taint"),
)


def scheduler_reason(message: str) -> str:
    """Our reason word for kube-scheduler's message; the most telling one it names.

    With one node lost its taint stands in every message, so Taint is only the
    answer where there is no other.
    """
    return next((word for text, word in _SCHEDULER_WORDS if text in message), "Capacity")


def close(
    record: Failover, now: float, *, rebalance: RebalanceRecord | None = None
) -> FailoverRecord:
    """The record as history keeps it, when its node is back and the pods are shared out."""
    phase = record.came_to
    if record.evacuated_at is None:
        phase = FailoverPhase.TAKEN_BACK if record.update else FailoverPhase.REPAIRED
    return FailoverRecord(
        id=record.id,
        trigger=record.trigger,
        update=record.update,
        from_node=record.from_node,
        to_node=record.to_node,
        phase=phase,
        detected_at=record.detected_at,
        fenced_at=record.fenced_at,
        master_ready_at=record.master_ready_at,
        pods_ready_at=record.pods_ready_at,
        recovered_at=record.recovered_at,
        ended_at=now,
        displaced=record.displaced,
        recovered=record.recovered,
        lost=record.lost,
        rebalance=rebalance,
    )


def to_start(views: Sequence[View]) -> tuple[View, View] | None:
    """A lost node and the one in service that takes over; None where there is no such pair."""
    survivor = next((one for one in views if one.in_service), None)
    lost = next(
        (
            one
            for one in views
            if one.is_lost
            and one.node is not None
            and not one.judged.is_coming_on
            and not (one.state is NodeState.UPDATING and one.is_held_out)
        ),
        None,
    )
    return (lost, survivor) if lost is not None and survivor is not None else None


def to_leave(views: Sequence[View]) -> tuple[View, View] | None:
    """A node that an update is to drain and the one in service that takes over; else None."""
    other = next((one for one in views if one.in_service), None)
    leaving = next((one for one in views if one.is_held_out and one.node is not None), None)
    return (leaving, other) if leaving is not None and other is not None else None


def overtaken(record: Failover, views: Sequence[View], now: float) -> Failover:
    """A node that is lost while it is drained: from here on it is a failover like any other."""
    view = next((one for one in views if one.name == record.from_node), None)
    is_planned = record.update is not None and record.evacuated_at is None
    if view is None or not is_planned or not view.is_lost or view.judged.is_coming_on:
        return record
    if view.leave is not None and view.leave.is_off:
        return record
    trigger = view.verdict.summary or view.summary
    phase = FailoverPhase.FENCING
    changes = {"update": None, "trigger": trigger, "phase": phase, "detected_at": now}
    return record.model_copy(update={**changes, "master_ready_at": None})


def is_back(record: Failover, views: Sequence[View]) -> bool:
    """Whether the node of an open record is back in service, or no longer part of the device."""
    view = next((one for one in views if one.name == record.from_node), None)
    if view is None or view.node is None:
        return True
    if view.is_held_out:
        # Planned: it is not even out yet when the record begins.
        return False
    return not view.is_lost and not view.is_out and view.state is not NodeState.RETURNING


def remember(device: AseDevice, record: FailoverRecord) -> tuple[FailoverRecord, ...]:
    """The history with one more record in front; the oldest fall out."""
    return (record, *device.status.history)[: constants.HISTORY_LIMIT]
