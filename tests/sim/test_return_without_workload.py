"""A workload that is deleted while one of its pods is moved back to a node that has returned."""

import pytest

from asetwin.constants import TAINT_REBALANCING as STEERING
from asetwin.sim import invariants
from asetwin.sim.world import World
from sim.stories import SAMPLES

TEARDOWN_SECONDS = 10.0
"""Far below the drain timeout of the Fast profile, for which a replacement is waited for."""


@pytest.mark.parametrize("is_scaled", [False, True], ids=["deleted", "scaled-to-none"])
def test_a_return_does_not_wait_for_pods_that_nobody_makes_any_more(is_scaled: bool) -> None:
    world = World()
    invariants.watch(world)
    world.apply(SAMPLES / "device.yaml")
    world.apply(SAMPLES / "workload.yaml")
    world.run(20)
    failure = {"kind": "HardwareFailure", "metadata": {"name": "off"}}
    world.apply(failure | {"spec": {"node": "node-a", "component": "Node"}})
    world.run(20)
    world.delete("HardwareFailure", "off")
    world.run_until(lambda: _is_moving(world), within=60)

    if is_scaled:
        world.scale("Deployment", "web", 0, "shop")
    else:
        world.delete("Deployment", "web", "shop")
    world.run(TEARDOWN_SECONDS)

    status = world.device().status
    assert status.failover is None
    told = status.history[0].rebalance
    assert told is not None
    assert "waits" not in told.message
    nodes = world.server.listed("nodes")
    assert not any(STEERING in str(one["spec"].get("taints")) for one in nodes)


def _is_moving(world: World) -> bool:
    failover = world.device().status.failover
    back = failover.rebalance if failover is not None else None
    return back is not None and any(one.pod_uid for one in back.moves)
