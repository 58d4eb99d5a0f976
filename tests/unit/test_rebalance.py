"""Sharing pods out after a node's return (design 4.6, C24): asked turn by turn."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asetwin import constants
from asetwin.model import failover, rebalance
from asetwin.model.marks import Mark
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core
from asetwin.resources.budgets import Budget
from asetwin.resources.devices import (
    DisplacedWorkload,
    Failover,
    LabelSelector,
    Move,
    Rebalance,
    RebalanceOutcome,
)
from unit.builders import (
    NOW,
    cluster,
    deployment,
    device,
    failure,
    master_pod,
    node,
    owner,
    pod,
    pods,
    replica,
    views,
)

STEERING = core.Taint(constants.TAINT_REBALANCING, constants.TAINT_REBALANCING_EFFECT)
OLD = NOW - 1000
CPU = {"cpu": 100, "memory": 1}


def steered(name: str = "nb", **fields: Any) -> core.Node:
    mark = Mark("ase", taints=(STEERING.identity,)).render() or ""
    return node(name, taints=(STEERING,), owned=mark, **fields)


def record(*names: str, memory: Rebalance | None = None) -> Failover:
    """The failover of ``a``, which has displaced these Deployments."""
    workloads = tuple(
        DisplacedWorkload(
            namespace="default",
            kind="Deployment",
            name=name,
            uid=f"uid-Deployment-{name}",
            displaced=1,
            want=1,
        )
        for name in names
    )
    return Failover(
        id="a-1",
        trigger="gone",
        from_node="a",
        to_node="b",
        detected_at=OLD,
        workloads=workloads,
        rebalance=memory,
    )


def replicas(count: int, of: str = "web", *, at: str = "nb", **fields: Any) -> list[core.Pod]:
    given = {"created": OLD, "labels": {"app": of}, "requests": CPU} | fields
    return [replica(number, of, node=at, **given) for number in range(count)]


def budget(name: str = "web", *, allowed: int, expected: int = 4, **fields: Any) -> Budget:
    counted = {"healthy": expected, "needed": expected - allowed, "expected": expected}
    selector = LabelSelector(match_labels={"app": "web"})
    given: dict[str, Any] = {"uid": f"uid-pdb-{name}", "selector": selector, "allowed": allowed}
    return Budget(**{"namespace": "default", "name": name} | given | counted | fields)


def ask(seen: Snapshot, of: Failover, now: float = NOW) -> rebalance.Verdict:
    return rebalance.rule(of, views(seen, now=now), pods(seen), seen, seen.devices["ase"], now)


def memory(**fields: Any) -> Rebalance:
    return Rebalance(**{"started_at": NOW, "from_node": "b", "to_node": "a"} | fields)


def asked(**fields: Any) -> Move:
    """A move of web whose pod was told to go at NOW."""
    return Move(
        **{
            "namespace": "default",
            "kind": "Deployment",
            "name": "web",
            "uid": "uid-Deployment-web",
            "pod": "web-0",
            "pod_uid": "uid-web-0",
            "asked_at": NOW,
            "attempts": 1,
            "before": 4,
            "want": 4,
        }
        | fields
    )


def names(verdict: rebalance.Verdict) -> list[str]:
    return [one.name for one in verdict.evictions]


def kept(verdict: rebalance.Verdict) -> dict[str, str]:
    return {one.pod.partition("/")[2]: one.reason for one in verdict.memory.kept}


# --- One turn -------------------------------------------------------------------------------------


def test_the_fuller_node_is_steered_before_the_first_eviction() -> None:
    seen = cluster(*deployment(replicas=4), *replicas(4))
    verdict = ask(seen, record("web"))
    assert verdict.is_steered
    assert names(verdict) == []
    assert verdict.memory.planned == 2
    assert not verdict.is_over


def test_one_pod_per_workload_and_two_in_all_are_on_their_way() -> None:
    parts = [one for name in ("a1", "b1", "c1") for one in deployment(name, replicas=4)]
    own = [one for name in ("a1", "b1", "c1") for one in replicas(4, name)]
    seen = cluster(steered(), *parts, *own)
    verdict = ask(seen, record("a1", "b1", "c1"))
    assert names(verdict) == ["a1-0", "b1-0"]
    assert [one.attempts for one in verdict.memory.moves] == [1, 1]
    # The next turn's view may be older than the eviction: nothing is asked for twice.
    again = ask(seen, record("a1", "b1", "c1", memory=verdict.memory), NOW + 1)
    assert names(again) == []


def test_the_next_goes_when_the_replacement_is_ready() -> None:
    parts = deployment(replicas=4)
    gone = replicas(4)[1:]
    new = replica(9, created=NOW, is_ready=False, requests=CPU)
    memo = memory(moves=(asked(),))
    seen = cluster(steered(), *parts, *gone, new)
    waiting = ask(seen, record("web", memory=memo), NOW + 1)
    assert names(waiting) == []
    assert waiting.memory.message == (
        "0 of 2 moved to a; waits for default/web to be Ready without web-0"
    )
    seen = cluster(steered(), *parts, *gone, replace(new, is_ready=True))
    verdict = ask(seen, record("web", memory=memo), NOW + 1)
    assert verdict.memory.moved == 1
    assert names(verdict) == ["web-1"]


def test_a_replacement_that_came_back_ends_its_workload_for_this_return() -> None:
    back = replica(9, node="nb", created=NOW, requests=CPU)
    seen = cluster(steered(), *deployment(replicas=4), *replicas(4)[1:], back)
    verdict = ask(seen, record("web", memory=memory(moves=(asked(),))), NOW + 1)
    assert verdict.memory.outcome is RebalanceOutcome.BLOCKED
    assert verdict.memory.moves[0].ended == "CameBack"
    assert names(verdict) == []
    assert "CameBack" in kept(verdict).values()


def test_a_replacement_that_never_is_ready_is_not_waited_for_for_ever() -> None:
    ill = replica(9, created=NOW, is_ready=False)
    seen = cluster(steered(), *deployment(replicas=4), *replicas(4)[1:], ill)
    memo = memory(moves=(asked(),))
    early = ask(seen, record("web", memory=memo), NOW + 59)
    assert early.wake_at == NOW + 60
    late = ask(seen, record("web", memory=memo), NOW + 61)
    assert late.memory.moves[0].ended == "NotReady"
    assert late.memory.outcome is not None


@pytest.mark.parametrize("replicas_left", [None, 0], ids=["deleted", "scaled-to-none"])
def test_a_workload_that_somebody_takes_away_is_not_waited_for(replicas_left: int | None) -> None:
    parts = () if replicas_left is None else deployment(replicas=replicas_left)
    for on_its_way in (asked(), asked(pod=None, pod_uid=None, asked_at=None, waits_since=NOW)):
        verdict = ask(cluster(steered(), *parts), record("web", memory=memory(moves=(on_its_way,))))
        assert verdict.memory.outcome is RebalanceOutcome.BALANCED
        assert verdict.memory.message == "nothing had to move"
        assert not verdict.is_steered


def test_one_that_is_scaled_down_is_waited_for_as_far_as_it_is_wanted() -> None:
    few = deployment(replicas=2)
    seen = cluster(steered(), *few, *replicas(1), replica(9, created=NOW, is_ready=False))
    assert ask(seen, record("web", memory=memory(moves=(asked(),)))).memory.outcome is None
    seen = cluster(steered(), *few, *replicas(3)[1:])
    verdict = ask(seen, record("web", memory=memory(moves=(asked(),))))
    assert verdict.memory.moved == 1
    assert names(verdict) == ["web-1"]


def test_an_eviction_that_had_no_effect_is_asked_for_again_but_not_for_ever() -> None:
    seen = cluster(steered(), *deployment(replicas=4), *replicas(4))
    memo = memory(moves=(asked(),))
    assert names(ask(seen, record("web", memory=memo), NOW + 4.9)) == []
    verdict = ask(seen, record("web", memory=memo), NOW + 5)
    assert names(verdict) == ["web-0"]
    assert verdict.memory.moves[0].attempts == 2
    memo = memory(moves=(asked(attempts=3),))
    verdict = ask(seen, record("web", memory=memo), NOW + 5)
    assert names(verdict) == []
    assert verdict.memory.moves[0].ended == "Refused"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"demands": core.Demands(node_selector={"x": "y"})}, "NodeAffinity", id="sel"),
        pytest.param(
            {"demands": core.Demands(node_terms=((core.Requirement("x", "Exists"),),))},
            "NodeAffinity",
            id="affinity",
        ),
        pytest.param({"claims": ("data",)}, "NodeLocalVolume", id="volume"),
        pytest.param({"requests": {constants.GPU_RESOURCE: 2}}, "GPU", id="gpu"),
        pytest.param({"requests": {"cpu": 5000}}, "Capacity", id="cpu"),
        pytest.param(
            {"demands": core.Demands(host_ports=(("TCP", "", 80),))}, "HostPort", id="host-port"
        ),
    ],
)
def test_what_does_not_fit_the_other_node_stays_and_is_named(
    fields: dict[str, Any], reason: str
) -> None:
    taken = pod("port", node="na", demands=core.Demands(host_ports=(("TCP", "", 80),)))
    local = core.Volume("v", node_terms=((core.Requirement("z", "In", ("b",)),),))
    room = {"cpu": 4000, "memory": 8 * 1024**3, "pods": 110}
    seen = cluster(
        steered(allocatable={**room, constants.GPU_RESOURCE: 4}),
        node("na", allocatable={**room, constants.GPU_RESOURCE: 1}),
        *deployment(replicas=2),
        *replicas(2, **fields),
        taken,
        volumes={"v": local},
        claims=(core.Claim("default", "data", volume="v"),),
    )
    verdict = ask(seen, record("web"))
    assert names(verdict) == []
    assert kept(verdict)["web-0"] == reason
    assert verdict.memory.outcome is RebalanceOutcome.BLOCKED


def test_the_taint_of_the_cordon_that_has_just_gone_is_waited_for() -> None:
    """A return once ended before it began, because the taint outlives the cordon for a moment."""
    taint = core.Taint("node.kubernetes.io/unschedulable", "NoSchedule")
    seen = cluster(node("na", taints=(taint,)), *deployment(replicas=2), *replicas(2))
    verdict = ask(seen, record("web"))
    assert verdict.memory.outcome is None
    assert "waits for Node na to lose its taint" in verdict.memory.message
    late = ask(seen, record("web", memory=verdict.memory), NOW + 60)
    assert kept(late) == {"web-0": "Taint", "web-1": "Taint"}


def test_the_returned_node_is_not_filled_above_its_reserve() -> None:
    own = pod("own", node="na", requests={"cpu": 1500})
    web = replicas(2, requests={"cpu": 600})
    verdict = ask(cluster(*deployment(replicas=2), *web, own), record("web"))
    assert kept(verdict) == {"web-0": "Capacity", "web-1": "Capacity"}
    assert "a would be above its reserve of cpu" in verdict.memory.message


def test_a_cordon_of_somebody_else_ends_the_return_at_once() -> None:
    seen = cluster(node("na", unschedulable=True), *deployment(replicas=2), *replicas(2))
    verdict = ask(seen, record("web"))
    assert kept(verdict) == {"web-0": "Taint", "web-1": "Taint"}
    assert verdict.memory.outcome is RebalanceOutcome.BLOCKED
    assert not verdict.is_steered


@pytest.mark.parametrize(
    ("one", "kind"),
    [
        pytest.param(pod("x", node="nb", owner=owner("DaemonSet", "d")), "daemon", id="daemon"),
        pytest.param(pod("x", node="nb"), "bare", id="bare"),
        pytest.param(pod("x", node="nb", owner=owner("Job", "j")), "job", id="job"),
        pytest.param(master_pod(2, node="nb"), "master", id="master"),
        pytest.param(
            pod("x", node="nb", namespace="kube-system", owner=owner("ReplicaSet", "r")),
            "system",
            id="reserved-namespace",
        ),
        pytest.param(
            pod("x", node="nb", owner=owner("ReplicaSet", "r"), is_mirror=True),
            "mirror",
            id="mirror",
        ),
    ],
)
def test_some_pods_are_not_touched_even_on_an_overfull_node(one: core.Pod, kind: str) -> None:
    # Without the pod the node would be within its reserve, and the other one has room for it.
    load = pod("load", node="nb", requests={"cpu": 1500})
    seen = cluster(steered(), load, replace(one, requests={"cpu": 1500}))
    verdict = ask(seen, record())
    assert names(verdict) == [], kind
    assert verdict.memory.outcome is RebalanceOutcome.BLOCKED


def test_what_was_not_displaced_stays_where_it_is() -> None:
    seen = cluster(*deployment(replicas=6), *replicas(6))
    verdict = ask(seen, record("other"))
    assert verdict.memory.outcome is RebalanceOutcome.BALANCED
    assert verdict.memory.message == "nothing had to move"


def test_an_overfull_node_gives_up_pods_that_were_not_displaced_one_at_a_time() -> None:
    seen = cluster(steered(), *deployment(replicas=5), *replicas(5, requests={"cpu": 500}))
    verdict = ask(seen, record())
    assert names(verdict) == ["web-0"]
    # At 2000m of 4000m it is within its half.
    seen = cluster(steered(), *deployment(replicas=4), *replicas(4, requests={"cpu": 500}))
    assert ask(seen, record()).memory.outcome is RebalanceOutcome.BALANCED


def test_a_displaced_single_replica_goes_first_from_an_overfull_node() -> None:
    seen = cluster(
        steered(),
        *deployment("own", replicas=4),
        *replicas(4, "own", requests={"cpu": 600}),
        *deployment("guest"),
        *replicas(1, "guest", requests={"cpu": 300}),
    )
    assert names(ask(seen, record("guest"))) == ["guest-0"]


# --- Budgets --------------------------------------------------------------------------------------


def test_a_budget_that_allows_nothing_is_not_asked_and_waited_for_so_long() -> None:
    # One of its pods is not Ready now, so it may allow one later.
    held = budget(allowed=0, expected=5, needed=4, healthy=4)
    seen = cluster(steered(), *deployment(replicas=4), *replicas(4), budgets=(held,))
    first = ask(seen, record("web"))
    assert names(first) == []
    assert first.wake_at == NOW + 60
    assert "PDB default/web needs 4 healthy, has 4" in first.memory.message
    last = ask(seen, record("web", memory=first.memory), NOW + 60)
    assert last.memory.outcome is RebalanceOutcome.BLOCKED
    assert last.memory.moves[0].ended == "Budget"


def test_a_budget_that_can_never_let_go_is_not_waited_for() -> None:
    seen = cluster(*deployment(replicas=4), *replicas(4), budgets=(budget(allowed=0),))
    verdict = ask(seen, record("web"))
    assert verdict.memory.outcome is RebalanceOutcome.BLOCKED
    assert kept(verdict) == {f"web-{number}": "Budget" for number in range(4)}


def test_two_budgets_on_a_pod_are_final_and_both_are_named() -> None:
    both = (budget("one", allowed=1), budget("two", allowed=1))
    seen = cluster(*deployment(replicas=4), *replicas(4), budgets=both)
    verdict = ask(seen, record("web"))
    assert verdict.memory.outcome is RebalanceOutcome.BLOCKED
    assert "default/one and default/two" in verdict.memory.message


def test_two_workloads_of_one_budget_do_not_spend_it_twice() -> None:
    shared = budget(allowed=1, expected=8, selector=LabelSelector())
    seen = cluster(
        steered(),
        *deployment("x", replicas=4),
        *deployment("y", replicas=4),
        *replicas(4, "x"),
        *replicas(4, "y"),
        budgets=(shared,),
    )
    verdict = ask(seen, record("x", "y"))
    assert names(verdict) == ["x-0"]
    again = ask(seen, record("x", "y", memory=verdict.memory), NOW + 0.1)
    assert names(again) == []


def test_a_single_replica_behind_its_budget_is_named_although_nothing_is_uneven() -> None:
    alone = budget(allowed=0, expected=1, needed=1, healthy=1)
    seen = cluster(*deployment(), *replicas(1), budgets=(alone,))
    verdict = ask(seen, record("web"))
    assert verdict.memory.outcome is RebalanceOutcome.BALANCED
    assert kept(verdict) == {"web-0": "Budget"}


# --- Its beginning and its end --------------------------------------------------------------------


def test_pods_that_are_still_starting_are_waited_for() -> None:
    young = replicas(4, created=NOW - 1, is_ready=False)
    seen = cluster(steered(), *deployment(replicas=4), *young)
    verdict = ask(seen, record("web"))
    assert verdict.memory.outcome is None
    assert names(verdict) == []
    assert verdict.wake_at == NOW - 1 + failover.STARTING_SECONDS


@pytest.mark.parametrize("lost", ["a", "b"])
def test_another_loss_ends_it_at_once(lost: str) -> None:
    seen = cluster(steered(), failure(node=lost), *deployment(replicas=4), *replicas(4))
    verdict = ask(seen, record("web", memory=memory(moves=(asked(),))))
    assert verdict.is_over
    assert verdict.memory.outcome is RebalanceOutcome.INTERRUPTED
    assert not verdict.is_steered


def test_it_is_over_when_the_steering_and_the_lift_are_undone() -> None:
    done = memory(outcome=RebalanceOutcome.BALANCED, ended_at=NOW)
    lifted = core.Limit("default", constants.QUOTA_NAME, device="ase", lifted_for="a-1")
    assert not ask(cluster(steered()), record(memory=done), NOW + 1).is_over
    assert not ask(cluster(quotas=(lifted,)), record(memory=done), NOW + 1).is_over
    assert ask(cluster(), record(memory=done), NOW + 1).is_over
    # A namespace that refuses its quota does not hold it open for ever.
    assert ask(cluster(quotas=(lifted,)), record(memory=done), NOW + 11).is_over
    assert ask(cluster(steered()), record(memory=done), NOW + 1).evictions == ()


# --- Many turns -----------------------------------------------------------------------------------


@dataclass
class Model:
    """A cluster of replicas in which evictions, placement and readiness are played."""

    draw: Any
    counts: list[int]
    limits: list[int | None]
    alive: dict[str, core.Pod] = field(default_factory=dict)
    serial: int = 0
    evicted: int = 0

    def __post_init__(self) -> None:
        for index, count in enumerate(self.counts):
            for one in replicas(count, f"w{index}"):
                self.alive[one.uid] = one

    def of(self, index: int) -> list[core.Pod]:
        return [one for one in self.alive.values() if one.labels["app"] == f"w{index}"]

    def budgets(self) -> tuple[Budget, ...]:
        found = []
        for index, limit in enumerate(self.limits):
            if limit is None:
                continue
            healthy = sum(one.is_serving for one in self.of(index))
            needed = max(0, self.counts[index] - limit)
            found.append(
                budget(
                    f"w{index}",
                    allowed=max(0, healthy - needed),
                    expected=self.counts[index],
                    needed=needed,
                    healthy=healthy,
                    selector=LabelSelector(match_labels={"app": f"w{index}"}),
                )
            )
        return tuple(found)

    def snapshot(self, *, is_steered: bool) -> Snapshot:
        parts = [
            one
            for index, count in enumerate(self.counts)
            for one in deployment(f"w{index}", replicas=count)
        ]
        nodes = [steered()] if is_steered else []
        short = device(spec={"timing": {"profile": "Fast", "drainTimeoutSeconds": 20}})
        return cluster(short, *nodes, *parts, *self.alive.values(), budgets=self.budgets())

    def evict(self, uid: str, now: float) -> None:
        gone = self.alive.pop(uid)
        index = int(gone.labels["app"][1:])
        limit = self.limits[index]
        serving = sum(one.is_serving for one in self.of(index))
        assert limit is None or serving >= self.counts[index] - limit, "a budget was violated"
        self.serial += 1
        self.evicted += 1
        to = self.draw(st.sampled_from(["na", "na", "nb"]))
        new = replica(
            100 + self.serial,
            f"w{index}",
            node=to,
            is_ready=False,
            created=now,
            labels=gone.labels,
            requests=CPU,
        )
        self.alive[new.uid] = new

    def get_ready(self) -> None:
        for uid, one in list(self.alive.items()):
            if not one.is_ready and self.draw(st.booleans()):
                self.alive[uid] = replace(one, is_ready=True)

    def missing(self) -> list[int]:
        return [
            index
            for index, count in enumerate(self.counts)
            if sum(one.is_serving for one in self.of(index)) < count
        ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_return_ends_bounded_and_a_second_one_moves_nothing(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    limits = data.draw(
        st.lists(st.none() | st.integers(0, 2), min_size=len(counts), max_size=len(counts))
    )
    model = Model(data.draw, counts, limits)
    of = record(*(f"w{index}" for index in range(len(counts))))
    now, is_steered = NOW, False
    for _ in range(200):
        verdict = ask(model.snapshot(is_steered=is_steered), of, now)
        of = of.model_copy(update={"rebalance": verdict.memory})
        if verdict.memory.outcome is not None:
            break
        is_steered = verdict.is_steered
        for one in verdict.evictions:
            model.evict(one.uid, now)
        assert len(model.missing()) <= rebalance.MOST_IN_FLIGHT
        for index, count in enumerate(counts):
            assert sum(one.is_serving for one in model.of(index)) >= count - 1
        model.get_ready()
        now += 1
    assert verdict.memory.outcome is not None
    assert model.evicted <= sum(count // 2 + 1 for count in counts)
    seen = model.snapshot(is_steered=True)
    assert ask(seen, of, now).evictions == ()
    if verdict.memory.outcome is RebalanceOutcome.BALANCED:
        fresh = ask(seen, record(*(f"w{index}" for index in range(len(counts)))), now + 100)
        assert fresh.evictions == ()
