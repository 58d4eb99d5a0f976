"""The drain of a node that leaves as planned: its pods are asked to go (design 4.5).

Through the Eviction API, so that budgets hold; one pod at a time of each
workload, the next when its replacement is Ready. What cannot go is told in
words and tried again: an eviction that was refused costs nothing. What bounds
the rule is remembered in the DeviceUpdate's status before it is done. Only
where the resource says so is anything deleted (``onDrainTimeout: Force``).

Source of the classes of pods: kubectl's drain filters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from asetwin import constants
from asetwin.model import budgets, failover, quotas, volumes
from asetwin.model.nodes import View
from asetwin.model.placement.boards import Board
from asetwin.model.plan import DeletePod, Evict
from asetwin.model.snapshot import Snapshot
from asetwin.resources.core import Pod
from asetwin.resources.devices import Failover
from asetwin.resources.updates import Ask, BlockedPod, Drain

MOST_IN_FLIGHT = 10
"""Workloads that have a pod on its way at one time; a workload has one."""
ASK_SECONDS = 5.0
"""From one eviction to the next attempt for the same pod, as ``kubectl drain`` waits."""
FORCED_SECONDS = 30.0
"""How long pods that were deleted by force may take to end before the node goes all the same."""
HELD_SECONDS = 2.0
"""A budget's own status follows a moment after the replacement is Ready: no news before that."""
MESSAGE_NAMES = 3
COUNTED = frozenset({"ReplicaSet", "StatefulSet"})
"""Controllers that keep as many pods as they say; a Job's become fewer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a drain is told by its update."""

    timeout: float
    allow_unready: bool = False
    is_forced: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a drain is, and what to do next; the memory is written before it is done."""

    memory: Drain
    message: str
    evictions: tuple[Evict, ...] = ()
    deletions: tuple[DeletePod, ...] = ()
    is_done: bool = False
    is_stuck: bool = False
    """Whether something holds pods and none has been on its way for a while."""
    is_late: bool = False
    wakes: tuple[float, ...] = ()


@dataclass(slots=True)
class _Look:
    """One look at a drain."""

    pods: failover.Pods
    node: str
    now: float
    request: Request
    target: str
    board: Board
    held_by: budgets.Budgets
    asked: dict[str, Ask]
    left: list[Pod]
    books: quotas.Books | None
    asks: list[Ask] = field(default_factory=list)
    evictions: list[Evict] = field(default_factory=list)
    blocked: list[BlockedPod] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def block(self, pod: Pod, reason: str, message: str) -> None:
        self.blocked.append(BlockedPod(pod=pod.key, reason=reason, message=message[:300]))


def rule(
    leaving: View,
    other: View,
    record: Failover,
    pods: failover.Pods,
    snapshot: Snapshot,
    memory: Drain,
    request: Request,
    now: float,
    books: quotas.Books | None = None,
) -> Verdict:
    """The next step of a drain; ``other`` is the node in service that takes the pods.

    ``books`` are those of the quotas that stay in force; None where there are none.
    """
    assert leaving.node is not None
    assert other.node is not None
    left = leavers(leaving.node.name, pods)
    look = _Look(
        pods=pods,
        node=leaving.node.name,
        now=now,
        request=request,
        target=other.node.name,
        board=Board.of(
            (place for one in (leaving, other) if (place := one.place) is not None),
            pods.by_node,
            titles={one.node.name: one.name for one in (leaving, other) if one.node is not None},
            namespaces=snapshot.namespaces,
            tied=volumes.find_tied(snapshot),
        ),
        held_by=budgets.Budgets(snapshot.budgets),
        asked={one.pod_uid: one for one in memory.asked},
        left=left,
        books=books,
    )
    deletions: tuple[DeletePod, ...] = ()
    if request.is_forced:
        deletions = _deletions(left, request)
        look.waits += [f"{pod.key} to end" for pod in left]
    else:
        _ask_all(look, record)
    ends_at = memory.since + request.timeout
    gives_up_at = ends_at + FORCED_SECONDS
    total = max(memory.total, len(left))
    after = Drain(
        since=memory.since,
        total=total,
        moved=total - len(left),
        blocked_count=len(look.blocked),
        blocked=tuple(look.blocked[: constants.STATUS_LIST_LIMIT]),
        asked=tuple(look.asks[: constants.STATUS_LIST_LIMIT]),
        held_since=_held_since(memory, look),
        forced=request.is_forced,
    )
    is_done = not (left or look.waits or look.blocked)
    stuck_at = now if after.held_since is None else after.held_since + HELD_SECONDS
    return Verdict(
        memory=after,
        message=_message(after, look),
        evictions=tuple(look.evictions),
        deletions=deletions,
        is_done=is_done or (request.is_forced and now >= gives_up_at),
        is_stuck=after.held_since is not None and now >= stuck_at,
        is_late=now >= ends_at,
        wakes=tuple(one for one in (*look.wakes, stuck_at, ends_at, gives_up_at) if one > now),
    )


def _deletions(left: Sequence[Pod], request: Request) -> tuple[DeletePod, ...]:
    why = f"{request.why}, by force"
    return tuple(
        DeletePod(pod.namespace, pod.name, pod.uid, why=why) for pod in left if pod.deleting is None
    )


def _held_since(memory: Drain, look: _Look) -> float | None:
    """Since when everything that is left is held; None while something is on its way."""
    if not look.blocked or look.waits:
        return None
    return memory.held_since if memory.held_since is not None else look.now


def leavers(node: str, pods: failover.Pods) -> list[Pod]:
    """The pods that have to be gone from a Node before it may leave.

    Not mirror pods, those of living DaemonSets and masters, nor what has ended
    by itself. One that has ended but that a finalizer holds is waited for.
    """
    own = pods.by_node.get(node, ())
    held = [one for one in own if one.is_over and one.deleting is not None and one.finalizers]
    going = [*failover.movable(own, pods.workloads), *(one for one in held if not one.is_mirror)]
    return sorted((one for one in going if not failover.is_master(one)), key=lambda one: one.key)


def _ask_all(look: _Look, record: Failover) -> None:
    """Look at each workload that has pods here, or whose pods have left and are not Ready yet."""
    groups: dict[str, list[Pod]] = {one.uid: [] for one in record.workloads}
    for pod in look.left:
        owner = failover.top_owner(pod, look.pods.workloads)
        if owner is None or owner.kind == "DaemonSet":
            # What is left of a DaemonSet that was deleted comes back as little as a bare pod.
            _leave_alone(pod, look)
        else:
            groups.setdefault(owner.uid, []).append(pod)

    def rank(uid: str) -> tuple[str, str]:
        own = look.pods.by_owner.get(uid, ())
        return (own[0].namespace if own else "", uid)

    in_flight = 0
    for uid in sorted(groups, key=rank):
        if _is_on_its_way(uid, look):
            in_flight += 1
            continue
        candidates = [one for one in groups[uid] if one.deleting is None]
        if not candidates:
            continue
        if in_flight >= MOST_IN_FLIGHT:
            look.waits.append(f"its turn: {candidates[0].key}")
            continue
        in_flight += _ask_one(candidates, look)


def _leave_alone(pod: Pod, look: _Look) -> None:
    if pod.deleting is not None:
        _wait_for_end(pod, look)
        return
    text = "it has no controller and would be lost; delete it yourself"
    look.block(pod, "NoController", text)


def _is_on_its_way(uid: str, look: _Look) -> bool:
    """Whether a pod of a workload ends or its replacement starts: the next one waits for it."""
    own = look.pods.by_owner.get(uid, ())
    ending = [one for one in own if one.deleting is not None and not _is_held_elsewhere(one, look)]
    for pod in ending:
        _wait_for_end(pod, look)
    if ending:
        return True
    present = [one for one in own if one.deleting is None and not one.is_over]
    for pod in present:
        if pod.is_ready:
            continue
        ready_by = pod.created + failover.STARTING_SECONDS
        if pod.unschedulable and not pod.node:
            if not look.request.allow_unready:
                reason = failover.scheduler_reason(pod.unschedulable)
                look.block(pod, reason, pod.unschedulable)
                return True
        elif look.now < ready_by:
            look.waits.append(f"{pod.key} to be Ready")
            look.wakes.append(ready_by)
            return True
    known = look.pods.workloads.get(uid)
    is_counted = any(one.owner is not None and one.owner.kind in COUNTED for one in own)
    if known is not None and is_counted and len(present) < known.replicas:
        text = f"{known.namespace}/{known.name} has {len(present)} of {known.replicas} pods"
        look.waits.append(text)
        return True
    return False


def _is_held_elsewhere(pod: Pod, look: _Look) -> bool:
    """Whether only its object is left, on another Node: nothing that this drain waits for."""
    return pod.is_over and pod.node != look.node


def _wait_for_end(pod: Pod, look: _Look) -> None:
    assert pod.deleting is not None
    if pod.finalizers and (pod.is_over or look.now > pod.deleting):
        look.block(pod, "Finalizers", f"it has ended, but is held by {', '.join(pod.finalizers)}")
        return
    look.waits.append(f"{pod.key} to end")
    look.wakes.append(pod.deleting)


def _ask_one(candidates: Sequence[Pod], look: _Look) -> bool:
    """Ask the first of a workload's pods to go that may; or say why none does."""
    held: list[tuple[Pod, str, str]] = []
    # One that is not Ready first: nobody misses it.
    for pod in sorted(candidates, key=lambda one: (one.is_ready, -one.created, one.name)):
        misfit = None
        if not look.request.allow_unready:
            misfit = look.board.misfit_moved(pod, look.node, look.target)
        if misfit is None and look.books is not None:
            misfit = look.books.refusal_moved(pod)
        refusal = look.held_by.refusal(pod)
        if misfit is not None:
            held.append((pod, misfit.reason, misfit.message))
        elif refusal is not None:
            held.append((pod, budgets.REASON, refusal.message))
        else:
            _ask(pod, look)
            return True
    for pod, reason, message in held:
        look.block(pod, reason, message)
    return False


