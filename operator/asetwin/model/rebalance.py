"""After a node's return: pods go back to it until both nodes carry their share (design 4.6).

An eviction does not choose where the replacement goes, the scheduler does. So
only pods are evicted that fit the returned node, a PreferNoSchedule taint on
the fuller node steers, and what came back to where it was is left alone for
the rest of this return. Everything that bounds the rule is remembered per
workload in ``status.failover.rebalance``, written before the eviction that it
is about: killed in between, the next process waits and asks once more.

:mod:`asetwin.model.facts` asks it as soon as the lost node is in service; the
failover's record, and with it the lifted reserve, ends when it says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from asetwin import constants
from asetwin.model import budgets, failover, marks, quotas, volumes
from asetwin.model.nodes import View
from asetwin.model.placement import rooms
from asetwin.model.placement.boards import Board
from asetwin.model.plan import Evict
from asetwin.model.snapshot import Snapshot
from asetwin.resources.core import Node, Pod
from asetwin.resources.devices import (
    AseDevice,
    Failover,
    Move,
    PodProblem,
    Rebalance,
    RebalanceOutcome,
    RebalanceRecord,
)

MOST_IN_FLIGHT = 2
"""Pods of all workloads together that are on their way at one time; of one workload, one."""
ASK_SECONDS = 5.0
"""From one eviction to the next attempt for the same pod, as ``kubectl drain`` waits."""
MOST_ATTEMPTS = 3
PLUGIN_SECONDS = 120.0
"""For how long at least a returned node may still offer none of its GPUs.

Its kubelet reports none until the device plugin has registered again.
Source: kubelet's devicemanager (``GetCapacity``).
"""
UNDO_SECONDS = 10.0
"""For how long a return that has moved its pods stays open for its undoing."""
MESSAGE_NAMES = 3
REPLICATED = frozenset({"ReplicaSet", "StatefulSet"})
"""Whose pods may go; a Job's would begin its work anew."""
PINNED = frozenset({"NodeAffinity", "NodeLocalVolume"})
NOT_ON_ITS_WAY = dict[str, object].fromkeys(("pod", "pod_uid", "asked_at", "waits_since"))
"""What a move of which no pod is under way remembers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about a return now."""

    memory: Rebalance
    evictions: tuple[Evict, ...] = ()
    is_steered: bool = False
    """Whether the fuller node is to have the steering taint."""
    is_over: bool = False
    """Whether it has ended, and what it needed is undone: the record may be closed."""
    wake_at: float | None = None


@dataclass(slots=True)
class _Return:
    """One look at a return: what is known, and what this turn makes of it."""

    device: AseDevice
    pods: failover.Pods
    displaced: frozenset[str]
    source: View
    target: View
    now: float
    board: Board
    held_by: budgets.Budgets
    moves: dict[str, Move]
    started_at: float = 0.0
    books: quotas.Books | None = None
    """Those of the quotas that stay in force; None where there are none."""
    asks: list[Evict] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    is_waiting: bool = False
    """Whether time alone may still make a move possible."""
    is_short_of_gpus: bool = False
    """Whether it is for GPUs that a move waits."""
    is_needed: bool = False
    """Whether some pod may be evicted now."""
    kept: dict[str, PodProblem] = field(default_factory=dict)

    @property
    def from_room(self) -> rooms.Room:
        assert self.source.node is not None
        return self.board.rooms[self.source.node.name]

    @property
    def to_room(self) -> rooms.Room:
        assert self.target.node is not None
        return self.board.rooms[self.target.node.name]

    def misfit(self, pod: Pod) -> rooms.Misfit | None:
        """Why the scheduler would not put a pod of the fuller node on the other one."""
        return self.board.misfit_moved(pod, self.from_room.node.name, self.to_room.node.name)

    def refusal(self, pod: Pod) -> rooms.Misfit | None:
        """Why a pod that is evicted would not be created anew."""
        return self.books.refusal_moved(pod) if self.books is not None else None

    @property
    def timeout(self) -> int:
        return self.device.spec.timing.seconds("drain_timeout")

    @property
    def in_flight(self) -> list[Move]:
        return [one for one in self.moves.values() if one.pod_uid is not None]

    def is_steered(self) -> bool:
        node = self.source.node
        return node is not None and marks.is_steered(node, self.device.name)


