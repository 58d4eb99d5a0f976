"""GPUs of a device plugin at the loss and the return of a node (C18).

The Nodes offer GPUs by themselves, as with a real plugin: asetwin leaves them
alone. After its return a Node is Ready at once and offers none for a while.
"""

from typing import Any

import pytest

from asetwin import constants
from asetwin.resources.devices import Failover, RebalanceOutcome
from asetwin.sim import bodies, invariants
from asetwin.sim.apiserver import Change
from asetwin.sim.world import Options, World
from sim.stories import SAMPLES

WORKER, WORKER2 = "asetwin-worker", "asetwin-worker2"
GPU = constants.GPU_RESOURCE
PLUGIN_SECONDS = 90.0


def deployment(name: str, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    labels, asked = {"app": name}, {"cpu": "100m", "memory": "64Mi", GPU: "1"}
    containers = [{"name": "main", "resources": {"requests": asked}}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers, **spec}}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "vision"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def start(gpus: int, *workloads: dict[str, Any]) -> World:
    offered = {"cpu": "4", "memory": "8Gi", "pods": "110", GPU: str(gpus)}
    world = World(options=Options(allocatable=offered))
    invariants.watch(world)
    world.apply(SAMPLES / "device.yaml")
    world.patch("AseDevice", "ase", {"spec": {"reserve": {"percent": 100}}})
    for name in ("node-a", "node-b"):
        world.patch("AseNode", name, {"spec": {"hardware": {"gpus": gpus}}})
    world.apply({"kind": "Namespace", "metadata": {"name": "vision"}})
    world.run(10)
    for one in workloads:
        world.apply(one)
        world.run(3)
    return world


def offer(world: World, node: str, gpus: int) -> None:
    amounts = {GPU: str(gpus)}
    status = {"status": {"capacity": amounts, "allocatable": amounts}}
    world.server.patch("nodes", node, status, subresource="status")


def fail(world: World, node: str, seconds: float = 20.0) -> None:
    name = "node-a" if node == WORKER else "node-b"
    failure = {
        "kind": "HardwareFailure",
        "metadata": {"name": "off"},
        "spec": {"node": name, "component": "Node"},
    }
    world.apply(failure)
    world.run(seconds)


def come_back_without_gpus(world: World, node: str) -> None:
    offer(world, node, 0)
    world.delete("HardwareFailure", "off")


def placed(world: World, app: str) -> list[str]:
    """Where the pods of a workload are Ready."""
    return sorted(
        bodies.node_of(one)
        for one in world.pods("vision")
        if bodies.labels(one).get("app") == app and bodies.is_ready(one)
    )


def record(world: World) -> Failover:
    found = world.device().status.failover
    assert found is not None
    return found


def leave_a_failed_pod(world: World, app: str, node: str) -> None:
    """What a kubelet leaves of a pod that it could not admit."""
    owner = next(
        bodies.controller(one)
        for one in world.pods("vision")
        if bodies.labels(one).get("app") == app
    )
    asked = {"cpu": "100m", "memory": "64Mi", GPU: "1"}
    body = {
        "metadata": {"name": f"{app}-bounced", "labels": {"app": app}, "ownerReferences": [owner]},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "resources": {"requests": asked}}],
        },
    }
    world.server.create("pods", body, "vision")
    status = {"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError"}}
    world.server.patch("pods", f"{app}-bounced", status, "vision", subresource="status")


def test_the_survivors_gpu_is_taken_and_the_returned_ones_is_not_there_yet() -> None:
    world = start(1, deployment("infer"), deployment("train"))
    at = placed(world, "infer")[0]
    fail(world, at)
    assert [one.reason for one in record(world).unplaceable] == ["GPU"]
    come_back_without_gpus(world, at)
    leave_a_failed_pod(world, "infer", at)
    world.run(PLUGIN_SECONDS)
    assert placed(world, "infer") == []
    offer(world, at, 1)
    world.run(10)
    assert placed(world, "infer") == [at]
    status = world.device().status
    assert status.failover is None
    assert (status.history[0].displaced, status.history[0].lost) == (1, 0)


def test_no_gpu_pod_goes_back_before_a_gpu_is_there_and_then_it_does() -> None:
    world = start(2, deployment("infer", 2))
    assert placed(world, "infer") == [WORKER, WORKER2]
    fail(world, WORKER)
    assert placed(world, "infer") == [WORKER2, WORKER2]
    ended = list[float]()

    def changed(change: Change) -> None:
        is_gpu = bodies.labels(change.body).get("app") == "infer"
        if change.plural == "pods" and is_gpu and bodies.is_deleting(change.body):
            ended.append(world.now)

    world.observers.append(changed)
    come_back_without_gpus(world, WORKER)
    leave_a_failed_pod(world, "infer", WORKER)
    world.run(PLUGIN_SECONDS)
    assert ended == []
    memory = record(world).rebalance
    assert memory is not None
    assert "waits for the GPUs of node-a" in memory.message
    offer(world, WORKER, 2)
    world.run(15)
    assert placed(world, "infer") == [WORKER, WORKER2]
    history = world.device().status.history[0]
    assert (history.displaced, history.recovered) == (1, 1)
    assert history.rebalance is not None
    assert history.rebalance.outcome is RebalanceOutcome.BALANCED


def test_a_plugin_that_never_comes_does_not_keep_the_reserve_lifted_for_ever() -> None:
    world = start(2, deployment("infer", 2))
    fail(world, WORKER)
    come_back_without_gpus(world, WORKER)
    world.run(140)
    assert world.device().status.failover is None
    told = world.device().status.history[0].rebalance
    assert told is not None
    assert told.outcome is RebalanceOutcome.BLOCKED
    assert "needs 1, node-a has 0 free" in told.message
    assert placed(world, "infer") == [WORKER2, WORKER2]


def test_a_node_whose_plugin_registers_anew_is_not_above_its_share() -> None:
    """Its pods have their GPUs; moved for a moment's zero, they would start anew for nothing."""
    world = start(2, deployment("infer", 2))
    world.patch("AseDevice", "ase", {"spec": {"reserve": {"percent": 50, "rebalance": True}}})
    before = sorted(one["metadata"]["uid"] for one in world.pods("vision"))
    offer(world, WORKER, 0)
    world.run(30)
    assert sorted(one["metadata"]["uid"] for one in world.pods("vision")) == before
    body = world.server.read("asenodes", "node-a")["status"]["conditions"]
    assert next(one["status"] for one in body if one["type"] == "ReserveKept") == "True"


@pytest.mark.parametrize("policy", ["PreemptLowerPriority", "Never"])
def test_the_preview_says_who_is_displaced_for_a_gpu(policy: str) -> None:
    vital = deployment("infer", priority=1000, preemptionPolicy=policy)
    world = start(1, vital, deployment("train"))
    name = "node-a" if placed(world, "infer") == [WORKER] else "node-b"
    problems = world.server.read("asenodes", name)["status"]["ifLost"]["problems"]
    (problem,) = problems
    loser = "train" if policy != "Never" else "infer"
    assert problem["pod"].startswith(f"vision/{loser}")
    assert problem["reason"] == "GPU"
    assert ("a more important pod takes its place" in problem["message"]) == (policy != "Never")
