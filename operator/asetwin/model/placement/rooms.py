"""One Node and what runs on it: the filters that look at nothing else.

Taints, node selector and affinity, host ports, requests and pod slots. Each
filter answers with every cause it finds, in the scheduler's order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from asetwin import constants
from asetwin.resources import demands, quantities
from asetwin.resources.core import Node, Pod
from asetwin.resources.demands import Demands, Port, Taint

RESOURCES = ("cpu", "memory", "pods", constants.GPU_RESOURCE)
UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "NoSchedule")
ANYWHERE = ("", "0.0.0.0")
"""Host IPs that stand for all of a Node's addresses."""
REFUSING = ("NoSchedule", "NoExecute")
PASSING = frozenset(
    f"node.kubernetes.io/{name}"
    for name in ("unschedulable", "not-ready", "unreachable", "network-unavailable")
)


class Misfit(NamedTuple):
    """Why a pod does not fit; the reason is one of the words of design 4.8."""

    reason: str
    message: str
    subject: str = ""
    """The resource that is short, or the taint as ``key: value``."""


@dataclass(slots=True)
class Room:
    """A Node, the pods that take room on it, and what they request."""

    node: Node
    title: str = ""
    """What people know the Node as; its name where that is empty."""
    pods: dict[str, Pod] = field(default_factory=dict)
    """By namespace and name, in the order in which they came."""
    used: dict[str, int] = field(default_factory=lambda: {"pods": 0})
    ports: Counter[Port] = field(default_factory=Counter)

    @classmethod
    def of(cls, node: Node, pods: Iterable[Pod], title: str = "") -> "Room":
        """The room on a Node; ``pods`` are all that are bound to it."""
        room = cls(node, title or node.name)
        for pod in pods:
            # The scheduler's cache leaves out pods that have ended.
            if not pod.is_over:
                room.add(pod)
        return room

    def add(self, pod: Pod) -> None:
        """One pod more."""
        self.pods[pod.key] = pod
        self._count(pod.requests, 1)
        if pod.demands.host_ports:
            self.ports.update(pod.demands.host_ports)

    def remove(self, pod: Pod) -> None:
        """One pod less; KeyError where it is not there."""
        del self.pods[pod.key]
        self._count(pod.requests, -1)
        for port in pod.demands.host_ports:
            self.ports[port] -= 1

    def _count(self, requests: Mapping[str, int], sign: int) -> None:
        used = self.used
        used["pods"] += sign
        for name, amount in requests.items():
            used[name] = used.get(name, 0) + sign * amount

    def plus(self, pod: Pod) -> "Room":
        """A copy with one pod more."""
        room = Room(self.node, self.title, dict(self.pods), dict(self.used), Counter(self.ports))
        room.add(pod)
        return room

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


def taints(pod: Pod, room: Room) -> Iterator[Misfit]:
    """NodeUnschedulable and TaintToleration."""
    node = room.node
    refusing = [one for one in node.taints if one.effect in REFUSING] if node.taints else []
    if node.unschedulable and UNSCHEDULABLE not in refusing:
        refusing.insert(0, UNSCHEDULABLE)
    for taint in refusing:
        if not is_tolerated(taint, pod.demands):
            text = f"{room.title} has the taint {taint.identity}"
            yield Misfit("Taint", text, f"{taint.key}: {taint.value}")
            return


def passing(node: Node) -> tuple[Taint, ...]:
    """What Kubernetes itself is about to take off a Node that is in service.

    Its controller manager lags behind the Node: behind its condition Ready, and
    behind ``spec.unschedulable`` for the taint that it has for cordoned Nodes.
    """
    return tuple(
        one
        for one in node.taints
        if one.key in PASSING
        and one.effect in REFUSING
        and not (one == UNSCHEDULABLE and node.unschedulable)
    )


def is_tolerated(taint: Taint, wanted: Demands) -> bool:
    """Whether a pod stands a taint."""
    return any(one.matches(taint) for one in wanted.tolerations)


def selections(pod: Pod, room: Room) -> Iterator[Misfit]:
    """NodeAffinity: node selector and required node affinity."""
    if not is_selected(pod.demands, room.node):
        yield Misfit("NodeAffinity", f"its node selector or affinity excludes {room.title}")


def is_selected(wanted: Demands, node: Node) -> bool:
    """Whether a pod's node selector and required node affinity allow a Node."""
    if wanted.node_selector:
        labels = node.labels
        if any(labels.get(key) != value for key, value in wanted.node_selector.items()):
            return False
    terms = wanted.node_terms
    return terms is None or demands.selects_node(terms, node.name, node.labels)


def host_ports(pod: Pod, room: Room) -> Iterator[Misfit]:
    """NodePorts: the same protocol and port on an address in common."""
    for port in pod.demands.host_ports:
        if any(count > 0 and collides(port, taken) for taken, count in room.ports.items()):
            yield Misfit("HostPort", f"host port {port[2]} is taken on {room.title}")
            return


def collides(port: Port, other: Port) -> bool:
    """Whether two host ports cannot be had on one Node."""
    if port[0] != other[0] or port[2] != other[2]:
        return False
    return port[1] in ANYWHERE or other[1] in ANYWHERE or port[1] == other[1]


def resources(pod: Pod, room: Room) -> Iterator[Misfit]:
    """NodeResourcesFit: every resource that is short, pod slots first."""
    offered, used = room.node.allocatable, room.used
    if used["pods"] + 1 > offered.get("pods", 0):
        yield Misfit("PodSlots", f"{room.title} takes no more than {offered.get('pods', 0)} pods")
    for name, amount in pod.requests.items():
        free = offered.get(name, 0) - used.get(name, 0)
        if amount > free:
            yield _short(name, amount, free, room.title)


def _short(name: str, amount: int, free: int, title: str) -> Misfit:
    needs, left = quantities.render(name, amount), quantities.render(name, max(0, free))
    if name == constants.GPU_RESOURCE:
        return Misfit("GPU", f"needs {needs}, {title} has {left} free", name)
    return Misfit("Capacity", f"needs {needs} {name}, {title} has {left} free", name)
