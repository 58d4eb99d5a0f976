"""Generated cases for the oracle: Nodes, pods that are there, and pods to place.

One seed and one number make one case, always the same. Every kind of demand
that the placement knows comes up. ``smaller`` takes a case apart once more,
to find what of it matters. Who runs the cases is ``oracle.py``.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from asetwin.model.placement import rooms
from asetwin.resources import core

Json = dict[str, Any]

SPACES = ("iotedge", "dbe-namespace")
"""Namespaces that the reserve of a device leaves alone."""
LABEL = "oracle.asetwin.dev/case"
ONLY = {"key": "oracle.asetwin.dev/only", "effect": "NoSchedule", "value": ""}
TAINTS = (
    {"key": "disk", "effect": "NoSchedule", "value": "full"},
    {"key": "maintenance", "effect": "NoExecute", "value": ""},
    {"key": "busy", "effect": "PreferNoSchedule", "value": ""},
)
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "value": ""}
PRIORITIES = {f"oracle-{number}": number for number in range(1, 13)}
NEVER, NEVER_VALUE = "oracle-never", 20
GPU = "nvidia.com/gpu"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class _Plain(yaml.SafeDumper):
    """Without references to other places: a person takes parts of it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(slots=True)
class Case:
    """What is created, and in which order."""

    number: int
    nodes: list[Json]
    before: list[Json]
    pods: list[Json]
    claims: list[Json] = field(default_factory=list)
    volumes: list[Json] = field(default_factory=list)

    def as_yaml(self) -> str:
        """As it can be applied: the Nodes and what is there, then the pods one by one."""
        objects = [*self.nodes, *self.claims, *self.volumes, *self.before, *self.pods]
        return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False)


def tag(number: int) -> str:
    """What a case's names, labels and selectors have in them; no other value looks like it."""
    return f"case{number}"


# --- Making cases ---------------------------------------------------------------------------------


