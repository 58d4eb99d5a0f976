"""Many pods at once: placed in the order in which the scheduler takes them (priority, then age).

Which of several Nodes it chooses is a matter of scores, that is of taste; the
ones here are the simplest that spread. With one survivor there is no choice.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from asetwin.model.placement import preemptions, rooms
from asetwin.model.placement.boards import Board, telling
from asetwin.model.placement.rooms import Misfit
from asetwin.resources.core import Pod

HELPED_BY_OTHERS = frozenset({"PodAffinity", "TopologySpread"})
"""Reasons that pods placed later may cure."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of one pod."""

    pod: Pod
    node: str = ""
    """Empty where it has no place."""
    misfit: Misfit | None = None
    all_misfits: tuple[Misfit, ...] = ()
    victims: tuple[Pod, ...] = ()
    """Whom it has driven out."""


@dataclass(slots=True)
class Queue:
    """The pods that wait for a place on a board."""

    board: Board
    nodes: Sequence[str]
    """The Nodes of the device that may be chosen, in the order of preference where all is equal."""
    others: Sequence[str] = ()
    """More Nodes of the cluster, for pods that fit on none of those."""
    guarded: Callable[[], frozenset[str]] = frozenset
    """The pods that disruption budgets do not let go; asked only where one would be driven out."""
    on_put: Callable[[Pod, str], None] | None = None
    """Told of every pod that gets a place, before the next one is looked at."""
    placed: dict[str, Placed] = field(default_factory=dict)
    failures: dict[tuple[int, ...], tuple[Misfit, ...]] = field(default_factory=dict)
    """What an equal pod was told since the board last changed."""

    def run(self, pods: Iterable[Pod]) -> list[Placed]:
        """Place the pods; the answer is in the order of the queue, victims at the end of it."""
        waiting = sorted(pods, key=_turn)
        while waiting:
            retry, has_moved, driven_out = [], False, list[Pod]()
            for pod in waiting:
                result = self._place(pod)
                self.placed[pod.key] = result
                if result.node:
                    has_moved = True
                    driven_out += result.victims
                elif any(one.reason in HELPED_BY_OTHERS for one in result.all_misfits):
                    retry.append(pod)
            # Driven out by a pod of higher priority: their own turn comes after it.
            waiting = sorted([*driven_out, *(retry if has_moved else ())], key=_turn)
        return list(self.placed.values())

    def _place(self, pod: Pod) -> Placed:
        shape = (id(pod.demands), id(pod.requests), id(pod.labels), hash(pod.claims))
        known = self.failures.get(shape)
        if known is not None:
            return Placed(pod, misfit=telling(list(known)), all_misfits=known)
        node = self._choose(pod, self.nodes) or self._choose(pod, self.others)
        if node:
            self._put(pod, node)
            return Placed(pod, node)
        found = [one for name in self.nodes for one in self.board.misfits(pod, name)]
        if not pod.demands.is_gated and pod.demands.preempts and pod.demands.priority > self.least:
            better = preemptions.candidate(self.board, pod, self.nodes, self.guarded())
            if better is not None:
                for one in better.victims:
                    self.board.take(one, better.node)
                self._put(pod, better.node)
                return Placed(pod, better.node, victims=better.victims)
        self.failures[shape] = tuple(found)
        return Placed(pod, misfit=telling(found), all_misfits=tuple(found))

    def _put(self, pod: Pod, node: str) -> None:
        self.board.put(pod, node)
        self.failures.clear()
        if self.on_put is not None:
            self.on_put(pod, node)

    @property
    def least(self) -> int:
        """The lowest priority of a pod on the Nodes; nobody below it can drive anyone out."""
        return min(
            (
                one.demands.priority
                for name in self.nodes
                for one in self.board.rooms[name].pods.values()
            ),
            default=0,
        )

    def _choose(self, pod: Pod, nodes: Sequence[str]) -> str:
        """The best of the Nodes where it fits; empty where there is none."""
        fitting = [name for name in nodes if self.board.fits(pod, name)]
        if len(fitting) < 2:
            return fitting[0] if fitting else ""
        order = {name: number for number, name in enumerate(nodes)}
        return min(fitting, key=lambda name: (*self._score(pod, name), order[name]))

    def _score(self, pod: Pod, name: str) -> tuple[float, ...]:
        room, owner = self.board.rooms[name], pod.owner
        avoided = sum(
            1
            for taint in room.node.taints
            if taint.effect not in rooms.REFUSING and not rooms.is_tolerated(taint, pod.demands)
        )
        alike = sum(1 for one in room.pods.values() if one.owner == owner) if owner else 0
        return avoided, alike, room.share("cpu") + room.share("memory"), room.used["pods"]


def _turn(pod: Pod) -> tuple[int, float, str]:
    return -pod.demands.priority, pod.created, pod.key
