"""What lives in the simulated cluster beside the operator behaves as in a real one."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asetwin.sim import bodies
from asetwin.sim.world import Options, Stuck, World

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
Json = dict[str, Any]
WORKER, WORKER2 = "asetwin-worker", "asetwin-worker2"


@pytest.fixture
def world() -> World:
    made = World()
    made.operator.stop()
    made.apply({"kind": "Namespace", "metadata": {"name": "shop"}})
    return made


def workload(kind: str, name: str = "web", **spec: Any) -> Json:
    template = spec.pop("template", {})
    pod = {"containers": [{"name": "main", "resources": {"requests": {"cpu": "100m"}}}]}
    labels = {"app": name}
    meta = {"labels": labels, "annotations": template.pop("annotations", {})}
    return {
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": labels},
            **spec,
            "template": {"metadata": meta, "spec": {**pod, **template}},
        },
    }


def ready(world: World) -> list[tuple[str, str]]:
    """Name and Node of every Ready pod that nobody has deleted."""
    return [
        (one["metadata"]["name"], bodies.node_of(one))
        for one in world.pods("shop")
        if bodies.is_ready(one) and not bodies.is_deleting(one)
    ]


def test_a_deployment_spreads_and_replaces(world: World) -> None:
    world.apply(workload("Deployment", replicas=4))
    world.run_until(lambda: len(ready(world)) == 4, within=3)
    assert sorted(node for _, node in ready(world)) == [WORKER, WORKER, WORKER2, WORKER2]
    gone = ready(world)[0][0]
    world.delete("Pod", gone, "shop", grace_seconds=0)
    world.run_until(lambda: len(ready(world)) == 4, within=3)
    assert gone not in dict(ready(world))


def test_a_new_template_replaces_the_pods(world: World) -> None:
    world.apply(workload("Deployment", replicas=2))
    world.run(3)
    world.apply(workload("Deployment", replicas=2, template={"annotations": {"a": "b"}}))
    world.run(5)
    assert {name.rpartition("-")[0] for name, _ in ready(world)} == {"web-00002"}


def test_scaling_down_ends_pods_gracefully(world: World) -> None:
    world.apply(workload("Deployment", replicas=4))
    world.run(3)
    world.scale("Deployment", "web", 1, "shop")
    world.run(0.2)
    assert sum(bodies.is_deleting(one) for one in world.pods("shop")) == 3
    world.run(1)
    assert len(world.pods("shop")) == 1


def test_a_stateful_set_waits_for_its_old_pod(world: World) -> None:
    """C20: nobody ends the pod of a silent Node, so nobody takes its name."""
    world.apply(workload("StatefulSet", "db", replicas=1))
    world.run(3)
    ((name, node),) = ready(world)
    world.kubelets[node].power_off()
    world.delete("Pod", name, "shop")
    world.run(120)
    assert [one["metadata"]["name"] for one in world.pods("shop")] == ["db-0"]
    assert bodies.is_deleting(world.pods("shop")[0])
    world.delete("Pod", name, "shop", grace_seconds=0)
    world.run(3)
    assert ready(world) == [("db-0", WORKER2 if node == WORKER else WORKER)]


def test_a_daemon_set_ignores_cordons_but_not_taints(world: World) -> None:
    world.patch("Node", WORKER, {"spec": {"unschedulable": True}})
    world.apply(workload("DaemonSet", "agent"))
    world.run(3)
    assert {node for _, node in ready(world)} == {WORKER, WORKER2}
    taint = {"key": "x", "effect": "NoExecute"}
    world.patch("Node", WORKER, {"spec": {"taints": [taint]}})
    world.run(3)
    assert {node for _, node in ready(world)} == {WORKER2}
    world.patch("Node", WORKER, {"spec": {"taints": None}})
    world.run(3)
    assert {node for _, node in ready(world)} == {WORKER, WORKER2}


def test_a_job_runs_until_it_has_succeeded(world: World) -> None:
    world.apply(workload("Job", "import", completions=2, template={"restartPolicy": "Never"}))
    world.run(3)
    world.delete("Pod", world.pods("shop")[0]["metadata"]["name"], "shop", grace_seconds=0)
    world.run(20)
    job = world.server.read("jobs", "import", "shop")
    assert job["status"]["succeeded"] == 2
    assert [one["status"]["phase"] for one in world.pods("shop")] == ["Succeeded"] * 2


@pytest.mark.parametrize(
    ("seconds", "stays"),
    [
        pytest.param(None, math.inf, id="for-ever"),
        pytest.param(7, 7.0, id="for-a-while"),
    ],
)
def test_a_taint_evicts_when_its_toleration_ends(
    world: World, seconds: int | None, stays: float
) -> None:
    toleration: Json = {"key": "x", "operator": "Exists"}
    if seconds is not None:
        toleration["tolerationSeconds"] = seconds
    world.apply(workload("Deployment", replicas=2, template={"tolerations": [toleration]}))
    world.run(3)
    taint = {"key": "x", "effect": "NoExecute"}
    world.patch("Node", WORKER, {"spec": {"taints": [taint]}})
    if math.isinf(stays):
        world.run(60)
        assert not any(bodies.is_deleting(one) for one in world.pods("shop"))
    else:
        took = world.run_until(
            lambda: any(bodies.is_deleting(one) for one in world.pods("shop")), within=60
        )
        assert took == pytest.approx(stays, abs=0.1)


def test_what_has_no_place_says_why_in_the_schedulers_words(world: World) -> None:
    world.patch("Node", WORKER, {"spec": {"unschedulable": True}})
    big = {"containers": [{"name": "main", "resources": {"requests": {"cpu": "9"}}}]}
    world.apply(workload("Deployment", replicas=1, template=big))
    world.run(2)
    (condition,) = world.pods("shop")[0]["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert condition["message"] == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint "
        "{node-role.kubernetes.io/control-plane: }, 1 node(s) were unschedulable."
    )
    world.patch("Node", WORKER2, {"status": {}})
    world.add_node("big", allocatable={"cpu": "16"})
    world.run(3)
    assert [node for _, node in ready(world)] == ["big"]


def test_a_dead_pod_is_charged_for_twice_its_grace(world: World) -> None:
    """C07: without a lift of the quota its replacement waits, and for longer than its grace."""
    world.apply(
        {
            "kind": "ResourceQuota",
            "metadata": {"name": "reserve", "namespace": "shop"},
            "spec": {"hard": {"requests.cpu": "200m"}},
        },
        workload("Deployment", replicas=2),
    )
    world.run(3)
    assert len(ready(world)) == 2
    start = world.now
    world.kubelets[WORKER].power_off()
    (lost,) = (name for name, node in ready(world) if node == WORKER)
    world.delete("Pod", lost, "shop", grace_seconds=30)
    with pytest.raises(Stuck):
        world.run_until(lambda: len(world.pods("shop")) == 3, within=60)
    # Only the five-minute recount of the quota notices that the grace is over.
    world.run_until(lambda: len(world.pods("shop")) == 3, within=700)
    assert world.now - start > 290
    world.run(2)
    assert len(ready(world)) == 2


def test_lifting_a_quota_lets_the_next_attempt_pass(world: World) -> None:
    body = {
        "kind": "ResourceQuota",
        "metadata": {"name": "reserve", "namespace": "shop"},
        "spec": {"hard": {"pods": "1"}},
    }
    world.apply(body)
    world.run(1)
    world.apply(workload("Deployment", replicas=2))
    world.run(3)
    assert len(ready(world)) == 1
    world.patch("ResourceQuota", "reserve", {"spec": {"hard": {"pods": None}}}, "shop")
    # The ReplicaSet does not hear of it: its delay after so many refusals has to pass.
    world.run_until(lambda: len(ready(world)) == 2, within=20)


def test_what_is_owned_goes_with_its_owner(world: World) -> None:
    world.apply(workload("Deployment", replicas=2))
    world.run(3)
    world.delete("Deployment", "web", "shop")
    world.run(3)
    assert not world.pods("shop")
    assert not world.server.listed("replicasets", "shop")


def test_a_deleted_namespace_is_emptied_first(world: World) -> None:
    world.apply(workload("Deployment", replicas=2))
    world.run(3)
    world.delete("Namespace", "shop")
    world.run(0.2)
    assert world.server.read("namespaces", "shop")["status"]["phase"] == "Terminating"
    world.run(3)
    assert world.server.find("namespaces", "shop") is None


def test_a_silent_kubelet_makes_its_node_unready(world: World) -> None:
    world.apply(workload("Deployment", replicas=2))
    world.run(3)
    world.kubelets[WORKER].power_off()
    took = world.run_until(
        lambda: not bodies.is_ready(world.server.read("nodes", WORKER)), within=100
    )
    assert took == pytest.approx(50, abs=1)
    assert [node for _, node in ready(world)] == [WORKER2]
    # Five minutes of toleration later its pod is deleted, and replaced elsewhere.
    world.run(310)
    assert [node for _, node in ready(world)] == [WORKER2, WORKER2]
    world.kubelets[WORKER].power_on()
    world.run(3)
    assert bodies.is_ready(world.server.read("nodes", WORKER))
    assert len(world.pods("shop")) == 2


def trace(seed: int) -> list[tuple[float, str]]:
    world = World(seed=seed, options=Options(jitter=0.5))
    world.apply(SAMPLES / "device.yaml", SAMPLES / "workload.yaml")
    world.run(8)
    world.apply(SAMPLES / "failures" / "node.yaml")
    world.run(8)
    return world.trace


def test_delays_vary_with_the_seed_and_only_with_it() -> None:
    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_another_process_does_the_same() -> None:
    code = (
        "import test_cluster as t, hashlib as h; print(h.md5(repr(t.trace(3)).encode()).digest())"
    )
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": places},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
