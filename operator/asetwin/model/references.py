"""Which object belongs to which device, and what is wrong with those that do not.

References point upward only (design 2). Whoever was there first keeps a slot
or a Node; the later one is told. Nothing here stops a loop: an object with a
bad reference is simply not part of any device.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from asetwin.model import hardware
from asetwin.model.snapshot import Snapshot
from asetwin.resources.conditions import Condition, Reason, is_true
from asetwin.resources.devices import AseNode, HardwareFailure, PinnedWorker, Resource
from asetwin.resources.updates import DeviceUpdate


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether an object is accepted, and in words why (not)."""

    reason: Reason
    message: str

    @property
    def is_accepted(self) -> bool:
        """Whether the object takes part."""
        return self.reason is Reason.ACCEPTED


@dataclass(frozen=True, slots=True)
class Member:
    """One accepted device node with what is pinned to it."""

    ase_node: AseNode
    worker: PinnedWorker | None
    failures: tuple[HardwareFailure, ...]


@dataclass(frozen=True, slots=True)
class References:
    """The answer for every object, and the members of every device in slot order."""

    ase_nodes: Mapping[str, Answer] = field(default_factory=dict)
    workers: Mapping[str, Answer] = field(default_factory=dict)
    failures: Mapping[str, Answer] = field(default_factory=dict)
    updates: Mapping[str, Answer] = field(default_factory=dict)
    members: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)


def resolve(snapshot: Snapshot) -> References:
    """Resolve all references of a snapshot."""
    ase_nodes = _ase_nodes(snapshot)
    workers = _workers(snapshot, ase_nodes)
    failures = {one.name: _failure(one, snapshot, ase_nodes) for one in snapshot.failures.values()}
    members: dict[str, tuple[Member, ...]] = {}
    for device in snapshot.devices:
        own = [
            one
            for one in snapshot.ase_nodes.values()
            if one.spec.device == device and ase_nodes[one.name].is_accepted
        ]
        members[device] = tuple(
            _member(one, snapshot, workers, failures)
            for one in sorted(own, key=lambda one: one.spec.slot)
        )
    updates = {one.name: _update(one, snapshot) for one in snapshot.updates.values()}
    return References(ase_nodes, workers, failures, updates, members)


def _member(
    ase_node: AseNode,
    snapshot: Snapshot,
    workers: Mapping[str, Answer],
    failures: Mapping[str, Answer],
) -> Member:
    worker = next(
        (
            one
            for one in snapshot.workers.values()
            if one.spec.ase_node == ase_node.name and workers[one.name].is_accepted
        ),
        None,
    )
    own = tuple(
        one
        for one in snapshot.failures.values()
        if one.spec.node == ase_node.name and failures[one.name].is_accepted
    )
    return Member(ase_node, worker, own)


def _first_come(objects: Iterable[Resource]) -> list[Resource]:
    """Whoever is in use already, then by age: a claim that becomes valid late displaces nobody."""

    def rank(one: Resource) -> tuple[bool, float, str]:
        held: tuple[Condition, ...] = one.status.conditions  # type: ignore[attr-defined]
        return (not is_true(held, "Accepted"), one.metadata.creation_timestamp, one.name)

    return sorted(objects, key=rank)


def _ase_nodes(snapshot: Snapshot) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    slots: dict[tuple[str, str], str] = {}
    for one in _first_come(snapshot.ase_nodes.values()):
        assert isinstance(one, AseNode)
        spec = one.spec
        holder = slots.get((spec.device, spec.slot))
        if spec.device not in snapshot.devices:
            answers[one.name] = Answer(
                Reason.DEVICE_NOT_FOUND,
                f"spec.device: there is no AseDevice {spec.device}; "
                f"{_known('AseDevice', snapshot.devices)}",
            )
        elif holder is not None:
            answers[one.name] = Answer(
                Reason.SLOT_TAKEN,
                f"spec.slot: slot {spec.slot} of {spec.device} is taken by AseNode {holder}; "
                f"delete one of the two (slot is immutable)",
            )
        else:
            slots[spec.device, spec.slot] = one.name
            answers[one.name] = Answer(
                Reason.ACCEPTED, f"in slot {spec.slot} of AseDevice {spec.device}"
            )
    return answers