def rule(
    record: Failover,
    views: Sequence[View],
    pods: failover.Pods,
    snapshot: Snapshot,
    device: AseDevice,
    now: float,
) -> Verdict:
    """The next step of a return; to be asked once the record's node was taken back.

    The verdict's memory has to be written before its evictions are carried out.
    """
    target = next((one for one in views if one.name == record.from_node), None)
    source = next((one for one in views if one.name != record.from_node), None)
    memory = record.rebalance or Rebalance(
        started_at=now,
        from_node=source.name if source else "",
        to_node=record.from_node,
    )
    gone = [one.name for one in (target, source) if one is not None and one.is_lost]
    if target is None or source is None or target.node is None or source.node is None or gone:
        text = f"ended early: {gone[0]} is lost" if gone else "there is no other node to share with"
        ended = {"message": text, "outcome": RebalanceOutcome.INTERRUPTED, "ended_at": now}
        # What has been shared out already stays so, whatever comes after it.
        told = memory if memory.outcome is not None else memory.model_copy(update=ended)
        return Verdict(told, is_over=True)
    if memory.outcome is not None:
        return _undone(memory, source.node, snapshot, device, now)
    patience_ends_at = memory.started_at + device.spec.timing.seconds("drain_timeout")
    waits_for = "both nodes to be in service"
    if target.in_service and source.in_service:
        waits_for = _passing_taint(target.node) if now < patience_ends_at else ""
    if waits_for:
        text = f"waits for {waits_for}"
        # A kubelet that is silent for a moment is no reason to write to its Node.
        is_steered = marks.is_steered(source.node, device.name)
        held = memory.model_copy(update={"message": text})
        return Verdict(held, is_steered=is_steered, wake_at=max(now + 1.0, patience_ends_at))
    back = _Return(
        device=device,
        pods=pods,
        displaced=frozenset(one.uid for one in record.workloads),
        source=source,
        target=target,
        now=now,
        board=Board.of(
            (place for one in views if (place := one.place) is not None),
            pods.by_node,
            titles={one.node.name: one.name for one in views if one.node is not None},
            namespaces=snapshot.namespaces,
            tied=volumes.find_tied(snapshot),
        ),
        held_by=budgets.Budgets(snapshot.budgets),
        moves={one.uid: one for one in memory.moves},
        started_at=memory.started_at,
        books=quotas.in_force(device, snapshot, now),
    )
    return _judge(back, memory)


def _passing_taint(node: Node) -> str:
    """The taint that a Node that has just come back is about to lose; "" for none.

    An accident: 1. we uncordon the Node; 2. we look whether pods fit it; 3. only then the
    controller manager removes the taint that it has for cordoned Nodes. Without waiting,
    nothing fits and the return ends before it began.
    """
    taint = next(iter(rooms.passing(node)), None)
    return f"Node {node.name} to lose its taint {taint.identity}" if taint is not None else ""


def _undone(
    memory: Rebalance, node: Node, snapshot: Snapshot, device: AseDevice, now: float
) -> Verdict:
    """Nothing more is moved: wait until the reserve is back and the steering is gone.

    Not for ever: somebody's namespace may refuse its quota, which is reported elsewhere.
    """
    assert memory.ended_at is not None
    is_lifted = any(one.lifted_for for one in snapshot.quotas if one.device == device.name)
    is_undone = not is_lifted and not marks.is_steered(node, device.name)
    closes_at = memory.ended_at + UNDO_SECONDS
    return Verdict(memory, is_over=is_undone or now >= closes_at, wake_at=closes_at)


