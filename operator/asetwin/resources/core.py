"""Kubernetes' own kinds, reduced to what the rules read.

Each class has a ``read`` from the API's JSON. Two bodies that read the same
are equal, which is how :mod:`asetwin.kube.observe` tells a change that
matters from a heartbeat.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from asetwin import constants
from asetwin.resources import charges, demands, quantities, requests, times
from asetwin.resources.demands import Demands as Demands
from asetwin.resources.demands import Requirement as Requirement
from asetwin.resources.demands import Taint as Taint
from asetwin.resources.demands import Toleration as Toleration

Json = Mapping[str, Any]


class Owner(NamedTuple):
    """The controller of an object."""

    kind: str
    name: str
    uid: str


def _meta(body: Json) -> Json:
    meta: Json = body.get("metadata") or {}
    return meta


def _time(text: str | None) -> float | None:
    return times.parse(text) if text else None


def _controller(meta: Json) -> Owner | None:
    for ref in meta.get("ownerReferences") or ():
        if ref.get("controller"):
            return Owner(ref["kind"], ref["name"], ref["uid"])
    return None


def _true_condition(status: Json, kind: str) -> Json | None:
    for one in status.get("conditions") or ():
        if one.get("type") == kind:
            return one if one.get("status") == "True" else None
    return None


@dataclass(frozen=True, slots=True)
class Node:
    """A Kubernetes Node; quantities in millicores, bytes and pieces."""

    name: str
    uid: str = ""
    resource_version: str = field(default="", compare=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()
    is_ready: bool = True
    allocatable: Mapping[str, int] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)
    owned: str = ""
    """The raw text of our annotation; :mod:`asetwin.model.marks` reads it."""
    address: str = ""
    """Its InternalIP; the engine hands out another one when it likes."""

    @property
    def is_control_plane(self) -> bool:
        """Whether the infrastructure cluster runs here; such a Node never fails in the twin."""
        return "node-role.kubernetes.io/control-plane" in self.labels

    @classmethod
    def read(cls, body: Json) -> Self:
        meta, spec, status = _meta(body), body.get("spec") or {}, body.get("status") or {}
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            resource_version=meta.get("resourceVersion", ""),
            labels=meta.get("labels") or {},
            unschedulable=bool(spec.get("unschedulable")),
            taints=tuple(
                Taint(one["key"], one["effect"], one.get("value", ""))
                for one in spec.get("taints") or ()
            ),
            is_ready=_true_condition(status, "Ready") is not None,
            allocatable=_amounts(status.get("allocatable")),
            capacity=_amounts(status.get("capacity")),
            owned=(meta.get("annotations") or {}).get(constants.ANNOTATION_OWNED, ""),
            address=next(
                (
                    one["address"]
                    for one in status.get("addresses") or ()
                    if one.get("type") == "InternalIP"
                ),
                "",
            ),
        )


def _amounts(given: Json | None) -> dict[str, int]:
    return {name: quantities.units(name, value) for name, value in (given or {}).items()}


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod as the rules see it."""

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    phase: str = "Running"
    is_ready: bool = True
    created: float = 0.0
    deleting: float | None = None
    """Until when a deleted pod may take to end; None while nobody has deleted it."""
    grace_seconds: int | None = None
    """The grace period that its deletion came with; ``deleting`` includes it already."""
    requests: Mapping[str, int] = field(default_factory=dict)
    owner: Owner | None = None
    is_mirror: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    unschedulable: str = ""
    """The scheduler's message where it has found no Node."""
    claims: tuple[str, ...] = ()
    """The PersistentVolumeClaims that it mounts, by name."""
    demands: Demands = field(default_factory=Demands)
    finalizers: tuple[str, ...] = ()
    charge: charges.Charge = field(default_factory=charges.Charge)
    start_retries: int = 0
    """How often we have asked its kubelet to try its start anew; of a master only."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_over(self) -> bool:
        """Whether it has ended by itself: it takes no room and no quota."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_serving(self) -> bool:
        """Whether it is Ready and nobody has asked for its end."""
        return self.is_ready and self.deleting is None and not self.is_over

    @classmethod
    def read(cls, body: Json) -> Self:
        meta, spec, status = _meta(body), body.get("spec") or {}, body.get("status") or {}
        scheduled: Json = next(
            (one for one in status.get("conditions") or () if one.get("type") == "PodScheduled"),
            {},
        )
        is_stuck = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        # Not where room has been made for it, which is free when those driven out have ended.
        is_stuck = is_stuck and not status.get("nominatedNodeName")
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta.get("uid", ""),
            node=spec.get("nodeName", ""),
            phase=status.get("phase", "Pending"),
            is_ready=_true_condition(status, "Ready") is not None,
            created=_time(meta.get("creationTimestamp")) or 0.0,
            deleting=_time(meta.get("deletionTimestamp")),
            grace_seconds=meta.get("deletionGracePeriodSeconds"),
            requests=requests.of_pod(spec),
            owner=_controller(meta),
            is_mirror="kubernetes.io/config.mirror" in (meta.get("annotations") or {}),
            labels=meta.get("labels") or {},
            unschedulable=scheduled.get("message", "") if is_stuck else "",
            claims=_claims(meta, spec),
            demands=Demands.read(spec, meta),
            finalizers=tuple(meta.get("finalizers") or ()),
            charge=charges.Charge.read(spec),
            start_retries=_count(meta, constants.ANNOTATION_RETRIES),
        )


