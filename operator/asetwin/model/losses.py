"""What would become of the pods if a node were lost now (design 4.8): asked before it happens.

The what-if of :mod:`asetwin.model.failover`: the Node gets the taints that a
failover gives it, its pods go, their replacements look for a place in the
scheduler's order. Callers: :mod:`asetwin.model.readiness` on the cluster as it
is, ``asetwin check`` on manifests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from asetwin import constants
from asetwin.model import failover, quotas, volumes
from asetwin.model.placement.boards import Board
from asetwin.model.placement.queues import Queue
from asetwin.model.placement.rooms import Misfit
from asetwin.resources.core import Limit, Namespace, Node, Pod, Taint, Workload

DEAD = (
    Taint(constants.TAINT_NODE_DOWN, constants.TAINT_EFFECT),
    Taint(constants.TAINT_OUT_OF_SERVICE, constants.TAINT_EFFECT),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """The cluster as it is before the loss."""

    nodes: Mapping[str, Node]
    pods: Mapping[str, Sequence[Pod]]
    """By Node."""
    workloads: Mapping[str, Workload]
    """By uid."""
    waiting: Sequence[Pod] = ()
    """Pods on no Node yet, which compete for the places."""
    titles: Mapping[str, str] | None = None
    namespaces: Mapping[str, Namespace] | None = None
    tied: volumes.Tied | None = None
    guarded: Callable[[], frozenset[str]] = frozenset
    """The pods that disruption budgets do not let go; asked for only where that matters."""
    quotas: Sequence[Limit] = ()
    """Those that stay in force."""
    defaulted: Mapping[str, frozenset[str]] | None = None
    """By namespace the keys that a LimitRange states where a container does not."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A pod that would not run after a loss, and why."""

    pod: Pod
    misfit: Misfit


@dataclass(frozen=True, slots=True)
class Loss:
    """What the loss of a node comes to."""

    moving: int
    """How many pods would have to run elsewhere."""
    victims: tuple[Victim, ...]
    """Sorted by namespace and name."""


def foresee(scene: Scene, lost: str, survivors: Sequence[str]) -> Loss:
    """What the loss of the Node ``lost`` would come to; ``survivors`` are the device's others.

    Any other Node of the cluster is taken for pods that it accepts, as the
    scheduler does. Pods that are ending already count for nothing.
    """
    gone = failover.movable(scene.pods.get(lost, ()), scene.workloads)
    leaving = {pod.key for pod in gone}
    pods = {
        **scene.pods,
        lost: [pod for pod in scene.pods.get(lost, ()) if pod.key not in leaving],
    }
    dead = scene.nodes[lost]
    nodes = {**scene.nodes, lost: replace(dead, unschedulable=True, taints=(*dead.taints, *DEAD))}
    board = Board.of(
        nodes.values(), pods, titles=scene.titles, namespaces=scene.namespaces, tied=scene.tied
    )
    moving, victims = list[Pod](), list[Victim]()
    for pod in gone:
        if failover.is_master(pod):
            # It goes past the scheduler, to the survivor; the room that it takes counts.
            if survivors:
                board.put(pod, survivors[0])
        elif pod.deleting is not None:
            continue
        elif not _comes_back(pod):
            victims.append(Victim(pod, Misfit("NoController", "nothing recreates it")))
        else:
            moving.append(pod)
    others = [name for name in scene.nodes if name != lost and name not in survivors]
    queue = Queue(board, survivors, others, scene.guarded)
    known = {pod.key for pod in scene.waiting}
    refused = _refused(scene, pods, moving)
    victims += refused
    # A pod that is never created drives nobody out, whatever its priority.
    away = {one.pod.key for one in refused}
    created = [pod for pod in moving if pod.key not in away]
    for result in queue.run([*created, *scene.waiting]):
        if result.node or result.misfit is None or result.pod.key in known:
            continue
        victims.append(Victim(result.pod, _told(result.pod, result.misfit, leaving)))
    victims.sort(key=lambda one: one.pod.key)
    return Loss(len(moving) + sum(1 for pod in gone if _is_lost(pod)), tuple(victims))


def _refused(
    scene: Scene, staying: Mapping[str, Sequence[Pod]], moving: Sequence[Pod]
) -> list[Victim]:
    """Whose replacements a quota does not let in, although the pods themselves are gone by then.

    That takes a quota that is below its usage, or demands what the pods do
    not state: what a failover removes is off the bill at once.
    """
    if not scene.quotas:
        return []
    there = [pod for on_node in staying.values() for pod in on_node if pod.deleting is None]
    books = quotas.Books.of(scene.quotas, [*there, *scene.waiting], defaulted=scene.defaulted)
    asked = ((pod, books.admit(pod)) for pod in moving)
    return [Victim(pod, misfit) for pod, misfit in asked if misfit is not None]


def _is_lost(pod: Pod) -> bool:
    return pod.deleting is None and not failover.is_master(pod) and not _comes_back(pod)


def _comes_back(pod: Pod) -> bool:
    # What is left of a DaemonSet that was deleted comes back as little as a bare pod.
    return pod.owner is not None and pod.owner.kind != "DaemonSet"


def _told(pod: Pod, misfit: Misfit, leaving: set[str]) -> Misfit:
    if pod.key in leaving:
        return misfit
    if not _comes_back(pod):
        return Misfit("NoController", "a more important pod takes its place, nothing recreates it")
    text = f"a more important pod takes its place; {misfit.message}"
    return Misfit(misfit.reason, text)