def _judge(back: _Return, memory: Rebalance) -> Verdict:
    for move in list(back.moves.values()):
        if not failover.still_wanted(move.kind, move.uid, 1, back.pods):
            # Deleted, or scaled to none: nobody waits for a replacement that nobody makes.
            back.moves[move.uid] = move.model_copy(update=NOT_ON_ITS_WAY)
        elif move.pod_uid is not None:
            back.moves[move.uid] = _followed(move, back)
    lopsided = _lopsided(back)
    planned = _planned(back)
    for uid in lopsided:
        _try(uid, back, _serving(uid, back.source, back))
    if not (back.in_flight or back.is_needed or back.is_waiting):
        _relieve(back)
    _name_pinned(back)
    has_ended = not (back.in_flight or back.is_needed or back.is_waiting)
    outcome = None
    if has_ended:
        is_even = not lopsided and not _is_overfull(back)
        outcome = RebalanceOutcome.BALANCED if is_even else RebalanceOutcome.BLOCKED
    moved = sum(one.moved for one in back.moves.values())
    kept = [back.kept[key] for key in sorted(back.kept)]
    after = memory.model_copy(
        update={
            "moved": moved,
            "planned": max(planned, moved + len(back.in_flight)),
            "moves": tuple(back.moves[uid] for uid in sorted(back.moves)),
            "kept_count": len(kept),
            "kept": tuple(kept[: constants.STATUS_LIST_LIMIT]),
            "outcome": outcome,
            "ended_at": back.now if has_ended else None,
        }
    )
    after = after.model_copy(update={"message": _message(after, back, outcome)})
    return Verdict(
        memory=after,
        evictions=tuple(back.asks),
        is_steered=not has_ended and (back.is_steered() or back.is_needed),
        wake_at=min(back.wakes, default=None),
    )


def remembered(verdict: Verdict, now: float) -> RebalanceRecord:
    """What history keeps of a return that has ended."""
    assert verdict.memory.outcome is not None
    return RebalanceRecord(
        outcome=verdict.memory.outcome,
        message=verdict.memory.message,
        moved=verdict.memory.moved,
        started_at=verdict.memory.started_at,
        ended_at=now,
    )


# --- What is on its way ---------------------------------------------------------------------------


def _followed(move: Move, back: _Return) -> Move:
    """One pod on its way: asked again, waited for, arrived, come back, or given up."""
    assert move.asked_at is not None
    gives_up_at = move.asked_at + back.timeout
    own = back.pods.by_owner.get(move.uid, ())
    leaving = next((one for one in own if one.uid == move.pod_uid), None)
    if leaving is not None and leaving.deleting is None and not leaving.is_over:
        return _asked_again(move, leaving, back)
    serving = sum(1 for one in own if one.is_serving)
    if serving < failover.still_wanted(move.kind, move.uid, move.want, back.pods):
        if back.now < gives_up_at:
            back.wakes.append(gives_up_at)
            return move
        text = f"its replacement was not Ready within {back.timeout} s"
        return _ended(move, "NotReady", text, back)
    landed = {**NOT_ON_ITS_WAY, "attempts": 0}
    left = len(_present(move.uid, back.source, back))
    if left < move.before:
        return move.model_copy(update={**landed, "moved": move.moved + 1})
    text = f"its replacement came back to {back.source.name}"
    return _ended(move.model_copy(update=landed), "CameBack", text, back)


def _asked_again(move: Move, pod: Pod, back: _Return) -> Move:
    """The pod is still there: the answer is on its way, or it was a refusal."""
    assert move.asked_at is not None
    asks_at = move.asked_at + ASK_SECONDS
    if back.now < asks_at:
        back.held_by.spend(pod)
        back.wakes.append(asks_at)
        return move
    refusal = back.held_by.refusal(pod)
    if move.attempts >= MOST_ATTEMPTS or (refusal is not None and refusal.is_final):
        text = f"{move.attempts} evictions were refused"
        reason = budgets.REASON if refusal else "Refused"
        return _ended(move, reason, refusal.message if refusal else text, back)
    if refusal is not None:
        # Not asked for now: it waits for its budget like one that was never asked for.
        idle = {"pod": None, "pod_uid": None, "asked_at": None}
        return move.model_copy(update=idle)
    back.held_by.spend(pod)
    _ask(pod, back)
    return move.model_copy(update={"asked_at": back.now, "attempts": move.attempts + 1})


