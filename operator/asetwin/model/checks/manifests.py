"""Workloads and their pods, made of documents as controllers and the API server would make them.

What a controller adds (names, owners, labels), what the API server fills in
(priorities, requests from limits) and what a LimitRange does is done here, so
that a pod reads as if it had been stored.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from asetwin import constants
from asetwin.model.checks import schemas
from asetwin.model.checks.findings import Source
from asetwin.model.checks.schemas import Path
from asetwin.resources import charges, core, demands
from asetwin.resources.demands import Selector

Json = Mapping[str, Any]
NODE_LOCAL_CLASSES = frozenset({"ase-node-local", "local-path", "standard"})
"""StorageClasses whose volumes lie on one node's disks."""
SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a manifest."""

    body: dict[str, Any]
    file: str
    line_of: Callable[[Path], int]
    """The line of a field, or of the nearest one above it that is there."""

    @property
    def kind(self) -> str:
        """Its kind, empty where that is missing."""
        kind = self.body.get("kind")
        return kind if isinstance(kind, str) else ""

    @property
    def source(self) -> Source:
        """Where it begins."""
        return Source(self.file, self.line_of(()))


class Fault(NamedTuple):
    """Something in a file that nobody can work with."""

    file: str
    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget as it is written."""

    namespace: str
    name: str
    selector: Selector | None
    min_available: int | str | None
    max_unavailable: int | str | None


@dataclass(slots=True)
class Work:
    """A workload and the pods that it would have."""

    kind: str
    namespace: str
    name: str
    source: Source
    spec: Json
    pod_spec: Json
    pods: tuple[core.Pod, ...]
    missing: Mapping[str, int] = field(default_factory=dict)
    """How many containers state no request, by resource; none where a LimitRange does."""

    @property
    def id(self) -> str:
        """``namespace/Kind/name``."""
        return f"{self.namespace}/{self.kind}/{self.name}"


@dataclass(slots=True)
class Bundle:
    """All that the manifests say."""

    works: list[Work] = field(default_factory=list)
    claims: dict[tuple[str, str], Json] = field(default_factory=dict)
    """The specs of claims, also of those that come with a StatefulSet's pods."""
    volumes: dict[str, core.Volume] = field(default_factory=dict)
    namespaces: dict[str, core.Namespace] = field(default_factory=dict)
    budgets: list[Budget] = field(default_factory=list)
    quotas: list[core.Limit] = field(default_factory=list)
    defaulted: dict[str, frozenset[str]] = field(default_factory=dict)
    """By namespace what a LimitRange states where a container does not, as a quota's keys."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Documents that are not looked at, by kind."""
    documents: int = 0
    faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class Defaults:
    """What the cluster adds to a pod."""

    priorities: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Value and preemption policy by PriorityClass."""
    default_class: str = ""
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """A LimitRange's default requests by namespace."""


def read(documents: Iterable[Document]) -> Bundle:
    """Everything that can be used; what is wrong is in the bundle's ``faults``."""
    bundle, defaults, writers = Bundle(), Defaults(), list[Document]()
    for one in documents:
        bundle.documents += 1
        problems = _faults(one)
        bundle.faults += problems
        if problems:
            continue
        if one.kind not in schemas.SCHEMAS or not _is_known_group(one):
            bundle.skipped[one.kind] += 1
        elif one.kind in WORKLOADS:
            writers.append(one)
        else:
            _take_in(one, bundle, defaults)
    for number, one in enumerate(writers):
        work = _work(one, defaults, bundle, float(number))
        bundle.works.append(work)
        bundle.namespaces.setdefault(work.namespace, core.Namespace(work.namespace))
    return bundle


def _faults(one: Document) -> list[Fault]:
    if not one.kind:
        return [Fault(one.file, one.line_of(()), "kind", "is missing: every object has one")]
    if one.kind not in schemas.SCHEMAS or not _is_known_group(one):
        return []
    return [
        Fault(one.file, one.line_of(fault.path), fault.field, fault.message)
        for fault in schemas.faults(one.kind, one.body)
    ]


