"""Hardware fails in the middle of an update: see tests/update_matrix.yaml.

Every cell ends the same way: after the repair the update goes on by itself,
succeeds, and all six pods are Ready, three on each node.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from asetwin.resources.updates import DeviceUpdate, Stage
from asetwin.sim import bodies, invariants, scenarios
from asetwin.sim.world import WORKERS, World
from sim import stories

MATRIX: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[1] / "update_matrix.yaml").read_text()
)
SETTLED_SECONDS = 25.0
"""Fenced, moved, the node that reboots is back and stable, its pods and the master are Ready."""
CELLS = [
    pytest.param(stage, whose, group, id=f"{stage}-{whose}-{group}")
    for stage in MATRIX["stages"]
    for whose in ("own", "other")
    for group in MATRIX["groups"]
]
BUDGET = """
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
"""


def ready(world: World) -> list[str]:
    """The Nodes of the pods that are Ready on a machine that runs."""
    return sorted(
        bodies.node_of(one)
        for one in world.pods("shop")
        if bodies.is_ready(one)
        and not bodies.is_deleting(one)
        and world.machines[bodies.node_of(one)].is_running
    )


def found(world: World) -> DeviceUpdate:
    return DeviceUpdate.read(world.server.read("deviceupdates", "u"))


def begin(kind: str) -> World:
    world = World()
    invariants.watch(world)
    world.agent.start()
    world.apply(stories.SAMPLES / "device.yaml", stories.SAMPLES / "workload.yaml", BUDGET)
    world.run_until(lambda: stories.is_serving(world) and len(ready(world)) == 6, within=20)
    spec = {"device": "ase", "type": kind}
    world.apply({"kind": "DeviceUpdate", "metadata": {"name": "u"}, "spec": spec})
    return world


@pytest.mark.parametrize(("stage", "whose", "group"), CELLS)
def test_a_failure_in_the_middle_of_an_update(stage: str, whose: str, group: str) -> None:
    row, how = MATRIX["stages"][stage], MATRIX["groups"][group]
    world = begin(row["type"])
    world.run_until(lambda: found(world).status.stage == stage, within=60)
    nodes = [one.name for one in found(world).status.nodes]
    node = nodes[0] if whose == "own" else nodes[1]
    failures = [scenarios.failure(f"{node}/{component}") for component in how["fails"]]

    world.apply(*failures)
    if how["lost"] and row[whose].get("offline"):
        world.run_until(lambda: world.device().status.state == "Offline", within=3)
    world.run(SETTLED_SECONDS)
    if how["lost"]:
        assert world.device().status.state == row[whose]["device"]
        assert len(ready(world)) == row[whose]["pods"]
        assert found(world).status.result is None

    world.delete_all(*failures)
    world.run_until(lambda: found(world).is_finished, within=150)
    world.run(3)
    assert found(world).status.result == "Succeeded"
    assert ready(world) == [WORKERS[0]] * 3 + [WORKERS[1]] * 3
    assert stories.is_calm(world)


def test_every_stage_in_which_something_is_done_is_in_the_matrix() -> None:
    assert set(MATRIX["stages"]) == {one.value for one in Stage} - {"Pending", "Updated"}