def _count(meta: Json, annotation: str) -> int:
    return max(0, demands.whole((meta.get("annotations") or {}).get(annotation, "")) or 0)


def _claims(meta: Json, spec: Json) -> tuple[str, ...]:
    """The claims behind a pod's volumes; an ephemeral one is named after pod and volume."""
    names = []
    for one in spec.get("volumes") or ():
        if "persistentVolumeClaim" in one:
            names.append(one["persistentVolumeClaim"]["claimName"])
        elif "ephemeral" in one:
            names.append(f"{meta['name']}-{one['name']}")
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Workload:
    """A controller of pods: Deployment, ReplicaSet, StatefulSet, DaemonSet or Job.

    ``replicas`` is how many pods it wants; none where a Job has ended.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    replicas: int = 1
    owner: Owner | None = None
    template: Pod | None = field(default=None, compare=False)
    """A pod as it would be made; None of a DaemonSet, and where another one controls this."""

    @classmethod
    def read(cls, body: Json, kind: str) -> Self:
        meta, spec, status = _meta(body), body.get("spec") or {}, body.get("status") or {}
        replicas = spec.get("parallelism" if kind == "Job" else "replicas")
        owner = _controller(meta)
        if kind == "Job" and (
            _true_condition(status, "Complete") or _true_condition(status, "Failed")
        ):
            replicas = 0
        return cls(
            kind=kind,
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            replicas=1 if replicas is None else int(replicas),
            owner=owner,
            template=_template(meta, spec) if owner is None and kind != "DaemonSet" else None,
        )


def _template(meta: Json, spec: Json) -> Pod | None:
    template = spec.get("template")
    if not template:
        return None
    named = {"namespace": meta["namespace"], "name": meta["name"]}
    return Pod.read({**template, "metadata": {**(template.get("metadata") or {}), **named}})


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    is_terminating: bool = False

    @classmethod
    def read(cls, body: Json) -> Self:
        meta = _meta(body)
        phase = (body.get("status") or {}).get("phase")
        return cls(
            name=meta["name"],
            labels=meta.get("labels") or {},
            is_terminating=phase == "Terminating" or bool(meta.get("deletionTimestamp")),
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """A ResourceQuota or a LimitRange; ``device`` is whose it is, "" where it is foreign."""

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = field(default="", compare=False)
    device: str = ""
    hard: Mapping[str, str] = field(default_factory=dict)
    lifted_for: str = ""
    scopes: tuple[Requirement, ...] = ()

    @classmethod
    def read(cls, body: Json) -> Self:
        meta = _meta(body)
        labels = meta.get("labels") or {}
        is_ours = labels.get(constants.LABEL_MANAGED_BY) == constants.MANAGED_BY
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta.get("uid", ""),
            resource_version=meta.get("resourceVersion", ""),
            device=labels.get(constants.LABEL_DEVICE, "") if is_ours else "",
            hard=(body.get("spec") or {}).get("hard") or {},
            lifted_for=(meta.get("annotations") or {}).get(constants.ANNOTATION_LIFTED, ""),
            scopes=charges.scopes(body.get("spec") or {}),
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """A Lease without its renewal time, so that a renewal alone is no change.

    ``renewals`` is what tells renewals apart for those who must (the
    suspicion that a kubelet is silent); it stays out of the comparison.
    """

    namespace: str
    name: str
    holder: str = ""
    epoch: int = 0
    duration: float = 40.0
    """Seconds."""
    renewals: str = field(default="", compare=False)

    @classmethod
    def read(cls, body: Json) -> Self:
        meta, spec = _meta(body), body.get("spec") or {}
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            holder=spec.get("holderIdentity") or "",
            epoch=int(spec.get("leaseTransitions") or 0),
            duration=float(spec.get("leaseDurationSeconds") or 40),
            renewals=spec.get("renewTime") or "",
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A Service of ours; only that it is there matters."""

    namespace: str
    name: str

    @classmethod
    def read(cls, body: Json) -> Self:
        meta = _meta(body)
        return cls(namespace=meta["namespace"], name=meta["name"])


