"""What happens in a simulated cluster, as lines for people.

Told from what the cluster shows: Nodes, Pods, quotas, the machines' own
proof and the statuses; as ``./hack/demo`` tells it of a real cluster.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asetwin import constants
from asetwin.sim import bodies
from asetwin.sim.apiserver import ADDED, DELETED, Change
from asetwin.sim.bodies import Json
from asetwin.sim.masters import is_master
from asetwin.sim.process import ACTOR
from asetwin.sim.world import World

_TOLD_TAINTS = (constants.TAINT_NODE_DOWN, constants.TAINT_OUT_OF_SERVICE)


@dataclass(slots=True)
class Row:
    """One line; ``t`` in seconds since the scenario's beginning."""

    t: float
    object: str
    event: str
    is_done_by_scenario: bool = False
    count: int = 1

    @property
    def text(self) -> str:
        """What happened, to how many pods where there are several."""
        return self.event if self.count == 1 else f"{self.count} pods {self.event}"


class Timeline:
    """Listens to a world from now on; its zero is set when the scenario begins."""

    def __init__(self, world: World, pins: dict[str, str]) -> None:
        self.rows: list[Row] = []
        self.zero = 0.0
        self._world = world
        self._nodes = {node: name for name, node in pins.items()}
        self._told_pending: dict[str, str] = {}
        self._tellers: dict[str, Callable[[Change], Iterator[tuple[str, str]]]] = {
            "asedevices": self._device,
            "asenodes": self._ase_node,
            "pinnedworkers": self._worker,
            "deviceupdates": self._update,
            "nodes": self._node,
            "resourcequotas": self._quota,
            "pods": self._pod,
        }
        world.observers.append(self._look)

    def begin(self) -> None:
        """The scenario begins now; what was before is no part of it."""
        self.zero, self.rows = self._world.now, []

    def tell(self, about: str, event: str, *, by_scenario: bool = False) -> None:
        """Add one line; the same thing at the same moment is counted instead."""
        now = round(self._world.now - self.zero, 3)
        for row in reversed(self.rows):
            if row.t != now:
                break
            if (row.object, row.event) == (about, event):
                row.count += 1
                return
        self.rows.append(Row(now, about, event, by_scenario))

    def node(self, kubernetes_node: str) -> str:
        """The device node of a worker's Node, or the Node itself."""
        return self._nodes.get(kubernetes_node, kubernetes_node)

    def _look(self, change: Change) -> None:
        teller = self._tellers.get(change.plural)
        if teller is not None:
            for about, event in teller(change):
                self.tell(about, event)

    def _device(self, change: Change) -> Iterator[tuple[str, str]]:
        name = change.body["metadata"]["name"]
        before, after = _status(change.before), _status(change.body)
        if after.get("state") != before.get("state"):
            yield name, f"{after.get('state')}: {after.get('summary', '')}".rstrip(": ")
        old, new = before.get("failover") or {}, after.get("failover") or {}
        if new and new.get("phase") != old.get("phase"):
            way = f"{new['from']} to {new.get('to') or 'nowhere'}"
            back = f"{new.get('recovered', 0)} of {new.get('displaced', 0)} pods back"
            yield name, f"failover {way}: {new['phase']}, {back}"

    def _ase_node(self, change: Change) -> Iterator[tuple[str, str]]:
        before, after = _status(change.before), _status(change.body)
        if after.get("state") and after.get("state") != before.get("state"):
            summary = f": {after['summary']}" if after.get("summary") else ""
            yield change.body["metadata"]["name"], f"{after['state']}{summary}"

    def _worker(self, change: Change) -> Iterator[tuple[str, str]]:
        before = (_status(change.before).get("power") or {}).get("observed")
        power = _status(change.body).get("power") or {}
        is_news = before not in (None, power.get("observed"))
        if is_news and power.get("proof"):
            yield change.body["metadata"]["name"], f"power {power['observed']}: {power['proof']}"

    def _update(self, change: Change) -> Iterator[tuple[str, str]]:
        before, after = _status(change.before), _status(change.body)
        name = change.body["metadata"]["name"]
        if after.get("phase") and after.get("phase") != before.get("phase"):
            yield name, f"{after['phase']}: {after.get('summary', '')}".rstrip(": ")
        stages = [
            {one["name"]: one.get("stage") for one in status.get("nodes") or ()}
            for status in (before, after)
        ]
        for node, stage in stages[1].items():
            if stage != stages[0].get(node, "Pending"):
                yield node, f"update {name}: {stage}"

    def _node(self, change: Change) -> Iterator[tuple[str, str]]:
        if change.before is None or change.type == DELETED:
            return
        name, before, after = self.node(change.body["metadata"]["name"]), *_specs(change)
        if bool(before.get("unschedulable")) != bool(after.get("unschedulable")):
            yield name, "cordoned" if after.get("unschedulable") else "uncordoned"
        old, new = _taints(before), _taints(after)
        for one in sorted(new - old):
            yield name, f"tainted {one}"
        for one in sorted(old - new):
            yield name, f"taint {one} removed"

    def _quota(self, change: Change) -> Iterator[tuple[str, str]]:
        name = change.body["metadata"]["name"]
        if name != constants.QUOTA_NAME or change.before is None or change.type == DELETED:
            return
        before, after = (bool(one.get("hard")) for one in _specs(change))
        if before != after:
            where = f"quota {change.body['metadata']['namespace']}"
            lifted = "lifted, so that it cannot hold up replacements"
            yield where, "in force again" if after else lifted

    def _pod(self, change: Change) -> Iterator[tuple[str, str]]:
        pod, before = change.body, change.before
        if pod["metadata"]["namespace"] == "kube-system":
            return
        node = self.node(bodies.node_of(pod))
        about = workload(pod)
        if is_master(pod):
            yield from self._master(change, pod["metadata"]["name"], node)
        elif change.type == DELETED:
            if node:
                yield about, f"removed from {node}"
        elif bodies.is_ready(pod) and not (before and bodies.is_ready(before)):
            yield about, f"Ready on {node}"
        elif bodies.is_deleting(pod) and not (before and bodies.is_deleting(before)):
            why = "evicted from" if change.actor == ACTOR else "asked to leave"
            if node:
                yield about, f"{why} {node}"
        elif not node and before is not None:
            yield from self._pending(pod, about)

    def _pending(self, pod: Json, about: str) -> Iterator[tuple[str, str]]:
        for one in _status(pod).get("conditions") or ():
            if one["type"] == "PodScheduled" and one["status"] == "False":
                uid, message = bodies.uid(pod), str(one.get("message", ""))
                if self._told_pending.get(uid) != message:
                    self._told_pending[uid] = message
                    yield about, f"waits: {message}"

    def _master(self, change: Change, name: str, node: str) -> Iterator[tuple[str, str]]:
        pod, before = change.body, change.before
        epoch = bodies.labels(pod).get(constants.LABEL_EPOCH)
        if change.type == DELETED:
            yield name, f"master removed from {node}"
        elif change.type == ADDED:
            yield name, f"master created, epoch {epoch}"
        elif bodies.is_ready(pod) and not (before and bodies.is_ready(before)):
            yield name, f"master serves from {node}, epoch {epoch}"


def workload(pod: Json) -> str:
    """The workload that a pod belongs to, as ``namespace/name``; itself where it has none."""
    meta, owner = pod["metadata"], bodies.controller(pod)
    name = str(meta["name"] if owner is None else owner["name"])
    if owner is not None and owner["kind"] == "ReplicaSet":
        name = name.rpartition("-")[0] or name
    return f"{meta['namespace']}/{name}"


def _status(body: Json | None) -> dict[str, Any]:
    return (body or {}).get("status") or {}


def _specs(change: Change) -> tuple[Json, Json]:
    return (change.before or {}).get("spec") or {}, change.body.get("spec") or {}


def _taints(spec: Json) -> set[str]:
    return {
        f"{one['key']}:{one['effect']}"
        for one in spec.get("taints") or ()
        if one["key"] in _TOLD_TAINTS or not one["key"].startswith("node.kubernetes.io/")
    }
