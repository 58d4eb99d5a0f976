"""A node above its share while the sum is fine: when it is evened out, and when not."""

from typing import Any

import pytest

from asetwin.model import evening
from asetwin.model.snapshot import Snapshot
from asetwin.resources.devices import Rebalance, RebalanceOutcome
from unit.builders import (
    NOW,
    ase_node,
    cluster,
    condition,
    deployment,
    device,
    node,
    pods,
    replica,
    views,
)

FULL = 5


def uneven(*more: Any, is_wanted: bool = True, memory: Rebalance | None = None) -> Snapshot:
    """Five pods of 500m on ``na``, which has 4 CPUs, and none on ``nb``."""
    up = [condition(one) for one in ("Available", "WorkerReady")]
    status = {"rebalance": memory.wire()} if memory else {}
    seen = cluster(
        device(spec={"reserve": {"rebalance": is_wanted}}, status=status),
        *(ase_node(name, conditions=up) for name in "ab"),
        *deployment("web", replicas=FULL),
        *(replica(number, requests={"cpu": 500}, created=1.0) for number in range(FULL)),
        *more,
    )
    assert all(one.in_service for one in views(seen))
    return seen


def ask(seen: Snapshot, *, is_free: bool = True, now: float = NOW) -> evening.Verdict:
    return evening.rule(
        seen.devices["ase"], views(seen), pods(seen), seen, is_free=is_free, now=now
    )


def memory(**fields: Any) -> Rebalance:
    given = {"started_at": NOW - 100, "from_node": "a", "to_node": "b"}
    return Rebalance(**{**given, **fields})


def test_the_fuller_node_is_steered_off_before_a_pod_goes() -> None:
    verdict = ask(uneven())
    assert verdict.back is not None
    assert verdict.memory is not None
    assert (verdict.memory.from_node, verdict.memory.to_node) == ("a", "b")
    assert verdict.back.is_steered
    assert verdict.back.evictions == ()


def test_nothing_is_moved_unless_it_is_asked_for() -> None:
    assert ask(uneven(is_wanted=False)) == evening.Verdict()


def test_a_failover_goes_first() -> None:
    assert ask(uneven(memory=memory()), is_free=False) == evening.Verdict()


def test_two_full_nodes_cannot_help_each_other() -> None:
    more = [replica(FULL + at, node="nb", requests={"cpu": 500}) for at in range(FULL)]
    assert ask(uneven(*more)) == evening.Verdict()


def test_nobody_is_moved_while_pods_still_start() -> None:
    assert ask(uneven(replica(9, is_ready=False, created=NOW - 1))) == evening.Verdict()


def test_nobody_is_moved_to_a_node_that_someone_has_cordoned() -> None:
    assert ask(uneven(node("nb", unschedulable=True))) == evening.Verdict()


def test_what_is_within_the_share_is_no_excess() -> None:
    seen = uneven(node("na", allocatable={"cpu": 5000, "memory": 1, "pods": 110}))
    assert ask(seen) == evening.Verdict()


def test_the_excess_names_resource_amount_and_share() -> None:
    seen = uneven()
    (full, empty) = views(seen)
    assert evening.excess(full, pods(seen), 50) == "cpu: 2500m requested, 2 are its share"
    assert evening.excess(empty, pods(seen), 50) == ""


@pytest.mark.parametrize(
    ("outcome", "ended", "is_kept"),
    [
        pytest.param(RebalanceOutcome.BALANCED, 1.0, False, id="even"),
        pytest.param(RebalanceOutcome.BLOCKED, 10.0, True, id="blocked-just-now"),
        pytest.param(RebalanceOutcome.BLOCKED, 400.0, False, id="blocked-long-ago"),
    ],
)
def test_an_attempt_that_helped_not_is_remembered_for_a_while(
    outcome: RebalanceOutcome, ended: float, is_kept: bool
) -> None:
    told = memory(outcome=outcome, ended_at=NOW - ended)
    verdict = ask(uneven(memory=told))
    assert (verdict.memory == told) is is_kept
    if is_kept:
        assert verdict.back is not None
        assert verdict.back.wake_at == NOW - ended + evening.PATIENCE_SECONDS
        assert not verdict.back.evictions
