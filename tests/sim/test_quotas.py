"""A dead pod is on the bill of its quota for twice its grace and longer (C07); C10 in whole."""

from typing import Any

import pytest

from asetwin import constants
from asetwin.kube import errors
from asetwin.sim import bodies, invariants
from asetwin.sim.apiserver import Change
from asetwin.sim.janitors import QUOTA_RESYNC_SECONDS
from asetwin.sim.process import ACTOR
from asetwin.sim.world import World
from sim.stories import SAMPLES, is_calm

GRACE = 30
T0 = 60.0
"""When the pod on the lost node is deleted: after Kubernetes has found out about the node."""
WORKER = "asetwin-worker"
FAILURE = {
    "kind": "HardwareFailure",
    "metadata": {"name": "off"},
    "spec": {"node": "node-a", "component": "Node"},
}
Json = dict[str, Any]


def deployment(cpu: str, **spec: Any) -> Json:
    labels = {"app": "web"}
    resources = {"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"cpu": "3"}}
    containers = [{"name": "main", "resources": resources}]
    pod = {"terminationGracePeriodSeconds": GRACE, "containers": containers, **spec}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }


def quota(name: str, **hard: str) -> Json:
    spec = {"hard": hard}
    return {
        "kind": "ResourceQuota",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


def used(world: World, name: str) -> dict[str, str]:
    found: dict[str, str] = world.server.read("resourcequotas", name, "shop")["status"]["used"]
    return found


def on(world: World, node: str) -> list[str]:
    """The pods of the shop on a Node, those that are being deleted too."""
    return [one["metadata"]["name"] for one in world.pods("shop") if bodies.node_of(one) == node]


# --- Without anybody to lift it -------------------------------------------------------------------


@pytest.fixture
def ghost() -> World:
    """Two pods of 2 CPUs under a quota of 4; one's node is off, and it was deleted at T0."""
    world = World()
    world.operator.stop()
    world.apply({"kind": "Namespace", "metadata": {"name": "shop"}})
    world.apply(quota("reserve", **{"requests.cpu": "3900m"}), deployment("1950m"))
    world.run(5)
    assert len(on(world, WORKER)) == 1
    world.machines[WORKER].stop()
    world.run(T0 - world.now)
    world.delete("Pod", on(world, WORKER)[0], "shop")
    return world


def recount(world: World) -> str:
    """Make the quota controller count, as a change of the limits does."""
    number = str(int(world.now))
    world.patch("ResourceQuota", "reserve", {"spec": {"hard": {"pods": number}}}, "shop")
    world.run(0.1)
    return used(world, "reserve")["requests.cpu"]


def test_the_dead_pod_is_charged_until_twice_its_grace_is_over(ghost: World) -> None:
    ghost.run(2 * GRACE - 1)
    assert ghost.now == T0 + 59
    assert recount(ghost) == "3900m"
    ghost.run(2)
    assert recount(ghost) == "1950m"
    assert len(on(ghost, WORKER)) == 1, "the object itself is still there"


def test_time_alone_lets_nothing_in_only_the_next_recount_does(ghost: World) -> None:
    freed = list[float]()

    def changed(change: Change) -> None:
        status = change.body.get("status") or {}
        is_free = (status.get("used") or {}).get("requests.cpu") == "1950m"
        if change.plural == "resourcequotas" and is_free and not freed:
            freed.append(ghost.now)

    ghost.observers.append(changed)
    live = [one for one in ghost.pods("shop") if not bodies.is_deleting(one)]
    assert len(live) == 1
    # Long enough for the grace to be over twice, and the controller to have tried many times.
    ghost.run(2 * GRACE + 60)
    assert freed == []
    live = [one for one in ghost.pods("shop") if not bodies.is_deleting(one)]
    assert len(live) == 1
    body = {"metadata": {"name": "x"}, "spec": deployment("1950m")["spec"]["template"]["spec"]}
    with pytest.raises(errors.Forbidden, match=r"used: requests\.cpu=3900m"):
        ghost.server.create("pods", body, "shop")
    ghost.run_until(lambda: bool(freed), within=QUOTA_RESYNC_SECONDS)
    assert T0 + 2 * GRACE < freed[0] <= T0 + 2 * GRACE + QUOTA_RESYNC_SECONDS


# --- With the operator ----------------------------------------------------------------------------


def start(*more: Json, cpu: str = "1800m", **spec: Any) -> World:
    world = World()
    invariants.watch(world)
    world.apply(SAMPLES / "device.yaml", {"kind": "Namespace", "metadata": {"name": "shop"}})
    world.run(10)
    world.apply(*more, deployment(cpu, **spec))
    world.run(5)
    return world


def reserve(world: World) -> tuple[str, dict[str, str]]:
    found = world.server.read("resourcequotas", constants.QUOTA_NAME, "shop")
    return found["metadata"]["uid"], found["spec"]["hard"]


def test_lifted_the_replacement_is_let_in_within_seconds_and_the_quota_is_as_before() -> None:
    world = start()
    before = reserve(world)
    assert before[1]["requests.cpu"] == "3780m"
    # Its object outlives it: somebody's finalizer holds it.
    (dead,) = on(world, WORKER)
    world.patch("Pod", dead, {"metadata": {"finalizers": ["example.com/hold"]}}, "shop")
    world.apply(FAILURE)
    removed = world.run_until(lambda: is_deleted(world, dead), within=5)
    took = world.run_until(lambda: len(on(world, "asetwin-worker2")) == 2, within=5)
    assert removed + took < 3
    world.delete("HardwareFailure", "off")
    world.run_until(lambda: is_calm(world), within=60)
    world.run(1)
    assert reserve(world) == before
    assert dead in on(world, WORKER)
    assert used(world, constants.QUOTA_NAME)["requests.cpu"] == "3600m"


def is_deleted(world: World, name: str) -> bool:
    found = world.server.find("pods", name, "shop")
    return found is None or bodies.is_deleting(found)


@pytest.mark.parametrize(
    "hard",
    [
        pytest.param({"pods": "2"}, id="pods"),
        pytest.param({"count/pods": "2", "limits.cpu": "6"}, id="count-and-limits"),
    ],
)
def test_a_tenants_full_quota_lets_the_replacement_in_and_is_not_touched(
    hard: dict[str, str],
) -> None:
    tenant = quota("tenant", **hard)
    world = start(tenant, cpu="100m", priority=1_000_000)

    def kept() -> Json:
        body = world.server.read("resourcequotas", "tenant", "shop")
        meta = {key: one for key, one in body["metadata"].items() if key != "resourceVersion"}
        return {"metadata": meta, "spec": body["spec"]}

    before = kept()
    assert before["spec"] == tenant["spec"]
    writers = set[str]()

    def changed(change: Change) -> None:
        if change.plural == "resourcequotas" and change.body["metadata"]["name"] == "tenant":
            writers.add(change.actor)

    world.observers.append(changed)
    world.apply(FAILURE)
    world.run_until(lambda: len(on(world, "asetwin-worker2")) == 2, within=8)
    world.run(10)
    record = world.device().status.failover
    assert record is not None
    assert (record.recovered, record.unplaceable_count) == (1, 0)
    world.delete("HardwareFailure", "off")
    world.run_until(lambda: is_calm(world), within=60)
    world.run(1)
    assert kept() == before
    assert ACTOR not in writers


def test_a_scope_leaves_out_what_it_does_not_count() -> None:
    """A quota for pods with a deadline says nothing of others, in the simulation either."""
    limited = quota("tenant", pods="0")
    limited["spec"]["scopes"] = ["Terminating"]
    world = start(limited, cpu="100m")
    assert len(world.pods("shop")) == 2
    template = deployment("100m")["spec"]["template"]["spec"]
    body = {"metadata": {"name": "x"}, "spec": {**template, "activeDeadlineSeconds": 5}}
    with pytest.raises(errors.Forbidden, match="exceeded quota: tenant"):
        world.server.create("pods", body, "shop")
