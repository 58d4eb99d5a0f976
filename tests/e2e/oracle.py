"""The real kube-scheduler as oracle: generated cases, its answer beside ours, pod by pod.

A case is two or three Nodes of its own, pods that are bound to them already,
and pods that come one after the other. All are plain API objects: no kubelet
is behind the Nodes, the scheduler decides by what is written. The Nodes carry
a taint that keeps everybody else away and no label that a DaemonSet selects;
the pods name their Nodes, so that no other one is looked at.

Cases are run side by side in batches, wave by wave: the first pod of each,
then the second of each. What has no place is deleted before the next wave, so
that it cannot come back later. Everything goes when a batch is over.
"""

import asyncio
import copy
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from asetwin.kube import client, errors
from asetwin.kube.client import Client
from asetwin.model import failover
from asetwin.model.placement import boards, preemptions
from asetwin.model.placement.boards import Board
from asetwin.resources import core, times

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
SIDE_BY_SIDE = 24
SETTLE_SECONDS = 0.7
DECISION_SECONDS = 60.0
GONE_SECONDS = 90
BINDING_SECONDS = 30
"""Twice the period after which the volume controller looks at everything again."""


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
        return yaml.safe_dump_all(objects, sort_keys=False)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pod about which the scheduler and the model do not agree."""

    case: Case
    pod: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.pod}: we say {self.ours}, the scheduler {self.theirs}"


# --- Making cases ---------------------------------------------------------------------------------


class Maker:
    """One case from one seed."""

    def __init__(self, seed: int, number: int) -> None:
        self.rng = random.Random(seed * 1_000_003 + number)
        self.number = number
        self.host = f"oracle.asetwin.dev/host-{number}"
        self.zone = f"oracle.asetwin.dev/zone-{number}"
        self.names = [f"oracle-{number}-{name}" for name in "abc"[: self.rng.choice((2, 2, 3))]]

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
            case.before.append(pod)
        for index in range(rng.randint(1, 3)):
            rank = low[index]
            if rng.random() < 0.3:
                rank = NEVER if index == 0 and rng.random() < 0.4 else high[5 + index]
            case.pods.append(self._pod(f"pod-{index}", case, rank=rank))
        return case

    def _node(self, name: str) -> Json:
        rng = self.rng
        labels = {LABEL: str(self.number), self.host: name}
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
        app = f"{rng.choice(('web', 'db'))}-{self.number}"
        labels = {LABEL: str(self.number), "app": app, "version": rng.choice("12")}
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
                "name": f"oracle-{self.number}-{name}",
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
        rng, app = self.rng, f"{self.rng.choice(('web', 'db'))}-{self.number}"
        if rng.random() < 0.7:
            return {"matchLabels": {"app": app}}
        # Every pod of the case, and of no other one: the label is what keeps cases apart.
        own = {"key": LABEL, "operator": "In", "values": [str(self.number)]}
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
        meta = {"name": name, "namespace": space, "labels": {LABEL: str(self.number)}}
        bound = {"pv.kubernetes.io/bind-completed": "yes"}
        case.claims.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {**meta, "annotations": bound},
                "spec": {**common, "volumeName": name, "resources": {"requests": room}},
            }
        )
        case.volumes.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name, "labels": {LABEL: str(self.number)}},
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


# --- Our answer -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a pod: the Nodes it may get, or why none, or whom it drives out."""

    nodes: frozenset[str] = frozenset()
    reasons: tuple[tuple[str, int], ...] = ()
    victims: frozenset[str] = frozenset()

    def agrees(self, other: "Answer") -> bool:
        """Whether the scheduler's answer, which has one Node, is among ours."""
        if self.nodes:
            return other.nodes <= self.nodes and bool(other.nodes) and self.victims == other.victims
        return not other.nodes and self.reasons == other.reasons

    def __str__(self) -> str:
        if self.nodes:
            gone = f" without {', '.join(sorted(self.victims))}" if self.victims else ""
            return f"{' or '.join(sorted(self.nodes))}{gone}"
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons) or "nothing"


@dataclass(slots=True)
class Scene:
    """One case as it stands."""

    case: Case
    nodes: list[core.Node]
    bound: list[core.Pod]
    tied: dict[tuple[str, str], core.Volume]
    namespaces: dict[str, core.Namespace]
    foreign: list[core.Pod] = field(default_factory=list)
    """Pods of DaemonSets that run everywhere, on these Nodes too."""
    disagreement: Disagreement | None = None

    def answer(self, pod: core.Pod) -> Answer:
        """Our answer."""
        by_node: dict[str, list[core.Pod]] = {}
        for one in (*self.bound, *self.foreign):
            by_node.setdefault(one.node, []).append(one)
        board = Board.of(self.nodes, by_node, namespaces=self.namespaces, tied=self.tied)
        found = {node.name: board.misfits(pod, node.name) for node in self.nodes}
        if pod.demands.is_gated:
            return Answer(reasons=(("Gated", 1),))
        fitting = frozenset(name for name, misfits in found.items() if not misfits)
        if fitting:
            return Answer(fitting)
        better = preemptions.candidate(board, pod, found)
        if better is not None:
            victims = frozenset(one.key for one in better.victims)
            return Answer(frozenset({better.node}), victims=victims)
        counted = Counter(
            one.reason for misfits in found.values() for one in boards.leading(misfits)
        )
        return Answer(reasons=tuple(sorted(counted.items())))


