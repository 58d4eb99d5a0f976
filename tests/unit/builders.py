"""Objects for tests: each function takes what a test is about and fills in the rest.

The standard device is ``ase`` with the AseNodes ``a`` and ``b``, whose workers
``wa`` and ``wb`` are pinned to the Nodes ``na`` and ``nb``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

from hypothesis import HealthCheck, settings

from asetwin import constants
from asetwin.kube.client import Client
from asetwin.model import failover, nodes, references
from asetwin.model.nodes import View
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core, times
from asetwin.resources.conditions import Condition
from asetwin.resources.devices import (
    AseDevice,
    AseNode,
    HardwareFailure,
    PinnedWorker,
    PowerState,
    Resource,
)

R = TypeVar("R", bound=Resource)

ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For property tests: how long an example takes says something about the machine only."""

NOW = 1_800_000_000.0
"""A fixed moment, in seconds since the epoch."""

GPU = constants.GPU_RESOURCE
MEBI, GIBI = 1024**2, 1024**3


# --- asetwin's own kinds --------------------------------------------------------------------------


def metadata(
    name: str, *, created: float = 0.0, deleting: bool = False, **more: Any
) -> dict[str, Any]:
    """Metadata as the API has it."""
    given = {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "creationTimestamp": times.render(created),
        "deletionTimestamp": times.render(NOW) if deleting else None,
    }
    return {key: value for key, value in {**given, **more}.items() if value is not None}


def device(
    name: str = "ase",
    *,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **meta: Any,
) -> AseDevice:
    """An AseDevice with the fast profile."""
    return AseDevice.read(
        {
            "metadata": metadata(name, **meta),
            "spec": {"timing": {"profile": "Fast"}} | dict(spec or {}),
            "status": dict(status or {}),
        }
    )


def ase_node(
    name: str = "a",
    *,
    slot: str | None = None,
    device: str = "ase",
    hardware: Mapping[str, int] | None = None,
    conditions: Iterable[Condition] = (),
    **meta: Any,
) -> AseNode:
    """An AseNode; ``a`` is in slot A and ``b`` in slot B unless told otherwise."""
    status = {"conditions": [one.model_dump(mode="json", by_alias=True) for one in conditions]}
    return AseNode.read(
        {
            "metadata": metadata(name, **meta),
            "spec": {
                "device": device,
                "slot": slot or ("B" if name.startswith("b") else "A"),
                "hardware": dict(hardware or {}),
            },
            "status": status,
        }
    )


def worker(
    name: str = "wa",
    *,
    ase_node: str | None = None,
    node: str | None = None,
    power: PowerState | None = PowerState.ON,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **meta: Any,
) -> PinnedWorker:
    """A PinnedWorker; ``wa`` pins ``na`` to ``a`` unless told otherwise."""
    observed = {"power": {"desired": power.value, "observed": power.value}} if power else {}
    return PinnedWorker.read(
        {
            "metadata": metadata(name, **meta),
            "spec": {"aseNode": ase_node or name[1:], "nodeName": node or f"n{name[1:]}"}
            | dict(spec or {}),
            "status": observed | dict(status or {}),
        }
    )


def failure(
    name: str = "f",
    *,
    node: str = "a",
    component: str = "Node",
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **meta: Any,
) -> HardwareFailure:
    """A HardwareFailure of the whole node ``a``."""
    return HardwareFailure.read(
        {
            "metadata": metadata(name, **meta),
            "spec": {"node": node, "component": component} | dict(spec or {}),
            "status": dict(status or {}),
        }
    )


def condition(
    kind: str,
    status: Literal["True", "False", "Unknown"] = "True",
    *,
    since: float = 0.0,
    reason: str = "Because",
) -> Condition:
    """A condition that has been so since ``since``."""
    return Condition(type=kind, status=status, reason=reason, last_transition_time=since)


# --- Kubernetes' kinds ----------------------------------------------------------------------------


def node(name: str = "na", **fields: Any) -> core.Node:
    """A Node with 4 CPUs, 8 GiB and 110 pod slots."""
    room = {"cpu": 4000, "memory": 8 * GIBI, "pods": 110}
    return core.Node(
        **{"name": name, "uid": f"uid-{name}", "resource_version": "7", "allocatable": room}
        | fields
    )


def pod(
    name: str = "p", *, node: str = "na", namespace: str = "default", **fields: Any
) -> core.Pod:
    """A running, Ready pod without requests and without a controller."""
    return core.Pod(
        **{"namespace": namespace, "name": name, "uid": f"uid-{name}", "node": node} | fields
    )


def owner(kind: str, name: str) -> core.Owner:
    """The controller of that kind and name."""
    return core.Owner(kind, name, f"uid-{kind}-{name}")


def workload(
    kind: str, name: str, *, replicas: int = 1, owner: core.Owner | None = None
) -> core.Workload:
    """A controller in ``default``; :func:`owner` names it."""
    return core.Workload(kind, "default", name, f"uid-{kind}-{name}", replicas, owner)


def deployment(name: str = "web", *, replicas: int = 1) -> tuple[core.Workload, core.Workload]:
    """A Deployment and its ReplicaSet ``<name>-rs``."""
    above = workload("Deployment", name, replicas=replicas)
    below = workload("ReplicaSet", f"{name}-rs", replicas=replicas, owner=owner("Deployment", name))
    return above, below


def replica(number: int, of: str = "web", *, node: str = "na", **fields: Any) -> core.Pod:
    """One pod of :func:`deployment`."""
    return pod(f"{of}-{number}", node=node, owner=owner("ReplicaSet", f"{of}-rs"), **fields)


