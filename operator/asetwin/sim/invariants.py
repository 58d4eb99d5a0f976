"""What must hold at every step of every simulation, each stated on its own.

They watch what happens in a world and know nothing of the rules in
:mod:`asetwin.model`; each says in its own, simpler words what the design
promises. A broken promise raises :class:`Violation`, which ends the run.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from asetwin import constants
from asetwin.model import journals
from asetwin.resources import requests
from asetwin.sim import bodies
from asetwin.sim.apiserver import ADDED, DELETED, Change
from asetwin.sim.bodies import Json
from asetwin.sim.masters import is_master
from asetwin.sim.process import ACTOR
from asetwin.sim.truths import HEARING_SECONDS, NEWS_SECONDS, REACTION_SECONDS, Lately, Truth
from asetwin.sim.wire import Call
from asetwin.sim.world import World


class Violation(Exception):
    """A promise of the design was broken; the message says which, when and how."""


class Invariant:
    """One promise."""

    def __init__(self, world: World, truth: Truth) -> None:
        self.world = world
        self.truth = truth

    def fail(self, text: str) -> None:
        """Report a broken promise."""
        raise Violation(f"{type(self).__name__} at {self.world.now:.3f} s: {text}")


class OneMaster(Invariant):
    """At no moment do two masters of one device serve, and epochs only grow (4.7)."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._highest: dict[str, int] = {}
        world.step_observers.append(self._look)
        world.observers.append(self._forget)

    def _forget(self, change: Change) -> None:
        """A device that is made anew under an old name begins anew."""
        if change.plural == "asedevices" and change.type == DELETED:
            self._highest.pop(change.body["metadata"]["name"], None)

    def _look(self) -> None:
        serving: dict[str, list[tuple[int, str]]] = {}
        for one in self.world.masters():
            if one.is_serving:
                mine = one.settings
                serving.setdefault(mine.device, []).append((mine.me.epoch, mine.me.pod))
        for device, found in serving.items():
            if len(found) > 1:
                self.fail(f"{device} has {len(found)} masters serving: {sorted(found)}")
            epoch = found[0][0]
            if epoch < self._highest.get(device, 0):
                self.fail(f"epoch {epoch} serves after epoch {self._highest[device]}")
            self._highest[device] = epoch


