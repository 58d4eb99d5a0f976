"""The controllers that make nothing but clean up and keep count.

Taint eviction, node lifecycle, garbage collection of owned objects and of
pods on lost Nodes, the end of namespaces, and the usage in quotas' statuses.
"""

import math

from asetwin import constants
from asetwin.kube import errors
from asetwin.model import quotas
from asetwin.resources import charges, quantities
from asetwin.sim import admission, bodies, evictions
from asetwin.sim.apiserver import ADDED, DELETED, ApiServer, Change
from asetwin.sim.bodies import Json, Key
from asetwin.sim.clock import Process, Timeline
from asetwin.sim.controllers import DELAY_SECONDS, Controller
from asetwin.sim.kinds import KINDS

NODE_GRACE_SECONDS = 50.0
"""For how long a kubelet may be silent before its Node is not Ready."""
POD_GC_SECONDS = 20.0
QUOTA_RESYNC_SECONDS = 300.0
UNREACHABLE = "node.kubernetes.io/unreachable"


class TaintEviction(Controller):
    """Deletes pods from Nodes with NoExecute taints that they do not tolerate (any longer)."""

    plural = "pods"

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(server, timeline)
        self._tainted_at: dict[Key, float] = {}

    def changed(self, change: Change) -> None:
        if change.plural == "nodes":
            before = change.before["spec"].get("taints") if change.before else None
            if before != change.body["spec"].get("taints"):
                for pod in self.server.pods_on(change.body["metadata"]["name"]):
                    self.enqueue(bodies.key(pod))
        elif change.plural == "pods":
            before_node = bodies.node_of(change.before) if change.before else ""
            if change.type == DELETED:
                self._tainted_at.pop(bodies.key(change.body), None)
            elif bodies.node_of(change.body) != before_node:
                self.enqueue(bodies.key(change.body))

    def sync(self, key: Key) -> None:
        pod = self.server.find("pods", key[1], key[0])
        node = self.server.find("nodes", bodies.node_of(pod)) if pod else None
        if pod is None or node is None or bodies.is_deleting(pod):
            return
        taints = [one for one in node["spec"].get("taints") or () if one["effect"] == "NoExecute"]
        if not taints:
            self._tainted_at.pop(key, None)
            return
        tolerations = pod["spec"].get("tolerations") or ()
        allowed = [bodies.toleration_seconds(tolerations, one) for one in taints]
        seconds = 0.0 if None in allowed else min(one for one in allowed if one is not None)
        if math.isinf(seconds):
            return
        now = self.timeline.time()
        due = round(self._tainted_at.setdefault(key, now) + seconds, 6)
        if due > now:
            self.enqueue(key, due - now)
        else:
            self.end_pod(pod)


class Disruptions(Controller):
    """Writes into the status of PodDisruptionBudgets what they allow."""

    plural = "poddisruptionbudgets"

    def changed(self, change: Change) -> None:
        if change.plural == self.plural:
            self.enqueue(bodies.key(change.body))
        elif change.plural in ("pods", "deployments", "replicasets", "statefulsets"):
            namespace, _ = bodies.key(change.body)
            for one in self.server.listed(self.plural, namespace):
                self.enqueue(bodies.key(one))

    def sync(self, key: Key) -> None:
        found = self.find(key)
        if found is None:
            return
        healthy, needed, expected = evictions.budget(self.server, found)
        status = {
            "observedGeneration": found["metadata"]["generation"],
            "currentHealthy": healthy,
            "desiredHealthy": needed,
            "expectedPods": expected,
            # Pods that nobody counts on, as bare ones, are not to be evicted either.
            "disruptionsAllowed": max(0, healthy - needed) if expected else 0,
        }
        self.server.patch(self.plural, key[1], {"status": status}, key[0], subresource="status")


class NodeLifecycle(Process):
    """Marks Nodes whose kubelet is silent; kubelets report to it through ``heard``."""

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(timeline)
        self._server = server
        self._silent_since: dict[str, float] = {}

    def silent(self, node: str) -> None:
        """The kubelet of this Node has stopped."""
        self._silent_since.setdefault(node, self.timeline.time())
        self.wake(NODE_GRACE_SECONDS)

    def heard(self, node: str) -> None:
        """The kubelet of this Node is back and has said that it is Ready."""
        self._silent_since.pop(node, None)
        self._set_taint(node, present=False)

    def tick(self) -> None:
        now = self.timeline.time()
        for node, since in sorted(self._silent_since.items()):
            found = self._server.find("nodes", node)
            if found is None or not bodies.is_ready(found):
                continue
            if now < since + NODE_GRACE_SECONDS:
                self.wake_at(since + NODE_GRACE_SECONDS)
                continue
            set_node_ready(self._server, node, "Unknown", "NodeStatusUnknown")
            self._set_taint(node, present=True)
            for pod in self._server.pods_on(node):
                set_pod_unready(self._server, pod)

    def _set_taint(self, node: str, *, present: bool) -> None:
        found = self._server.find("nodes", node)
        if found is None:
            return
        taints = [one for one in found["spec"].get("taints") or () if one["key"] != UNREACHABLE]
        if present:
            taints += [{"key": UNREACHABLE, "effect": one} for one in ("NoSchedule", "NoExecute")]
        self._server.patch("nodes", node, {"spec": {"taints": taints or None}})


def set_node_ready(server: ApiServer, node: str, status: str, reason: str) -> None:
    """Write a Node's Ready condition."""
    found = server.read("nodes", node)
    before = (found.get("status") or {}).get("conditions") or ()
    conditions = bodies.with_condition(before, "Ready", status, server.clock(), reason=reason)
    patch = {"status": {"conditions": conditions}}
    server.patch("nodes", node, patch, subresource="status")


