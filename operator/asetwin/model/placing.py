"""Whether a pod fits a given Node: the scheduler's filters, as far as a move needs them.

Asked before a pod is evicted for the sake of another Node (design 4.6), so
that only what can go there is moved. One cause per answer, in the scheduler's
order and words. Affinity between pods and topology spread are left out: a pod
that comes back to where it was is noticed instead, and not moved again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from asetwin import constants
from asetwin.model import volumes
from asetwin.resources import quantities
from asetwin.resources.core import Node, Pod, Taint

RESOURCES = ("cpu", "memory", "pods", constants.GPU_RESOURCE)
UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "NoSchedule")


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a pod does not fit; the reason is one of the words of design 4.8."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Room:
    """A Node, the pods that take room on it, and what they request."""

    node: Node
    pods: tuple[Pod, ...]
    used: Mapping[str, int]

    @classmethod
    def of(cls, node: Node, pods: Iterable[Pod]) -> "Room":
        """The room on a Node; ``pods`` are all that are bound to it."""
        taking = tuple(one for one in pods if not one.is_over)
        total = Counter[str]()
        for pod in taking:
            total.update(pod.requests)
        return cls(node, taking, {**total, "pods": len(taking)})

    def plus(self, pod: Pod) -> "Room":
        """The same with one pod more."""
        total = Counter(self.used)
        total.update(pod.requests)
        total["pods"] += 1
        return Room(self.node, (*self.pods, pod), dict(total))

    def share(self, name: str) -> float:
        """Which part of a resource is requested; of what the Node does not offer, all of it."""
        used, offered = self.used.get(name, 0), self.node.allocatable.get(name, 0)
        return used / offered if offered else float(used > 0)

    def excess(self, percent: int) -> list[str]:
        """The resources of which more than the percentage is requested."""
        # Rounded up: half of one GPU is one, because a piece cannot be shared.
        limits = {
            name: -(-self.node.allocatable.get(name, 0) * percent // 100) for name in RESOURCES
        }
        return [name for name in RESOURCES if self.used.get(name, 0) > limits[name]]


def misfit(pod: Pod, room: Room, tied: volumes.Tied) -> Misfit | None:
    """Why the scheduler would not put the pod on the Node; None where it would."""
    node, demands = room.node, pod.demands
    taints = [UNSCHEDULABLE] if node.unschedulable else []
    taints += [one for one in node.taints if one.effect in ("NoSchedule", "NoExecute")]
    for taint in taints:
        if not any(one.matches(taint) for one in demands.tolerations):
            return Misfit("Taint", f"Node {node.name} has the taint {taint.identity}")
    if not _is_selected(pod, node):
        return Misfit("NodeAffinity", f"its node selector or affinity excludes {node.name}")
    taken = {port for one in room.pods for port in one.demands.host_ports}
    for port in demands.host_ports:
        if any(_collides(port, other) for other in taken):
            return Misfit("HostPort", f"host port {port[2]} is taken on {node.name}")
    tie = volumes.explain_tie(pod, tied, [node])
    if tie:
        return Misfit("NodeLocalVolume", tie)
    return _shortage(pod, room)


def _shortage(pod: Pod, room: Room) -> Misfit | None:
    offered, used = room.node.allocatable, room.used
    if used["pods"] + 1 > offered.get("pods", 0):
        return Misfit("PodSlots", f"{room.node.name} takes no more pods")
    for name, amount in sorted(pod.requests.items()):
        free = offered.get(name, 0) - used.get(name, 0)
        if amount > free:
            text = (
                f"{room.node.name} has {quantities.render(name, max(0, free))} {name} free, "
                f"it asks for {quantities.render(name, amount)}"
            )
            return Misfit("GPU" if name == constants.GPU_RESOURCE else "Capacity", text)
    return None


def _is_selected(pod: Pod, node: Node) -> bool:
    demands = pod.demands
    if any(node.labels.get(key) != value for key, value in demands.node_selector.items()):
        return False
    if demands.node_terms is None:
        return True
    labels = {"metadata.name": node.name, **node.labels}
    # A term without requirements selects no Node.
    return any(term and all(one.holds(labels) for one in term) for term in demands.node_terms)


def _collides(port: tuple[str, str, int], other: tuple[str, str, int]) -> bool:
    same = port[0] == other[0] and port[2] == other[2]
    anywhere = ("", "0.0.0.0")
    return same and (port[1] in anywhere or other[1] in anywhere or port[1] == other[1])