class ForeignMarks(Invariant):
    """What the operator did not put on a Node or into a namespace, it leaves alone (3)."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        if change.actor != ACTOR:
            return
        name = "/".join(filter(None, bodies.key(change.body)))
        if change.plural == "nodes":
            if change.before is None or change.type == DELETED:
                self.fail(f"Node {name} was {change.type.lower()}")
            else:
                self._node(name, change.before, change.body)
        elif change.plural in ("resourcequotas", "limitranges"):
            if not _is_ours(change.before or change.body):
                self.fail(f"{change.plural} {name} is not ours and was {change.type.lower()}")
        elif change.plural in ("pods", "namespaces") and change.type != DELETED:
            added = set(_finalizers(change.body)) - set(_finalizers(change.before))
            if added:
                self.fail(f"{change.plural} {name} got the finalizers {sorted(added)}")

    def _node(self, name: str, before: Json, after: Json) -> None:
        mark = json.loads(bodies.annotation(before, constants.ANNOTATION_OWNED, "{}"))
        ours = set(mark.get("taints") or ())
        kept = [_taint(one) for one in after["spec"].get("taints") or ()]
        for one in before["spec"].get("taints") or ():
            if f"{one['key']}:{one['effect']}" not in ours and _taint(one) not in kept:
                self.fail(f"Node {name} lost the foreign taint {_taint(one)}")
        is_foreign = before["spec"].get("unschedulable") and not mark.get("cordon")
        if is_foreign and not after["spec"].get("unschedulable"):
            self.fail(f"Node {name} lost a foreign cordon")
        if _rest(before) != _rest(after):
            self.fail(f"Node {name} changed beyond cordon, taints and GPUs")


def _taint(one: Json) -> tuple[str, str, str]:
    return one["key"], one.get("value", ""), one["effect"]


def _rest(node: Json) -> Any:
    """Everything on a Node that is no business of the operator."""
    meta, spec, status = node["metadata"], node["spec"], node.get("status") or {}
    annotations = dict(meta.get("annotations") or {})
    annotations.pop(constants.ANNOTATION_OWNED, None)

    def without_gpus(amounts: Mapping[str, str]) -> dict[str, str]:
        return {name: one for name, one in amounts.items() if name != constants.GPU_RESOURCE}

    return (
        annotations,
        meta.get("labels"),
        _finalizers(node),
        {name: one for name, one in spec.items() if name not in ("unschedulable", "taints")},
        status.get("conditions"),
        without_gpus(status.get("capacity") or {}),
        without_gpus(status.get("allocatable") or {}),
    )


def _finalizers(body: Json | None) -> list[str]:
    return list(body["metadata"].get("finalizers") or ()) if body is not None else []


def _is_ours(body: Json) -> bool:
    return bodies.labels(body).get(constants.LABEL_MANAGED_BY) == constants.MANAGED_BY


class FencedPods(Invariant):
    """The operator force-deletes pods only from Nodes whose worker is proven to be off (4.3).

    With a power agent the machine itself must stand still. ``BestEffort`` may
    take a kubelet that is silent for proof where no agent is alive.

    Without force it deletes its own masters, pods whose GPU has failed, and what
    an update may delete by ``onDrainTimeout: Force``; all others it evicts. A
    failure that is repaired and an update that is cancelled permit nothing more.
    DaemonSets' and mirror pods it does not delete at all (4.4).
    """

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._call: Call | None = None
        self._told_off = Lately(world)
        """Kubernetes Nodes whose workers are said to be off."""
        self._stated = Lately(world)
        """What permits a deletion: ``force`` of an update, the failure of a ``gpu``."""
        world.observers.append(self._note_power)
        world.observers.append(self._note_stated)
        world.observers.append(self._look)
        world.call_observers.append(self._called)

    def _called(self, call: Call) -> None:
        self._call = call

    def _look(self, change: Change) -> None:
        before = change.before
        if change.plural != "pods" or change.actor != ACTOR or before is None:
            return
        name, node = "/".join(bodies.key(before)), bodies.node_of(before)
        is_bodily = node and not bodies.is_over(before)
        is_forced = change.body["metadata"].get("deletionGracePeriodSeconds") == 0
        if (change.type == DELETED or is_forced) and is_bodily and not self._is_off(node):
            self.fail(f"pod {name} was force-deleted from {node}, which is not known to be off")
        is_plain = change.type != DELETED and not is_forced and not is_master(before)
        is_allowed = self._lacks_gpu(before) or self._stated.holds("force")
        if is_plain and not self._is_evicted(before) and not is_allowed:
            self.fail(f"pod {name} was deleted without being a master's")
        if "kubernetes.io/config.mirror" in (before["metadata"].get("annotations") or {}):
            self.fail(f"mirror pod {name} was deleted")
        owner = bodies.controller(before)
        if owner is not None and owner["kind"] == "DaemonSet" and self._exists(owner):
            self.fail(f"DaemonSet pod {name} was deleted")

    def _note_stated(self, change: Change) -> None:
        if change.plural not in ("deviceupdates", "hardwarefailures"):
            return
        updates = self.world.server.objects("deviceupdates").values()
        failures = self.world.server.objects("hardwarefailures").values()
        may_force = any(one["spec"].get("onDrainTimeout") == "Force" for one in updates)
        has_failed = any(one["spec"]["component"].startswith("GPU") for one in failures)
        self._stated.note("force", is_so=may_force)
        self._stated.note("gpu", is_so=has_failed)

    def _is_evicted(self, pod: Json) -> bool:
        """Whether the request that is being carried out is the pod's eviction."""
        target = self._call.target if self._call is not None else None
        if target is None or target.subresource != "eviction":
            return False
        return (target.namespace, target.name) == bodies.key(pod)

    def _lacks_gpu(self, pod: Json) -> bool:
        """Whether a GPU has failed, and its Node offers fewer than its pods ask for."""
        if not self._stated.holds("gpu"):
            return False
        node = self.world.server.find("nodes", bodies.node_of(pod))
        offered = ((node or {}).get("status") or {}).get("allocatable") or {}
        asked = sum(
            requests.of_pod(one["spec"]).get(constants.GPU_RESOURCE, 0)
            for one in self.world.server.pods_on(bodies.node_of(pod))
            if not bodies.is_over(one)
        )
        is_asking = bool(requests.of_pod(pod["spec"]).get(constants.GPU_RESOURCE))
        return is_asking and asked > int(offered.get(constants.GPU_RESOURCE, 0))

    def _is_off(self, node: str) -> bool:
        agent, kubelet = self.world.agent, self.world.kubelets[node]
        if not self._told_off.holds(node):
            devices = self.world.server.listed("asedevices")
            may_assume = any(one["spec"].get("fencing") == "BestEffort" for one in devices)
            is_heard = kubelet.is_on and not kubelet.is_silent and self.truth.is_renewing(node)
            return may_assume and not is_heard and not agent.is_running
        # A machine that somebody starts runs no pods before its kubelet is up; the agent has seen
        # it long before that, and whoever trusts the agent until then does no harm.
        stands_still = not self.world.machines[node].is_running or not kubelet.is_on
        return not agent.is_installed or stands_still

    def _note_power(self, change: Change) -> None:
        if change.plural != "pinnedworkers":
            return
        node = change.body["spec"]["nodeName"]
        power = (change.body.get("status") or {}).get("power") or {}
        is_off = change.type != DELETED and power.get("observed") == "Off"
        self._told_off.note(node, is_so=is_off)

    def _exists(self, owner: Json) -> bool:
        sets = self.world.server.objects("daemonsets").values()
        return any(bodies.uid(one) == owner["uid"] for one in sets)


