"""Volumes and claims: who is bound to whom, and what stays with its node.

As kube-controller-manager's volume binder does it: a claim that names a
volume gets that one or waits, one that names none gets the smallest that
fits; a volume whose claim is gone is Released until its reference is taken
off. Claims of a class that waits for the first consumer are provisioned on
the Node that their first pod was bound to, as local-path does it. What is in
use is held by Kubernetes' own finalizers.
"""

from asetwin.resources import quantities
from asetwin.sim import bodies
from asetwin.sim.apiserver import DELETED, ApiServer, Change
from asetwin.sim.bodies import Json, Key
from asetwin.sim.controllers import Controller

NODE_LOCAL_CLASS = "ase-node-local"
HOSTNAME = "kubernetes.io/hostname"
_PROTECTION = {
    "persistentvolumes": "kubernetes.io/pv-protection",
    "persistentvolumeclaims": "kubernetes.io/pvc-protection",
}


class VolumeBinder(Controller):
    """Looks at claims; a change of a volume is a reason to look at all of them."""

    plural = "persistentvolumeclaims"

    def changed(self, change: Change) -> None:
        if change.plural == self.plural:
            self.enqueue(bodies.key(change.body))
            self._enqueue_volume(change.body)
        elif change.plural == "persistentvolumes":
            self.enqueue(("", change.body["metadata"]["name"]))
            for key in self.server.objects(self.plural):
                self.enqueue(key)
        elif change.plural == "pods" and change.body["spec"].get("volumes"):
            is_over = change.type == DELETED or bodies.is_over(change.body)
            if is_over or bodies.node_of(change.body):
                for name in claims_of(change.body):
                    self.enqueue((change.body["metadata"]["namespace"], name))

    def _enqueue_volume(self, claim: Json) -> None:
        name = claim["spec"].get("volumeName")
        if name:
            self.enqueue(("", name))

    def sync(self, key: Key) -> None:
        if not key[0]:
            self._sync_volume(key[1])
            return
        claim = self.server.find(self.plural, key[1], key[0])
        if claim is None:
            return
        if bodies.is_deleting(claim):
            if not any(self._uses(pod, key) for pod in self.server.listed("pods", key[0])):
                self._let_go(self.plural, claim)
            return
        self._protect(self.plural, claim)
        if (claim.get("status") or {}).get("phase") != "Bound":
            self._bind(self.server.read(self.plural, key[1], key[0]))

    def _bind(self, claim: Json) -> None:
        volume = self._find(claim) or self._provision(claim)
        if volume is None:
            return
        namespace, name = bodies.key(claim)
        reference = {"namespace": namespace, "name": name, "uid": bodies.uid(claim)}
        volume_name = volume["metadata"]["name"]
        patch = {"spec": {"claimRef": reference}}
        self.server.patch("persistentvolumes", volume_name, patch)
        self._write("persistentvolumes", ("", volume_name), "Bound")
        patch = {"spec": {"volumeName": volume_name}}
        self.server.patch(self.plural, name, patch, namespace)
        self._write(self.plural, (namespace, name), "Bound")

    def _find(self, claim: Json) -> Json | None:
        spec, wanted = claim["spec"], claim["spec"].get("volumeName")
        fitting = [
            one
            for one in self.server.listed("persistentvolumes")
            if wanted in (None, "", one["metadata"]["name"])
            and not bodies.is_deleting(one)
            and one["spec"].get("storageClassName", "") == spec.get("storageClassName", "")
            and set(spec["accessModes"]) <= set(one["spec"]["accessModes"])
            and _size(one["spec"]["capacity"]) >= _size(spec["resources"]["requests"])
            and _is_free_for(one, claim)
        ]
        return min(fitting, key=lambda one: _size(one["spec"]["capacity"]), default=None)

    def _provision(self, claim: Json) -> Json | None:
        """A volume on the Node of the claim's first pod."""
        namespace, name = bodies.key(claim)
        if claim["spec"].get("storageClassName") != NODE_LOCAL_CLASS:
            return None
        users = [pod for pod in self.server.listed("pods", namespace) if name in claims_of(pod)]
        node = next((bodies.node_of(pod) for pod in users if bodies.node_of(pod)), "")
        if not node:
            return None
        term = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}
        body = {
            "metadata": {"name": f"pvc-{namespace}-{name}"},
            "spec": {
                "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
                "accessModes": claim["spec"]["accessModes"],
                "storageClassName": NODE_LOCAL_CLASS,
                "persistentVolumeReclaimPolicy": "Delete",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            },
        }
        return self.server.create("persistentvolumes", body)

    def _sync_volume(self, name: str) -> None:
        volume = self.server.find("persistentvolumes", name)
        if volume is None:
            return
        self._protect("persistentvolumes", volume)
        volume = self.server.read("persistentvolumes", name)
        held = volume["spec"].get("claimRef")
        if held is None or not held.get("uid"):
            self._write("persistentvolumes", ("", name), "Available")
        else:
            claim = self.server.find(self.plural, held["name"], held["namespace"])
            if claim is not None and bodies.uid(claim) == held["uid"]:
                return
            self._write("persistentvolumes", ("", name), "Released")
            if volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
                self.server.delete("persistentvolumes", name)
        volume = self.server.read("persistentvolumes", name)
        if bodies.is_deleting(volume):
            self._let_go("persistentvolumes", volume)

    def _uses(self, pod: Json, key: Key) -> bool:
        return key[1] in claims_of(pod) and bool(bodies.node_of(pod)) and not bodies.is_over(pod)

    def _write(self, plural: str, key: Key, phase: str) -> None:
        patch = {"status": {"phase": phase}}
        self.server.patch(plural, key[1], patch, key[0], subresource="status")

    def _protect(self, plural: str, body: Json) -> None:
        held = body["metadata"].get("finalizers") or []
        if bodies.is_deleting(body) or _PROTECTION[plural] in held:
            return
        self._set_finalizers(plural, body, [*held, _PROTECTION[plural]])

    def _let_go(self, plural: str, body: Json) -> None:
        held = body["metadata"].get("finalizers") or []
        self._set_finalizers(plural, body, [one for one in held if one != _PROTECTION[plural]])

    def _set_finalizers(self, plural: str, body: Json, finalizers: list[str]) -> None:
        namespace, name = bodies.key(body)
        patch = {"metadata": {"finalizers": finalizers or None}}
        self.server.patch(plural, name, patch, namespace)


