"""The operator dies right after each single write of a failover, a repair, an update (C23, C28).

Whatever it had begun, the next process finds it in the cluster and ends it:
the cluster is in the end what it is without any crash.
"""

import pytest

from asetwin import constants
from asetwin.sim import invariants
from asetwin.sim.world import World
from sim import stories
from sim.stories import Story

# By how many writes one crash is later than the one before; an update has some hundred writes, most
# of which only say how far its drains are.
STORIES = {
    stories.fail_and_repair: 1,
    stories.fail_and_delete_the_device: 1,
    stories.update_the_device: 7,
    stories.update_kubernetes: 11,
    stories.cancel_an_update: 3,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_after" in metafunc.fixturenames:
        rows = [
            pytest.param(story, number, id=f"{story.__name__}-{number}")
            for story, stride in STORIES.items()
            for number in range(1, stories.undisturbed(story)[1] + 1, stride)
        ]
        metafunc.parametrize(("story", "crash_after"), rows)


def test_a_crash_after_any_write_leaves_the_same_cluster(story: Story, crash_after: int) -> None:
    world = World()
    invariants.watch(world)
    stories.set_up(world)
    world.crash_after(crash_after)
    story(world)
    assert any("killed after" in text for _, text in world.trace)
    assert stories.left(world) == stories.undisturbed(story)[0]


def test_the_undisturbed_story_ends_well() -> None:
    end, writes = stories.undisturbed(stories.fail_and_repair)
    assert writes > 30
    assert end["masters"] == ["ase-master-2"]
    assert all(is_ready for _, _, _, is_ready in end["pods"])
    spec, _, annotations, _ = end["node asetwin-worker"]
    assert spec == {"taints": [{"key": "example.com/mine", "effect": "PreferNoSchedule"}]}
    assert annotations["example.com/note"] == "keep"


def test_the_undisturbed_updates_end_well() -> None:
    end, _ = stories.undisturbed(stories.update_the_device)
    assert end["asenodes node-a"]["version"] == end["asenodes node-b"]["version"] == "3.3.2604"
    end, _ = stories.undisturbed(stories.update_kubernetes)
    assert end["pinnedworkers worker-a"]["version"] == "v1.36.0"
    assert end["asedevices ase"]["master"]["version"] == "v1.36.0"


def test_a_deleted_device_leaves_nothing_of_ours() -> None:
    end, _ = stories.undisturbed(stories.fail_and_delete_the_device)
    assert end["masters"] == []
    for name, found in end.items():
        assert constants.ANNOTATION_OWNED not in str(found), name
        assert constants.QUOTA_NAME not in name
        assert constants.LIMIT_RANGE_NAME not in name
