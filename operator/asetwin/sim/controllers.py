"""The controllers that make pods: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs.

Each has a queue of objects to look at, as in kube-controller-manager: an
event puts an object there, an error puts it back with a growing delay. That
matters: nothing tells a ReplicaSet that a quota has been lifted, it only
tries again when its delay is over or one of its pods changes.
"""

from collections.abc import Callable, Iterable

from asetwin.kube import errors
from asetwin.sim import bodies
from asetwin.sim.apiserver import ADDED, DELETED, ApiServer, Change
from asetwin.sim.bodies import Json, Key
from asetwin.sim.clock import Process, Timeline

DELAY_SECONDS = 0.01
FIRST_RETRY_SECONDS = 0.005
LAST_RETRY_SECONDS = 1000.0

_UNREADY_TAINTS = (
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
)


class Controller(Process):
    """A queue of keys, each with the moment from which it is to be looked at."""

    plural = ""
    """The kind whose objects are looked at."""

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(timeline)
        self.server = server
        self._queue: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        server.watch(self.changed)

    def changed(self, change: Change) -> None:
        """Take note of a change: of the object itself, or of something that it controls."""
        if change.plural == self.plural:
            self.enqueue(bodies.key(change.body))
            return
        owner = bodies.controller(change.body)
        if owner is not None and self.owns(owner["kind"]):
            self.enqueue((change.body["metadata"].get("namespace", ""), owner["name"]))

    def owns(self, kind: str) -> bool:
        """Whether this controller looks after objects of that kind."""
        return False

    def enqueue(self, key: Key, delay: float = DELAY_SECONDS) -> None:
        """Look at an object after this delay, or before."""
        due = self.timeline.after(self.timeline.varied(delay))
        if due < self._queue.get(key, float("inf")):
            self._queue[key] = due
            self.wake_at(due)

    def tick(self) -> None:
        now = self.timeline.time()
        for key in [key for key, due in self._queue.items() if due <= now]:
            del self._queue[key]
            try:
                self.sync(key)
                self._failures.pop(key, None)
            except errors.KubeError:
                failures = self._failures.get(key, 0)
                self._failures[key] = failures + 1
                self.enqueue(
                    key, min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 20), LAST_RETRY_SECONDS)
                )
        if self._queue:
            self.wake_at(min(self._queue.values()))

    def sync(self, key: Key) -> None:
        """Bring one object's world to what it states."""
        raise NotImplementedError

    def find(self, key: Key) -> Json | None:
        """The object of a key, unless it is gone or on its way out."""
        found = self.server.find(self.plural, key[1], key[0])
        return None if found is None or bodies.is_deleting(found) else found

    def pods_of(self, owner: Json) -> list[Json]:
        """The pods that an object controls."""
        uid = bodies.uid(owner)
        return [
            one
            for one in self.server.owned(uid, "pods")
            if (bodies.controller(one) or {}).get("uid") == uid
        ]

    def make_pod(
        self, owner: Json, name: str = "", change: Callable[[Json], Json] = lambda spec: spec
    ) -> Json:
        """Create a pod from an object's template; raises what the API server refuses with."""
        template = owner["spec"]["template"]
        meta = {**(template.get("metadata") or {})}
        meta |= {"ownerReferences": [bodies.owner_reference(owner)]}
        meta |= {"name": name} if name else {"generateName": f"{owner['metadata']['name']}-"}
        body = {"metadata": meta, "spec": change(template["spec"])}
        return self.server.create("pods", body, owner["metadata"]["namespace"])

    def end_pod(self, pod: Json) -> None:
        """Delete a pod the ordinary way."""
        namespace, name = bodies.key(pod)
        self.server.delete("pods", name, namespace, uid=bodies.uid(pod))


def is_active(pod: Json) -> bool:
    """Whether a controller counts the pod towards its replicas."""
    return not bodies.is_over(pod) and not bodies.is_deleting(pod)


