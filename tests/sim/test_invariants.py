"""Each invariant sees a breach that is made on purpose."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asetwin.sim import invariants
from asetwin.sim.invariants import Violation
from asetwin.sim.masters import MasterProcess
from asetwin.sim.process import ACTOR
from asetwin.sim.world import World

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
NODE = "asetwin-worker"


def as_operator(world: World) -> None:
    """What is written from now on counts as the operator's."""
    world.server.actor = ACTOR


@pytest.fixture
def world() -> World:
    made = World()
    invariants.watch(made)
    made.apply(SAMPLES / "device.yaml", SAMPLES / "workload.yaml")
    taints = [{"key": "mine", "value": "x", "effect": "NoSchedule"}]
    made.patch("Node", NODE, {"spec": {"taints": taints, "unschedulable": True}})
    made.run(8)
    return made


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"spec": {"taints": None}}, id="taint"),
        pytest.param({"spec": {"unschedulable": None}}, id="cordon"),
        pytest.param({"metadata": {"labels": {"a": "b"}}}, id="label"),
        pytest.param({"metadata": {"finalizers": ["kopf"]}}, id="finalizer"),
        pytest.param({"metadata": {"annotations": {"kopf": "x"}}}, id="annotation"),
    ],
)
def test_foreign_marks_on_a_node(world: World, patch: dict[str, Any]) -> None:
    as_operator(world)
    with pytest.raises(Violation, match="ForeignMarks"):
        world.patch("Node", NODE, patch)


def test_a_foreign_quota(world: World) -> None:
    meta = {"name": "own", "namespace": "shop"}
    world.apply({"kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "99"}}})
    as_operator(world)
    with pytest.raises(Violation, match="not ours"):
        world.delete("ResourceQuota", "own", "shop")


def test_a_finalizer_on_a_pod(world: World) -> None:
    name = world.pods("shop")[0]["metadata"]["name"]
    as_operator(world)
    with pytest.raises(Violation, match="finalizers"):
        world.patch("Pod", name, {"metadata": {"finalizers": ["kopf"]}}, "shop")


@pytest.mark.parametrize("grace", [0, None])
def test_a_pod_of_a_node_that_is_on(world: World, grace: int | None) -> None:
    name = world.pods("shop")[0]["metadata"]["name"]
    as_operator(world)
    with pytest.raises(Violation, match="FencedPods"):
        world.delete("Pod", name, "shop", grace_seconds=grace)


def test_a_pod_of_a_daemon_set(world: World) -> None:
    world.patch("PinnedWorker", "worker-a", {"spec": {"nodeName": NODE}})
    power = {"status": {"power": {"desired": "Off", "observed": "Off"}}}
    world.server.patch("pinnedworkers", "worker-a", power, subresource="status")
    (name,) = (
        one["metadata"]["name"]
        for one in world.pods("kube-system")
        if one["spec"].get("nodeName") == NODE
    )
    as_operator(world)
    with pytest.raises(Violation, match="DaemonSet"):
        world.delete("Pod", name, "kube-system", grace_seconds=0)


def test_a_pod_under_a_quota_that_is_not_lifted(world: World) -> None:
    power = {"status": {"power": {"desired": "Off", "observed": "Off"}}}
    for worker in ("worker-a", "worker-b"):
        world.server.patch("pinnedworkers", worker, power, subresource="status")
    name = world.pods("shop")[0]["metadata"]["name"]
    as_operator(world)
    with pytest.raises(Violation, match="LiftedFirst"):
        world.delete("Pod", name, "shop", grace_seconds=0)


class Haunted(World):
    """A world that has more masters than run in it."""

    def __init__(self, *epochs: int) -> None:
        self.ghosts: list[Any] = [
            SimpleNamespace(
                is_serving=True,
                settings=SimpleNamespace(
                    device="ase", me=SimpleNamespace(epoch=epoch, pod=f"ghost-{epoch}")
                ),
            )
            for epoch in epochs
        ]
        super().__init__()

    def masters(self) -> list[MasterProcess]:
        return self.ghosts


def test_two_masters() -> None:
    world = Haunted(1, 2)
    invariants.watch(world)
    with pytest.raises(Violation, match="2 masters serving"):
        world.run(1)


def test_an_epoch_that_comes_back() -> None:
    world = Haunted(2)
    invariants.watch(world)
    world.run(0.01)
    world.ghosts[0].settings.me.epoch = 1
    with pytest.raises(Violation, match="epoch 1 serves after epoch 2"):
        world.run(1)