class LiftedFirst(Invariant):
    """No workload's pod is removed while our quota in its namespace limits anything (4.8)."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._edited: dict[bodies.Key, float] = {}
        """Our quotas → when somebody else has changed them last."""
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        before = change.before
        if change.plural == "resourcequotas" and change.actor != ACTOR:
            self._edited[bodies.key(change.body)] = self.world.now
        is_removal = change.plural == "pods" and change.type != ADDED and change.actor == ACTOR
        if not is_removal or before is None or is_master(before):
            return
        namespace, name = bodies.key(before)
        for quota in self.world.server.listed("resourcequotas", namespace):
            edited = self._edited.get(bodies.key(quota), -math.inf)
            is_news = self.world.now - edited < NEWS_SECONDS or (
                not math.isinf(edited) and self.truth.is_blind()
            )
            if _is_ours(quota) and quota["spec"].get("hard") and not is_news:
                self.fail(f"pod {namespace}/{name} was removed under {quota['spec']['hard']}")


class FewInFlight(Invariant):
    """Pods are evicted one per workload, and two at a time where nobody waits for it (4.5, 4.6).

    A drain for an update goes on where nothing is Ready, if its resource says so.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._missing: dict[str, int] = {}
        world.call_observers.append(self._look)
        world.observers.append(self._begin)

    def _begin(self, change: Change) -> None:
        """Another loss or return begins: what was on its way then is not waited for any more."""
        if change.plural != "asedevices":
            return
        one, other = (
            (((body or {}).get("status") or {}).get("failover") or {})
            for body in (change.before, change.body)
        )
        moments = [(each.get("rebalance") or {}).get("startedAt") for each in (one, other)]
        if one.get("id") != other.get("id") or moments[0] != moments[1]:
            self._missing = {}

    def _look(self, call: Call) -> None:
        if call.target.subresource != "eviction":
            return
        pod = self.world.server.find("pods", call.target.name, call.target.namespace)
        options = (call.body or {}).get("deleteOptions") or {}
        meant = (options.get("preconditions") or {}).get("uid")
        if pod is None or meant not in (None, bodies.uid(pod)) or bodies.is_deleting(pod):
            # It is gone or going, which a process that hears of nothing cannot know: a 404 moves no
            # one, nor does a 409 where another one has its name, nor to ask the same one again.
            return
        owner = bodies.controller(pod)
        if owner is None:
            self.fail(f"{call.target.name} was to be evicted, and nothing would replace it")
            return
        self._missing = {uid: want for uid, want in self._missing.items() if self._lacks(uid, want)}
        node = self.world.server.find("nodes", bodies.node_of(pod)) or {}
        is_drain = bool((node.get("spec") or {}).get("unschedulable"))
        if owner["uid"] in self._missing and not (is_drain and self._may_go_on()):
            self.fail(f"a second pod of {owner['name']} was evicted before the first was replaced")
        self._missing[owner["uid"]] = self._ready(owner["uid"])
        if len(self._missing) > (10 if is_drain else 2):
            self.fail(f"{len(self._missing)} pods were in flight at one time")

    def _may_go_on(self) -> bool:
        found = self.world.server.listed("deviceupdates")
        return any(one["spec"].get("allowUnready") for one in found)

    def _lacks(self, uid: str, want: int) -> bool:
        sets = self.world.server.objects("replicasets"), self.world.server.objects("statefulsets")
        owner = next(
            (one for kind in sets for one in kind.values() if bodies.uid(one) == uid), None
        )
        wanted = int(owner["spec"].get("replicas", 1)) if owner is not None else 0
        return self._ready(uid) < min(want, wanted)

    def _ready(self, uid: str) -> int:
        return sum(
            1
            for one in self.world.server.owned(uid, "pods")
            if bodies.is_ready(one) and not bodies.is_deleting(one)
        )