class Deployments(Controller):
    """One ReplicaSet per template; a new one replaces the old when its pods are Ready."""

    plural = "deployments"

    def owns(self, kind: str) -> bool:
        return kind == "Deployment"

    def changed(self, change: Change) -> None:
        super().changed(change)
        if change.plural != "pods":
            return
        owner = bodies.controller(change.body)
        namespace = change.body["metadata"]["namespace"]
        found = owner and self.server.find("replicasets", owner["name"], namespace)
        above = bodies.controller(found) if found else None
        if above is not None and above["kind"] == "Deployment":
            self.enqueue((namespace, above["name"]))

    def sync(self, key: Key) -> None:
        deployment = self.find(key)
        if deployment is None:
            return
        spec = deployment["spec"]
        wanted = int(spec.get("replicas", 1))
        sets = self.server.owned(bodies.uid(deployment), "replicasets")
        current = next((one for one in sets if _template(one) == spec["template"]), None)
        if current is None:
            # Numbered and not hashed, so that names in traces do not hang on the template's text.
            self._make_set(deployment, f"{key[1]}-{len(sets) + 1:05d}", wanted)
            return
        self._scale(current, wanted)
        ready = sum(1 for pod in self.pods_of(current) if is_active(pod) and bodies.is_ready(pod))
        if ready >= wanted:
            for one in sets:
                if one is not current:
                    self._scale(one, 0)

    def _make_set(self, deployment: Json, name: str, replicas: int) -> None:
        template = deployment["spec"]["template"]
        label = {"pod-template-hash": name.rpartition("-")[2]}
        meta = template.get("metadata") or {}
        labels = {**(meta.get("labels") or {}), **label}
        selector = deployment["spec"].get("selector") or {}
        body = {
            "metadata": {
                "name": name,
                "labels": labels,
                "ownerReferences": [bodies.owner_reference(deployment)],
            },
            "spec": {
                "replicas": replicas,
                "selector": {
                    **selector,
                    "matchLabels": {**(selector.get("matchLabels") or {}), **label},
                },
                "template": {**template, "metadata": {**meta, "labels": labels}},
            },
        }
        self.server.create("replicasets", body, deployment["metadata"]["namespace"])

    def _scale(self, one: Json, replicas: int) -> None:
        namespace, name = bodies.key(one)
        self.server.patch("replicasets", name, {"spec": {"replicas": replicas}}, namespace)


def _template(replica_set: Json) -> Json:
    """The template of a Deployment that this ReplicaSet was made of."""
    template: Json = replica_set["spec"]["template"]
    meta = dict(template.get("metadata") or {})
    labels = {
        name: value
        for name, value in (meta.pop("labels", None) or {}).items()
        if name != "pod-template-hash"
    }
    meta |= {"labels": labels} if labels else {}
    return {**template, "metadata": meta} if meta else {"spec": template["spec"]}


class ReplicaSets(Controller):
    """As many active pods as stated; the first refusal ends the attempt."""

    plural = "replicasets"

    def owns(self, kind: str) -> bool:
        return kind == "ReplicaSet"

    def sync(self, key: Key) -> None:
        found = self.find(key)
        if found is None:
            return
        active = [pod for pod in self.pods_of(found) if is_active(pod)]
        surplus = len(active) - int(found["spec"].get("replicas", 1))
        for _ in range(-surplus):
            self.make_pod(found)
        if surplus > 0:
            for pod in _least_wanted(active)[:surplus]:
                self.end_pod(pod)


def _least_wanted(pods: Iterable[Json]) -> list[Json]:
    """The order in which a ReplicaSet gives pods up: not placed, not ready, crowded, young."""
    pods = list(pods)
    crowd: dict[str, int] = {}
    for pod in pods:
        crowd[bodies.node_of(pod)] = crowd.get(bodies.node_of(pod), 0) + 1

    def rank(pod: Json) -> tuple[bool, bool, int, str, str]:
        meta = pod["metadata"]
        node = bodies.node_of(pod)
        young = "".join(chr(0x10FFFF - ord(letter)) for letter in meta["creationTimestamp"])
        return bool(node), bodies.is_ready(pod), -crowd[node], young, meta["name"]

    return sorted(pods, key=rank)


class StatefulSets(Controller):
    """Pods with names of their own, one after the other; each waits for its old self to go."""

    plural = "statefulsets"

    def owns(self, kind: str) -> bool:
        return kind == "StatefulSet"

    def sync(self, key: Key) -> None:
        found = self.find(key)
        if found is None:
            return
        spec = found["spec"]
        wanted = int(spec.get("replicas", 1))
        is_ordered = spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady"
        pods = {pod["metadata"]["name"]: pod for pod in self.pods_of(found)}
        names = [f"{key[1]}-{ordinal}" for ordinal in range(wanted)]
        for name in names:
            pod = pods.get(name)
            if pod is None:
                self.make_pod(found, name, self._at(found, name))
            elif bodies.is_over(pod):
                self.end_pod(pod)
            elif not bodies.is_deleting(pod) and bodies.is_ready(pod):
                continue
            if is_ordered:
                return
        for name in sorted(set(pods) - set(names), reverse=True):
            if not bodies.is_deleting(pods[name]):
                self.end_pod(pods[name])
            return

    def _at(self, found: Json, name: str) -> Callable[[Json], Json]:
        """What a pod's ordinal adds to the template: its name, and claims of its own."""
        volumes = []
        for template in found["spec"].get("volumeClaimTemplates") or ():
            claim = f"{template['metadata']['name']}-{name}"
            namespace = found["metadata"]["namespace"]
            if self.server.find("persistentvolumeclaims", claim, namespace) is None:
                body = {"metadata": {"name": claim}, "spec": template["spec"]}
                self.server.create("persistentvolumeclaims", body, namespace)
            source = {"persistentVolumeClaim": {"claimName": claim}}
            volumes.append({"name": template["metadata"]["name"], **source})
        return lambda spec: {
            **spec,
            "hostname": name,
            **({"volumes": [*(spec.get("volumes") or ()), *volumes]} if volumes else {}),
        }


