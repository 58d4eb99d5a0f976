"""The simulated scheduler: binds each pending pod, or says in kube-scheduler's words why not.

The filters are those of :mod:`asetwin.model.placement.boards`, which the
end-to-end tests hold against the real kube-scheduler. Scores are the simplest
that spread: fewest of the same controller's pods, then the least requested.
Preemption is that of :mod:`asetwin.model.placement.preemptions`: the victims
are deleted as anybody would, and the Node is kept for the pod meanwhile. A
DaemonSet's pods are spared, which here do not go through the scheduler.
"""

from collections import Counter
from typing import Any

from asetwin.model.placement import preemptions, rooms
from asetwin.model.placement.boards import Board, leading
from asetwin.model.placement.rooms import Misfit
from asetwin.resources import core, quantities, requests
from asetwin.sim import bodies, evictions, volumes
from asetwin.sim.apiserver import DELETED, ApiServer, Change
from asetwin.sim.bodies import Json, Key
from asetwin.sim.clock import Process, Timeline

DELAY_SECONDS = 0.01
UNRESOLVABLE = frozenset({"Gated", "NodeAffinity", "NodeLocalVolume", "PodAffinity", "Taint"})
"""Reasons that no pod's end cures (the scheduler's UnschedulableAndUnresolvable)."""


class Scheduler(Process):
    """Looks at all pending pods whenever something has changed that could help one."""

    def __init__(self, server: ApiServer, timeline: Timeline) -> None:
        super().__init__(timeline)
        self._server = server
        self._reader = Reader(server)
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
        board = self._reader.board()
        for key in self._by_priority():
            pod = self._server.find("pods", key[1], key[0])
            if pod is None or bodies.node_of(pod) or pod["spec"].get("schedulingGates"):
                continue
            wanted = self._reader.pod(pod)
            node, message = place(self._server, pod, board, wanted)
            if node:
                self._server.bind(pod, node)
                board.put(wanted, node)
                continue
            nominated = self._preempt(pod, board, wanted)
            self._report(pod, message, nominated)
            if nominated:
                # Who comes after it must not take the place that is being made for it.
                board.put(wanted, nominated)

    def _preempt(self, pod: Json, board: Board, wanted: core.Pod) -> str:
        """Drive less important pods out of a Node; its name, or an empty one where none helps.

        Source: ``defaultpreemption``; while those whom it has driven out are
        ending, a pod drives out nobody else (``PodEligibleToPreemptOthers``).
        """
        priority = wanted.demands.priority
        if not wanted.demands.preempts or not _has_lower(board, priority):
            return ""
        kept = (pod.get("status") or {}).get("nominatedNodeName", "")
        is_ending = kept in board.rooms and any(
            one.deleting is not None and one.demands.priority < priority
            for one in board.rooms[kept].pods.values()
        )
        # On a Node that is lost meanwhile they never end: it looks elsewhere.
        causes = leading(board.misfits(wanted, kept)) if is_ending else []
        if is_ending and not any(one.reason in UNRESOLVABLE for one in causes):
            return str(kept)
        if volumes.refusal(self._server, pod):
            return ""
        found = preemptions.candidate(board, wanted, list(board.rooms), self._guarded())
        if found is None or any(_is_daemon(one) for one in found.victims):
            return ""
        for one in found.victims:
            self._server.delete("pods", one.name, one.namespace, uid=one.uid)
        return found.node

    def _guarded(self) -> frozenset[str]:
        """The pods that disruption budgets do not let go."""
        keys = set[str]()
        for one in self._server.listed("poddisruptionbudgets"):
            healthy, needed, _ = evictions.budget(self._server, one)
            if healthy > needed:
                continue
            for pod in self._server.listed("pods", one["metadata"]["namespace"]):
                if bodies.selects(one["spec"].get("selector"), bodies.labels(pod)):
                    keys.add("/".join(bodies.key(pod)))
        return frozenset(keys)

    def _by_priority(self) -> list[Key]:
        """Pods in the order of the scheduling queue: priority, then age."""
        found = [(key, self._server.find("pods", key[1], key[0])) for key in self._pending]
        pods = [(key, pod) for key, pod in found if pod is not None]
        pods.sort(key=lambda one: -int(one[1]["spec"].get("priority", 0)))
        return [key for key, _ in pods]

    def _report(self, pod: Json, message: str, nominated: str) -> None:
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
        status: Json = {"conditions": conditions}
        if nominated or (pod.get("status") or {}).get("nominatedNodeName"):
            status["nominatedNodeName"] = nominated or None
        patch = {"status": status}
        self._server.patch("pods", name, patch, namespace, subresource="status")