# --- Its answer -----------------------------------------------------------------------------------

_CAUSE = re.compile(r"(\d+) (.+?)(?=, \d+ |\. |\.$|$)")


def parse(message: str) -> tuple[tuple[str, int], ...]:
    """The reasons in a scheduler's message, of the Nodes that it has looked at."""
    _, _, told = message.partition("nodes are available: ")
    told = told.partition(" preemption: ")[0]
    counted = Counter[str]()
    for count, text in _CAUSE.findall(told):
        # Those that the pod's own list of Nodes leaves out.
        if "didn't satisfy plugin" not in text:
            counted[failover.scheduler_reason(text)] += int(count)
    return tuple(sorted(counted.items()))


def read_answer(pod: Json, gone: frozenset[str]) -> Answer | None:
    """What the scheduler has decided; None while it has not."""
    node = pod["spec"].get("nodeName")
    if node:
        return Answer(frozenset({node}), victims=gone)
    status = pod.get("status") or {}
    nominated = status.get("nominatedNodeName")
    if nominated and gone:
        # It has driven out whom it had to. When it is bound is another matter: v1.37 looks at it
        # again only after minutes where nothing but another pod's anti-affinity was in its way.
        return Answer(frozenset({nominated}), victims=gone)
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            if one.get("reason") == "SchedulingGated":
                return Answer(reasons=(("Gated", 1),))
            if not nominated:
                return Answer(reasons=parse(one.get("message", "")))
    return None


# --- Running --------------------------------------------------------------------------------------