class Binding(NamedTuple):
    """The claim that a PersistentVolume is bound to, or kept for while ``uid`` is empty."""

    namespace: str
    name: str
    uid: str = ""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolume; ``device`` is whose share it is, "" where it is foreign."""

    name: str
    uid: str = ""
    resource_version: str = field(default="", compare=False)
    device: str = ""
    protocol: str = ""
    capacity: str = ""
    phase: str = ""
    binding: Binding | None = None
    is_deleting: bool = False
    node_terms: tuple[tuple[Requirement, ...], ...] = ()
    """Where it can be mounted: one of these terms has to hold; none means everywhere."""

    @property
    def is_bound(self) -> bool:
        """Whether a claim that is there holds it."""
        return self.binding is not None and bool(self.binding.uid) and not self.is_released

    @property
    def is_released(self) -> bool:
        """Whether the claim that held it is gone; no other one can have it meanwhile."""
        return self.phase == "Released"

    def is_reachable_from(self, node: Node) -> bool:
        """Whether a pod on that Node can mount it."""
        if not self.node_terms:
            return True
        return demands.selects_node(self.node_terms, node.name, node.labels)

    @classmethod
    def read(cls, body: Json) -> Self:
        meta, spec = _meta(body), body.get("spec") or {}
        labels = meta.get("labels") or {}
        is_ours = labels.get(constants.LABEL_MANAGED_BY) == constants.MANAGED_BY
        held = spec.get("claimRef")
        required = (spec.get("nodeAffinity") or {}).get("required") or {}
        return cls(
            name=meta["name"],
            uid=meta.get("uid", ""),
            resource_version=meta.get("resourceVersion", ""),
            device=labels.get(constants.LABEL_DEVICE, "") if is_ours else "",
            protocol=labels.get(constants.LABEL_PROTOCOL, "") if is_ours else "",
            capacity=(spec.get("capacity") or {}).get("storage", ""),
            phase=(body.get("status") or {}).get("phase", ""),
            binding=(
                Binding(held.get("namespace", ""), held.get("name", ""), held.get("uid", ""))
                if held
                else None
            ),
            is_deleting=bool(meta.get("deletionTimestamp")),
            node_terms=tuple(
                demands.node_term(one) for one in required.get("nodeSelectorTerms") or ()
            ),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim; ``volume`` is empty until it is bound."""

    namespace: str
    name: str
    uid: str = ""
    volume: str = ""
    is_bound: bool = False
    is_deleting: bool = False

    @classmethod
    def read(cls, body: Json) -> Self:
        meta, spec = _meta(body), body.get("spec") or {}
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta.get("uid", ""),
            volume=spec.get("volumeName") or "",
            is_bound=(body.get("status") or {}).get("phase") == "Bound",
            is_deleting=bool(meta.get("deletionTimestamp")),
        )