def _has_lower(board: Board, priority: int) -> bool:
    return any(
        one.demands.priority < priority
        for room in board.rooms.values()
        for one in room.pods.values()
    )


def _is_daemon(pod: core.Pod) -> bool:
    return pod.owner is not None and pod.owner.kind == "DaemonSet"


def place(server: ApiServer, pod: Json, board: Board, wanted: core.Pod) -> tuple[str, str]:
    """The Node for a pod, or an empty one and the scheduler's message."""
    nodes = server.listed("nodes")
    refusal = volumes.refusal(server, pod)
    if refusal:
        return "", f"0/{len(nodes)} nodes are available: {refusal}."
    causes = Counter[str]()
    fits: list[tuple[tuple[float, ...], str]] = []
    for node in nodes:
        misfits = leading(board.misfits(wanted, node["metadata"]["name"]))
        if misfits:
            causes.update(_words(one) for one in misfits)
        else:
            fits.append((_score(server, pod, node), node["metadata"]["name"]))
    if fits:
        return min(fits)[1], ""
    told = ", ".join(f"{count} {text}" for text, count in sorted(causes.items()))
    return "", f"0/{len(nodes)} nodes are available: {told}."


def _words(misfit: Misfit) -> str:
    """What kube-scheduler calls it."""
    if misfit.reason == "Taint":
        is_cordon = misfit.subject.startswith(rooms.UNSCHEDULABLE.key)
        had = f"had untolerated taint {{{misfit.subject}}}"
        return "node(s) were unschedulable" if is_cordon else f"node(s) {had}"
    if misfit.reason in ("Capacity", "GPU"):
        return f"Insufficient {misfit.subject}"
    return _WORDS[misfit.reason]


_WORDS = {
    "HostPort": "node(s) didn't have free ports for the requested pod ports",
    "NodeAffinity": "node(s) didn't match Pod's node affinity/selector",
    "NodeLocalVolume": "node(s) didn't match PersistentVolume's node affinity",
    "PodAffinity": "node(s) didn't match pod affinity rules",
    "PodAntiAffinity": "node(s) didn't match pod anti-affinity rules",
    "PodSlots": "Too many pods",
    "TopologySpread": "node(s) didn't match pod topology spread constraints",
}


class Reader:
    """The API server's objects as typed ones; each version of an object is read once."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._known: dict[str, tuple[str, Any]] = {}

    def board(self) -> Board:
        """All Nodes with what is bound to them."""
        nodes = [self._typed(core.Node, body) for body in self._server.listed("nodes")]
        pods = {
            node.name: [self.pod(body) for body in self._server.pods_on(node.name)]
            for node in nodes
        }
        spaces = [self._typed(core.Namespace, one) for one in self._server.listed("namespaces")]
        volumes = {
            one["metadata"]["name"]: self._typed(core.Volume, one)
            for one in self._server.listed("persistentvolumes")
        }
        claims = (
            self._typed(core.Claim, one) for one in self._server.listed("persistentvolumeclaims")
        )
        tied = {
            (claim.namespace, claim.name): volumes[claim.volume]
            for claim in claims
            if claim.volume in volumes and volumes[claim.volume].node_terms
        }
        return Board.of(nodes, pods, namespaces={one.name: one for one in spaces}, tied=tied)

    def pod(self, body: Json) -> core.Pod:
        """One pod."""
        found: core.Pod = self._typed(core.Pod, body)
        return found

    def _typed(self, kind: Any, body: Json) -> Any:
        meta = body["metadata"]
        version, uid = str(meta.get("resourceVersion", "")), str(meta["uid"])
        known = self._known.get(uid)
        if known is None or known[0] != version:
            known = self._known[uid] = (version, kind.read(body))
        return known[1]


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
