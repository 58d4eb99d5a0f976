"""The operator dies right after each single write of a failover and its repair (C23, C28).

Whatever it had begun, the next process finds it in the cluster and ends it:
the cluster is in the end what it is without any crash.
"""

import pytest

from asetwin import constants
from asetwin.sim import invariants
from asetwin.sim.world import World
from sim import stories
from sim.stories import Story

STORIES = (stories.fail_and_repair, stories.fail_and_delete_the_device)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_after" in metafunc.fixturenames:
        rows = [
            pytest.param(story, number, id=f"{story.__name__}-{number}")
            for story in STORIES
            for number in range(1, stories.undisturbed(story)[1] + 1)
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


def test_a_deleted_device_leaves_nothing_of_ours() -> None:
    end, _ = stories.undisturbed(stories.fail_and_delete_the_device)
    assert end["masters"] == []
    for name, found in end.items():
        assert constants.ANNOTATION_OWNED not in str(found), name
        assert constants.QUOTA_NAME not in name
        assert constants.LIMIT_RANGE_NAME not in name