def claims_of(pod: Json) -> list[str]:
    """The names of the claims that a pod mounts."""
    return [
        one["persistentVolumeClaim"]["claimName"]
        for one in pod["spec"].get("volumes") or ()
        if "persistentVolumeClaim" in one
    ]


def are_bound(server: ApiServer, pod: Json) -> bool:
    """Whether every claim of a pod is bound, so that a kubelet can mount it."""
    return not any(_phase(server, pod, name) != "Bound" for name in claims_of(pod))


def refusal(server: ApiServer, pod: Json) -> str:
    """Why no Node at all will do as yet; "" where that is not so."""
    for name in claims_of(pod):
        claim = server.find("persistentvolumeclaims", name, pod["metadata"]["namespace"])
        if claim is None:
            return f'persistentvolumeclaim "{name}" not found'
        waits = claim["spec"].get("storageClassName") == NODE_LOCAL_CLASS
        if _phase(server, pod, name) != "Bound" and not waits:
            return "pod has unbound immediate PersistentVolumeClaims"
    return ""


def _phase(server: ApiServer, pod: Json, name: str) -> str:
    claim = server.find("persistentvolumeclaims", name, pod["metadata"]["namespace"]) or {}
    return str((claim.get("status") or {}).get("phase") or "Pending")


def _size(amounts: Json) -> int:
    return quantities.units("storage", amounts["storage"])


def _is_free_for(volume: Json, claim: Json) -> bool:
    held = volume["spec"].get("claimRef")
    if held is None:
        return True
    is_named = (held["namespace"], held["name"]) == bodies.key(claim)
    return is_named and held.get("uid") in (None, "", bodies.uid(claim))