def master_pod(epoch: int, *, node: str = "na", device: str = "ase", **fields: Any) -> core.Pod:
    """The master stand-in of one epoch."""
    return pod(
        f"{device}-master-{epoch}",
        node=node,
        namespace=constants.SYSTEM_NAMESPACE,
        labels={
            constants.LABEL_ROLE: constants.ROLE_MASTER,
            constants.LABEL_DEVICE: device,
            constants.LABEL_EPOCH: str(epoch),
        },
        **fields,
    )


def lease(epoch: int, *, device: str = "ase", holder: str | None = None) -> core.Lease:
    """The master's Lease, held by the pod of its epoch unless told otherwise."""
    held_by = f"{device}-master-{epoch}" if holder is None else holder
    return core.Lease(constants.SYSTEM_NAMESPACE, f"{device}-master", held_by, epoch)


def volume(name: str = "data", *, device: str = "ase", **fields: Any) -> core.Volume:
    """The PersistentVolume of a share, free for the next claim."""
    given = {"uid": f"uid-{name}", "resource_version": "7", "device": device}
    offered = {"protocol": "NFS", "capacity": "10Gi", "phase": "Available"}
    return core.Volume(**{"name": name, **given, **offered} | fields)


def claim(name: str = "data", *, namespace: str = "default", **fields: Any) -> core.Claim:
    """A claim that is bound to the volume of its name."""
    given: dict[str, Any] = {"uid": f"uid-claim-{name}", "volume": name, "is_bound": True}
    return core.Claim(**{"namespace": namespace, "name": name, **given} | fields)


def journal(device: str = "ase") -> tuple[core.Volume, core.Claim]:
    """The share for a device's journal with its claim, bound to each other."""
    name = f"{device}-journal"
    held = core.Binding(constants.SYSTEM_NAMESPACE, name, f"uid-claim-{name}")
    return (
        volume(name, device=device, capacity="64Mi", phase="Bound", binding=held),
        claim(name, namespace=constants.SYSTEM_NAMESPACE),
    )


# --- Whole clusters -------------------------------------------------------------------------------

_MAPPINGS: dict[type, str] = {
    AseDevice: "devices",
    AseNode: "ase_nodes",
    PinnedWorker: "workers",
    HardwareFailure: "failures",
    core.Node: "nodes",
    core.Namespace: "namespaces",
    core.Volume: "volumes",
}
_TUPLES: dict[type, str] = {
    core.Pod: "pods",
    core.Lease: "leases",
    core.Service: "services",
    core.Claim: "claims",
}


def snapshot(*objects: Any) -> Snapshot:
    """A snapshot of these objects, sorted as the real one is; limits are passed by field name."""
    fields: dict[str, Any] = {}
    for one in sorted(objects, key=lambda one: (getattr(one, "namespace", ""), one.name)):
        if isinstance(one, core.Workload):
            fields.setdefault("workloads", {})[one.uid] = one
        elif type(one) in _MAPPINGS:
            fields.setdefault(_MAPPINGS[type(one)], {})[one.name] = one
        else:
            fields[_TUPLES[type(one)]] = (*fields.get(_TUPLES[type(one)], ()), one)
    return Snapshot(**fields)


def cluster(*objects: Any, without: Iterable[str] = (), **fields: Any) -> Snapshot:
    """The standard device with more objects; one of the same kind and name replaces the standard.

    ``without`` names standard objects to leave out, ``fields`` are fields of the Snapshot.
    """
    standard: list[Any] = [
        device(),
        ase_node("a"),
        ase_node("b"),
        worker("wa"),
        worker("wb"),
        node("na"),
        node("nb"),
        core.Namespace("default"),
        *journal(),
    ]
    given = {(type(one), one.name) for one in objects}
    kept = [
        one for one in standard if (type(one), one.name) not in given and one.name not in without
    ]
    return replace(snapshot(*kept, *objects), **fields)


def views(seen: Snapshot, *, name: str = "ase", now: float = NOW) -> tuple[View, ...]:
    """The device nodes of a snapshot as the rules judge them."""
    one = seen.devices[name]
    return tuple(
        nodes.view(
            member,
            seen.nodes.get(member.worker.spec.node_name) if member.worker else None,
            one,
            now,
        )
        for member in references.resolve(seen).members[name]
    )


def pods(seen: Snapshot) -> failover.Pods:
    """The pods of a snapshot, grouped."""
    return failover.Pods.of(seen)


def with_status(resource: R, status: Any) -> R:
    """The resource with another status, as the API server would answer after the write."""
    return resource.model_copy(update={"status": status})


# --- An API server that answers what it is told ---------------------------------------------------


class FakeApi(Client):
    """Asks no API server, and records what it is asked.

    ``answers`` maps ``(verb, path)`` to a JSON answer or to an error to raise;
    whatever is not in it is answered with an empty object, a list with an
    empty list.
    """

    def __init__(self, answers: Mapping[tuple[str, str], Any] | None = None) -> None:
        self.answers = dict(answers or {})
        self.calls: list[tuple[str, str, Any]] = []

    def asked(self, *verbs: str) -> list[tuple[str, str, Any]]:
        """The calls with these verbs, all without."""
        return [one for one in self.calls if not verbs or one[0] in verbs]

    async def _answer(self, verb: str, path: str, body: Any = None) -> dict[str, Any]:
        self.calls.append((verb, path, body))
        answer = self.answers.get((verb, path), {})
        if isinstance(answer, BaseException):
            raise answer
        return dict(answer)

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        return await self._answer("get", path)

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._answer("create", path, body)

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._answer("replace", path, body)

    async def patch(self, path: str, body: dict[str, Any], *, kind: str = "") -> dict[str, Any]:
        return await self._answer("patch", path, body)

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> dict[str, Any]:
        return await self._answer("delete", path, {"uid": uid, "grace_seconds": grace_seconds})
