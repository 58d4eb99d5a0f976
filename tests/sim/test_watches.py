"""What happens while the operator lists and does not watch yet: no event ever tells of it."""

from collections.abc import Iterator

import pytest

from asetwin import loop
from asetwin.resources.devices import FailoverPhase
from asetwin.sim import invariants
from asetwin.sim.process import LISTING_SECONDS
from asetwin.sim.world import World
from sim import stories

BETWEEN = LISTING_SECONDS / 2
"""The operator has read the cluster by itself, and kopf has not listed it yet."""


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    invariants.watch(made)
    stories.set_up(made)
    yield made
    made.run(1)  # Let the turn end that a test has broken off.


def start_anew(world: World) -> None:
    """An operator that was killed and has just read the cluster; kopf lists in a moment."""
    world.operator.stop()
    world.operator.start()
    world.run(BETWEEN)


def assert_is_back(world: World) -> None:
    """The failed node is in service again, and history tells of one failover that ended well."""
    world.run(1)  # The nodes' statuses are written after the device's.
    nodes = world.server.listed("asenodes")
    assert [one["status"]["state"] for one in nodes] == ["Up", "Up"]
    assert [one.phase for one in world.device().status.history] == [FailoverPhase.RECOVERED]


def test_a_displaced_workload_that_is_deleted_then_is_not_waited_for(world: World) -> None:
    # On kind a namespace went in that moment; a failover waited a minute for its pods.
    world.apply(stories.FAILURE)
    world.run_until(lambda: world.device().status.failover is not None, within=10)
    start_anew(world)
    world.delete("Deployment", "web", "shop")
    world.run_until(lambda: stories.has_recovered(world), within=20)
    failover = world.device().status.failover
    assert failover is not None
    assert [(one.name, one.want) for one in failover.workloads] == [("web", 0)]
    assert failover.recovered == failover.displaced > 0


def test_a_failure_that_is_deleted_then_is_known_to_be_repaired(world: World) -> None:
    world.apply(stories.FAILURE)
    world.run_until(lambda: stories.has_recovered(world), within=40)
    start_anew(world)
    world.delete_all(stories.FAILURE)
    world.run_until(lambda: stories.is_calm(world), within=40)
    assert_is_back(world)


def test_a_failure_that_is_stated_then_is_seen_in_kopfs_list(world: World) -> None:
    start_anew(world)
    world.apply(stories.FAILURE)
    took = world.run_until(lambda: world.device().status.failover is not None, within=2)
    assert took < LISTING_SECONDS + 2 * loop.GATHER_SECONDS


def test_what_is_deleted_while_a_watch_is_broken_is_found_when_it_is_whole_again(
    world: World,
) -> None:
    world.apply(stories.FAILURE)
    world.run_until(lambda: stories.has_recovered(world), within=40)
    world.operator.listen(is_deaf=True)
    world.delete_all(stories.FAILURE)
    world.run(1)
    world.operator.listen(is_deaf=False)
    world.run_until(lambda: stories.is_calm(world), within=40)
    assert_is_back(world)