def _ended(move: Move, reason: str, text: str, back: _Return) -> Move:
    """Nothing more of this workload is moved in this return."""
    return move.model_copy(update={**NOT_ON_ITS_WAY, "ended": reason, "message": text})


# --- What is to go --------------------------------------------------------------------------------


def _lopsided(back: _Return) -> list[str]:
    """The displaced workloads with two or more pods too many on the fuller node, worst first."""
    found = [(_surplus(uid, back), uid) for uid in back.displaced if uid in back.pods.owners]
    found = [one for one in found if one[0] >= 2 and _is_movable_kind(one[1], back)]
    found.sort(key=lambda one: (-one[0], back.pods.owners[one[1]].name, one[1]))
    return [uid for _, uid in found]


def _surplus(uid: str, back: _Return) -> int:
    """By how many more pods of a workload are on the fuller node.

    Those on no Node yet count for the other one, where the room is; the one
    that was asked to go counts for none.
    """
    move = back.moves.get(uid)
    leaving = move.pod_uid if move else None
    here = sum(1 for one in _present(uid, back.source, back) if one.uid != leaving)
    there = len(_present(uid, back.target, back))
    unbound = sum(
        1
        for one in back.pods.by_owner.get(uid, ())
        if not one.node and one.deleting is None and not one.is_over
    )
    return here - there - unbound


def _planned(back: _Return) -> int:
    """How many pods go in all, as far as uneven workloads tell."""
    moved = sum(one.moved for one in back.moves.values())
    open_ones = [uid for uid in back.displaced if not _has_ended(uid, back)]
    ahead = sum(
        max(0, _surplus(uid, back)) // 2 for uid in open_ones if _is_movable_kind(uid, back)
    )
    return moved + len(back.in_flight) + ahead


def _relieve(back: _Return) -> None:
    """Take pods off a node that is above its reserve: displaced ones first, big ones first."""
    percent = back.device.spec.reserve.percent
    over = back.from_room.excess(percent)
    if not over:
        return
    by_owner: dict[str, list[Pod]] = {}
    for pod in back.from_room.pods.values():
        owner = failover.top_owner(pod, back.pods.workloads)
        helps = any(name == "pods" or pod.requests.get(name) for name in over)
        if owner is None or not helps or not pod.is_serving or not _is_ours_to_move(pod, back):
            continue
        if owner.uid not in back.displaced or _surplus(owner.uid, back) >= 1:
            by_owner.setdefault(owner.uid, []).append(pod)

    def weight(uid: str) -> tuple[bool, int, str]:
        most = max(one.requests.get(over[0], 0) for one in by_owner[uid])
        return uid not in back.displaced, -most, by_owner[uid][0].key

    for uid in sorted(by_owner, key=weight):
        _try(uid, back, by_owner[uid])
        if back.in_flight or back.is_needed:
            return


def _is_overfull(back: _Return) -> bool:
    return bool(back.from_room.excess(back.device.spec.reserve.percent))


def _try(uid: str, back: _Return, candidates: Sequence[Pod]) -> None:
    """Ask the first of a workload's pods to go that fits and is free to; or say why none does."""
    move = back.moves.get(uid)
    if move is not None and (move.pod_uid is not None or move.ended):
        if move.ended and candidates:
            back.kept[candidates[0].key] = _problem(candidates[0], move.ended, move.message or "")
        return
    if _is_unsettled(uid, back):
        back.is_waiting = True
        return
    held: Pod | None = None
    for pod in sorted(candidates, key=lambda one: (-one.created, one.name)):
        misfit = _misfit(pod, back)
        refusal = back.held_by.refusal(pod)
        if misfit is None and refusal is None:
            _go(uid, pod, back)
            return
        if misfit is None and refusal is not None and not refusal.is_final:
            held = held or pod
        elif misfit is not None and _may_pass(misfit, back):
            back.is_waiting = back.is_short_of_gpus = True
        elif misfit is not None:
            back.kept[pod.key] = _problem(pod, misfit.reason, misfit.message)
        elif refusal is not None:
            back.kept[pod.key] = _problem(pod, budgets.REASON, refusal.message)
    if held is not None:
        _wait_for_budget(uid, held, back)