class Maker:
    """One case from one seed."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = random.Random(seed * 1_000_003 + number)
        self.number = number
        self.tag = tag(number)
        self.host = f"oracle.asetwin.dev/host-{self.tag}"
        self.zone = f"oracle.asetwin.dev/zone-{self.tag}"
        self.names = [f"oracle-{self.tag}-{name}" for name in "abc"[: self.rng.choice((2, 2, 3))]]

    def make(self) -> Case:
        rng = self.rng
        case = Case(self.number, [self._node(name) for name in self.names], [], [])
        # No two alike in a case: among equals the scheduler takes whom it looks at last.
        low, high = ["oracle-1", "oracle-2", "oracle-3"], sorted(PRIORITIES)
        high = rng.sample([one for one in high if one not in low], 8)
        for index in range(rng.randint(0, 5)):
            pod = self._pod(f"before-{index}", case, rank=high[index])
            pod["spec"]["nodeName"] = rng.choice(self.names)
            pod["spec"].pop("schedulingGates", None)
            # Or the controller that acts on such taints would delete it.
            pod["spec"]["tolerations"].append({"operator": "Exists", "effect": "NoExecute"})
            _drop_taken_ports(pod, case.before)
            case.before.append(pod)
        for index in range(rng.randint(1, 3)):
            rank = low[index]
            if rng.random() < 0.3:
                rank = NEVER if index == 0 and rng.random() < 0.4 else high[5 + index]
            case.pods.append(self._pod(f"pod-{index}", case, rank=rank))
        return case

    def _node(self, name: str) -> Json:
        rng = self.rng
        labels = {LABEL: self.tag, self.host: name}
        if rng.random() < 0.9:
            labels[self.zone] = rng.choice("xy")
        if rng.random() < 0.6:
            labels["disk"] = rng.choice(("fast", "slow"))
        if rng.random() < 0.5:
            labels["gen"] = str(rng.randint(1, 9))
        taints = [dict(ONLY), *(dict(one) for one in TAINTS if rng.random() < 0.06)]
        is_cordoned = rng.random() < 0.06
        room = {
            "cpu": rng.choice(("2", "2500m", "4", "8")),
            "memory": rng.choice(("2Gi", "1500M", "4Gi", "8Gi")),
            "pods": rng.choice(("2", "4", "110", "110", "110")),
            GPU: rng.choice(("0", "1", "2")),
        }
        spec: Json = {"taints": [*taints, *([dict(CORDON)] if is_cordoned else [])]}
        if is_cordoned:
            spec["unschedulable"] = True
        ready = {"type": "Ready", "status": "True", "reason": "Oracle", "message": ""}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": spec,
            "status": {"allocatable": room, "capacity": room, "conditions": [ready]},
        }

    def _pod(self, name: str, case: Case, *, rank: str) -> Json:
        rng = self.rng
        app = f"{rng.choice(('web', 'db'))}-{self.tag}"
        labels = {LABEL: self.tag, "app": app, "version": rng.choice("12")}
        tolerations = [{"key": ONLY["key"], "operator": "Exists"}]
        tolerations += [
            {"key": one["key"], "operator": "Equal", "value": one["value"], "effect": effect}
            for one in TAINTS
            if rng.random() < 0.2
            for effect in (one["effect"] if rng.random() < 0.8 else "",)
        ]
        if rng.random() < 0.03:
            tolerations = [{"operator": "Exists"}]
        spec: Json = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": tolerations,
            "containers": [self._container("main")],
            "affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": self._node_terms()}}},
        }
        for kind, chance in (("podAffinity", 0.15), ("podAntiAffinity", 0.3)):
            if rng.random() < chance:
                terms = [self._pod_term() for _ in range(rng.choice((1, 1, 2)))]
                spec["affinity"][kind] = {REQUIRED: terms}
        if rng.random() < 0.15:
            spec["nodeSelector"] = {"disk": rng.choice(("fast", "slow"))}
        if rng.random() < 0.35:
            spec["topologySpreadConstraints"] = self._spreads()
        if rng.random() < 0.15:
            spec["initContainers"] = [self._container("init")]
            if rng.random() < 0.5:
                spec["initContainers"][0]["restartPolicy"] = "Always"
        if rng.random() < 0.05:
            spec["resources"] = {"requests": {"cpu": "3", "memory": "3Gi"}}
        if rng.random() < 0.01:
            spec["schedulingGates"] = [{"name": "oracle.asetwin.dev/gate"}]
        spec["priorityClassName"] = rank
        space = SPACES[0] if rng.random() < 0.8 else SPACES[1]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"oracle-{self.tag}-{name}",
                "namespace": space,
                "labels": labels,
            },
            "spec": spec,
        }
        if rng.random() < 0.08:
            self._mount(pod, case)
        return pod

    def _container(self, name: str) -> Json:
        rng = self.rng
        wanted = {}
        if rng.random() < 0.8:
            wanted["cpu"] = rng.choice(("100m", "0.5", "700m", "1", "1500m", "1e-1", "1001u"))
        if rng.random() < 0.7:
            wanted["memory"] = rng.choice(("64Mi", "256M", "0.5Gi", "900Mi", "1e9"))
        limits = {GPU: rng.choice("112")} if rng.random() < 0.12 else {}
        container: Json = {
            "name": name,
            "image": "registry.example/none:1",
            "resources": {"requests": wanted, "limits": limits},
        }
        if rng.random() < 0.25:
            port: Json = {"containerPort": 80, "hostPort": rng.choice((80, 443))}
            if rng.random() < 0.3:
                port["hostIP"] = rng.choice(("10.0.0.1", "10.0.0.2", "0.0.0.0"))
            if rng.random() < 0.2:
                port["protocol"] = "UDP"
            container["ports"] = [port]
        return container

    def _node_terms(self) -> list[Json]:
        """The case's own Nodes by name, each with whatever else is required of them."""
        rng, more = self.rng, list[list[Json]]()
        if rng.random() < 0.2:
            more = [
                [self._requirement() for _ in range(rng.choice((1, 1, 2)))]
                for _ in range(rng.choice((1, 2)))
            ]
        terms = []
        for name in self.names:
            here = {"key": "metadata.name", "operator": "In", "values": [name]}
            for one in more or [[]]:
                term: Json = {"matchFields": [here]}
                if one:
                    term["matchExpressions"] = one
                terms.append(term)
        return terms

    def _requirement(self) -> Json:
        rng = self.rng
        operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
        if operator in ("Gt", "Lt"):
            return {"key": "gen", "operator": operator, "values": [str(rng.randint(1, 9))]}
        one: Json = {"key": rng.choice(("disk", "gen")), "operator": operator}
        if operator in ("In", "NotIn"):
            one["values"] = rng.sample(("fast", "slow", "3", "7"), 2)
        return one

    def _selector(self) -> Json:
        rng, app = self.rng, f"{self.rng.choice(('web', 'db'))}-{self.tag}"
        if rng.random() < 0.7:
            return {"matchLabels": {"app": app}}
        # Every pod of the case, and of no other one: the label is what keeps cases apart.
        own = {"key": LABEL, "operator": "In", "values": [self.tag]}
        version = {"key": "version", "operator": rng.choice(("In", "NotIn")), "values": ["1"]}
        return {"matchExpressions": [own, version]}

    def _key(self) -> str:
        return self.rng.choice((self.host, self.host, self.zone))

    def _pod_term(self) -> Json:
        rng = self.rng
        term: Json = {"topologyKey": self._key(), "labelSelector": self._selector()}
        chance = rng.random()
        if chance < 0.15:
            term["namespaces"] = [rng.choice(SPACES)]
        elif chance < 0.3:
            one: Json = {"matchLabels": {"oracle.asetwin.dev/space": rng.choice(SPACES)}}
            term["namespaceSelector"] = rng.choice(({}, one))
        if rng.random() < 0.15 and "matchLabels" in term["labelSelector"]:
            term[rng.choice(("matchLabelKeys", "mismatchLabelKeys"))] = ["version"]
        return term

    def _spreads(self) -> list[Json]:
        rng, found = self.rng, []
        for key in rng.sample((self.host, self.zone), rng.choice((1, 1, 2))):
            one: Json = {
                "topologyKey": key,
                "maxSkew": rng.choice((1, 1, 2)),
                "whenUnsatisfiable": "DoNotSchedule" if rng.random() < 0.85 else "ScheduleAnyway",
                "labelSelector": self._selector() if rng.random() < 0.95 else {},
            }
            if one["whenUnsatisfiable"] == "DoNotSchedule" and rng.random() < 0.2:
                one["minDomains"] = rng.randint(1, 4)
            if rng.random() < 0.25:
                one["nodeAffinityPolicy"] = rng.choice(("Honor", "Ignore"))
            if rng.random() < 0.3:
                one["nodeTaintsPolicy"] = rng.choice(("Honor", "Ignore"))
            if rng.random() < 0.2 and "matchLabels" in one["labelSelector"]:
                one["matchLabelKeys"] = ["version"]
            found.append(one)
        return found

    def _mount(self, pod: Json, case: Case) -> None:
        name, space = f"{pod['metadata']['name']}-data", pod["metadata"]["namespace"]
        where = self.rng.sample(self.names, self.rng.choice((1, 1, 2)))
        here = {"key": self.host, "operator": "In", "values": where}
        terms = [{"matchExpressions": [here]}]
        room = {"storage": "1Gi"}
        common: Json = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        meta = {"name": name, "namespace": space, "labels": {LABEL: self.tag}}
        bound = {"pv.kubernetes.io/bind-completed": "yes"}
        case.claims.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {**meta, "annotations": bound},
                "spec": {
                    **common,
                    # Until its own volume is there, another one that is free would do.
                    "selector": {"matchLabels": {LABEL: self.tag}},
                    "volumeName": name,
                    "resources": {"requests": room},
                },
            }
        )
        case.volumes.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name, "labels": {LABEL: self.tag}},
                "spec": {
                    **common,
                    "capacity": room,
                    "local": {"path": "/nowhere"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": space, "name": name},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
                },
            }
        )
        claim = {"persistentVolumeClaim": {"claimName": name}}
        pod["spec"]["volumes"] = [{"name": "data", **claim}]


