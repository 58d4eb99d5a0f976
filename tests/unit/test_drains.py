"""A planned drain: who is asked to leave, who is waited for, and what is said of those who stay."""

from dataclasses import replace
from typing import Any

import pytest

from asetwin.model import drains
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core
from asetwin.resources.budgets import Budget
from asetwin.resources.devices import DisplacedWorkload, Failover, LabelSelector
from asetwin.resources.updates import Ask, Drain
from unit.builders import (
    NOW,
    claim,
    cluster,
    deployment,
    master_pod,
    node,
    owner,
    pod,
    pods,
    replica,
    views,
    volume,
    workload,
)

OLD = NOW - 1000
CPU = {"cpu": 100, "memory": 1}


def web(count: int, *, at: str = "na", first: int = 0, **fields: Any) -> list[core.Pod]:
    given: dict[str, Any] = {"created": OLD, "labels": {"app": "web"}, "requests": CPU, **fields}
    return [replica(number, node=at, **given) for number in range(first, first + count)]


def budget(name: str = "web", *, allowed: int) -> Budget:
    selector = LabelSelector(match_labels={"app": "web"})
    counted = {"healthy": 4, "needed": 4 - allowed, "expected": 4}
    return Budget("default", name, f"uid-{name}", selector, allowed=allowed, **counted)


def record(*uids: str) -> Failover:
    rows = tuple(
        DisplacedWorkload(
            namespace="default", kind="Deployment", name=uid, uid=uid, displaced=1, want=1
        )
        for uid in uids
    )
    return Failover(
        id="a-1",
        trigger="update u",
        update="u",
        from_node="a",
        to_node="b",
        detected_at=NOW,
        workloads=rows,
    )


def drain(
    seen: Snapshot,
    *,
    memory: Drain | None = None,
    now: float = NOW,
    displaced: tuple[str, ...] = (),
    **request: Any,
) -> drains.Verdict:
    a, b = views(seen)
    given: dict[str, Any] = {"timeout": 60, "why": "update u"} | request
    asked = drains.Request(**given)
    known = memory or Drain(since=NOW)
    return drains.rule(a, b, record(*displaced), pods(seen), seen, known, asked, now)


def names(verdict: drains.Verdict) -> list[str]:
    return [one.name for one in verdict.evictions]


def held(verdict: drains.Verdict) -> dict[str, str]:
    return {one.pod: one.reason for one in verdict.memory.blocked}


def test_one_pod_of_each_workload_is_asked_to_leave() -> None:
    other = [
        pod(f"db-{number}", owner=owner("StatefulSet", "db"), created=OLD) for number in range(2)
    ]
    sets = workload("StatefulSet", "db", replicas=2)
    verdict = drain(cluster(*deployment(replicas=4), *web(4), sets, *other))
    assert names(verdict) == ["web-0", "db-0"]
    assert (verdict.memory.moved, verdict.memory.total) == (0, 6)
    assert not verdict.is_done


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(web(1, first=9, is_ready=False, created=NOW - 1, at="nb"), id="starting"),
        pytest.param(web(1, first=9, deleting=NOW + 5), id="ending"),
    ],
)
def test_the_next_one_waits_until_the_replacement_is_ready(extra: list[core.Pod]) -> None:
    verdict = drain(cluster(*deployment(replicas=4), *web(3), *extra))
    assert names(verdict) == []
    assert "waits for default/web-9" in verdict.message
    assert not verdict.is_stuck


def test_a_replacement_that_is_not_there_yet_is_waited_for() -> None:
    verdict = drain(cluster(*deployment(replicas=4), *web(3)))
    assert names(verdict) == []
    assert "default/web has 3 of 4 pods" in verdict.message


def test_what_does_not_become_ready_for_long_is_not_waited_for() -> None:
    late = web(1, first=9, is_ready=False, at="nb")
    assert names(drain(cluster(*deployment(replicas=4), *web(3), *late))) == ["web-0"]


def test_a_pod_that_is_not_ready_goes_first() -> None:
    broken = web(1, first=9, is_ready=False)
    assert names(drain(cluster(*deployment(replicas=3), *web(2), *broken))) == ["web-9"]


def test_a_budget_is_asked_first_and_told_in_words() -> None:
    verdict = drain(cluster(*deployment(replicas=3), *web(3), budgets=(budget(allowed=0),)))
    assert names(verdict) == []
    assert set(held(verdict).values()) == {"Budget"}
    assert (
        verdict.message == "0 of 3 pods have left; held: default/web-0 and 2 more "
        "(Budget: PDB default/web needs 4 healthy, has 4)"
    )


def test_that_something_is_held_is_news_only_after_a_while() -> None:
    seen = cluster(*deployment(replicas=3), *web(3), budgets=(budget(allowed=0),))
    first = drain(seen)
    assert not first.is_stuck
    assert NOW + drains.HELD_SECONDS in first.wakes
    assert not drain(seen, memory=first.memory, now=NOW + 1.9).is_stuck
    assert drain(seen, memory=first.memory, now=NOW + 2.0).is_stuck
    free = replace(seen, budgets=(budget(allowed=1),))
    assert drain(free, memory=first.memory, now=NOW + 2.0).memory.held_since is None


def test_two_budgets_on_one_pod_let_nothing_go() -> None:
    two = (budget("one", allowed=1), budget("two", allowed=1))
    verdict = drain(cluster(*deployment(replicas=3), *web(3), budgets=two))
    assert names(verdict) == []
    assert "2 PDBs select it" in verdict.message