def _is_cordoned_by_us(node: Json) -> bool:
    mark = json.loads(bodies.annotation(node, constants.ANNOTATION_OWNED, "{}"))
    return bool(mark.get("cordon"))


class OneOut(Invariant):
    """Of the nodes of a device at most one is out by our doing, and never the last good one (4.9).

    What counts is the moment at which the operator cordons a Node for an update.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._unpinned_at = -math.inf
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        before = change.before
        if change.plural == "pinnedworkers" and change.type == DELETED:
            self._unpinned_at = self.world.now
        if change.plural != "nodes" or change.actor != ACTOR or before is None:
            return
        is_news = self.world.now - self._unpinned_at < HEARING_SECONDS
        if is_news or not self.world.operator.hears_at_once():
            # A cordon can be taken off again: nothing need be read once more for it.
            return
        name = change.body["metadata"]["name"]
        is_cordon = change.body["spec"].get("unschedulable") and not before["spec"].get(
            "unschedulable"
        )
        pins = {
            one["spec"]["aseNode"]: one["spec"]["nodeName"]
            for one in self.world.server.listed("pinnedworkers")
        }
        for device in self.world.server.listed("asedevices"):
            record = (device.get("status") or {}).get("failover") or {}
            if not is_cordon or not record.get("update") or pins.get(record["from"]) != name:
                continue
            if self._stage(record["update"], record["from"]) != "Draining":
                # It was well when that was written down; a process that was killed before it put
                # the cordon there goes on from what is written.
                continue
            other = self.world.server.find("nodes", pins.get(record.get("to"), ""))
            if other is None or not bodies.is_ready(other) or _is_cordoned_by_us(other):
                self.fail(f"Node {name} leaves for an update, and {record.get('to')} is not well")

    def _stage(self, update: str, node: str) -> str:
        found = self.world.server.find("deviceupdates", update) or {}
        nodes = (found.get("status") or {}).get("nodes") or ()
        return next((str(one.get("stage")) for one in nodes if one["name"] == node), "")


class JournalHolds(Invariant):
    """The masters' journal alone proves that no two of them served at the same time (4.7)."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._seen: dict[str, int] = {}
        world.step_observers.append(self._look)

    def _look(self) -> None:
        for path, lines in self.world.shares.items():
            seen = self._seen.get(path, 0)
            if len(lines) == seen:
                continue
            self._seen[path] = len(lines)
            proof = journals.check(lines[max(0, seen - 1) :])
            if not proof.holds or proof.torn:
                self.fail(f"{path}: {'; '.join(proof.problems)}, {proof.torn} lines are torn")