def _is_known_group(one: Document) -> bool:
    """Whether it is Kubernetes' own kind of that name, and not somebody else's."""
    group = str(one.body.get("apiVersion", "")).rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


# --- What is not a workload -----------------------------------------------------------------------


def _take_in(one: Document, bundle: Bundle, defaults: Defaults) -> None:
    body, spec = one.body, one.body.get("spec") or {}
    name, space = body["metadata"]["name"], namespace_of(body)
    match one.kind:
        case "Namespace":
            bundle.namespaces[name] = core.Namespace.read(body)
        case "PersistentVolumeClaim":
            bundle.claims[space, name] = spec
        case "PersistentVolume":
            bundle.volumes[name] = core.Volume.read(body)
        case "PodDisruptionBudget":
            selector = Selector.read(spec.get("selector"))
            limits = spec.get("minAvailable"), spec.get("maxUnavailable")
            bundle.budgets.append(Budget(space, name, selector, *limits))
        case "PriorityClass":
            policy = body.get("preemptionPolicy") or ""
            defaults.priorities[name] = body["value"], policy
            if body.get("globalDefault"):
                defaults.default_class = name
        case "ResourceQuota":
            bundle.quotas.append(
                core.Limit.read({**body, "metadata": {"namespace": space, **body["metadata"]}})
            )
        case "LimitRange":
            bundle.defaulted[space] = frozenset(charges.MUST_STATE)
            for limit in spec.get("limits") or ():
                if limit["type"] == "Container":
                    given = defaults.requests.setdefault(space, {})
                    given.update(_default_requests(limit))


def _default_requests(limit: Json) -> dict[str, Any]:
    """Source: the API server's ``SetDefaults_LimitRangeItem``."""
    return {
        **(limit.get("min") or {}),
        **(limit.get("max") or {}),
        **(limit.get("default") or {}),
        **(limit.get("defaultRequest") or {}),
    }


def namespace_of(body: Json) -> str:
    """The namespace that kubectl would put an object into."""
    return (body.get("metadata") or {}).get("namespace") or "default"


# --- Workloads ------------------------------------------------------------------------------------

