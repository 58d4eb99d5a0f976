"""Every kind of step, the request that it is, and how tests carry it out."""

from typing import Any

from asetwin import constants
from asetwin.kube.act import Executor, Settings
from asetwin.kube.observe import Cluster
from asetwin.model import plan
from asetwin.model.plan import Plan, Step
from asetwin.resources.core import Binding, Taint
from unit.builders import FakeApi

Json = dict[str, Any]
NAMESPACED = "/api/v1/namespaces"
OURS = "/apis/asetwin.dev/v1alpha1"
LEASES = "/apis/coordination.k8s.io/v1/namespaces"

STEPS: dict[str, Step] = {
    "status": plan.WriteStatus("asenodes", "a", {"state": "Down"}),
    "memory": plan.WriteStatus("asedevices", "ase", {"state": None}, "7"),
    "finalizers": plan.SetFinalizers("ase", ("x", constants.FINALIZER), "7"),
    "node": plan.PatchNode(
        "na",
        "7",
        True,
        (Taint("k", "NoSchedule"), Taint("l", "NoExecute", "v")),
        '{"device":"ase","cordon":true}',
    ),
    "gpus": plan.PatchGpus("na", "7", 2, '{"device":"ase","gpus":2}'),
    "recheck": plan.Recheck("pinnedworkers", "wa"),
    "recheck-lease": plan.Recheck("leases", "na", "kube-node-lease"),
    "pod": plan.DeletePod("shop", "web-1", "u1"),
    "pod-by-force": plan.DeletePod("shop", "web-1", "u1", force=True),
    "evict": plan.Evict("shop", "web-1", "u1"),
    "master": plan.CreateMaster("ase", "u-ase", 3, "a", "na", 2),
    "retry": plan.RetryStart("asetwin-system", "ase-master-3", 2),
    "service": plan.CreateMasterService("ase", "u-ase"),
    "new-quota": plan.WriteQuota("shop", "ase", {"pods": "5"}),
    "quota": plan.WriteQuota(
        "shop", "ase", {"pods": "5"}, stale_keys=("requests.cpu",), resource_version="7"
    ),
    "limit-range": plan.CreateLimitRange("shop", "ase"),
    "delete-quota": plan.DeleteLimit("resourcequotas", "shop", "asetwin-reserve", "u2"),
    "delete-lease": plan.DeleteSystemObject("leases", "ase-master"),
    "delete-service": plan.DeleteSystemObject("services", "ase-master"),
    "new-volume": plan.WriteVolume("ase", "data", "1Gi", "SMB"),
    "new-journal": plan.WriteVolume(
        "ase", "ase-journal", "64Mi", "NFS", Binding("asetwin-system", "ase-journal", "u3")
    ),
    "volume": plan.WriteVolume("ase", "data", "2Gi", "NFS", resource_version="7"),
    "freed-volume": plan.WriteVolume(
        "ase", "data", "1Gi", "NFS", released=True, resource_version="7"
    ),
    "freed-journal": plan.WriteVolume(
        "ase",
        "ase-journal",
        "64Mi",
        "NFS",
        Binding("asetwin-system", "ase-journal"),
        released=True,
        resource_version="7",
    ),
    "delete-volume": plan.DeleteVolume("data", "u4", "7"),
    "claim": plan.CreateClaim("ase", "u-ase", "ase-journal"),
    "event": plan.Announce({"kind": "AseNode", "name": "a"}, "NodeLost", "gone", "u/7/NodeLost"),
}
CALLS: dict[str, tuple[str, str]] = {
    "status": ("patch", f"{OURS}/asenodes/a/status"),
    "memory": ("patch", f"{OURS}/asedevices/ase/status"),
    "finalizers": ("patch", f"{OURS}/asedevices/ase"),
    "node": ("patch", "/api/v1/nodes/na"),
    "gpus": ("patch", "/api/v1/nodes/na/status"),
    "recheck": ("get", f"{OURS}/pinnedworkers/wa"),
    "recheck-lease": ("get", f"{LEASES}/kube-node-lease/leases/na"),
    "pod": ("delete", f"{NAMESPACED}/shop/pods/web-1"),
    "pod-by-force": ("delete", f"{NAMESPACED}/shop/pods/web-1"),
    "evict": ("create", f"{NAMESPACED}/shop/pods/web-1/eviction"),
    "master": ("create", f"{NAMESPACED}/asetwin-system/pods"),
    "retry": ("patch", f"{NAMESPACED}/asetwin-system/pods/ase-master-3"),
    "service": ("create", f"{NAMESPACED}/asetwin-system/services"),
    "new-quota": ("create", f"{NAMESPACED}/shop/resourcequotas"),
    "quota": ("patch", f"{NAMESPACED}/shop/resourcequotas/asetwin-reserve"),
    "limit-range": ("create", f"{NAMESPACED}/shop/limitranges"),
    "delete-quota": ("delete", f"{NAMESPACED}/shop/resourcequotas/asetwin-reserve"),
    "delete-lease": (
        "delete",
        f"{LEASES}/asetwin-system/leases/ase-master",
    ),
    "delete-service": ("delete", f"{NAMESPACED}/asetwin-system/services/ase-master"),
    "new-volume": ("create", "/api/v1/persistentvolumes"),
    "new-journal": ("create", "/api/v1/persistentvolumes"),
    "volume": ("patch", "/api/v1/persistentvolumes/data"),
    "freed-volume": ("patch", "/api/v1/persistentvolumes/data"),
    "freed-journal": ("patch", "/api/v1/persistentvolumes/ase-journal"),
    "delete-volume": ("delete", "/api/v1/persistentvolumes/data"),
    "claim": ("create", f"{NAMESPACED}/asetwin-system/persistentvolumeclaims"),
    "event": ("create", f"{NAMESPACED}/default/events"),
}


def stored(name: str, version: int, *, namespace: str | None = None, **more: Any) -> Json:
    """An object as the API server answers."""
    meta: Json = {"name": name, "uid": f"u-{name}", "resourceVersion": str(version)}
    if namespace:
        meta["namespace"] = namespace
    return {"metadata": meta | more.pop("metadata", {}), **more}


def executor(api: FakeApi, cluster: Cluster | None = None) -> Executor:
    return Executor(api, cluster or Cluster(), Settings(image="img", instance="op-1"))


async def act(api: FakeApi, *names: str, cluster: Cluster | None = None) -> int:
    """Carry out the named steps as one stage."""
    todo = Plan((tuple(STEPS[name] for name in names),))
    return await executor(api, cluster).act(todo)


async def body_of(name: str) -> Any:
    """What a step sends."""
    api = FakeApi()
    await act(api, name)
    ((verb, path, body),) = api.calls
    assert (verb, path) == CALLS[name]
    return body
