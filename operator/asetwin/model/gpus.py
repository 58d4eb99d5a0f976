"""Pods that have lost their GPU: they move where one is free, or are named (design 4.1).

A failed GPU leaves its Node's capacity (:mod:`asetwin.model.marks`), which
stops nothing that runs there already. What asks for more than is left has
lost its device, so it is deleted and not evicted: no disruption budget keeps
a broken GPU working. It is done only where the other node has one free, and
with the reserve lifted, because a quota counts the pod that ends and its
replacement both. ``status.gpuMove`` remembers what is on its way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from asetwin import constants
from asetwin.model import failover, marks, quotas
from asetwin.model.nodes import View
from asetwin.model.placement.boards import Board
from asetwin.model.plan import DeletePod, Recheck
from asetwin.model.snapshot import Snapshot
from asetwin.resources import times
from asetwin.resources.core import Pod
from asetwin.resources.devices import AseDevice, DisplacedWorkload, GpuMove, GpuPod, PodProblem

REASON = "GPU"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of pods without a GPU."""

    move: GpuMove | None = None
    """The memory of pods on their way; None where there are none."""
    deletions: tuple[DeletePod, ...] = ()
    stranded: tuple[PodProblem, ...] = ()
    """Those that stay without one, each with why."""
    wake_at: float | None = None


def rule(
    device: AseDevice,
    views: Sequence[View],
    pods: failover.Pods,
    snapshot: Snapshot,
    *,
    is_free: bool,
    now: float,
) -> Verdict:
    """The next step; ``is_free`` is False during a failover, which goes first, and without storage.

    The verdict's memory has to be written before its deletions are carried out.
    """
    losers = [(view, pod) for view in views for pod in _without_gpu(view, device, pods)]
    known = device.status.gpu_move
    if not is_free:
        return Verdict(stranded=_named([(pod, _text(view)) for view, pod in losers]))
    if known is not None:
        ends_at = known.started_at + device.spec.timing.seconds("drain_timeout")
        followed = _followed(_still_lost(known, views, pods), pods)
        if now < ends_at and not _has_arrived(followed, pods):
            gone = [one for one in followed.pods if _is_present(one, pods)]
            waiting = _unplaced(followed, pods)
            return Verdict(followed, _deletions(gone, known.node), waiting, wake_at=ends_at)
    books = quotas.in_force(device, snapshot, now) if losers else None
    going, staying = _sorted_out(losers, views, pods, books)
    stranded = _named(staying)
    # After one that did not arrive in time, another attempt would only do the same again.
    if not going or known is not None:
        return Verdict(stranded=stranded)
    move = _begun(going, pods, now)
    return Verdict(move, _deletions(move.pods, move.node), stranded)


def rechecks(verdict: Verdict, views: Sequence[View]) -> list[Recheck]:
    """What says how many GPUs a node has left, to be read once more before pods are deleted."""
    if verdict.move is None or not verdict.deletions:
        return []
    view = next(one for one in views if one.name == verdict.move.node)
    found = [Recheck("asenodes", view.name)]
    if view.member.worker is not None:
        found.append(Recheck("pinnedworkers", view.member.worker.name))
    failed = [one for one in view.member.failures if one.spec.component.startswith(REASON)]
    return [*found, *(Recheck("hardwarefailures", one.name) for one in failed)]


def _without_gpu(view: View, device: AseDevice, pods: failover.Pods) -> list[Pod]:
    """The pods on a Node that ask for more GPUs than are left: the newest of the least important.

    Only where the Node says already that it has fewer, or the scheduler would
    put the replacement back; and never by what a kubelet has not reported yet.
    """
    node = view.node
    mark = marks.read(node) if node is not None else None
    is_ours = mark is not None and mark.device == device.name and mark.gpus is not None
    if node is None or not is_ours or not view.in_service:
        return []
    if node.allocatable.get(constants.GPU_RESOURCE, 0) > view.gpus:
        return []
    return _beyond(view, pods)


def _beyond(view: View, pods: failover.Pods) -> list[Pod]:
    """The pods on a Node for which its hardware has no GPU left."""
    node, left, found = view.node, view.gpus, list[Pod]()
    if node is None:
        return found
    holders = [
        one
        for one in pods.by_node.get(node.name, ())
        if one.requests.get(constants.GPU_RESOURCE) and not one.is_over and one.deleting is None
    ]
    holders.sort(key=lambda one: (-one.demands.priority, one.created, one.key))
    for pod in holders:
        left -= pod.requests[constants.GPU_RESOURCE]
        if left < 0:
            found.append(pod)
            # A smaller one after it may still fit into what is left.
            left += pod.requests[constants.GPU_RESOURCE]
    return found


