"""The real kube-scheduler as oracle: its answer to generated cases beside ours, pod by pod.

A case (``oracle_cases.py``) is two or three Nodes of its own, pods that are
bound to them already, and pods that come one after the other. All are plain API
objects: no kubelet is behind the Nodes, the scheduler decides by what is
written. The Nodes carry a taint that keeps everybody else away; the pods name
their Nodes, so that no other one is looked at.

Cases are run side by side in batches, wave by wave: the first pod of each,
then the second of each. What has no place is deleted before the next wave, so
that it cannot come back later. Pods and volumes go when a batch is over; the
Nodes are rewritten for the next one, because new ones have to wait for the pods
of DaemonSets that run everywhere, and there are some twenty of those a second.
"""

import asyncio
import contextlib
import copy
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from asetwin.kube import client, errors
from asetwin.kube.client import Client
from asetwin.model import failover
from asetwin.model.placement import boards, preemptions
from asetwin.model.placement.boards import Board
from asetwin.resources import core, times
from e2e import oracle_cases
from e2e.oracle_cases import LABEL, NEVER, NEVER_VALUE, PRIORITIES, SPACES, Case, Json

SIDE_BY_SIDE = 24
SETTLE_SECONDS = 0.7
"""For the scheduler's cache to hold what is written: no condition shows what it holds."""
DECISION_SECONDS = 60.0
GONE_SECONDS = 90
READY_SECONDS = 30
BEAT_SECONDS = 10
"""As a kubelet's; the node controller gives up on a Node after 40 or 50."""
BINDING_SECONDS = 30
"""Twice the period after which the volume controller looks at everything again."""
KINDS = ("nodes", "pods", "persistentvolumeclaims", "persistentvolumes")
"""What the cases create, in the order in which it goes: no DaemonSet fills a Node again."""


@dataclass(slots=True)
class Disagreement:
    """A pod about which the scheduler and the model do not agree."""

    case: Case
    pod: str
    ours: str
    theirs: str
    told: str
    """The scheduler's own words."""
    strange: list[str] = field(default_factory=list)
    """What of the Nodes was not as the case wrote it by then."""

    def __str__(self) -> str:
        text = f"{self.pod}: we say {self.ours}, the scheduler {self.theirs}"
        more = "; ".join((*([self.told] if self.told else []), *self.strange))
        return f"{text} ({more})" if more else text


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
    foreign: list[core.Pod]
    """Pods of DaemonSets that run everywhere, on these Nodes too."""
    tied: dict[tuple[str, str], core.Volume]
    namespaces: dict[str, core.Namespace]
    found: Disagreement | None = None

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


def _told(pod: Json | None) -> str:
    """The scheduler's message on a pod."""
    if pod is None:
        return "the pod is gone"
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((one.get("message", "") for one in conditions if one["type"] == "PodScheduled"), "")


# --- Running --------------------------------------------------------------------------------------