class Runner:
    """Runs cases against one cluster."""

    def __init__(self, api: Client) -> None:
        self.api = api
        self.pods = 0
        self.kinds = Counter[str]()
        self._gate = asyncio.Semaphore(SIDE_BY_SIDE)
        self._namespaces: dict[str, core.Namespace] = {}

    async def prepare(self) -> None:
        """The namespaces and PriorityClasses; nothing happens to those that are there."""
        labels = {LABEL: "none"}
        for name in SPACES:
            meta = {"name": name, "labels": {**labels, "oracle.asetwin.dev/space": name}}
            for _ in range(GONE_SECONDS):
                body = await self._create("v1", "namespaces", {"metadata": meta})
                self._namespaces[name] = core.Namespace.read(body)
                if not self._namespaces[name].is_terminating:
                    break
                # One of a run before this one is still on its way out.
                await asyncio.sleep(1)
        for name, value in {**PRIORITIES, NEVER: NEVER_VALUE}.items():
            body = {"kind": "PriorityClass", "metadata": {"name": name, "labels": labels}}
            body |= {"value": value}
            if name == NEVER:
                body["preemptionPolicy"] = "Never"
            await self._create("scheduling.k8s.io/v1", "priorityclasses", body)

    async def end(self) -> None:
        """Take away all that carries our label."""
        for name in (*PRIORITIES, NEVER):
            await self._delete(client.collection("scheduling.k8s.io/v1", "priorityclasses"), name)
        for name, one in self._namespaces.items():
            if LABEL in one.labels:
                await self._delete(client.collection("v1", "namespaces"), name)

    async def run(self, cases: Iterable[Case]) -> list[Disagreement]:
        """One batch: the disagreements, in the order of the cases."""
        scenes: list[Scene] = []
        batch = list(cases)
        try:
            made = await self._all(self._nodes(case) for case in batch)
            foreign = await self._wait_for_daemons([node.name for nodes in made for node in nodes])
            await self._volumes(batch)
            scenes = list(
                await self._all(
                    self._set_up(case, nodes) for case, nodes in zip(batch, made, strict=True)
                )
            )
            for scene in scenes:
                scene.foreign = [one for node in scene.nodes for one in foreign.get(node.name, ())]
            await asyncio.sleep(SETTLE_SECONDS)
            for wave in range(max(len(case.pods) for case in batch)):
                playing = [
                    one for one in scenes if len(one.case.pods) > wave and not one.disagreement
                ]
                await self._wave(playing, wave)
        finally:
            await self._all(self._clear(case) for case in batch)
            left = [pod for scene in scenes for pod in scene.foreign]
            await self._all(
                self._delete(client.collection("v1", "pods", pod.namespace), pod.name)
                for pod in left
            )
        return [one.disagreement for one in scenes if one.disagreement is not None]

    async def _nodes(self, case: Case) -> list[core.Node]:
        nodes = []
        for body in case.nodes:
            # The node controller remembers a name of an earlier run: without a heartbeat that it
            # has not seen yet the Node would be unreachable at once.
            alive = copy.deepcopy(body)
            alive["status"]["conditions"][0]["lastHeartbeatTime"] = times.render(time.time())
            made = await self._create("v1", "nodes", alive)
            # Admission adds a taint of its own to a new Node.
            patch = {"spec": {"taints": body["spec"]["taints"]}}
            path = f"{client.collection('v1', 'nodes')}/{body['metadata']['name']}"
            made = await self.api.patch(path, patch) if made else made
            nodes.append(core.Node.read(made))
        return nodes

    async def _wait_for_daemons(self, nodes: list[str]) -> dict[str, list[core.Pod]]:
        """The pods of DaemonSets that select any Node and tolerate any taint, once all are bound.

        They come before ours: later, they would drive ours out.
        """
        answer = await self.api.get(client.collection("apps/v1", "daemonsets"))
        count = 0
        for one in answer.get("items") or ():
            spec = one["spec"]["template"]["spec"]
            is_everywhere = any(
                one.get("operator") == "Exists" and not one.get("key") and not one.get("effect")
                for one in spec.get("tolerations") or ()
            )
            is_picky = spec.get("nodeSelector") or spec.get("affinity")
            count += is_everywhere and not is_picky
        found: dict[str, list[core.Pod]] = {}
        for _ in range(GONE_SECONDS * 2):
            if sum(map(len, found.values())) >= count * len(nodes):
                break
            await asyncio.sleep(0.5)
            answer = await self.api.get(client.collection("v1", "pods", "kube-system"))
            found = {name: [] for name in nodes}
            for body in answer.get("items") or ():
                pod = core.Pod.read(body)
                if pod.node in found:
                    found[pod.node].append(pod)
        return found

    async def _volumes(self, cases: list[Case]) -> None:
        """Claims and their volumes, bound as Kubernetes binds them, and all of that over.

        A claim that names a volume before the volume controller has seen the two
        belong together is Lost for a while, and the scheduler refuses its pod
        for that alone. Where no controller is, we bind.
        """
        await self._all(
            self._offer(claim, volume)
            for case in cases
            for claim, volume in zip(case.claims, case.volumes, strict=True)
        )
        left = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): one
            for case in cases
            for one in case.claims
        }
        ends_at = asyncio.get_running_loop().time() + BINDING_SECONDS
        while left and asyncio.get_running_loop().time() < ends_at:
            await asyncio.sleep(0.1)
            for space in SPACES:
                path = client.collection("v1", "persistentvolumeclaims", space)
                for body in (await self.api.get(path, labelSelector=LABEL)).get("items") or ():
                    if (body.get("status") or {}).get("phase") == "Bound":
                        left.pop((space, body["metadata"]["name"]), None)
        for (space, name), one in left.items():
            path = client.collection("v1", "persistentvolumeclaims", space)
            meta = {"annotations": one["metadata"]["annotations"]}
            bound = {"metadata": meta, "spec": {"volumeName": one["spec"]["volumeName"]}}
            await self.api.patch(f"{path}/{name}", bound)

    async def _offer(self, claim: Json, volume: Json) -> None:
        """A claim that waits, and the volume that is kept for it."""
        free = copy.deepcopy(claim)
        del free["spec"]["volumeName"], free["metadata"]["annotations"]
        made = await self._create("v1", "persistentvolumeclaims", free)
        kept = copy.deepcopy(volume)
        kept["spec"]["claimRef"]["uid"] = made["metadata"]["uid"]
        await self._create("v1", "persistentvolumes", kept)

    async def _set_up(self, case: Case, nodes: list[core.Node]) -> Scene:
        tied = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): core.Volume.read(volume)
            for one, volume in zip(case.claims, case.volumes, strict=True)
        }
        before = [core.Pod.read(await self._create("v1", "pods", pod)) for pod in case.before]
        return Scene(case, nodes, before, tied, self._namespaces)

    async def _wave(self, scenes: list[Scene], wave: int) -> None:
        if not scenes:
            return
        made = await self._all(
            self._create("v1", "pods", scene.case.pods[wave]) for scene in scenes
        )
        asked = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): (scene, core.Pod.read(one))
            for scene, one in zip(scenes, made, strict=True)
        }
        ours = {key: scene.answer(pod) for key, (scene, pod) in asked.items()}
        last = dict[tuple[str, str], Answer | None]()
        left, ends_at = dict(asked), asyncio.get_running_loop().time() + DECISION_SECONDS
        while left:
            await asyncio.sleep(0.2)
            seen = {key: body async for key, body in self._listed()}
            is_late = asyncio.get_running_loop().time() > ends_at
            for key, (scene, pod) in list(left.items()):
                gone = frozenset(
                    one.key for one in scene.bound if (one.namespace, one.name) not in seen
                )
                theirs = read_answer(seen[key], gone) if key in seen else None
                # Those who are driven out do not all go at once.
                is_settled = theirs is not None and (not gone or theirs == last.get(key))
                last[key] = theirs
                if not is_settled and not is_late:
                    continue
                del left[key]
                self._judge(scene, pod, ours[key], theirs or Answer(), seen.get(key))
        await self._all(
            self._delete(client.collection("v1", "pods", key[0]), key[1])
            for key, (scene, pod) in asked.items()
            if all(one.key != pod.key for one in scene.bound)
        )

    def _judge(
        self, scene: Scene, pod: core.Pod, ours: Answer, theirs: Answer, body: Json | None
    ) -> None:
        self.pods += 1
        kind = "preempts" if ours.victims else "fits" if ours.nodes else ""
        self.kinds.update([kind] if kind else [reason for reason, _ in ours.reasons])
        if not ours.agrees(theirs):
            scene.disagreement = Disagreement(scene.case, pod.name, str(ours), str(theirs))
        if theirs.nodes and body is not None:
            scene.bound = [one for one in scene.bound if one.key not in theirs.victims]
            (node,) = theirs.nodes
            scene.bound.append(replace(core.Pod.read(body), node=node))

    async def _listed(self) -> AsyncIterator[tuple[tuple[str, str], Json]]:
        for space in SPACES:
            answer = await self.api.get(client.collection("v1", "pods", space), labelSelector=LABEL)
            for body in answer.get("items") or ():
                yield (space, body["metadata"]["name"]), body

    async def _clear(self, case: Case) -> None:
        for pod in (*case.before, *case.pods):
            await self._delete_body("pods", pod)
        for plural, bodies in (
            ("persistentvolumeclaims", case.claims),
            ("persistentvolumes", case.volumes),
            ("nodes", case.nodes),
        ):
            for body in bodies:
                # No controller need be there to take its protection off.
                await self._delete_body(plural, body, strips=plural.startswith("persistent"))

    async def _delete_body(self, plural: str, body: Json, *, strips: bool = False) -> None:
        meta = body["metadata"]
        path = client.collection("v1", plural, meta.get("namespace"))
        if strips:
            try:
                await self.api.patch(f"{path}/{meta['name']}", {"metadata": {"finalizers": None}})
            except errors.NotFound:
                return
        await self._delete(path, meta["name"])

    async def _delete(self, path: str, name: str) -> None:
        try:
            await self.api.delete(f"{path}/{name}", grace_seconds=0)
        except errors.NotFound:
            return

    async def _create(self, group: str, plural: str, body: Json) -> Json:
        path = client.collection(group, plural, body["metadata"].get("namespace"))
        try:
            return await self.api.create(path, {"apiVersion": group, **body})
        except errors.Conflict:
            return await self.api.get(f"{path}/{body['metadata']['name']}")

    async def _all(self, jobs: Iterable[Awaitable[Any]]) -> list[Any]:
        async def gated(job: Awaitable[Any]) -> Any:
            async with self._gate:
                return await job

        return list(await asyncio.gather(*(gated(job) for job in jobs)))


async def shrink(runner: Runner, found: Disagreement, *, rounds: int = 30) -> Disagreement:
    """The smallest case that still disagrees, as far as leaving parts out goes."""
    for _ in range(rounds):
        smaller = list(_smaller(found.case))
        if not smaller:
            return found
        # Side by side, so each under a number of its own.
        numbered = [_renumbered(one, 900_000 + at) for at, one in enumerate(smaller)]
        still = await runner.run(numbered)
        if not still:
            return found
        found = still[0]
    return found


def _smaller(case: Case) -> Iterator[Case]:
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


def _renumbered(case: Case, number: int) -> Case:
    """The same case under another number: in names, labels and selectors."""
    old = str(case.number)

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {walk(key): walk(one) for key, one in value.items()}
        if isinstance(value, list):
            return [walk(one) for one in value]
        if not isinstance(value, str):
            return value
        return re.sub(rf"(?<![0-9a-zA-Z.]){old}(?![0-9a-zA-Z.])", str(number), value)

    def renamed(value: Any) -> Any:
        return walk(value)

    return Case(
        number,
        renamed(case.nodes),
        renamed(case.before),
        renamed(case.pods),
        renamed(case.claims),
        renamed(case.volumes),
    )