def _workers(snapshot: Snapshot, ase_nodes: Mapping[str, Answer]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    by_node: dict[str, str] = {}
    by_ase_node: dict[str, str] = {}
    for one in _first_come(snapshot.workers.values()):
        assert isinstance(one, PinnedWorker)
        answer = _worker(one, snapshot, ase_nodes, by_node, by_ase_node)
        answers[one.name] = answer
        if answer.is_accepted:
            by_node[one.spec.node_name] = one.name
            by_ase_node[one.spec.ase_node] = one.name
    return answers


def _worker(
    one: PinnedWorker,
    snapshot: Snapshot,
    ase_nodes: Mapping[str, Answer],
    by_node: Mapping[str, str],
    by_ase_node: Mapping[str, str],
) -> Answer:
    node_name, ase_node = one.spec.node_name, one.spec.ase_node
    node = snapshot.nodes.get(node_name)
    if ase_node not in snapshot.ase_nodes:
        return Answer(
            Reason.ASE_NODE_NOT_FOUND,
            f"spec.aseNode: there is no AseNode {ase_node}; "
            f"{_known('AseNode', snapshot.ase_nodes)}",
        )
    if not ase_nodes[ase_node].is_accepted:
        return Answer(
            Reason.ADDRESSED_ELSEWHERE,
            f"spec.aseNode: AseNode {ase_node} is not accepted itself: "
            f"{ase_nodes[ase_node].message}",
        )
    if node is None:
        return Answer(
            Reason.NODE_NOT_FOUND,
            f"spec.nodeName: there is no Node {node_name}; {_known('Node', snapshot.nodes)}",
        )
    if node.is_control_plane:
        return Answer(
            Reason.CONTROL_PLANE_NODE,
            f"spec.nodeName: {node_name} is the control plane, which stands for the "
            f"infrastructure cluster and never fails; name a worker Node",
        )
    if node_name in by_node:
        return Answer(
            Reason.NODE_TAKEN,
            f"spec.nodeName: Node {node_name} is pinned by PinnedWorker {by_node[node_name]}; "
            f"delete one of the two (nodeName is immutable)",
        )
    if ase_node in by_ase_node:
        return Answer(
            Reason.WORKER_TAKEN,
            f"spec.aseNode: AseNode {ase_node} has PinnedWorker {by_ase_node[ase_node]} "
            f"already; a device node has one worker VM",
        )
    return Answer(Reason.ACCEPTED, f"Node {node_name} is the worker VM of AseNode {ase_node}")


def _failure(one: HardwareFailure, snapshot: Snapshot, ase_nodes: Mapping[str, Answer]) -> Answer:
    node, component = one.spec.node, one.spec.component
    ase_node = snapshot.ase_nodes.get(node)
    if ase_node is None:
        return Answer(
            Reason.ASE_NODE_NOT_FOUND,
            f"spec.node: there is no AseNode {node}; {_known('AseNode', snapshot.ase_nodes)}",
        )
    if not ase_nodes[node].is_accepted:
        return Answer(
            Reason.ADDRESSED_ELSEWHERE,
            f"spec.node: AseNode {node} is not accepted itself: {ase_nodes[node].message}",
        )
    refusal = hardware.refusal(component, ase_node.spec.hardware)
    if refusal is not None:
        return Answer(Reason.NO_SUCH_COMPONENT, f"spec.component on {node}: {refusal}")
    return Answer(Reason.ACCEPTED, f"{component} of AseNode {node}")


def _update(one: DeviceUpdate, snapshot: Snapshot) -> Answer:
    device = one.spec.device
    if device not in snapshot.devices:
        return Answer(
            Reason.DEVICE_NOT_FOUND,
            f"spec.device: there is no AseDevice {device}; {_known('AseDevice', snapshot.devices)}",
        )
    return Answer(Reason.ACCEPTED, f"updates AseDevice {device}")


def _known(kind: str, names: Iterable[str], limit: int = 6) -> str:
    found = sorted(names)
    if not found:
        return f"create the {kind} first"
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return f"there is {', '.join(found[:limit])}{more}"
