"""The objects that a scenario stands on when it does not bring files of its own.

A scenario states its device, nodes and workloads in a few words; here they
become the same objects that ``manifests/samples`` has, so that what holds in
a scenario holds for the files as well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from asetwin import constants
from asetwin.resources import quantities
from asetwin.resources.devices import Hardware
from asetwin.sim.bodies import Json
from asetwin.sim.kubelets import ANNOTATION_START
from asetwin.sim.volumes import NODE_LOCAL_CLASS
from asetwin.sim.world import WORKERS

DEVICE = "ase"
SPEC: Json = {"shares": [{"name": "data", "protocol": "NFS", "capacity": "1Gi"}]}
"""The sample device, without its timing: that is the scenario's."""


class Stated(BaseModel):
    """A part of a scenario file: camelCase, and nothing in it that is not known."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


def _quantity(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        quantities.parse(value)
    return value


class Size(Stated):
    """What a worker offers, as Kubernetes quantities."""

    cpu: str = "4"
    memory: str = "8Gi"
    pods: str = "110"

    check = field_validator("cpu", "memory", "pods", mode="before")(_quantity)


class NodeParts(Stated):
    """One device node and its worker; ``slot`` follows the order in the file."""

    hardware: Hardware = Hardware()
    worker: Size = Size()


class Budget(Stated):
    """A PodDisruptionBudget of a workload: one of the two, a number or a percentage."""

    min_available: int | str | None = None
    max_unavailable: int | str | None = None


class Workload(Stated):
    """One Deployment or StatefulSet in a few words."""

    name: str = Field(pattern=r"^([a-z0-9-]+/)?[a-z0-9-]+$")
    """``namespace/name``; without a namespace it is ``shop``."""
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"
    replicas: int = Field(default=1, ge=0, le=500)
    cpu: str = "50m"
    memory: str = "32Mi"
    gpus: int = Field(default=0, ge=0)
    priority: int = Field(default=0, ge=-1_000_000_000, le=1_000_000_000)
    """The value of a PriorityClass of its own; 0 is none."""
    budget: Budget | None = None
    share: str | None = None
    """The device's share that its pods mount."""
    node_local: str | None = None
    """The size of a volume per pod that stays with its node (StatefulSets only)."""
    node: str | None = None
    """The device node that its pods are bound to by a nodeSelector."""
    start_seconds: float = Field(default=1.0, ge=0)
    """From being placed to Ready."""
    grace_seconds: int = Field(default=5, ge=0)

    check = field_validator("cpu", "memory", "node_local", mode="before")(_quantity)

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        namespace, _, name = self.name.rpartition("/")
        return namespace or "shop", name


WEB = Workload(name="shop/web", replicas=6)
"""The sample workload, manifests/samples/workload.yaml."""
NODES: Mapping[str, NodeParts] = {"node-a": NodeParts(), "node-b": NodeParts()}


def worker_node(index: int) -> str:
    """The Node of a device node's worker, named as kind names them."""
    return WORKERS[0] if index == 0 else f"{WORKERS[0]}{index + 1}"


def device(spec: Json, nodes: Mapping[str, NodeParts]) -> list[Json]:
    """The AseDevice with its AseNodes and PinnedWorkers."""
    found = [_ours("AseDevice", DEVICE, spec)]
    for index, (name, parts) in enumerate(nodes.items()):
        hardware = parts.hardware.model_dump(by_alias=True)
        node = {"device": DEVICE, "slot": "AB"[index], "hardware": hardware}
        found.append(_ours("AseNode", name, node))
        pin = {"aseNode": name, "nodeName": worker_node(index), "gpus": parts.hardware.gpus}
        found.append(_ours("PinnedWorker", f"worker-{name.removeprefix('node-')}", pin))
    return found


def workloads(stated: Sequence[Workload], nodes: Iterable[str]) -> Iterator[Json]:
    """The namespaces, claims, budgets and controllers of workloads."""
    seen = set[str]()
    for one in stated:
        namespace, name = one.key
        if namespace not in seen and namespace != "default":
            yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        seen.add(namespace)
        yield from _claims(one, namespace, name)
        if one.priority:
            meta = {"name": _priority_class(one)}
            group = "scheduling.k8s.io/v1"
            body = {"apiVersion": group, "kind": "PriorityClass", "metadata": meta}
            yield {**body, "value": one.priority}
        yield _controller(one, namespace, name, list(nodes))
        if one.budget is not None:
            spec = one.budget.model_dump(by_alias=True, exclude_none=True)
            spec["selector"] = {"matchLabels": {"app": name}}
            meta = {"name": name, "namespace": namespace}
            kind = "PodDisruptionBudget"
            yield {"apiVersion": "policy/v1", "kind": kind, "metadata": meta, "spec": spec}


def _claims(one: Workload, namespace: str, name: str) -> Iterator[Json]:
    if one.share is None:
        return
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
        "volumeName": one.share,
        "resources": {"requests": {"storage": "1Mi"}},
    }
    meta = {"name": name, "namespace": namespace}
    yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _priority_class(one: Workload) -> str:
    return "-".join(one.key)


def _controller(one: Workload, namespace: str, name: str, nodes: list[str]) -> Json:
    labels = {"app": name}
    resources: Json = {"requests": {"cpu": one.cpu, "memory": one.memory}}
    if one.gpus:
        resources["limits"] = {constants.GPU_RESOURCE: str(one.gpus)}
    pod: Json = {
        "terminationGracePeriodSeconds": one.grace_seconds,
        "containers": [{"name": "main", "image": "sample", "resources": resources}],
    }
    if one.priority:
        pod["priorityClassName"] = _priority_class(one)
    if one.share is not None:
        pod["volumes"] = [{"name": "share", "persistentVolumeClaim": {"claimName": name}}]
    if one.node is not None:
        pod["nodeSelector"] = {"kubernetes.io/hostname": worker_node(nodes.index(one.node))}
    annotations = {ANNOTATION_START: str(one.start_seconds)}
    spec: Json = {
        "replicas": one.replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
    }
    if one.kind == "StatefulSet":
        spec["podManagementPolicy"] = "Parallel"
        if one.node_local is not None:
            claim = {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": NODE_LOCAL_CLASS,
                "resources": {"requests": {"storage": one.node_local}},
            }
            spec["volumeClaimTemplates"] = [{"metadata": {"name": "disk"}, "spec": claim}]
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "apps/v1", "kind": one.kind, "metadata": meta, "spec": spec}


def _ours(kind: str, name: str, spec: Json) -> Json:
    return {
        "apiVersion": constants.API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
