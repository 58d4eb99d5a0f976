"""A burst over many namespaces: what the shared reserve lets in, and how soon it holds again.

A quota counts one namespace and the budget is the device's, so what is
admitted between two looks of the operator may be above it: one racing
admission for each namespace, and no more.
"""

from pathlib import Path
from typing import Any

import pytest

from asetwin.kube import errors
from asetwin.resources import conditions, quantities, requests
from asetwin.sim.world import World

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
SPACES = [f"team-{number:02}" for number in range(20)]
SETTLE_SECONDS = 2.0


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def greedy(space: str, *, cpu: str, replicas: int) -> dict[str, Any]:
    """A Deployment that wants more than its namespace's part of the budget."""
    labels = {"app": "greedy"}
    container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "greedy", "namespace": space},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def used(world: World) -> int:
    """Millicores that the pods of all teams request."""
    return sum(
        requests.of_pod(pod["spec"]).get("cpu", 0) for space in SPACES for pod in world.pods(space)
    )


def budget(world: World) -> int:
    status = world.device().status.reserve
    assert status is not None
    (row,) = (one for one in status.resources if one.resource == "cpu")
    return quantities.units("cpu", row.budget)


def headroom(world: World) -> int:
    """How much the most generous of the quotas still lets in."""
    total = 0
    for quota in world.server.listed("resourcequotas"):
        if quota["metadata"]["namespace"] in SPACES:
            hard = quantities.units("cpu", quota["spec"]["hard"]["requests.cpu"])
            own = world.pods(quota["metadata"]["namespace"])
            total = max(
                total, hard - sum(requests.of_pod(pod["spec"]).get("cpu", 0) for pod in own)
            )
    return total


@pytest.fixture
def world() -> World:
    """A device in its steady state, with twenty namespaces that have their quotas."""
    one = World()
    one.apply(SAMPLES / "device.yaml", *map(namespace, SPACES))
    one.run_until(lambda: one.device().status.state == "Online", within=30)
    one.run_until(
        lambda: (
            {quota["metadata"]["namespace"] for quota in one.server.listed("resourcequotas")}
            >= set(SPACES)
        ),
        within=10,
    )
    one.run(2)
    return one


def small(number: int) -> dict[str, Any]:
    """One pod of 50 millicores, in the next namespace each time."""
    resources = {"requests": {"cpu": "50m", "memory": "1Mi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p-{number}", "namespace": SPACES[number % len(SPACES)]},
        "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]},
    }


@pytest.mark.parametrize(
    ("gap_seconds", "racing"),
    [
        pytest.param(0.005, 5, id="200-a-second"),
        pytest.param(0.02, 1, id="50-a-second"),
        pytest.param(0.05, 0, id="20-a-second"),
    ],
)
def test_a_burst_is_above_the_budget_by_racing_admissions_only(
    world: World, gap_seconds: float, racing: int
) -> None:
    allowed, refused, most = budget(world), list[str](), 0
    for number in range(400):
        try:
            world.apply(small(number))
        except errors.Forbidden as error:
            refused.append(str(error))
        world.run(gap_seconds)
        most = max(most, used(world))
    assert most <= allowed + racing * 50
    assert most > allowed - 50, "the budget is used up before anything is refused"
    assert "exceeded quota: asetwin-reserve, requested: requests.cpu=50m" in refused[-1]
    world.run(SETTLE_SECONDS)
    assert headroom(world) == max(0, allowed - used(world))


def test_what_comes_all_at_once_is_told_with_who_uses_it_and_nothing_more_comes_in(
    world: World,
) -> None:
    """Quotas are the API server's: what it lets in before anybody can look is in."""
    world.apply(*(greedy(space, cpu="50m", replicas=60) for space in SPACES))
    world.run(SETTLE_SECONDS)
    before = used(world)
    assert before > budget(world)
    assert headroom(world) == 0
    kept = conditions.find(world.device().status.conditions, "ReserveKept")
    assert kept is not None
    assert (kept.status, kept.reason) == ("False", "OverReserve")
    assert "cpu: 60 requested, 3780m allowed (team-00 3, team-01 3" in kept.message
    with pytest.raises(errors.Forbidden, match="exceeded quota: asetwin-reserve"):
        world.apply(small(0))
    world.run(10)
    assert used(world) == before


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_a_workload_has_as_many_pods_as_the_reserve_allows(world: World, kind: str) -> None:
    body = greedy(SPACES[0], cpu="400m", replicas=20)
    if kind == "Job":
        spec = {"parallelism": 20, "completions": 20, "template": body["spec"]["template"]}
        body = {**body, "apiVersion": "batch/v1", "kind": "Job", "spec": spec}
    world.apply(body)
    world.run(5)
    assert used(world) == budget(world) // 400 * 400
    one_more = small(0)
    one_more["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "400m"
    with pytest.raises(
        errors.Forbidden, match=r"requested: requests.cpu=400m, used: .*, limited: "
    ):
        world.apply(one_more)