class Runner:
    """Runs cases against one cluster."""

    def __init__(self, api: Client) -> None:
        self.api = api
        self.pods = 0
        self.kinds = Counter[str]()
        self._gate = asyncio.Semaphore(SIDE_BY_SIDE)
        self._nodes: dict[str, Json] = {}
        """Those that are there, as they are written."""
        self._namespaces: dict[str, core.Namespace] = {}

    async def prepare(self) -> None:
        """The namespaces and PriorityClasses, and nothing of a run that was killed.

        Namespaces and PriorityClasses that are there stay as they are. An old
        Node has to go: its heartbeat is long over, so that the node controller
        has tainted it.
        """
        await self._sweep(*KINDS)
        labels = {LABEL: "none"}
        for name in SPACES:
            meta = {"name": name, "labels": {**labels, "oracle.asetwin.dev/space": name}}
            for _ in range(GONE_SECONDS):
                body = await self._ensure("v1", "namespaces", {"metadata": meta})
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
            await self._ensure("scheduling.k8s.io/v1", "priorityclasses", body)

    async def end(self) -> None:
        """Take away all that carries our label."""
        await self._sweep(*KINDS)
        for name in (*PRIORITIES, NEVER):
            await self._delete(client.collection("scheduling.k8s.io/v1", "priorityclasses"), name)
        path = client.collection("v1", "namespaces")
        ours = [name for name, one in self._namespaces.items() if LABEL in one.labels]
        for name in ours:
            await self._delete(path, name)
        # Whoever comes next may want one of that name.
        ends_at = asyncio.get_running_loop().time() + GONE_SECONDS
        while ours and asyncio.get_running_loop().time() < ends_at:
            answer = await self.api.get(path, labelSelector=LABEL)
            ours = [body["metadata"]["name"] for body in answer.get("items") or ()]
            await asyncio.sleep(0.5)

    async def run(self, cases: Iterable[Case]) -> list[Disagreement]:
        """One batch: the disagreements, in the order of the cases."""
        given = list(cases)
        # On the same Nodes as the batch before, so under the same numbers.
        batch = [oracle_cases.renumbered(case, at) for at, case in enumerate(given)]
        beating = asyncio.create_task(self._beat())
        try:
            async with asyncio.TaskGroup() as group:
                # Most of that is waiting for the volume controller.
                group.create_task(self._volumes(batch))
                await self._write_nodes(body for case in batch for body in case.nodes)
                foreign = await self._daemons()
                await self._wait_for_nodes()
                scenes = await self._all(self._set_up(case, foreign) for case in batch)
            await asyncio.sleep(SETTLE_SECONDS)
            for wave in range(max(len(case.pods) for case in batch)):
                await self._wave(
                    [one for one in scenes if len(one.case.pods) > wave and not one.found], wave
                )
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._sweep(*KINDS[1:])
        pairs = zip(given, scenes, strict=True)
        return [replace(one.found, case=case) for case, one in pairs if one.found is not None]

    async def _write_nodes(self, bodies: Iterable[Json]) -> None:
        """These Nodes, and no others that count for anything."""
        wanted = {body["metadata"]["name"]: body for body in bodies}
        for name, body in self._nodes.items():
            # No label of its case: a spread or an affinity would look at it.
            bare = {"name": name, "labels": {LABEL: "none"}}
            wanted.setdefault(name, {**body, "metadata": bare})
        await self._all(self._write_node(body) for body in wanted.values())

    async def _write_node(self, body: Json) -> None:
        name, was = body["metadata"]["name"], self._nodes.get(body["metadata"]["name"])
        path = f"{client.collection('v1', 'nodes')}/{name}"
        # The node controller remembers a name of an earlier run: without a heartbeat that it
        # has not seen yet the Node would be unreachable at once.
        status = {**body["status"], "conditions": [_ready(body)]}
        if was is None:
            await self._create("v1", "nodes", {**body, "status": status})
        else:
            await self.api.patch(f"{path}/status", {"status": status})
        # Admission adds a taint of its own to a new Node.
        old = was["metadata"]["labels"] if was else ()
        labels = {**dict.fromkeys(old), **body["metadata"]["labels"]}
        spec = {"unschedulable": None, **body["spec"]}
        await self.api.patch(path, {"metadata": {"labels": labels}, "spec": spec})
        self._nodes[name] = body

    async def _beat(self) -> None:
        """Heartbeats, as a kubelet sends them: without, a Node is unreachable after a while."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            for name, body in list(self._nodes.items()):
                path = f"{client.collection('v1', 'nodes')}/{name}/status"
                # One that fails costs nothing: the node controller waits for four of them.
                with contextlib.suppress(errors.KubeError):
                    await self.api.patch(path, {"status": {"conditions": [_ready(body)]}})

    async def _wait_for_nodes(self) -> None:
        """Until every Node is Ready and has the taints that its case wrote, and no others."""
        ends_at = asyncio.get_running_loop().time() + READY_SECONDS
        while strange := await self._strange(self._nodes.values()):
            if asyncio.get_running_loop().time() > ends_at:
                raise TimeoutError(f"not as written after {READY_SECONDS} s: {'; '.join(strange)}")
            await asyncio.sleep(0.2)

    async def _strange(self, nodes: Iterable[Json]) -> list[str]:
        """What of these Nodes is not as it was written."""
        answer = await self.api.get(client.collection("v1", "nodes"), labelSelector=LABEL)
        there = {body["metadata"]["name"]: body for body in answer.get("items") or ()}
        found = []
        for body in nodes:
            name = body["metadata"]["name"]
            seen = there.get(name, {"spec": {}, "status": {}})
            states = {one["type"]: one["status"] for one in seen["status"].get("conditions") or ()}
            if states.get("Ready") != "True":
                found.append(f"{name} has Ready {states.get('Ready', 'not set')}")
            more = _taints(seen) - _taints(body)
            less = _taints(body) - _taints(seen)
            found += [f"{name} has taint {one}" for one in sorted(more)]
            found += [f"{name} has no taint {one}" for one in sorted(less)]
        return found

    async def _daemons(self) -> dict[str, list[core.Pod]]:
        """By Node the pods of DaemonSets that tolerate any taint and select any Node.

        Once all are bound: they come before ours, because later they would drive
        ours out.
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
        ends_at = asyncio.get_running_loop().time() + GONE_SECONDS
        while True:
            found: dict[str, list[core.Pod]] = {name: [] for name in self._nodes}
            answer = await self.api.get(client.collection("v1", "pods", "kube-system"))
            for pod in map(core.Pod.read, answer.get("items") or ()):
                if pod.node in found:
                    found[pod.node].append(pod)
            late = [name for name, pods in found.items() if len(pods) < count]
            if not late:
                return found
            if asyncio.get_running_loop().time() > ends_at:
                raise TimeoutError(f"no pod of a DaemonSet after {GONE_SECONDS} s on {late}")
            await asyncio.sleep(0.5)

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

    async def _set_up(self, case: Case, foreign: dict[str, list[core.Pod]]) -> Scene:
        nodes = [core.Node.read(body) for body in case.nodes]
        tied = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): core.Volume.read(volume)
            for one, volume in zip(case.claims, case.volumes, strict=True)
        }
        before = [core.Pod.read(await self._create("v1", "pods", pod)) for pod in case.before]
        daemons = [pod for node in nodes for pod in foreign[node.name]]
        return Scene(case, nodes, before, daemons, tied, self._namespaces)

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
                if scene.found is not None:
                    # A taint that the case did not write is the node controller's, not a rule's.
                    scene.found.strange = await self._strange(scene.case.nodes)
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
            told = _told(body)
            scene.found = Disagreement(scene.case, pod.name, str(ours), str(theirs), told)
        if theirs.nodes and body is not None:
            scene.bound = [one for one in scene.bound if one.key not in theirs.victims]
            (node,) = theirs.nodes
            scene.bound.append(replace(core.Pod.read(body), node=node))

    async def _listed(self) -> AsyncIterator[tuple[tuple[str, str], Json]]:
        for space in SPACES:
            answer = await self.api.get(client.collection("v1", "pods", space), labelSelector=LABEL)
            for body in answer.get("items") or ():
                yield (space, body["metadata"]["name"]), body

    async def _sweep(self, *kinds: str) -> None:
        """Whatever of these kinds carries our label, and what others have put on such Nodes."""
        ends_at = asyncio.get_running_loop().time() + GONE_SECONDS
        while left := await self._left(kinds):
            if asyncio.get_running_loop().time() > ends_at:
                names = ", ".join(f"{path}/{meta['name']}" for path, meta in left[:5])
                raise TimeoutError(f"still there after {GONE_SECONDS} s: {names}")
            for kind in kinds:
                await self._all(
                    self._remove(path, meta) for path, meta in left if path.endswith(f"/{kind}")
                )
        if "nodes" in kinds:
            self._nodes.clear()

    async def _left(self, kinds: Iterable[str]) -> list[tuple[str, Json]]:
        """The collection and the metadata of each object to take away."""
        found = []
        for kind in kinds:
            is_global = kind in ("persistentvolumes", "nodes")
            for space in (None,) if is_global else SPACES:
                path = client.collection("v1", kind, space)
                answer = await self.api.get(path, labelSelector=LABEL)
                found += [(path, body["metadata"]) for body in answer.get("items") or ()]
        nodes = {meta["name"] for path, meta in found if path.endswith("/nodes")}
        if nodes:
            # Nobody but a collector that comes by once in a while would take those away.
            path = client.collection("v1", "pods", "kube-system")
            for body in (await self.api.get(path)).get("items") or ():
                if body["spec"].get("nodeName") in nodes:
                    found.append((path, body["metadata"]))
        return found

    async def _remove(self, path: str, meta: Json) -> None:
        if meta.get("finalizers"):
            # No controller need be there to take its protection off.
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
        """Create it; Conflict where it is there already."""
        path = client.collection(group, plural, body["metadata"].get("namespace"))
        return await self.api.create(path, {"apiVersion": group, **body})

    async def _ensure(self, group: str, plural: str, body: Json) -> Json:
        """Create it, or take what is there."""
        try:
            return await self._create(group, plural, body)
        except errors.Conflict:
            path = client.collection(group, plural, body["metadata"].get("namespace"))
            return await self.api.get(f"{path}/{body['metadata']['name']}")

    async def _all(self, jobs: Iterable[Awaitable[Any]]) -> list[Any]:
        async def gated(job: Awaitable[Any]) -> Any:
            async with self._gate:
                return await job

        return list(await asyncio.gather(*(gated(job) for job in jobs)))


def _ready(node: Json) -> Json:
    """The Node's Ready condition with a heartbeat of now."""
    (condition,) = node["status"]["conditions"]
    return {**condition, "lastHeartbeatTime": times.render(time.time())}


def _taints(node: Json) -> set[str]:
    return {
        f"{one['key']}={one.get('value', '')}:{one['effect']}"
        for one in node["spec"].get("taints") or ()
    }


async def shrink(runner: Runner, found: Disagreement, *, rounds: int = 30) -> Disagreement:
    """The smallest case that still disagrees, as far as leaving parts out goes."""
    for _ in range(rounds):
        smaller = list(oracle_cases.smaller(found.case))
        if not smaller:
            return found
        still = await runner.run(smaller)
        if not still:
            return found
        found = still[0]
    return found