def _may_pass(misfit: rooms.Misfit, back: _Return) -> bool:
    """Whether only GPUs are missing that the returned node has, but does not offer yet."""
    ends_at = back.started_at + max(back.timeout, PLUGIN_SECONDS)
    if misfit.reason != "GPU" or not lacks_gpus(back.target) or back.now >= ends_at:
        return False
    back.wakes.append(ends_at)
    return True


def lacks_gpus(view: View) -> bool:
    """Whether a Node offers none of the GPUs that its machine has: its plugin is not there yet."""
    is_offered = view.node is not None and view.node.allocatable.get(constants.GPU_RESOURCE)
    return not is_offered and view.gpus > 0


def _go(uid: str, pod: Pod, back: _Return) -> None:
    if len(back.in_flight) >= MOST_IN_FLIGHT:
        back.is_waiting = True
        return
    back.is_needed = True
    if not back.is_steered():
        return
    move = back.moves.get(uid) or _new_move(uid, pod, back)
    back.moves[uid] = move.model_copy(
        update={
            "pod": pod.name,
            "pod_uid": pod.uid,
            "asked_at": back.now,
            "attempts": move.attempts + 1,
            "waits_since": None,
            "before": len(_present(uid, back.source, back)),
            "want": sum(1 for one in back.pods.by_owner[uid] if one.is_serving),
        }
    )
    back.held_by.spend(pod)
    back.board.put(pod, back.to_room.node.name)
    _ask(pod, back)


def _ask(pod: Pod, back: _Return) -> None:
    why = f"{back.target.name} is back"
    back.asks.append(Evict(pod.namespace, pod.name, pod.uid, why=why))
    back.wakes.append(back.now + ASK_SECONDS)


def _wait_for_budget(uid: str, pod: Pod, back: _Return) -> None:
    """A budget that may let go later: wait for it, but not for ever."""
    move = back.moves.get(uid) or _new_move(uid, pod, back)
    since = move.waits_since if move.waits_since is not None else back.now
    refusal = back.held_by.refusal(pod)
    text = refusal.message if refusal else ""
    if back.now < since + back.timeout:
        back.is_waiting = True
        back.wakes.append(since + back.timeout)
        back.moves[uid] = move.model_copy(update={"waits_since": since, "message": text})
        return
    back.moves[uid] = _ended(move, budgets.REASON, text, back)
    back.kept[pod.key] = _problem(pod, budgets.REASON, text)


def _new_move(uid: str, pod: Pod, back: _Return) -> Move:
    owner = back.pods.owners[uid]
    return Move(namespace=pod.namespace, kind=owner.kind, name=owner.name, uid=uid)


# --- Questions ------------------------------------------------------------------------------------


def _present(uid: str, view: View, back: _Return) -> list[Pod]:
    """The pods of a workload that are on a node to stay."""
    name = view.node.name if view.node else ""
    return [
        one
        for one in back.pods.by_owner.get(uid, ())
        if one.node == name and one.deleting is None and not one.is_over
    ]


def _serving(uid: str, view: View, back: _Return) -> list[Pod]:
    return [one for one in _present(uid, view, back) if one.is_ready]


def _has_ended(uid: str, back: _Return) -> bool:
    move = back.moves.get(uid)
    return move is not None and bool(move.ended)


