"""Who would have to go so that a more important pod fits: the scheduler's preemption.

Source: ``defaultpreemption``'s ``SelectVictimsOnNode`` and the order in which
it compares candidates. A disruption budget is asked to be spared, and is
broken where there is no other way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asetwin.model.placement.boards import Board
from asetwin.resources.core import Pod


@dataclass(frozen=True, slots=True)
class Candidate:
    """A Node on which the pod would fit without some others."""

    node: str
    victims: tuple[Pod, ...]
    broken: int
    """How many of the victims are guarded by a budget that allows no eviction."""

    @property
    def rank(self) -> tuple[int, int, int, int, float, str]:
        """Lower is preferred."""
        priorities = [one.demands.priority for one in self.victims]
        top = max(priorities)
        youngest = -min(one.created for one in self.victims if one.demands.priority == top)
        # Counted up from the lowest priority there is, so that two are more than one.
        weight = sum(one + 2**31 for one in priorities)
        return self.broken, top, weight, len(priorities), youngest, self.node


def candidate(
    board: Board, pod: Pod, nodes: Iterable[str], guarded: frozenset[str] = frozenset()
) -> Candidate | None:
    """The Node where the fewest and least important pods would go; None where none helps.

    ``guarded`` names the pods that a disruption budget does not let go. The
    board is as before afterwards.
    """
    if not pod.demands.preempts:
        return None
    found = [one for name in nodes if (one := _victims(board, pod, name, guarded)) is not None]
    return min(found, key=lambda one: one.rank, default=None)


def _victims(board: Board, pod: Pod, node: str, guarded: frozenset[str]) -> Candidate | None:
    lower = [
        one
        for one in board.rooms[node].pods.values()
        if one.demands.priority < pod.demands.priority
    ]
    if not lower:
        return None
    for one in lower:
        board.take(one, node)
    victims: Sequence[Pod] = ()
    if board.fits(pod, node):
        victims = _not_spared(board, pod, node, lower, guarded)
    for one in lower:
        if one.key not in board.rooms[node].pods:
            board.put(one, node)
    if not victims:
        return None
    broken = sum(1 for one in victims if one.key in guarded)
    return Candidate(node, tuple(victims), broken)


def _not_spared(
    board: Board, pod: Pod, node: str, lower: list[Pod], guarded: frozenset[str]
) -> list[Pod]:
    """Those that have to go: the guarded and the important ones are put back first."""
    lower.sort(
        key=lambda one: (one.key not in guarded, -one.demands.priority, one.created, one.key)
    )
    victims = []
    for one in lower:
        board.put(one, node)
        if not board.fits(pod, node):
            board.take(one, node)
            victims.append(one)
    return victims