class DaemonSets(Controller):
    """One pod on each Node whose taints it tolerates; cordons and pressure do not matter."""

    plural = "daemonsets"

    def owns(self, kind: str) -> bool:
        return kind == "DaemonSet"

    def changed(self, change: Change) -> None:
        super().changed(change)
        if change.plural == "nodes" and _is_placement_news(change):
            for key in self.server.objects(self.plural):
                self.enqueue(key)

    def sync(self, key: Key) -> None:
        found = self.find(key)
        if found is None:
            return
        spec = _on_any_node(found["spec"]["template"]["spec"])
        by_node: dict[str, list[Json]] = {}
        for pod in self.pods_of(found):
            by_node.setdefault(bodies.node_of(pod), []).append(pod)
        for node in self.server.listed("nodes"):
            name = node["metadata"]["name"]
            pods = by_node.get(name, [])
            if not pods and _may(spec, node, ("NoSchedule", "NoExecute")):
                self.make_pod(found, change=_bound(spec, name))
            for pod in pods:
                if bodies.is_deleting(pod):
                    continue
                if bodies.is_over(pod) or not _may(spec, node, ("NoExecute",)):
                    self.end_pod(pod)


def _on_any_node(spec: Json) -> Json:
    added = [{"key": name, "operator": "Exists"} for name in _UNREADY_TAINTS]
    return {**spec, "tolerations": [*(spec.get("tolerations") or ()), *added]}


def _bound(spec: Json, node: str) -> Callable[[Json], Json]:
    return lambda _: {**spec, "nodeName": node}


def _may(spec: Json, node: Json, effects: tuple[str, ...]) -> bool:
    labels = bodies.labels(node)
    if any(labels.get(name) != one for name, one in (spec.get("nodeSelector") or {}).items()):
        return False
    return all(
        bodies.tolerates(spec["tolerations"], taint)
        for taint in node["spec"].get("taints") or ()
        if taint["effect"] in effects
    )


def _is_placement_news(change: Change) -> bool:
    before = change.before
    return (
        change.type in (ADDED, DELETED)
        or before is None
        or before["spec"] != change.body["spec"]
        or bodies.labels(before) != bodies.labels(change.body)
    )


class Jobs(Controller):
    """Pods until as many as stated have succeeded; each is held until it has been counted."""

    plural = "jobs"
    FINALIZER = "batch.kubernetes.io/job-tracking"

    def owns(self, kind: str) -> bool:
        return kind == "Job"

    def sync(self, key: Key) -> None:
        found = self.find(key)
        if found is None:
            return
        spec, status = found["spec"], found.get("status") or {}
        succeeded, active = int(status.get("succeeded", 0)), 0
        for pod in self.pods_of(found):
            is_held = self.FINALIZER in (pod["metadata"].get("finalizers") or ())
            if is_active(pod):
                active += 1
            elif is_held:
                succeeded += pod["status"].get("phase") == "Succeeded"
                self._release(pod)
        if succeeded != int(status.get("succeeded", 0)):
            patch = {"status": {"succeeded": succeeded}}
            self.server.patch(self.plural, key[1], patch, key[0], subresource="status")
        wanted = int(spec.get("completions", 1)) - succeeded
        for _ in range(min(wanted, int(spec.get("parallelism", 1))) - active):
            self._make(found)

    def _make(self, job: Json) -> None:
        template = job["spec"]["template"]
        meta = {
            **(template.get("metadata") or {}),
            "generateName": f"{job['metadata']['name']}-",
            "ownerReferences": [bodies.owner_reference(job)],
            "finalizers": [self.FINALIZER],
        }
        body = {"metadata": meta, "spec": template["spec"]}
        self.server.create("pods", body, job["metadata"]["namespace"])

    def _release(self, pod: Json) -> None:
        namespace, name = bodies.key(pod)
        left = [one for one in pod["metadata"]["finalizers"] if one != self.FINALIZER]
        self.server.patch("pods", name, {"metadata": {"finalizers": left or None}}, namespace)


WORKLOADS: tuple[type[Controller], ...] = (
    Deployments,
    ReplicaSets,
    StatefulSets,
    DaemonSets,
    Jobs,
)
