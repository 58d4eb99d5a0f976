"""The twin under test, seen through pykube-ng: apply, wait, look.

Nothing here asks the operator's Python code; statuses are read as a user
reads them, and where the cluster itself can tell, the cluster is asked.
"""

import json
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pykube
import yaml
from pytest_kind import KindCluster

from e2e import foresight
from e2e.foresight import Foretold

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "manifests" / "samples"
SYSTEM = "asetwin-system"
GROUP = "asetwin.dev/v1alpha1"
DEVICE, NODE_A, NODE_B = "ase", "node-a", "node-b"
OURS = ("AseDevice", "AseNode", "PinnedWorker", "HardwareFailure", "DeviceUpdate")
LABEL = "asetwin-e2e"
LOOK_SECONDS = 0.15
FORESIGHT_SECONDS = 2.0
"""How long after a change FailoverReady may still be about what was before it."""

Json = dict[str, Any]


class Twin:
    """One kind cluster with asetwin in it."""

    def __init__(self, kind: KindCluster) -> None:
        self.kind = kind
        self.api = kind.api
        self.nodes = {NODE_A: f"{kind.name}-worker", NODE_B: f"{kind.name}-worker2"}
        self.namespace = ""
        self._extra: list[Json] = []
        self._foretold: Foretold | None = None
        self._classes: dict[str, Any] = {
            kind: pykube.object_factory(self.api, GROUP, kind) for kind in OURS
        }

    # --- reading --------------------------------------------------------------------------------

    def find(self, kind: str, name: str, namespace: str | None = None) -> Json | None:
        """One object's JSON; None where it is not there."""
        query = self._class(kind).objects(self.api)
        found = (query.filter(namespace=namespace) if namespace else query).get_or_none(name=name)
        return found.obj if found is not None else None

    def get(self, kind: str, name: str, namespace: str | None = None) -> Json:
        """One object's JSON; it has to be there."""
        found = self.find(kind, name, namespace)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def all(self, kind: str, namespace: str | None = None, **labels: str) -> list[Json]:
        """The JSON of all objects of a kind, by label."""
        query = self._class(kind).objects(self.api).filter(namespace=namespace or pykube.all)
        if kind in OURS or kind in ("Node", "Namespace"):
            query = self._class(kind).objects(self.api)
        chosen = query.filter(selector=labels) if labels else query
        return [one.obj for one in chosen]

    def _class(self, kind: str) -> Any:
        return self._classes.get(kind) or getattr(pykube, kind, None) or self._factory(kind)

    def _factory(self, kind: str) -> Any:
        version = {"Lease": "coordination.k8s.io/v1"}.get(kind, "v1")
        self._classes[kind] = pykube.object_factory(self.api, version, kind)
        return self._classes[kind]

    def device(self) -> Json:
        """The sample device."""
        return self.get("AseDevice", DEVICE)

    def status(self, kind: str = "AseDevice", name: str = DEVICE) -> Json:
        """An object's status; empty before the operator has seen it."""
        status: Json = (self.find(kind, name) or {}).get("status") or {}
        return status

    def condition(self, kind: str, name: str, type_: str) -> Json:
        """One condition; empty where it is not there."""
        conditions = self.status(kind, name).get("conditions") or ()
        return next((one for one in conditions if one["type"] == type_), {})

    def pods(self, namespace: str | None = None) -> list[Json]:
        """The pods of the test's namespace that have not ended."""
        return [
            pod
            for pod in self.all("Pod", namespace or self.namespace)
            if pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def pods_on(self, ase_node: str, namespace: str | None = None) -> list[Json]:
        """Those of them that are bound to a device node's worker."""
        node = self.nodes[ase_node]
        return [pod for pod in self.pods(namespace) if pod["spec"].get("nodeName") == node]

    def ready_on(self, ase_node: str) -> list[str]:
        """The names of those of them that are Ready."""
        return sorted(pod["metadata"]["name"] for pod in self.pods_on(ase_node) if is_ready(pod))

    def master(self) -> Json | None:
        """The master pod that is Ready and holds the Lease."""
        pods = self.all("Pod", SYSTEM, **{"asetwin.dev/role": "master"})
        lease = self.find("Lease", f"{DEVICE}-master", SYSTEM) or {}
        holder = (lease.get("spec") or {}).get("holderIdentity")
        ready = [pod for pod in pods if is_ready(pod) and pod["metadata"]["name"] == holder]
        return ready[0] if len(ready) == 1 and len(pods) == 1 else None

    def events(self, kind: str, name: str) -> list[str]:
        """The reasons of the Events about one of our objects."""
        found = self.all("Event", "default")
        return [
            one["reason"]
            for one in sorted(found, key=lambda one: str(one.get("eventTime")))
            if one["involvedObject"].get("kind") == kind and one["involvedObject"]["name"] == name
        ]

    def wait_told(self, kind: str, name: str, *reasons: str) -> None:
        """Wait until Events tell these reasons; they and what they tell of come in any order."""
        self.wait(
            f"Events {', '.join(reasons)} about {name}",
            lambda: set(reasons) <= set(self.events(kind, name)),
        )

    def footprint(self) -> Json:
        """All that asetwin may change on Nodes, to compare before and after."""
        seen = {}
        for node in self.all("Node"):
            meta, spec = node["metadata"], node["spec"]
            seen[meta["name"]] = {
                "unschedulable": bool(spec.get("unschedulable")),
                # Without timeAdded, which Kubernetes sets on a taint of its own when it likes.
                "taints": sorted(
                    f"{one['key']}={one.get('value', '')}:{one['effect']}"
                    for one in spec.get("taints") or ()
                ),
                "labels": meta.get("labels"),
                "annotations": {
                    key: value
                    for key, value in (meta.get("annotations") or {}).items()
                    if "asetwin" in key or "kopf" in key
                },
                "gpus": node["status"]["capacity"].get("nvidia.com/gpu"),
            }
        return seen

    # --- waiting --------------------------------------------------------------------------------

    def wait(self, what: str, predicate: Callable[[], Any], *, within: float = 30) -> Any:
        """Look until the predicate holds, and return what it returned."""
        deadline = time.monotonic() + within
        while True:
            found = predicate()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within} s: {what}\n{self.describe()}")
            time.sleep(LOOK_SECONDS)

    def wait_master_on(self, ase_node: str) -> Json:
        """The master that serves there."""
        node = self.nodes[ase_node]

        def serving() -> Json | None:
            master = self.master()
            return master if master and master["spec"]["nodeName"] == node else None

        found: Json = self.wait(f"the master on {ase_node}", serving)
        return found

    def bring_master_to(self, ase_node: str) -> None:
        """By asking for it, as a person does; afterwards it is not asked for any more."""

        def wish(**master: Any) -> None:
            patch = json.dumps({"spec": {"master": master}})
            self.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", patch)

        wish(failback=True, preferredNode=ase_node)
        self.wait_master_on(ase_node)
        wish(failback=False, preferredNode=None)

    def wait_steady(self, *, within: float = 60) -> None:
        """Both nodes up, nothing failed, the master serving, the reserve kept."""

        def is_steady() -> bool:
            status = self.status()
            states = [self.status("AseNode", name).get("state") for name in self.nodes]
            return (
                status.get("state") == "Online"
                and "failover" not in status
                and states == ["Up", "Up"]
                and self.master() is not None
            )

        self.wait("a steady device", is_steady, within=within)

    def wait_alone(self, *, within: float = 60) -> None:
        """Until no pod of an earlier test is left: it holds a place, and is displaced with ours."""

        def is_alone() -> bool:
            spaces = {one["metadata"]["namespace"] for one in self.all("Pod")}
            return not any(one.startswith("e2e-") for one in spaces - {self.namespace})

        self.wait("the pods of earlier tests to go", is_alone, within=within)

    def foretell(self, ase_node: str) -> None:
        """Keep what FailoverReady says of a node that is about to be lost.

        :meth:`fail` does it by itself. It is compared with what does not run
        afterwards by :meth:`wait_as_foretold`, before the next repair at latest.
        """
        self.wait_as_foretold()

        def keep() -> Foretold | None:
            ready = self.condition("AseNode", ase_node, "FailoverReady").get("reason")
            if ready not in ("EveryPodFits", "PodsWouldNotRun"):
                return None
            pods = self.all("Pod")
            if time.time() < max(map(_placed_at, pods)) + FORESIGHT_SECONDS:
                return None
            return foresight.keep(
                ase_node,
                self.nodes[ase_node],
                self.namespace,
                if_lost=self.status("AseNode", ase_node).get("ifLost") or {},
                pods=pods,
                device=self.status(),
            )

        what = f"FailoverReady of {ase_node} to tell who would not run (else give `unforetold`)"
        self._foretold = self.wait(what, keep)

    def wait_as_foretold(self) -> None:
        """Once the failover has ended, what does not run has to be what was foretold."""
        foretold, self._foretold = self._foretold, None
        if foretold is None:
            return
        self.wait(
            f"the failover of {foretold.ase_node}, of which it was foretold who would not run",
            lambda: foresight.has_ended(foretold, self.status()),
            within=60,
        )
        found = None

        def is_so() -> bool:
            nonlocal found
            found = foresight.not_running(foretold, self.namespace, self.all("Pod"))
            return found == foretold.who

        try:
            self.wait("what does not run to be what was foretold", is_so)
        except AssertionError as error:
            seen = "undecided" if found is None else dict(found)
            error.add_note(f"foretold {dict(foretold.who)}, found {seen}")
            raise

    def describe(self) -> str:
        """The state of everything, for the message of a test that fails."""
        lines = []
        for kind in OURS:
            for one in self.all(kind):
                status = dict(one.get("status") or {})
                lines.append(f"{kind} {one['metadata']['name']}: {status}")
        for pod in self.all("Pod", self.namespace) if self.namespace else ():
            lines.append(
                f"Pod {pod['metadata']['name']} on {pod['spec'].get('nodeName')}: "
                f"{pod['status'].get('phase')} ready={is_ready(pod)} "
                f"deleting={pod['metadata'].get('deletionTimestamp')}"
            )
        lines += [f"Node {name}: {seen}" for name, seen in self.footprint().items()]
        return "\n".join(lines)

    # --- changing -------------------------------------------------------------------------------

    def begin(self, test: str) -> None:
        """A fresh namespace for one test."""
        # Unique, because the namespace of the run before may still be on its way out.
        slug = re.sub(r"[^a-z0-9]+", "-", test.lower().removeprefix("test_"))[:36].strip("-")
        self.namespace = f"e2e-{slug}-{uuid.uuid4().hex[:6]}"
        self._extra = []
        self._foretold = None
        self.apply({"kind": "Namespace", "metadata": {"name": self.namespace}})

    def end(self, *, has_failed: bool = False) -> None:
        """Repair everything and delete what the test has made, its namespace last."""
        if has_failed:
            # It has its error already; what is left of it need not be waited for.
            self._foretold = None
        try:
            self.wait_as_foretold()
        finally:
            self._clear()

    def _clear(self) -> None:
        for one in self.all("DeviceUpdate"):
            self.delete("DeviceUpdate", one["metadata"]["name"])
        self.repair_all()
        for one in reversed(self._extra):
            namespace = one["metadata"].get("namespace")
            self.delete(one["kind"], one["metadata"]["name"], namespace)
        self.delete("Namespace", self.namespace)
        # Nobody waits for what they do before they end; the next test waits for their place.
        self.kubectl(
            *("delete", "pods", "--all", "--namespace", self.namespace),
            *("--grace-period=1", "--wait=false", "--ignore-not-found"),
        )

    def repair_all(self) -> None:
        """Delete every HardwareFailure; before that, what was foretold is compared."""
        self.wait_as_foretold()
        for one in self.all("HardwareFailure"):
            self.delete("HardwareFailure", one["metadata"]["name"])

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        """Delete one object, if it is there."""
        query = self._class(kind).objects(self.api)
        found = (query.filter(namespace=namespace) if namespace else query).get_or_none(name=name)
        if found is not None:
            found.delete()

    def apply(self, *objects: Json) -> None:
        """``kubectl apply``, as a user does it."""
        for one in objects:
            one.setdefault("apiVersion", GROUP if one["kind"] in OURS else "v1")
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        self._extra += [
            one
            for one in objects
            if one["kind"] in OURS
            and one["metadata"]["name"] not in (DEVICE, *self.nodes)
            and not one["metadata"]["name"].startswith("worker-")
        ]

    def apply_quietly(self, one: Json) -> None:
        """``kubectl apply`` of something that is expected to be refused."""
        one.setdefault("apiVersion", GROUP if one["kind"] in OURS else "v1")
        self.kubectl_quietly("apply", "-f", "-", stdin=yaml.safe_dump(one))

    def sample(self, name: str) -> list[Json]:
        """The objects of a sample file, with this cluster's Node names."""
        return list(self._sample(name))

    def _sample(self, name: str) -> Iterator[Json]:
        for one in yaml.safe_load_all((SAMPLES / name).read_text()):
            if one["kind"] == "PinnedWorker":
                one["spec"]["nodeName"] = self.nodes[one["spec"]["aseNode"]]
            if one["kind"] == "AseDevice":
                # These tests fail nodes more often in an hour than a healthy device does.
                one["spec"]["quarantine"] = {"failures": 9, "windowSeconds": 60}
            yield one

    def apply_sample(self, name: str) -> None:
        """Apply a file of manifests/samples."""
        self.apply(*self.sample(name))

    def fail(self, ase_node: str, *components: str, unforetold: str = "", **spec: Any) -> None:
        """Apply one HardwareFailure per component.

        Where the node is lost with them, what FailoverReady says before is
        compared with what does not run after; ``unforetold`` is the reason why
        that cannot be.
        """
        if foresight.loses_node(components):
            self.wait_as_foretold()
            if not unforetold:
                self.foretell(ase_node)
        self.apply(
            *(
                {
                    "kind": "HardwareFailure",
                    "metadata": {"name": f"{ase_node}-{component.lower()}"},
                    "spec": {"node": ase_node, "component": component, **spec},
                }
                for component in components
            )
        )

    def deploy(self, replicas: int = 6, name: str = "web", **pod_spec: Any) -> None:
        """The sample's web Deployment in the test's namespace, Ready on both nodes."""
        (deployment,) = [one for one in self.sample("workload.yaml") if one["kind"] == "Deployment"]
        deployment["metadata"].update(name=name, namespace=self.namespace)
        deployment["spec"]["replicas"] = replicas
        deployment["spec"]["template"]["spec"].update(pod_spec)
        self.apply(deployment)
        self.wait(
            f"{replicas} pods of {name} Ready",
            lambda: len(self.ready_on(NODE_A)) + len(self.ready_on(NODE_B)) >= replicas,
            within=60,
        )

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """kubectl's standard output; CalledProcessError where it fails."""
        return str(self.kind.kubectl(*args, input=stdin))

    def kubectl_quietly(self, *args: str, stdin: str | None = None) -> str:
        """The same, with standard error in the CalledProcessError."""
        return str(self.kind.kubectl(*args, input=stdin, stderr=subprocess.PIPE))

    def scale_operator(self, replicas: int) -> None:
        """Stop (0) or start (1) the operator, and wait until that is so."""
        name = "asetwin-operator"
        self.kubectl("-n", SYSTEM, "scale", f"deployment/{name}", f"--replicas={replicas}")
        labels = {"app.kubernetes.io/component": "operator"}
        if replicas == 0:
            self.wait("no operator", lambda: not self.all("Pod", SYSTEM, **labels), within=60)
        else:
            self.kubectl("-n", SYSTEM, "rollout", "status", f"deployment/{name}", "--timeout=60s")


def _placed_at(pod: Json) -> float:
    """When a pod was given its node, in seconds since the epoch; 0 where it has none."""
    return max(
        (
            # Kubernetes cuts the moment down to the second.
            datetime.fromisoformat(one["lastTransitionTime"]).timestamp() + 1
            for one in pod["status"].get("conditions") or ()
            if one["type"] == "PodScheduled" and one["status"] == "True"
        ),
        default=0.0,
    )


def is_ready(pod: Json) -> bool:
    """Whether a pod is Ready and nobody has asked for its end."""
    conditions = pod["status"].get("conditions") or ()
    is_true = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return is_true and "deletionTimestamp" not in pod["metadata"]


def epoch(pod: Json) -> int:
    """The epoch of a master pod."""
    return int(pod["metadata"]["labels"]["asetwin.dev/epoch"])
