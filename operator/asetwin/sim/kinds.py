"""The kinds that the simulated API server serves, and where their paths lead."""

from dataclasses import dataclass
from functools import lru_cache

from asetwin import constants


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind as discovery would tell it."""

    plural: str
    group: str
    kind: str
    is_namespaced: bool = True
    has_status: bool = True
    """Whether status is a subresource, which a write to the object itself leaves alone."""
    status_keeps_metadata: bool = True
    """Whether a write to the status leaves labels and annotations alone."""


_OURS = constants.API_VERSION
KINDS: dict[str, Kind] = {
    one.plural: one
    for one in (
        Kind("asedevices", _OURS, "AseDevice", is_namespaced=False),
        Kind("asenodes", _OURS, "AseNode", is_namespaced=False),
        Kind("pinnedworkers", _OURS, "PinnedWorker", is_namespaced=False),
        Kind("hardwarefailures", _OURS, "HardwareFailure", is_namespaced=False),
        Kind("deviceupdates", _OURS, "DeviceUpdate", is_namespaced=False),
        Kind("nodes", "v1", "Node", is_namespaced=False, status_keeps_metadata=False),
        Kind("namespaces", "v1", "Namespace", is_namespaced=False),
        Kind("pods", "v1", "Pod", status_keeps_metadata=False),
        Kind("services", "v1", "Service"),
        Kind("configmaps", "v1", "ConfigMap", has_status=False),
        Kind("secrets", "v1", "Secret", has_status=False),
        Kind("serviceaccounts", "v1", "ServiceAccount", has_status=False),
        Kind("persistentvolumes", "v1", "PersistentVolume", is_namespaced=False),
        Kind("persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
        Kind("resourcequotas", "v1", "ResourceQuota"),
        Kind("limitranges", "v1", "LimitRange", has_status=False),
        Kind("events", "v1", "Event", has_status=False),
        Kind("deployments", "apps/v1", "Deployment"),
        Kind("replicasets", "apps/v1", "ReplicaSet"),
        Kind("statefulsets", "apps/v1", "StatefulSet"),
        Kind("daemonsets", "apps/v1", "DaemonSet"),
        Kind("jobs", "batch/v1", "Job"),
        Kind(
            "priorityclasses",
            "scheduling.k8s.io/v1",
            "PriorityClass",
            is_namespaced=False,
            has_status=False,
        ),
        Kind("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget"),
        Kind("leases", "coordination.k8s.io/v1", "Lease", has_status=False),
    )
}
BY_KIND: dict[str, Kind] = {one.kind: one for one in KINDS.values()}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path addresses; without a name it is the collection."""

    plural: str
    group: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@lru_cache(maxsize=4096)
def target(path: str) -> Target:
    """Read an API path; ValueError for what is none."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, rest = parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, rest = f"{parts[1]}/{parts[2]}", parts[3:]
    else:
        raise ValueError(f"{path} is not an API path")
    namespace = ""
    # NB: /namespaces/NAME/status is about the namespace itself.
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3:
        raise ValueError(f"{path} is not an API path")
    name, subresource = (*rest[1:], "", "")[:2]
    return Target(rest[0], group, namespace, name, subresource)
