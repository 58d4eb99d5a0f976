"""Stories that several tests tell: what happens to a device, and what is left of it then."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from asetwin.resources import devices
from asetwin.resources.devices import FailoverPhase
from asetwin.sim import bodies, invariants
from asetwin.sim.world import World

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
FAILURE = SAMPLES / "failures" / "psu-both.yaml"
FOREIGN = """
apiVersion: v1
kind: Namespace
metadata: {name: tenant}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: own, namespace: tenant}
spec: {hard: {pods: "5"}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: own, namespace: tenant}
spec: {limits: [{type: Container, defaultRequest: {cpu: 20m, memory: 8Mi}}]}
"""

BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
"""

TIMED = ("summary", "outages", "outageCount")

Story = Callable[[World], None]


def set_up(world: World) -> None:
    """A device in service, with marks of somebody else on both Nodes."""
    world.patch("Node", "asetwin-worker2", {"spec": {"unschedulable": True}})
    taint = {"key": "example.com/mine", "effect": "PreferNoSchedule"}
    note = {"metadata": {"annotations": {"example.com/note": "keep"}}, "spec": {"taints": [taint]}}
    world.patch("Node", "asetwin-worker", note)
    world.apply(FOREIGN, SAMPLES / "device.yaml", SAMPLES / "workload.yaml", BUDGET)
    world.run_until(lambda: is_serving(world), within=20)
    world.patch("Node", "asetwin-worker2", {"spec": {"unschedulable": None}})


def fail_and_repair(world: World) -> None:
    world.apply(FAILURE)
    world.run_until(lambda: has_recovered(world), within=40)
    world.delete_all(FAILURE)
    # The way back is part of it: pods are evicted one by one, as their budget allows.
    world.run_until(lambda: is_calm(world), within=60)
    # Longer than an operator that was killed takes to come back.
    world.run(6)


def fail_and_delete_the_device(world: World) -> None:
    world.apply(FAILURE)
    world.run(0.03)
    world.delete("AseDevice", "ase")
    world.run_until(lambda: world.server.find("asedevices", "ase") is None, within=40)
    world.run(5)


def update_the_device(world: World) -> None:
    world.apply(SAMPLES / "updates" / "device-software.yaml")
    world.run_until(lambda: is_updated(world, "device-software"), within=150)
    world.run(6)


def update_kubernetes(world: World) -> None:
    """With a power agent, which restarts the kubelets."""
    world.agent.start()
    world.apply(SAMPLES / "updates" / "kubernetes.yaml")
    world.run_until(lambda: is_updated(world, "kubernetes"), within=150)
    world.run(6)


def cancel_an_update(world: World) -> None:
    """In the middle of a drain."""
    world.apply(SAMPLES / "updates" / "device-software.yaml")
    # Not at a moment: an operator that was killed takes some seconds to begin.
    world.run_until(lambda: world.device().status.failover is not None, within=30)
    world.delete_all(SAMPLES / "updates" / "device-software.yaml")
    world.run_until(lambda: is_calm(world), within=60)
    world.run(6)


def is_updated(world: World, name: str) -> bool:
    found = world.server.read("deviceupdates", name)
    return (found.get("status") or {}).get("result") == "Succeeded"


def is_serving(world: World) -> bool:
    master = world.device().status.master
    return master is not None and master.phase.value == "Serving"


def has_recovered(world: World) -> bool:
    failover = world.device().status.failover
    return failover is not None and failover.phase is FailoverPhase.RECOVERED


def is_calm(world: World) -> bool:
    status = world.device().status
    return status.failover is None and status.state == "Online" and is_serving(world)


def left(world: World) -> dict[str, Any]:
    """Everything that somebody could tell one cluster from another by, except for times."""
    server = world.server
    picture: dict[str, Any] = {}
    for one in server.listed("nodes"):
        meta = one["metadata"]
        picture[f"node {meta['name']}"] = (
            one["spec"],
            meta.get("labels"),
            meta.get("annotations"),
            one["status"]["allocatable"],
        )
    for plural in ("resourcequotas", "limitranges", "services", "namespaces"):
        for one in server.listed(plural):
            meta = one["metadata"]
            about = (meta.get("labels"), meta.get("annotations"), meta.get("finalizers"))
            picture[f"{plural} {bodies.key(one)}"] = (one.get("spec"), one.get("status"), about)
    for plural in devices.KINDS:
        for one in server.listed(plural):
            status = timeless(one.get("status"))
            if plural == "deviceupdates":
                # How long it took, in words and in figures.
                status = {name: status[name] for name in status if name not in TIMED}
            picture[f"{plural} {one['metadata']['name']}"] = status
    for one in server.listed("leases"):
        picture[f"lease {one['metadata']['name']}"] = one["spec"]["holderIdentity"]
    picture["pods"] = Counter(
        (
            one["metadata"]["namespace"],
            (bodies.controller(one) or {"name": one["metadata"]["name"]})["name"],
            bodies.node_of(one),
            bodies.is_ready(one),
        )
        for one in server.listed("pods")
    )
    picture["masters"] = [one.settings.me.pod for one in world.masters() if one.is_serving]
    return picture


def timeless(value: Any) -> Any:
    """A status without its moments and without what is named after one."""
    if isinstance(value, dict):
        return {
            name: timeless(one)
            for name, one in value.items()
            if not name.endswith(("At", "Time")) and name not in ("since", "id", "recentFailures")
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value


@cache
def undisturbed(story: Story) -> tuple[dict[str, Any], int]:
    """What a story leaves behind without a crash, and how many writes it takes."""
    world = World()
    invariants.watch(world)
    set_up(world)
    before = world.operator.wire.writes
    story(world)
    return left(world), world.operator.wire.writes - before