def set_pod_unready(server: ApiServer, pod: Json) -> None:
    """What the node lifecycle controller does to the pods of a silent Node."""
    if not bodies.is_ready(pod):
        return
    namespace, name = bodies.key(pod)
    conditions = bodies.with_condition(
        pod["status"]["conditions"], "Ready", "False", server.clock()
    )
    patch = {"status": {"conditions": conditions}}
    server.patch("pods", name, patch, namespace, subresource="status")


class Garbage(Process):
    """Deletes what is owned only by objects that are gone."""

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(timeline)
        self._server = server
        self._gone: dict[str, None] = {}
        server.watch(self._changed)

    def _changed(self, change: Change) -> None:
        if change.type == DELETED and self._server.owned(bodies.uid(change.body)):
            self._gone[bodies.uid(change.body)] = None
            self.wake(self.timeline.varied(0.05))

    def tick(self) -> None:
        gone, self._gone = self._gone, {}
        for uid in gone:
            for one in self._server.owned(uid):
                if not any(self._exists(ref) for ref in bodies.owners(one)):
                    plural, (namespace, name) = _plural(one), bodies.key(one)
                    self._server.delete(plural, name, namespace, uid=bodies.uid(one))

    def _exists(self, ref: Json) -> bool:
        plural = next(one.plural for one in KINDS.values() if one.kind == ref["kind"])
        return any(bodies.uid(one) == ref["uid"] for one in self._server.objects(plural).values())


def _plural(body: Json) -> str:
    return next(one.plural for one in KINDS.values() if one.kind == body["kind"])


class PodGarbage(Process):
    """Force-deletes pods of Nodes that are gone, or out of service and not Ready."""

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(timeline)
        self._server = server
        server.watch(self._changed)

    def _changed(self, change: Change) -> None:
        if change.plural == "nodes" and change.type != ADDED:
            self.wake(POD_GC_SECONDS)

    def tick(self) -> None:
        for pod in self._server.listed("pods"):
            if bodies.node_of(pod) and self._is_orphan(pod):
                namespace, name = bodies.key(pod)
                self._server.delete("pods", name, namespace, grace_seconds=0)

    def _is_orphan(self, pod: Json) -> bool:
        node = self._server.find("nodes", bodies.node_of(pod))
        if node is None:
            return True
        keys = {one["key"] for one in node["spec"].get("taints") or ()}
        is_out = constants.TAINT_OUT_OF_SERVICE in keys and not bodies.is_ready(node)
        return is_out and bodies.is_deleting(pod)


class Namespaces(Controller):
    """Empties a namespace that is being deleted, then lets it go."""

    plural = "namespaces"

    def changed(self, change: Change) -> None:
        if change.plural == self.plural:
            super().changed(change)
        elif change.type == DELETED and change.body["metadata"].get("namespace"):
            self.enqueue(("", change.body["metadata"]["namespace"]))

    def sync(self, key: Key) -> None:
        found = self.server.find(self.plural, key[1])
        if found is None or not bodies.is_deleting(found):
            return
        is_empty = True
        for kind in KINDS.values():
            if not kind.is_namespaced:
                continue
            for one in self.server.listed(kind.plural, key[1]):
                is_empty = False
                if not bodies.is_deleting(one):
                    self.server.delete(kind.plural, one["metadata"]["name"], key[1])
        if is_empty and not found["metadata"].get("finalizers"):
            self.server.remove(self.plural, key[1])


class Quotas(Controller):
    """Writes to a quota's status what its namespace uses.

    Looks when the limits change, when a write takes a pod off the bill (its end,
    its removal, a force-deletion that a finalizer holds up), and every five
    minutes; the mere passing of a grace period tells it nothing.
    """

    plural = "resourcequotas"

    def changed(self, change: Change) -> None:
        if change.plural == self.plural:
            before = change.before["spec"] if change.before else None
            if change.type != DELETED and before != change.body["spec"]:
                self.enqueue(bodies.key(change.body))
        elif change.plural == "pods" and change.before is not None:
            # The real one hears of a write a moment later, when no grace at all is over.
            now = self.server.clock() + DELAY_SECONDS
            is_off = admission.counts(change.before, now) and not admission.counts(change.body, now)
            if change.type == DELETED or is_off:
                self._enqueue_all(change.body["metadata"]["namespace"])

    def _enqueue_all(self, namespace: str) -> None:
        for key in self.server.objects(self.plural):
            if key[0] == namespace:
                self.enqueue(key)

    def sync(self, key: Key) -> None:
        quota = self.server.find(self.plural, key[1], key[0])
        if quota is None:
            return
        hard, now = quota["spec"].get("hard") or {}, self.server.clock()
        used = dict.fromkeys(hard, 0)
        # What has ended is an object all the same.
        counted = [one for one in hard if one == quotas.OBJECTS]
        for pod in self.server.listed("pods", key[0]):
            if not admission.is_in_scope(quota, pod):
                continue
            keys = list(hard) if admission.counts(pod, now) else counted
            for one, amount in admission.usage(pod["spec"], keys).items() if keys else ():
                used[one] += amount
        rendered = {
            one: quantities.render(charges.resource_of(one), amount) for one, amount in used.items()
        }
        status = {**quota, "status": {"hard": hard, "used": rendered}}
        try:
            self.server.replace(self.plural, status, key[0], subresource="status")
        except errors.NotFound:
            return
        self.enqueue(key, QUOTA_RESYNC_SECONDS)
