"""The simulated scheduler drives less important pods out, as kube-scheduler does."""

from typing import Any

import pytest

from asetwin.kube import errors
from asetwin.sim import bodies
from asetwin.sim.world import Options, World
from sim.stories import SAMPLES, has_recovered

WORKER, WORKER2 = "asetwin-worker", "asetwin-worker2"
Json = dict[str, Any]


def priority_class(name: str = "vital", value: int = 1000, **more: Any) -> Json:
    return {"kind": "PriorityClass", "metadata": {"name": name}, "value": value, **more}


def deployment(name: str, cpu: str, replicas: int = 1, **spec: Any) -> Json:
    labels = {"app": name}
    asked = {"resources": {"requests": {"cpu": cpu}}}
    pod = {"terminationGracePeriodSeconds": 5, "containers": [{"name": "main", **asked}], **spec}
    annotations = {"sim.asetwin.dev/stop-seconds": "3"}
    template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def budget(app: str) -> Json:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}}
    kind = "PodDisruptionBudget"
    return {"kind": kind, "metadata": {"name": app, "namespace": "shop"}, "spec": spec}


def ready(world: World) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in world.pods("shop"):
        if bodies.is_ready(one) and not bodies.is_deleting(one):
            app = bodies.labels(one)["app"]
            found[app] = found.get(app, 0) + 1
    return found


@pytest.fixture
def world() -> World:
    """One worker with 4 CPUs, of which a tenth is taken."""
    made = World(options=Options(workers=(WORKER,)))
    made.operator.stop()
    made.apply({"kind": "Namespace", "metadata": {"name": "shop"}}, priority_class())
    return made


def test_the_victim_ends_in_its_own_time_and_then_the_pod_is_bound(world: World) -> None:
    world.apply(deployment("low", "3"))
    world.run(3)
    world.apply(deployment("high", "2", priorityClassName="vital"))
    world.run(1)
    (high,) = [one for one in world.pods("shop") if bodies.labels(one)["app"] == "high"]
    (low,) = [one for one in world.pods("shop") if bodies.node_of(one)]
    assert high["status"]["nominatedNodeName"] == WORKER
    assert bodies.node_of(high) == ""
    assert low["metadata"]["deletionGracePeriodSeconds"] == 5
    world.run_until(lambda: ready(world) == {"high": 1}, within=6)
    world.run(30)
    assert ready(world) == {"high": 1}, "what was driven out has no room, and drives nobody out"


def test_the_place_is_kept_for_the_pod_that_it_was_made_for(world: World) -> None:
    world.apply(deployment("low", "3"))
    world.run(3)
    world.apply(deployment("high", "3", priorityClassName="vital"), deployment("later", "500m", 4))
    world.run(20)
    assert ready(world)["high"] == 1


def test_one_victim_is_enough_and_the_least_important_is_it(world: World) -> None:
    world.apply(priority_class("middle", 10))
    world.apply(deployment("low", "1"), deployment("middle", "1", priorityClassName="middle"))
    world.apply(deployment("rest", "1500m", priorityClassName="vital"))
    world.run(3)
    world.apply(deployment("high", "1", priorityClassName="vital"))
    world.run(15)
    assert ready(world) == {"middle": 1, "rest": 1, "high": 1}


def test_a_budget_is_spared_where_another_pod_will_do(world: World) -> None:
    world.apply(deployment("guarded", "1500m"), budget("guarded"), deployment("free", "1500m"))
    world.run(3)
    world.apply(deployment("high", "1500m", priorityClassName="vital"))
    world.run(15)
    assert ready(world) == {"guarded": 1, "high": 1}


@pytest.mark.parametrize(
    ("more", "given"),
    [
        pytest.param({"preemptionPolicy": "Never"}, {"priorityClassName": "meek"}, id="never"),
        pytest.param({"value": 0}, {"priorityClassName": "meek"}, id="equal"),
        pytest.param(
            {"value": 5},
            {"priorityClassName": "meek", "nodeSelector": {"no": "node"}},
            id="no-help",
        ),
    ],
)
def test_nobody_is_driven_out_in_vain(world: World, more: Json, given: Json) -> None:
    world.apply(priority_class("meek", **{"value": 5, **more}))
    world.apply(deployment("low", "3"))
    world.run(3)
    world.apply(deployment("high", "2", **given))
    world.run(15)
    assert ready(world) == {"low": 1}


def test_one_that_waits_on_a_node_that_is_lost_meanwhile_looks_elsewhere(world: World) -> None:
    """Nobody ends those whom it has driven out there, so it would have waited for good."""
    world.add_node(WORKER2)
    world.apply(deployment("low", "3", replicas=2))
    world.run(3)
    world.apply(deployment("high", "2", priorityClassName="vital"))
    world.run(0.5)
    (high,) = [one for one in world.pods("shop") if bodies.labels(one)["app"] == "high"]
    first = high["status"]["nominatedNodeName"]
    world.kubelets[first].power_off()
    world.run_until(lambda: ready(world).get("high") == 1, within=70)
    (high,) = [one for one in world.pods("shop") if bodies.labels(one)["app"] == "high"]
    assert {first, bodies.node_of(high)} == {WORKER, WORKER2}


def test_a_pod_of_a_class_that_is_not_there_is_refused(world: World) -> None:
    spec = {"priorityClassName": "gone", "containers": [{"name": "main"}]}
    with pytest.raises(errors.Forbidden, match="no PriorityClass with name gone was found"):
        world.server.create("pods", {"metadata": {"name": "x"}, "spec": spec}, "shop")


def test_a_failover_recovers_by_preemption_and_never_says_that_it_cannot() -> None:
    """While the victims end, the pod is pending and yet has its place."""
    world = World()
    world.apply(SAMPLES / "device.yaml", priority_class())
    world.apply({"kind": "Namespace", "metadata": {"name": "shop"}})
    world.patch("AseDevice", "ase", {"spec": {"reserve": {"percent": 100}}})
    world.run(10)
    world.apply(deployment("high", "3", priorityClassName="vital"))
    world.run(3)
    world.apply(deployment("low", "3"))
    world.run(3)
    assert ready(world) == {"high": 1, "low": 1}
    (high,) = [one for one in world.pods("shop") if bodies.labels(one)["app"] == "high"]
    name = "node-a" if bodies.node_of(high) == WORKER else "node-b"
    (problem,) = world.server.read("asenodes", name)["status"]["ifLost"]["problems"]
    assert problem["pod"].startswith("shop/low")
    spec = {"node": name, "component": "Node"}
    world.apply({"kind": "HardwareFailure", "metadata": {"name": "off"}, "spec": spec})
    most = 0

    def watched() -> bool:
        nonlocal most
        record = world.device().status.failover
        most = max(most, record.unplaceable_count if record else 0)
        return has_recovered(world)

    world.run_until(watched, within=20)
    assert most == 0
    assert ready(world) == {"high": 1}