def test_one_budget_over_two_workloads_is_spent_once() -> None:
    again = [
        replace(one, name=f"x-{one.name}", uid=f"x-{one.uid}", owner=owner("StatefulSet", "x"))
        for one in web(1)
    ]
    seen = cluster(
        *deployment(replicas=1),
        *web(1),
        workload("StatefulSet", "x"),
        *again,
        budgets=(budget(allowed=1),),
    )
    assert len(drain(seen).evictions) == 1


def test_what_stays_with_its_node_is_not_asked_unless_the_resource_says_so() -> None:
    here = core.Requirement("kubernetes.io/hostname", "In", ("na",))
    tied = volume("disk", device="", node_terms=((here,),))
    seen = cluster(
        *deployment(), *web(1, claims=("data",)), tied, claim("data", volume="disk"), node("nb")
    )
    assert held(drain(seen)) == {"default/web-0": "NodeLocalVolume"}
    assert names(drain(seen, allow_unready=True)) == ["web-0"]


def test_a_replacement_without_a_place_holds_the_others_unless_the_resource_says_so() -> None:
    lost = pod(
        "web-9",
        node="",
        owner=owner("ReplicaSet", "web-rs"),
        is_ready=False,
        created=OLD,
        unschedulable="0/3 nodes are available: 1 Insufficient nvidia.com/gpu.",
    )
    seen = cluster(*deployment(replicas=3), *web(2), lost)
    assert held(drain(seen)) == {"default/web-9": "GPU"}
    assert names(drain(seen, allow_unready=True)) == ["web-0"]


def test_a_pod_without_a_controller_is_named_and_left_alone() -> None:
    verdict = drain(cluster(pod("bare")))
    assert held(verdict) == {"default/bare": "NoController"}
    assert "delete it yourself" in verdict.message


def test_a_finalizer_is_named_when_the_pod_has_ended() -> None:
    fields: dict[str, Any] = {"deleting": NOW - 1, "finalizers": ("example.com/held",)}
    for phase in ("Running", "Failed"):
        verdict = drain(cluster(pod("stuck", phase=phase, **fields)))
        assert held(verdict) == {"default/stuck": "Finalizers"}, phase
        assert "example.com/held" in verdict.message
        assert not verdict.is_done


def test_daemons_masters_mirror_pods_and_what_has_ended_are_not_waited_for() -> None:
    seen = cluster(
        pod("proxy", owner=owner("DaemonSet", "proxy")),
        workload("DaemonSet", "proxy"),
        master_pod(1),
        pod("static", is_mirror=True),
        pod("done", phase="Succeeded"),
        pod("elsewhere", node="nb"),
    )
    verdict = drain(seen)
    assert verdict.is_done
    assert verdict.memory.total == 0


def test_the_last_pod_is_gone_but_its_replacement_is_waited_for() -> None:
    starting = web(1, at="nb", is_ready=False, created=NOW - 1)
    seen = cluster(*deployment(), *starting)
    assert not drain(seen, displaced=("uid-Deployment-web",)).is_done
    ready = cluster(*deployment(), *web(1, at="nb"))
    assert drain(ready, displaced=("uid-Deployment-web",)).is_done


def test_an_eviction_is_asked_again_only_after_a_while() -> None:
    seen = cluster(*deployment(replicas=2), *web(2))
    first = drain(seen)
    assert first.memory.asked == (Ask(pod_uid="uid-web-0", asked_at=NOW),)
    assert names(drain(seen, memory=first.memory, now=NOW + 1)) == []
    again = drain(seen, memory=first.memory, now=NOW + drains.ASK_SECONDS)
    assert names(again) == ["web-0"]
    assert NOW + drains.ASK_SECONDS in first.wakes


def test_ten_workloads_at_a_time() -> None:
    sets = [workload("StatefulSet", f"s{number:02}") for number in range(12)]
    own = [pod(f"{one.name}-0", owner=owner("StatefulSet", one.name), created=OLD) for one in sets]
    verdict = drain(cluster(*sets, *own))
    assert len(verdict.evictions) == drains.MOST_IN_FLIGHT
    assert not verdict.is_stuck


def test_what_has_left_is_counted_against_what_there_was() -> None:
    verdict = drain(cluster(*deployment(replicas=1), *web(1)), memory=Drain(since=NOW, total=4))
    assert (verdict.memory.moved, verdict.memory.total) == (3, 4)


def test_by_force_all_that_is_left_is_deleted_and_not_waited_for_for_ever() -> None:
    seen = cluster(*deployment(replicas=3), *web(3), pod("bare"), budgets=(budget(allowed=0),))
    verdict = drain(seen, is_forced=True, now=NOW + 60)
    assert len(verdict.deletions) == 4
    assert not any(one.force for one in verdict.deletions), "only what is off is killed"
    assert not verdict.is_done
    assert verdict.memory.forced
    ending = cluster(pod("bare", deleting=NOW + 70))
    assert drain(ending, is_forced=True, now=NOW + 60 + drains.FORCED_SECONDS).is_done


def test_it_says_when_it_takes_too_long() -> None:
    seen = cluster(*deployment(replicas=3), *web(3), budgets=(budget(allowed=0),))
    assert not drain(seen, now=NOW + 59.9).is_late
    assert drain(seen, now=NOW + 60).is_late