WORKLOADS = frozenset(
    {"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "StatefulSet"}
)
DAEMON_TOLERATIONS = tuple(
    {"key": f"node.kubernetes.io/{name}", "operator": "Exists"}
    for name in (
        "not-ready",
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
    )
)
"""Source: the DaemonSet controller's ``AddOrUpdateDaemonPodTolerations``."""


def _work(one: Document, defaults: Defaults, bundle: Bundle, age: float) -> Work:
    body, kind = one.body, one.kind
    name, space = body["metadata"]["name"], namespace_of(body)
    spec: Json = body["spec"]
    inner: Json = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
    template = body if kind == "Pod" else inner["template"]
    labels = {**((template.get("metadata") or {}).get("labels") or {}), **_labels(kind, name)}
    pod_spec, missing = _admitted(template["spec"], kind, space, defaults)
    meta = {"name": name, "namespace": space, "labels": labels}
    model = core.Pod.read({"metadata": meta, "spec": pod_spec, "status": {"phase": "Pending"}})
    work = Work(kind, space, name, one.source, spec, pod_spec, (), missing)
    owner = None
    if kind != "Pod":
        owner = core.Owner("ReplicaSet" if kind == "Deployment" else kind, name, work.id)
    # A bound pod has its node already; nobody has to place it.
    model = replace(model, owner=owner, created=age, uid=work.id, node="", is_ready=True)
    work.pods = tuple(_pod(model, work, number, bundle) for number in range(_count(kind, inner)))
    return work


def _labels(kind: str, name: str) -> dict[str, str]:
    if kind in ("Deployment", "ReplicaSet"):
        return {"pod-template-hash": "old"}
    if kind in ("Job", "CronJob"):
        return {"batch.kubernetes.io/job-name": name, "job-name": name}
    return {}


def _count(kind: str, spec: Json) -> int:
    """How many pods there are at one time; of a DaemonSet one, which is put on every node."""
    if kind in ("Pod", "DaemonSet"):
        return 1
    if kind in ("Job", "CronJob"):
        side_by_side = spec.get("parallelism")
        most = 1 if side_by_side is None else int(side_by_side)
        completions = spec.get("completions")
        return most if completions is None else min(most, int(completions))
    replicas = spec.get("replicas")
    return 1 if replicas is None else int(replicas)


def _pod(model: core.Pod, work: Work, number: int, bundle: Bundle) -> core.Pod:
    if work.kind == "Pod":
        return model
    name, claims = f"{work.name}-{number}", list(model.claims)
    for template in work.spec.get("volumeClaimTemplates") or ():
        claim = f"{template['metadata']['name']}-{name}"
        bundle.claims[work.namespace, claim] = template["spec"]
        claims.append(claim)
    for volume in work.pod_spec.get("volumes") or ():
        if "ephemeral" in volume:
            claim = f"{name}-{volume['name']}"
            given = (volume["ephemeral"].get("volumeClaimTemplate") or {}).get("spec") or {}
            bundle.claims[work.namespace, claim] = given
            claims = [claim if one == f"{model.name}-{volume['name']}" else one for one in claims]
    return replace(model, name=name, uid=f"{work.id}/{number}", claims=tuple(claims))


def _admitted(
    spec: Json, kind: str, space: str, defaults: Defaults
) -> tuple[dict[str, Any], dict[str, int]]:
    """A pod's spec as the API server stores it, and how many containers state no request."""
    result = dict(spec)
    name = spec.get("priorityClassName") or defaults.default_class
    if name in SYSTEM_PRIORITIES:
        result["priority"] = SYSTEM_PRIORITIES[name]
    elif name in defaults.priorities:
        value, policy = defaults.priorities[name]
        result["priority"] = value
        result.setdefault("preemptionPolicy", policy or "PreemptLowerPriority")
    if kind == "DaemonSet":
        result["tolerations"] = [*(spec.get("tolerations") or ()), *DAEMON_TOLERATIONS]
    missing = Counter[str]()
    own = defaults.requests.get(space)
    is_reserved = space in constants.RESERVED_NAMESPACES
    given = own if own is not None else {} if is_reserved else constants.DEFAULT_REQUESTS
    pod_level = (spec.get("resources") or {}).get("requests") or {}
    for container in spec["containers"] if own is None else ():
        stated = _stated(container)
        missing.update(key for key in ("cpu", "memory") if key not in {**stated, **pod_level})
    for name in ("initContainers", "containers"):
        if spec.get(name):
            result[name] = [_filled(one, given) for one in spec[name]]
    return result, dict(missing)


def _stated(container: Json) -> dict[str, Any]:
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _filled(container: Json, given: Json) -> Json:
    """A container with a LimitRange's default requests; source: LimitRanger's mutation."""
    stated = _stated(container)
    if all(key in stated for key in given):
        return container
    resources = container.get("resources") or {}
    return {**container, "resources": {**resources, "requests": {**given, **stated}}}


def surge_pod(work: Work) -> core.Pod:
    """The pod that a rolling update starts first: as the old ones, of another version."""
    old = work.pods[0]
    labels = {**old.labels, "pod-template-hash": "new"}
    meta = {"namespace": work.namespace, "labels": labels}
    wanted = demands.Demands.read(work.pod_spec, meta)
    return replace(old, name=f"{work.name}-new", labels=labels, demands=wanted)


def is_node_local(spec: Json) -> bool:
    """Whether a claim gets a volume that lies on one node's disks.

    One without a class gets the default one, which is node-local on the device.
    """
    if spec.get("volumeName"):
        return False
    name = spec.get("storageClassName")
    return name is None or name in NODE_LOCAL_CLASSES