def _drop_taken_ports(pod: Json, others: list[Json]) -> None:
    """No two on a Node have a host port in common: its kubelet admits the first one only.

    The scheduler relies on that: it notes ports as a set, so that when one of two
    owners goes it takes the port as free.
    """
    taken = [
        port
        for one in others
        if one["spec"]["nodeName"] == pod["spec"]["nodeName"]
        for port in core.Pod.read(one).demands.host_ports
    ]
    if any(
        rooms.collides(port, one) for port in core.Pod.read(pod).demands.host_ports for one in taken
    ):
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
            container.pop("ports", None)


# --- Taking cases apart ---------------------------------------------------------------------------


def smaller(case: Case) -> Iterator[Case]:
    for at in range(len(case.before)):
        yield replace(case, before=case.before[:at] + case.before[at + 1 :])
    for at in range(len(case.pods)):
        if len(case.pods) > 1:
            yield replace(case, pods=case.pods[:at] + case.pods[at + 1 :])
    for at, node in enumerate(case.nodes):
        name = node["metadata"]["name"]
        if len(case.nodes) > 1 and all(one["spec"]["nodeName"] != name for one in case.before):
            yield replace(case, nodes=case.nodes[:at] + case.nodes[at + 1 :])
    optional = (
        "topologySpreadConstraints",
        "initContainers",
        "resources",
        "nodeSelector",
        "volumes",
    )
    for part in ("before", "pods"):
        pods: list[Json] = getattr(case, part)
        for at, pod in enumerate(pods):
            spec = pod["spec"]
            variants = [
                {key: value for key, value in spec.items() if key != name}
                for name in optional
                if name in spec
            ]
            variants += [
                {
                    **spec,
                    "affinity": {key: one for key, one in spec["affinity"].items() if key != name},
                }
                for name in ("podAffinity", "podAntiAffinity")
                if name in spec["affinity"]
            ]
            for each in variants:
                changed = [*pods[:at], {**pod, "spec": each}, *pods[at + 1 :]]
                if part == "before":
                    yield replace(case, before=changed)
                else:
                    yield replace(case, pods=changed)


def renumbered(case: Case, number: int) -> Case:
    """The same case under another number: in names, labels and selectors."""
    old, new = re.compile(rf"\b{tag(case.number)}\b"), tag(number)

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {walk(key): walk(one) for key, one in value.items()}
        if isinstance(value, list):
            return [walk(one) for one in value]
        return old.sub(new, value) if isinstance(value, str) else value

    parts = ("nodes", "before", "pods", "claims", "volumes")
    return Case(number, **{part: walk(getattr(case, part)) for part in parts})