def _is_unsettled(uid: str, back: _Return) -> bool:
    """Whether pods of a workload are still starting; what takes too long is not waited for."""
    starting = [
        one.created + failover.STARTING_SECONDS
        for one in back.pods.by_owner.get(uid, ())
        if not one.is_ready and not one.is_over and one.deleting is None
    ]
    ahead = [one for one in starting if one > back.now]
    back.wakes.extend(ahead)
    return bool(ahead)


def _is_ours_to_move(pod: Pod, back: _Return) -> bool:
    """Whether the rule may look at a pod at all: a replica in a workload's namespace."""
    excluded = constants.RESERVED_NAMESPACES | set(back.device.spec.reserve.excluded_namespaces)
    is_replica = pod.owner is not None and pod.owner.kind in REPLICATED
    return is_replica and not pod.is_mirror and pod.namespace not in excluded


def _is_movable_kind(uid: str, back: _Return) -> bool:
    return any(_is_ours_to_move(one, back) for one in back.pods.by_owner.get(uid, ()))


def _misfit(pod: Pod, back: _Return) -> rooms.Misfit | None:
    """Why the pod stays: it does not fit the other node, or would overfill that one instead."""
    found = back.misfit(pod) or back.refusal(pod)
    if found is not None:
        return found
    after = back.to_room.plus(pod)
    for name in after.excess(back.device.spec.reserve.percent):
        # Above it all the same only where that makes the fuller one of the two less full.
        if after.share(name) >= back.from_room.share(name):
            text = f"{back.target.name} would be above its reserve of {name}"
            reason = "GPU" if name == constants.GPU_RESOURCE else "Capacity"
            return rooms.Misfit(reason, text)
    return None


def _name_pinned(back: _Return) -> None:
    """Say of what can never go why it cannot, whether or not it would have been asked to."""
    for pod in back.from_room.pods.values():
        if pod.key in back.kept or pod.deleting is not None or not _is_ours_to_move(pod, back):
            continue
        misfit = back.misfit(pod)
        owner = failover.top_owner(pod, back.pods.workloads)
        is_displaced = owner is not None and owner.uid in back.displaced
        refusal = back.held_by.refusal(pod) if is_displaced else None
        if misfit is not None and misfit.reason in PINNED:
            back.kept[pod.key] = _problem(pod, misfit.reason, misfit.message)
        elif refusal is not None and refusal.is_final:
            back.kept[pod.key] = _problem(pod, budgets.REASON, refusal.message)


def _problem(pod: Pod, reason: str, message: str) -> PodProblem:
    return PodProblem(pod=pod.key, reason=reason, message=message[:300])


# --- Words ----------------------------------------------------------------------------------------


def _message(memory: Rebalance, back: _Return, outcome: RebalanceOutcome | None) -> str:
    """How far it has come, what it waits for, what stays and why; it counts and names."""
    parts = [f"{memory.moved} of {memory.planned} moved to {back.target.name}"]
    if memory.planned == 0:
        parts = ["nothing has to move" if outcome is None else "nothing had to move"]
    waits = [
        f"waits for {one.namespace}/{one.name} to be Ready without {one.pod}"
        for one in back.in_flight
    ]
    waits += [
        f"{one.namespace}/{one.name} waits: {one.message}"
        for one in back.moves.values()
        if one.waits_since is not None
    ]
    if back.is_short_of_gpus:
        waits.append(f"waits for the GPUs of {back.target.name}")
    parts += waits[:MESSAGE_NAMES]
    if len(waits) > MESSAGE_NAMES:
        parts.append(f"and {len(waits) - MESSAGE_NAMES} more")
    if outcome is RebalanceOutcome.BLOCKED:
        parts.append(f"{back.source.name} stays the fuller one")
    if outcome is not None and memory.kept:
        named = "; ".join(
            f"{one.pod} ({one.reason}: {one.message})" for one in memory.kept[:MESSAGE_NAMES]
        )
        more = memory.kept_count - len(memory.kept[:MESSAGE_NAMES])
        parts.append(f"stay: {named}" + (f"; and {more} more" if more else ""))
    return "; ".join(parts)
