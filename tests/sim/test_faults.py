"""Requests of the operator that fail, or whose answers are lost, change nothing in the end."""

import pytest

from asetwin import constants
from asetwin.sim import bodies, invariants
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


def test_a_pin_that_is_made_again_before_its_node_was_let_go_keeps_the_reserve_lifted() -> None:
    world = World()
    invariants.watch(world)
    stories.set_up(world)
    world.apply(stories.FAILURE)
    world.run_until(lambda: stories.has_recovered(world), within=40)

    def trouble(call: Call) -> Trouble | None:
        return Trouble.REFUSED if call.is_write and call.target.plural == "nodes" else None

    world.operator.wire.trouble = trouble
    world.delete("PinnedWorker", "worker-a")
    world.run(5)
    assert world.device().status.failover is None
    assert limits(world)

    world.operator.wire.trouble = lambda call: None
    world.apply(stories.SAMPLES / "device.yaml")
    world.delete_all(stories.FAILURE)
    world.run_until(lambda: not limits(world), within=20)
    assert constants.TAINT_NODE_DOWN in str(world.server.listed("nodes"))
    world.run_until(lambda: stories.is_calm(world) and bool(limits(world)), within=60)
    world.run(6)
    assert limits(world)


def limits(world: World) -> list[object]:
    """What our quotas limit now."""
    return [
        one["spec"]["hard"]
        for one in world.server.listed("resourcequotas")
        if bodies.key(one)[1] == constants.QUOTA_NAME and one["spec"].get("hard")
    ]
