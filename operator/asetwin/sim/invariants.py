"""What must hold at every step of every simulation, each stated on its own.

They watch what happens in a world and know nothing of the rules in
:mod:`asetwin.model`; each says in its own, simpler words what the design
promises. A broken promise raises :class:`Violation`, which ends the run.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from asetwin import constants
from asetwin.sim import bodies
from asetwin.sim.apiserver import ADDED, DELETED, Change
from asetwin.sim.bodies import Json
from asetwin.sim.masters import is_master
from asetwin.sim.process import ACTOR
from asetwin.sim.world import World


class Violation(AssertionError):
    """A promise of the design was broken; the message says which, when and how."""


class Invariant:
    """One promise."""

    def __init__(self, world: World) -> None:
        self.world = world

    def fail(self, text: str) -> None:
        """Report a broken promise."""
        raise Violation(f"{type(self).__name__} at {self.world.now:.3f} s: {text}")


class OneMaster(Invariant):
    """At no moment do two masters of one device serve, and epochs only grow (4.7)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
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

    def __init__(self, world: World) -> None:
        super().__init__(world)
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

    Without force it deletes its own masters only. DaemonSets' and mirror pods
    it does not delete at all (4.4).
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        before = change.before
        if change.plural != "pods" or change.actor != ACTOR or before is None:
            return
        name, node = "/".join(bodies.key(before)), bodies.node_of(before)
        is_bodily = node and not bodies.is_over(before)
        is_forced = change.body["metadata"].get("deletionGracePeriodSeconds") == 0
        if (change.type == DELETED or is_forced) and is_bodily and not self._is_off(node):
            self.fail(f"pod {name} was force-deleted from {node}, which is not known to be off")
        if change.type != DELETED and not is_forced and not is_master(before):
            self.fail(f"pod {name} was deleted without being a master's")
        if "kubernetes.io/config.mirror" in (before["metadata"].get("annotations") or {}):
            self.fail(f"mirror pod {name} was deleted")
        owner = bodies.controller(before)
        if owner is not None and owner["kind"] == "DaemonSet" and self._exists(owner):
            self.fail(f"DaemonSet pod {name} was deleted")

    def _is_off(self, node: str) -> bool:
        return any(
            one["spec"]["nodeName"] == node
            and ((one.get("status") or {}).get("power") or {}).get("observed") == "Off"
            for one in self.world.server.listed("pinnedworkers")
        )

    def _exists(self, owner: Json) -> bool:
        sets = self.world.server.objects("daemonsets").values()
        return any(bodies.uid(one) == owner["uid"] for one in sets)


class LiftedFirst(Invariant):
    """No workload's pod is removed while our quota in its namespace limits anything (4.8)."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        before = change.before
        is_removal = change.plural == "pods" and change.type != ADDED and change.actor == ACTOR
        if not is_removal or before is None or is_master(before):
            return
        namespace, name = bodies.key(before)
        for quota in self.world.server.listed("resourcequotas", namespace):
            if _is_ours(quota) and quota["spec"].get("hard"):
                self.fail(f"pod {namespace}/{name} was removed under {quota['spec']['hard']}")


ALL: tuple[type[Invariant], ...] = (OneMaster, ForeignMarks, FencedPods, LiftedFirst)


def watch(world: World, kinds: Iterable[type[Invariant]] = ALL) -> None:
    """Have a world keep its promises from now on."""
    for kind in kinds:
        kind(world)
