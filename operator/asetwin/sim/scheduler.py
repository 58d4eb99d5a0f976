"""The simulated scheduler: binds each pending pod, or says in kube-scheduler's words why not.

The filters are those that the twin's rules need to be honest about: cordons,
taints, node selectors and required node affinity, host ports, requests, pod
slots. Scores are the simplest that spread: fewest of the same controller's
pods, then the least requested. Preemption is not simulated.
"""

from collections import Counter
from collections.abc import Mapping

from asetwin.resources import quantities, requests
from asetwin.sim import bodies, volumes
from asetwin.sim.apiserver import DELETED, ApiServer, Change
from asetwin.sim.bodies import Json, Key
from asetwin.sim.clock import Process, Timeline

DELAY_SECONDS = 0.01
_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


class Scheduler(Process):
    """Looks at all pending pods whenever something has changed that could help one."""

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(timeline)
        self._server = server
        self._pending: dict[Key, None] = {}
        server.watch(self._changed)

    def _changed(self, change: Change) -> None:
        if change.plural in ("nodes", "persistentvolumes", "persistentvolumeclaims"):
            self._look()
        elif change.plural == "pods":
            pod, before = change.body, change.before
            is_pending = change.type != DELETED and not bodies.node_of(pod)
            if is_pending and not bodies.is_deleting(pod):
                self._pending.setdefault(bodies.key(pod))
                # Its own status, which we have written ourselves, is no news.
                if before is None or before["spec"] != pod["spec"]:
                    self._look()
            else:
                self._pending.pop(bodies.key(pod), None)
            if change.type == DELETED or bodies.is_over(pod):
                self._look()

    def _look(self) -> None:
        if self._pending:
            self.wake(self.timeline.varied(DELAY_SECONDS))

    def tick(self) -> None:
        for key in self._by_priority():
            pod = self._server.find("pods", key[1], key[0])
            if pod is None or bodies.node_of(pod) or pod["spec"].get("schedulingGates"):
                continue
            node, message = place(self._server, pod)
            if node:
                self._server.bind(pod, node)
            else:
                self._report(pod, message)

    def _by_priority(self) -> list[Key]:
        """Pods in the order of the scheduling queue: priority, then age."""
        found = [(key, self._server.find("pods", key[1], key[0])) for key in self._pending]
        pods = [(key, pod) for key, pod in found if pod is not None]
        pods.sort(key=lambda one: -int(one[1]["spec"].get("priority", 0)))
        return [key for key, _ in pods]

    def _report(self, pod: Json, message: str) -> None:
        namespace, name = bodies.key(pod)
        before = (pod.get("status") or {}).get("conditions") or ()
        conditions = bodies.with_condition(
            before,
            "PodScheduled",
            "False",
            self._server.clock(),
            reason="Unschedulable",
            message=message,
        )
        patch = {"status": {"conditions": conditions}}
        self._server.patch("pods", name, patch, namespace, subresource="status")


def place(server: ApiServer, pod: Json) -> tuple[str, str]:
    """The Node for a pod, or an empty one and the scheduler's message."""
    nodes = server.listed("nodes")
    refusal = volumes.refusal(server, pod)
    if refusal:
        return "", f"0/{len(nodes)} nodes are available: {refusal}."
    causes = Counter[str]()
    fits: list[tuple[tuple[float, ...], str]] = []
    for node in nodes:
        reasons = refusals(server, pod, node)
        if reasons:
            causes.update(reasons)
        else:
            fits.append((_score(server, pod, node), node["metadata"]["name"]))
    if fits:
        return min(fits)[1], ""
    told = ", ".join(f"{count} {text}" for text, count in sorted(causes.items()))
    return "", f"0/{len(nodes)} nodes are available: {told}."


def refusals(server: ApiServer, pod: Json, node: Json) -> list[str]:
    """Why a pod does not fit a Node: the first filter that says no, in the default order."""
    spec, tolerations = pod["spec"], pod["spec"].get("tolerations") or ()
    is_cordoned = node["spec"].get("unschedulable")
    if is_cordoned and not bodies.tolerates(tolerations, _UNSCHEDULABLE):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints") or ():
        is_hard = taint["effect"] in ("NoSchedule", "NoExecute")
        if is_hard and not bodies.tolerates(tolerations, taint):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    if not matches_node(spec, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    on_node = [one for one in server.pods_on(node["metadata"]["name"]) if not bodies.is_over(one)]
    if _ports(spec) & {port for one in on_node for port in _ports(one["spec"])}:
        return ["node(s) didn't have free ports for the requested pod ports"]
    lacking = _lacking(spec, node, on_node)
    labels = dict(bodies.labels(node))
    if not lacking and volumes.is_out_of_reach(server, pod, labels):
        return ["node(s) didn't match PersistentVolume's node affinity"]
    return lacking


def _lacking(spec: Json, node: Json, on_node: list[Json]) -> list[str]:
    offered: Mapping[str, str] = (node.get("status") or {}).get("allocatable") or {}
    used = Counter[str]()
    for one in on_node:
        used.update(requests.of_pod(one["spec"]))
    reasons = []
    if len(on_node) + 1 > int(offered.get("pods", 110)):
        reasons.append("Too many pods")
    for name, amount in requests.of_pod(spec).items():
        if used[name] + amount > quantities.units(name, offered.get(name, 0)):
            reasons.append(f"Insufficient {name}")
    return reasons


def matches_node(spec: Json, node: Json) -> bool:
    """Node selector and required node affinity."""
    labels = bodies.labels(node)
    wanted = (spec.get("nodeSelector") or {}).items()
    if any(labels.get(name) != value for name, value in wanted):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(bodies.requirement_holds(one, labels) for one in term.get("matchExpressions") or ())
        and all(bodies.requirement_holds(one, fields) for one in term.get("matchFields") or ())
        for term in required["nodeSelectorTerms"]
        if term.get("matchExpressions") or term.get("matchFields")
    )


def _ports(spec: Json) -> set[tuple[str, int]]:
    return {
        (port.get("protocol", "TCP"), port["hostPort"])
        for container in spec["containers"]
        for port in container.get("ports") or ()
        if port.get("hostPort")
    }


def _score(server: ApiServer, pod: Json, node: Json) -> tuple[float, ...]:
    """Lower is better."""
    tolerations = pod["spec"].get("tolerations") or ()
    avoided = sum(
        1
        for taint in node["spec"].get("taints") or ()
        if taint["effect"] == "PreferNoSchedule" and not bodies.tolerates(tolerations, taint)
    )
    owner = bodies.controller(pod)
    on_node = [one for one in server.pods_on(node["metadata"]["name"]) if not bodies.is_over(one)]
    alike = sum(
        1
        for one in on_node
        if owner is not None and (bodies.controller(one) or {}).get("uid") == owner["uid"]
    )
    offered = quantities.units("cpu", (node["status"].get("allocatable") or {}).get("cpu", 1))
    asked = sum(requests.of_pod(one["spec"]).get("cpu", 0) for one in on_node)
    wished = _preference(pod["spec"], node)
    return -wished, avoided, alike, asked / max(1, offered), len(on_node)


def _preference(spec: Json, node: Json) -> int:
    """The weight of the preferred node affinity that a Node fulfils; it comes before all else."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    labels = bodies.labels(node)
    return sum(
        int(one["weight"])
        for one in affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        if all(
            bodies.requirement_holds(each, labels)
            for each in one["preference"].get("matchExpressions") or ()
        )
    )
