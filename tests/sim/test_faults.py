"""Requests of the operator that fail, or whose answers are lost, change nothing in the end."""

import pytest

from asetwin.sim import invariants
from asetwin.sim.clock import Random
from asetwin.sim.wire import Call, Trouble
from asetwin.sim.world import Options, World
from sim import stories

RATE = 0.1


@pytest.mark.parametrize("seed", range(10))
def test_a_failover_under_trouble_ends_like_an_undisturbed_one(seed: int) -> None:
    world = World(seed=seed, options=Options(jitter=0.5))
    invariants.watch(world)
    stories.set_up(world)
    rng, met = Random(seed), set[Trouble]()

    def trouble(call: Call) -> Trouble | None:
        if rng.random() > RATE:
            return None
        met.add(found := rng.choice(list(Trouble)))
        return found

    world.operator.wire.trouble = trouble
    stories.fail_and_repair(world)
    world.operator.wire.trouble = lambda call: None
    world.run(15)
    assert len(met) > 1
    end, expected = stories.left(world), stories.undisturbed(stories.fail_and_repair)[0]
    assert end == expected