def _sorted_out(
    losers: Sequence[tuple[View, Pod]],
    views: Sequence[View],
    pods: failover.Pods,
    books: quotas.Books | None,
) -> tuple[list[tuple[View, Pod]], list[tuple[Pod, str]]]:
    """Those that have a place on the other node, and those that have none with why."""
    going: list[tuple[View, Pod]] = []
    staying: list[tuple[Pod, str]] = []
    serving = {one.name: place for one in views if one.in_service and (place := one.place)}
    board = Board.of(
        serving.values(),
        pods.by_node,
        titles={node.name: name for name, node in serving.items()},
        tied=pods.tied,
    )
    for view, pod in losers:
        other = next((node.name for name, node in serving.items() if name != view.name), None)
        kinds = (*failover.SCALED, "Job", "ReplicationController")
        if pod.owner is None or pod.owner.kind not in kinds:
            staying.append((pod, f"{_text(view)}, and nothing recreates it elsewhere"))
        elif other is None:
            staying.append((pod, f"{_text(view)}, and no other node is in service"))
        elif (misfit := board.misfit(pod, other)) is not None:
            staying.append((pod, f"{_text(view)}; {misfit.message}"))
        elif books is not None and (refusal := books.refusal_moved(pod)) is not None:
            staying.append((pod, f"{_text(view)}; {refusal.message}"))
        else:
            going.append((view, pod))
            board.put(pod, other)
    return going, staying


def _text(view: View) -> str:
    return f"{view.name} has {view.gpus} GPUs left"


def _named(found: Sequence[tuple[Pod, str]]) -> tuple[PodProblem, ...]:
    return tuple(PodProblem(pod=pod.key, reason=REASON, message=text) for pod, text in found)


def _begun(going: Sequence[tuple[View, Pod]], pods: failover.Pods, now: float) -> GpuMove:
    stamp = times.render(now).replace("-", "").replace(":", "").replace(".", "").lower()
    node = going[0][0].name
    gone = [GpuPod(namespace=pod.namespace, name=pod.name, uid=pod.uid) for _, pod in going]
    displaced: dict[str, int] = {}
    for _, pod in going:
        owner = failover.top_owner(pod, pods.workloads)
        if owner is not None:
            displaced[owner.uid] = displaced.get(owner.uid, 0) + 1
    workloads = [
        DisplacedWorkload(
            namespace=pods.by_owner[uid][0].namespace,
            kind=pods.owners[uid].kind,
            name=pods.owners[uid].name,
            uid=uid,
            displaced=count,
            want=_serving(uid, pods),
            ready=_serving(uid, pods) - count,
        )
        for uid, count in sorted(displaced.items())
    ]
    return GpuMove(
        id=f"{node}-gpu-{stamp}",
        node=node,
        started_at=now,
        pods=tuple(gone),
        workloads=tuple(workloads),
    )


def _still_lost(move: GpuMove, views: Sequence[View], pods: failover.Pods) -> GpuMove:
    """The move without the pods that have a GPU again before they had to go."""
    lost = {pod.uid for one in views if one.name == move.node for pod in _beyond(one, pods)}
    left = tuple(one for one in move.pods if one.uid in lost or not _is_present(one, pods))
    return move if len(left) == len(move.pods) else move.model_copy(update={"pods": left})


def _followed(move: GpuMove, pods: failover.Pods) -> GpuMove:
    gone = {one.uid for one in move.pods}
    workloads = []
    for one in move.workloads:
        want = failover.still_wanted(one.kind, one.uid, one.want, pods)
        ready = sum(
            1 for pod in pods.by_owner.get(one.uid, ()) if pod.is_serving and pod.uid not in gone
        )
        workloads.append(one.model_copy(update={"want": want, "ready": ready}))
    return move.model_copy(update={"workloads": tuple(workloads)})


def _has_arrived(move: GpuMove, pods: failover.Pods) -> bool:
    if not move.pods:
        # All of them have a GPU again.
        return True
    is_ready = all(one.ready >= one.want for one in move.workloads)
    return is_ready and not any(_is_present(one, pods) for one in move.pods)


def _is_present(one: GpuPod, pods: failover.Pods) -> bool:
    return any(
        pod.uid == one.uid and pod.deleting is None and not pod.is_over
        for all_of_them in pods.by_node.values()
        for pod in all_of_them
    )


def _unplaced(move: GpuMove, pods: failover.Pods) -> tuple[PodProblem, ...]:
    """The replacements for which the scheduler finds no place: the GPU was taken meanwhile."""
    return tuple(
        PodProblem(pod=pod.key, reason=failover.scheduler_reason(text), message=text[:300])
        for one in move.workloads
        for pod in pods.by_owner.get(one.uid, ())
        if (text := pod.unschedulable) and not pod.node and pod.deleting is None
    )


def _deletions(gone: Sequence[GpuPod], node: str) -> tuple[DeletePod, ...]:
    return tuple(
        DeletePod(one.namespace, one.name, one.uid, why=f"its GPU on {node} has failed")
        for one in gone
    )


def _serving(uid: str, pods: failover.Pods) -> int:
    return sum(1 for one in pods.by_owner.get(uid, ()) if one.is_serving)


def message(verdict: Verdict) -> str:
    """What becomes of them, in one line that counts and names."""
    parts = []
    if verdict.move is not None:
        missing = sum(max(0, one.want - one.ready) for one in verdict.move.workloads)
        count = len(verdict.move.pods)
        parts.append(
            f"{max(0, count - missing)} of {count} pods that lost their GPU on "
            f"{verdict.move.node} are Ready again"
        )
    if verdict.stranded:
        named = [f"{one.pod} ({one.message})" for one in verdict.stranded[:3]]
        more = len(verdict.stranded) - len(named)
        parts.append(
            f"pods without a GPU: {len(verdict.stranded)}, as {', '.join(named)}"
            + (f" and {more} more" if more else "")
        )
    return "; ".join(parts) or "every pod has the GPUs that it asks for"