class TrueStates(Invariant):
    """Up, Down and Offline are said as design 4.1 has it, a moment of reaction aside."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        if change.actor != ACTOR or change.before is None or change.type == DELETED:
            return
        before, after = (
            ((one or {}).get("status") or {}).get("state") for one in (change.before, change.body)
        )
        if before == after or self.truth.is_blind():
            return
        if change.plural == "asenodes":
            self._node(change.body["metadata"]["name"], str(after))
        elif change.plural == "asedevices":
            self._device(change.body["metadata"]["name"], str(after))

    def _node(self, name: str, state: str) -> None:
        truth, now = self.truth, self.world.now
        since = truth.fatal.get(name)
        if state == "Up" and since is not None and now - since > REACTION_SECONDS:
            self.fail(f"{name} is said to be Up with a fatal failure since {since:.1f} s")
        node = truth.node_of(name)
        was_fine = now - truth.fine.get(name, -math.inf) > REACTION_SECONDS
        was_on = now - truth.on.get(node, -math.inf) > REACTION_SECONDS
        machine = self.world.machines.get(node)
        is_innocent = since is None and was_fine and was_on and node not in truth.off
        if state == "Down" and is_innocent and machine is not None and not self._is_doubtful(node):
            self.fail(f"{name} is said to be Down, and nothing is wrong with it")

    def _is_doubtful(self, node: str) -> bool:
        """Whether it may be off: silent, or of a failure that ends by itself, as a reboot does."""
        kubelet = self.world.kubelets[node]
        reboots = any(
            one["spec"].get("action") == "Reboot" or one["spec"].get("durationSeconds")
            for one in self.world.server.objects("hardwarefailures").values()
        )
        told_off = any(
            (((one.get("status") or {}).get("power")) or {}).get("observed") != "On"
            for one in self.world.server.objects("pinnedworkers").values()
            if one["spec"]["nodeName"] == node
        )
        is_heard = kubelet.is_on and not kubelet.is_silent and self.truth.is_renewing(node)
        return not is_heard or reboots or told_off

    def _device(self, name: str, state: str) -> None:
        truth, now = self.truth, self.world.now
        nodes = [
            one["metadata"]["name"]
            for one in self.world.server.objects("asenodes").values()
            if one["spec"]["device"] == name
        ]
        lost = [
            one for one in nodes if one in truth.fatal and now - truth.fatal[one] > REACTION_SECONDS
        ]
        if state in ("Online", "NeedsAttention") and nodes and len(lost) == len(nodes):
            self.fail(f"{name} is said to be {state}, and all of its nodes have failed")


class BackWhenWell(Invariant):
    """Our marks leave a Node only when its node has been well for a while (4.6)."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        is_patch = change.plural == "nodes" and change.before is not None
        if change.actor != ACTOR or not is_patch or change.type == DELETED:
            return
        assert change.before is not None
        down = constants.TAINT_NODE_DOWN
        had, has = (
            down in {taint["key"] for taint in one["spec"].get("taints") or ()}
            for one in (change.before, change.body)
        )
        if not had or has or self.truth.is_blind():
            return
        node = change.body["metadata"]["name"]
        for worker in self.world.server.objects("pinnedworkers").values():
            if worker["spec"]["nodeName"] == node:
                self._check(node, worker["spec"]["aseNode"])

    def _check(self, node: str, name: str) -> None:
        member = self.world.server.find("asenodes", name)
        device = self.world.server.find("asedevices", member["spec"]["device"]) if member else None
        if device is None or bodies.is_deleting(device):
            return
        truth, now = self.truth, self.world.now
        since = truth.fatal.get(name)
        if since is not None and now - since > REACTION_SECONDS:
            self.fail(f"{node} was taken back, and {name} has failed since {since:.1f} s")
        timing = device["spec"].get("timing") or {}
        by_profile = 3 if timing.get("profile") == "Fast" else 60
        stable = float(timing.get("stableSeconds", by_profile))
        well = max(truth.well.get(name, -math.inf), truth.back.get(node, -math.inf))
        # By its own clock: what a status remembers is older when that was set forward meanwhile.
        jumps = (by for at, by in self.world.timeline.jumps if at >= well - REACTION_SECONDS)
        since_then = now - well + sum(by for by in jumps if by > 0)
        if since_then < 0.8 * stable:
            self.fail(f"{node} was taken back {now - well:.1f} s after it was well again")


class LiftedWhileOut(Invariant):
    """The reserve limits nothing as long as a lost node's pods are on the other one (4.8)."""

    def __init__(self, world: World, truth: Truth) -> None:
        super().__init__(world, truth)
        self._pinned_at: dict[str, float] = {}
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        if change.plural == "pinnedworkers" and change.type == ADDED:
            self._pinned_at[change.body["spec"]["nodeName"]] = self.world.now
        is_ours = change.plural == "resourcequotas" and change.actor == ACTOR
        if not is_ours or change.type == DELETED or not change.body["spec"].get("hard"):
            return
        if self.truth.is_blind():
            # The answer to the write that set the taints may have been lost.
            return
        workers = self.world.server.objects("pinnedworkers").values()
        members = {name for _, name in self.world.server.objects("asenodes")}
        pinned = {one["spec"]["nodeName"] for one in workers if one["spec"]["aseNode"] in members}
        for node in self.world.server.objects("nodes").values():
            since = self._pinned_at.get(node["metadata"]["name"], -math.inf)
            if node["metadata"]["name"] not in pinned or self.world.now - since < NEWS_SECONDS:
                # Its worker or its AseNode was deleted: it is no part of a device any more. Nor,
                # for all that anybody knows, one whose worker was made again a moment ago.
                continue
            keys = {taint["key"] for taint in node["spec"].get("taints") or ()}
            if constants.TAINT_NODE_DOWN in keys:
                where = "/".join(bodies.key(change.body))
                name = node["metadata"]["name"]
                self.fail(f"quota {where} is in force while {name} is out of service")


ALL: tuple[type[Invariant], ...] = (
    OneMaster,
    JournalHolds,
    ForeignMarks,
    FencedPods,
    LiftedFirst,
    FewInFlight,
    TrueStates,
    BackWhenWell,
    LiftedWhileOut,
    OneOut,
)


def watch(world: World, kinds: Iterable[type[Invariant]] = ALL) -> None:
    """Have a world keep its promises from now on."""
    truth = Truth(world)
    for kind in kinds:
        kind(world, truth)