def _ask(pod: Pod, look: _Look) -> None:
    look.held_by.spend(pod)
    look.board.put(pod, look.target)
    look.waits.append(f"{pod.key} to leave")
    before = look.asked.get(pod.uid)
    if before is not None and look.now < before.asked_at + ASK_SECONDS:
        look.asks.append(before)
        look.wakes.append(before.asked_at + ASK_SECONDS)
        return
    look.asks.append(Ask(pod_uid=pod.uid, asked_at=look.now))
    look.evictions.append(Evict(pod.namespace, pod.name, pod.uid, why=look.request.why))
    look.wakes.append(look.now + ASK_SECONDS)


def _message(memory: Drain, look: _Look) -> str:
    """How far it is, what blocks it and what it waits for; it counts and names."""
    parts = [f"{memory.moved} of {memory.total} pods have left"]
    if look.blocked:
        # Pods that the same thing holds are named once.
        words: dict[str, list[str]] = {}
        for one in look.blocked:
            words.setdefault(f"{one.reason}: {one.message}", []).append(one.pod)
        named = [f"{names[0]} {_more(names)}({text})" for text, names in words.items()]
        parts.append("held: " + ", ".join(named[:MESSAGE_NAMES]))
        if len(named) > MESSAGE_NAMES:
            parts.append(f"and {len(look.blocked)} in all")
    if look.waits:
        more = f" and {len(look.waits) - 1} more" if len(look.waits) > 1 else ""
        parts.append(f"waits for {look.waits[0]}{more}")
    return "; ".join(parts)


def _more(names: Sequence[str]) -> str:
    return f"and {len(names) - 1} more " if len(names) > 1 else ""
