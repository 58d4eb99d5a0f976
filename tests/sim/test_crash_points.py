"""The operator dies right after each single write of a failover and its repair (C23, C28).

Whatever it had begun, the next process finds it in the cluster and ends it:
the cluster is in the end what it is without any crash.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from asetwin import constants
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

Story = Callable[[World], None]


def set_up(world: World) -> None:
    """A device in service, with marks of somebody else on both Nodes."""
    world.patch("Node", "asetwin-worker2", {"spec": {"unschedulable": True}})
    taint = {"key": "example.com/mine", "effect": "PreferNoSchedule"}
    note = {"metadata": {"annotations": {"example.com/note": "keep"}}, "spec": {"taints": [taint]}}
    world.patch("Node", "asetwin-worker", note)
    world.apply(FOREIGN, SAMPLES / "device.yaml", SAMPLES / "workload.yaml")
    world.run_until(lambda: is_serving(world), within=20)
    world.patch("Node", "asetwin-worker2", {"spec": {"unschedulable": None}})


def fail_and_repair(world: World) -> None:
    world.apply(FAILURE)
    world.run_until(lambda: has_recovered(world), within=40)
    world.delete_all(FAILURE)
    world.run_until(lambda: is_calm(world), within=40)
    world.run(3)


def fail_and_delete_the_device(world: World) -> None:
    world.apply(FAILURE)
    world.run(0.03)
    world.delete("AseDevice", "ase")
    world.run_until(lambda: world.server.find("asedevices", "ase") is None, within=40)
    world.run(5)


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
    for plural in ("asedevices", "asenodes", "pinnedworkers", "hardwarefailures"):
        for one in server.listed(plural):
            picture[f"{plural} {one['metadata']['name']}"] = timeless(one.get("status"))
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
            if not name.endswith(("At", "Time")) and name not in ("since", "id")
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value


def told(story: Story, crash_after: int | None) -> World:
    world = World()
    invariants.watch(world)
    set_up(world)
    if crash_after is not None:
        world.crash_after(crash_after)
    story(world)
    return world


@cache
def undisturbed(story: Story) -> tuple[dict[str, Any], int]:
    """What a story leaves behind without a crash, and how many writes it takes."""
    world = World()
    invariants.watch(world)
    set_up(world)
    before = world.operator.wire.writes
    story(world)
    return left(world), world.operator.wire.writes - before


STORIES = (fail_and_repair, fail_and_delete_the_device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_after" in metafunc.fixturenames:
        rows = [
            pytest.param(story, number, id=f"{story.__name__}-{number}")
            for story in STORIES
            for number in range(1, undisturbed(story)[1] + 1)
        ]
        metafunc.parametrize(("story", "crash_after"), rows)


def test_a_crash_after_any_write_leaves_the_same_cluster(story: Story, crash_after: int) -> None:
    world = told(story, crash_after)
    assert any("killed after" in text for _, text in world.trace)
    assert left(world) == undisturbed(story)[0]


def test_the_undisturbed_story_ends_well() -> None:
    end, writes = undisturbed(fail_and_repair)
    assert writes > 30
    assert end["masters"] == ["ase-master-2"]
    assert all(is_ready for _, _, _, is_ready in end["pods"])
    spec, _, annotations, _ = end["node asetwin-worker"]
    assert spec == {"taints": [{"key": "example.com/mine", "effect": "PreferNoSchedule"}]}
    assert annotations["example.com/note"] == "keep"


def test_a_deleted_device_leaves_nothing_of_ours() -> None:
    end, _ = undisturbed(fail_and_delete_the_device)
    assert end["masters"] == []
    for name, found in end.items():
        assert constants.ANNOTATION_OWNED not in str(found), name
        assert constants.QUOTA_NAME not in name
        assert constants.LIMIT_RANGE_NAME not in name
