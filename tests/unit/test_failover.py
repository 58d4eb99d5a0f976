"""The loss of a node: what it displaces, when it has come back, and what is said of the rest."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from asetwin import constants
from asetwin.model import failover
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core
from asetwin.resources.core import Pod
from asetwin.resources.devices import Failover, FailoverPhase, FailoverRecord, PowerState
from unit.builders import (
    NOW,
    claim,
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
    volume,
    worker,
    workload,
)

OUT_MARK = '{"device":"ase","cordon":true}'
LOST = (failure(component="Node"), worker("wa", power=PowerState.OFF), node("na", owned=OUT_MARK))
"""Node a is dead, proven to be off, and out of service."""


def start(seen: Snapshot, *, now: float = NOW) -> Failover:
    """The record of the loss of a."""
    lost, survivor = views(seen)
    return failover.start(lost, survivor, pods(seen), now)


def follow(
    record: Failover, seen: Snapshot, *, master: bool = True, now: float = NOW + 1
) -> Failover:
    """The record after one more look."""
    return failover.follow(record, views(seen), pods(seen), is_master_ready=master, now=now)


# --- Whose pod is it ------------------------------------------------------------------------------


def test_the_owner_that_people_know_is_the_deployment() -> None:
    seen = cluster(*deployment("web"), replica(1))
    assert failover.top_owner(seen.pods[0], seen.workloads) == owner("Deployment", "web")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(pod(), None, id="bare"),
        pytest.param(pod(owner=owner("Job", "j")), owner("Job", "j"), id="unwatched-kind"),
        pytest.param(
            pod(owner=owner("ReplicaSet", "gone")), owner("ReplicaSet", "gone"), id="gone"
        ),
        pytest.param(
            pod(owner=owner("ReplicaSet", "alone")), owner("ReplicaSet", "alone"), id="top-already"
        ),
        pytest.param(
            pod(owner=owner("ReplicaSet", "r")), owner("Rollout", "r"), id="owner-is-unwatched"
        ),
    ],
)
def test_the_owner_of_other_pods_is_the_last_that_is_known(given: Pod, expected: Any) -> None:
    seen = cluster(
        workload("ReplicaSet", "alone"),
        workload("ReplicaSet", "r", owner=owner("Rollout", "r")),
        given,
    )
    assert failover.top_owner(given, seen.workloads) == expected


# --- Which pods move, stay, are lost (case C05) ---------------------------------------------------

C05 = {
    "daemonset-pod": pod("ds", owner=owner("DaemonSet", "ds")),
    "mirror-pod": pod("static", is_mirror=True, owner=owner("Node", "na")),
    "bare-running": pod("bare"),
    "bare-succeeded": pod("done", phase="Succeeded"),
    "orphan-of-a-daemonset": pod("orphan", owner=owner("DaemonSet", "gone")),
    "deployment-pod": replica(1),
}


def c05() -> Snapshot:
    return cluster(*LOST, workload("DaemonSet", "ds"), *deployment("web"), *C05.values())


@pytest.mark.parametrize(
    ("name", "is_removed"),
    [
        pytest.param("daemonset-pod", False, id="daemonset-pod"),
        pytest.param("mirror-pod", False, id="mirror-pod"),
        pytest.param("bare-running", True, id="bare-running"),
        pytest.param("bare-succeeded", False, id="bare-succeeded"),
        pytest.param("orphan-of-a-daemonset", True, id="orphan"),
        pytest.param("deployment-pod", True, id="deployment-pod"),
    ],
)
def test_a_crash_removes_what_would_not_run_on(name: str, is_removed: bool) -> None:
    seen = c05()
    moved = failover.movable(pods(seen).by_node["na"], seen.workloads)
    assert (C05[name] in moved) is is_removed


def test_exactly_the_pods_with_a_living_controller_count_as_load_on_the_survivor() -> None:
    record = start(c05())
    assert (record.displaced, [one.name for one in record.workloads]) == (1, ["web"])


def test_pods_that_nothing_recreates_are_named_as_lost() -> None:
    record = start(c05())
    assert (record.lost, record.lost_pods) == (2, ("default/bare", "default/orphan"))


def test_the_master_stand_in_is_no_displaced_workload() -> None:
    record = start(cluster(*LOST, master_pod(1)))
    assert (record.displaced, record.lost) == (0, 0)


@pytest.mark.parametrize("controlled", [True, False])
def test_a_pod_whose_end_somebody_asked_for_is_neither_displaced_nor_lost(controlled: bool) -> None:
    going: dict[str, Any] = {"deleting": NOW + 30, "grace_seconds": 30}
    given = replica(1, **going) if controlled else pod("bare", **going)
    record = start(cluster(*LOST, *deployment(), given))
    assert (record.displaced, record.lost) == (0, 0)
    # But it is removed: its kubelet will never confirm that it has ended.
    assert len(evacuated(cluster(*LOST, *deployment(), given))) == 1


def test_the_list_of_lost_pods_is_bounded_and_their_number_is_not() -> None:
    many = [pod(f"p{number:03}") for number in range(50)]
    record = start(cluster(*LOST, *many))
    assert record.lost == 50
    assert record.lost_pods == tuple(f"default/p{n:03}" for n in range(constants.STATUS_LIST_LIMIT))


# --- The record -----------------------------------------------------------------------------------


def test_a_record_says_what_happened_to_whom() -> None:
    seen = cluster(*LOST, *deployment("web", replicas=2), replica(1), replica(2, node="nb"))
    record = start(seen, now=1_800_000_000.25)
    assert record.id == "a-20270115t080000250z"
    assert (record.from_node, record.to_node) == ("a", "b")
    assert record.trigger == "the whole node failed"
    assert (record.phase, record.detected_at) == (FailoverPhase.FENCING, 1_800_000_000.25)
    (web,) = record.workloads
    assert (web.namespace, web.kind, web.name) == ("default", "Deployment", "web")
    assert (web.displaced, web.want) == (1, 2)


def test_displaced_workloads_are_sorted() -> None:
    owners = [owner("Job", "z"), owner("StatefulSet", "a"), owner("Job", "a")]
    given = [pod(f"p{n}", owner=one) for n, one in enumerate(owners)]
    record = start(cluster(*LOST, *given, pod("q", namespace="aa", owner=owner("Job", "q"))))
    assert [(one.namespace, one.kind, one.name) for one in record.workloads] == [
        ("aa", "Job", "q"),
        ("default", "Job", "a"),
        ("default", "Job", "z"),
        ("default", "StatefulSet", "a"),
    ]


@pytest.mark.parametrize(
    ("given", "is_wanted"),
    [
        pytest.param({}, True, id="serving"),
        pytest.param({"is_ready": False, "created": NOW - 59}, True, id="starting"),
        pytest.param({"is_ready": False, "created": NOW - 60}, False, id="broken-for-long"),
        pytest.param({"deleting": NOW + 30}, False, id="on-its-way-out"),
        pytest.param({"phase": "Failed", "created": NOW}, False, id="ended"),
    ],
)
def test_as_many_are_wanted_back_as_served_or_were_about_to(
    given: dict[str, Any], is_wanted: bool
) -> None:
    seen = cluster(
        *LOST, *deployment("web", replicas=2), replica(1), replica(2, node="nb", **given)
    )
    (web,) = start(seen).workloads
    assert web.want == 1 + is_wanted


# --- Evacuation -----------------------------------------------------------------------------------


def evacuated(seen: Snapshot) -> list[str]:
    """The pods that are deleted, all of them by force."""
    lost = views(seen)[0]
    steps = failover.evacuation(start(seen), lost, pods(seen))
    assert all(one.force and one.why == "a is lost" for one in steps)
    return [one.name for one in steps]


def test_the_master_goes_with_the_other_pods() -> None:
    seen = cluster(*LOST, *deployment(), replica(1), replica(2, node="nb"), master_pod(1))
    assert evacuated(seen) == ["ase-master-1", "web-1"]


@pytest.mark.parametrize(
    ("given", "is_deleted"),
    [
        pytest.param({}, True, id="running"),
        pytest.param({"deleting": NOW + 30, "grace_seconds": 30}, True, id="asked-to-end"),
        pytest.param({"deleting": NOW, "grace_seconds": 0}, False, id="force-deleted-and-held"),
        pytest.param({"is_ready": False}, True, id="not-ready"),
        pytest.param({"phase": "Pending"}, True, id="pending"),
        pytest.param({"phase": "Failed"}, False, id="ended"),
    ],
)
def test_what_is_still_bound_to_the_lost_node_is_deleted(
    given: dict[str, Any], is_deleted: bool
) -> None:
    assert bool(evacuated(cluster(*LOST, *deployment(), replica(1, **given)))) is is_deleted


@pytest.mark.parametrize(
    ("created", "tolerations", "stays"),
    [
        pytest.param(NOW + 9, (core.Toleration(operator="Exists"),), True, id="came-back"),
        pytest.param(NOW - 9, (core.Toleration(operator="Exists"),), False, id="was-there-before"),
        pytest.param(NOW + 9, (), False, id="bound-before-the-cordon-was-seen"),
        pytest.param(
            NOW + 9,
            (core.Toleration("asetwin.dev/node-down", "Exists"),),
            False,
            id="stands-one-taint-only",
        ),
    ],
)
def test_a_pod_that_comes_straight_back_to_the_lost_node_is_named_and_left_alone(
    created: float, tolerations: tuple[core.Toleration, ...], stays: bool
) -> None:
    # C03: it was deleted in every turn, and the scheduler put it there in between.
    before = cluster(*LOST, *deployment(), replica(1, is_ready=True))
    record = follow(start(before), before)
    demands = core.Demands(tolerations=tolerations)
    again = replica(2, created=created, phase="Pending", is_ready=False, demands=demands)
    seen = cluster(*LOST, *deployment(), again)
    lost, _ = views(seen)
    assert bool(failover.evacuation(record, lost, pods(seen))) is not stays
    found = follow(record, seen, now=NOW + 10)
    if stays:
        assert found.phase is FailoverPhase.RECOVERED_IN_PART
        (problem,) = found.unplaceable
        assert (problem.pod, problem.reason) == ("default/web-2", "Taint")
        assert "put it on na again" in problem.message
    else:
        assert found.unplaceable == ()


# --- Phases ---------------------------------------------------------------------------------------


def six(on: str, *, of: int = 6, **fields: Any) -> list[Pod]:
    return [replica(number, node=on, **fields) for number in range(of)]


def test_a_failover_from_loss_to_recovery() -> None:
    controllers = deployment("web", replicas=6)
    unfenced = (failure(component="Node"), worker("wa", power=PowerState.ON), node("na"))
    before = cluster(*unfenced, *controllers, *six("na"))
    record = start(before)
    # 1. Lost, but not proven to be off.
    record = follow(record, before, master=False, now=NOW + 1)
    assert (record.phase, record.fenced_at, record.recovered) == (FailoverPhase.FENCING, None, 0)
    # 2. It is off; its pods are still there.
    record = follow(record, cluster(*LOST, *controllers, *six("na")), master=False, now=NOW + 2)
    assert (record.phase, record.fenced_at) == (FailoverPhase.MOVING, NOW + 2)
    assert record.evacuated_at is None
    # 3. They are gone, and their replacements are starting.
    starting = cluster(*LOST, *controllers, *six("nb", is_ready=False))
    record = follow(record, starting, master=False, now=NOW + 3)
    assert (record.phase, record.evacuated_at) == (FailoverPhase.MOVING, NOW + 3)
    assert (record.displaced, record.recovered, record.pods_ready_at) == (6, 0, None)
    # 4. All are Ready, the master is not.
    moved = cluster(*LOST, *controllers, *six("nb"))
    record = follow(record, moved, master=False, now=NOW + 4)
    assert (record.phase, record.pods_ready_at) == (FailoverPhase.MOVING, NOW + 4)
    assert (record.recovered, record.recovered_at) == (6, None)
    # 5. The master serves.
    record = follow(record, moved, now=NOW + 5)
    assert (record.phase, record.master_ready_at) == (FailoverPhase.RECOVERED, NOW + 5)
    assert record.recovered_at == NOW + 5
    # 6. What becomes of those pods later is not this failover's.
    record = follow(record, cluster(*LOST, *controllers), now=NOW + 60)
    assert (record.phase, record.recovered_at) == (FailoverPhase.RECOVERED, NOW + 5)
    assert record.pods_ready_at == NOW + 4


def test_a_repeated_look_changes_nothing() -> None:
    seen = cluster(*LOST, *deployment("web", replicas=6), *six("nb", of=3))
    once = follow(start(cluster(*LOST, *deployment(), *six("na"))), seen)
    assert follow(once, seen, now=NOW + 99) == once


@pytest.mark.parametrize(
    ("fenced", "out", "left", "is_evacuated"),
    [
        pytest.param(f, o, n, f and o and not n, id=f"fenced={f}-out={o}-left={n}")
        for f, o, n in itertools.product((True, False), (True, False), (0, 1))
    ],
)
def test_evacuated_is_a_node_that_is_off_closed_and_empty(
    fenced: bool, out: bool, left: int, is_evacuated: bool
) -> None:
    seen = cluster(
        failure(component="Node"),
        worker("wa", power=PowerState.OFF if fenced else PowerState.ON),
        node("na", owned=OUT_MARK if out else ""),
        *deployment(),
        *six("na", of=left),
    )
    found = follow(start(seen), seen)
    assert (found.evacuated_at is not None) is is_evacuated


def test_a_loss_without_pods_has_recovered_when_the_master_serves() -> None:
    seen = cluster(*LOST)
    waiting = follow(start(seen), seen, master=False)
    assert waiting.phase is FailoverPhase.MOVING
    assert follow(waiting, seen).phase is FailoverPhase.RECOVERED


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"is_ready": False}, id="not-ready"),
        pytest.param({"deleting": NOW + 30}, id="being-deleted"),
        pytest.param({"node": "na"}, id="on-the-lost-node"),
        pytest.param({"node": "cp"}, id="on-a-node-that-is-no-member"),
        pytest.param({"node": ""}, id="not-placed"),
        pytest.param({"phase": "Failed"}, id="failed"),
        pytest.param({"phase": "Succeeded", "created": NOW - 1}, id="ended-before-the-loss"),
    ],
)
def test_what_does_not_serve_on_a_node_in_service_has_not_come_back(fields: dict[str, Any]) -> None:
    record = start(cluster(*LOST, *deployment(), replica(1)))
    found = follow(record, cluster(*LOST, *deployment(), replica(2, **{"node": "nb", **fields})))
    assert (found.displaced, found.recovered) == (1, 0)
    assert found.phase is not FailoverPhase.RECOVERED


def counted(want: int, displaced: int, ready: int, replicas: int | None) -> tuple[int, int]:
    """Recovered pods and the phase's count, for a Deployment on both nodes."""
    kept = [replica(n, node="nb") for n in range(want - displaced)]
    lost = [replica(n + 100, node="na") for n in range(displaced)]
    controllers = deployment("web", replicas=want)
    record = start(cluster(*LOST, *controllers, *kept, *lost))
    later = deployment("web", replicas=replicas) if replicas is not None else ()
    serving = [replica(n, node="nb") for n in range(ready)]
    found = follow(record, cluster(*LOST, *later, *serving))
    return found.recovered, sum(one.ready for one in found.workloads)


def test_recovered_counts_what_is_missing_of_the_displaced_pods() -> None:
    for want, displaced, ready in itertools.product(range(1, 5), range(1, 5), range(6)):
        if displaced > want:
            continue
        recovered, counted_ready = counted(want, displaced, ready, want)
        missing = min(max(0, want - ready), displaced)
        assert (recovered, counted_ready) == (displaced - missing, ready)


@pytest.mark.parametrize("replicas", [0, 1, 2, 3, None])
def test_what_was_scaled_down_or_deleted_meanwhile_is_not_missed(replicas: int | None) -> None:
    recovered, _ = counted(3, 3, replicas or 0, replicas)
    assert recovered == 3


def test_scaling_up_meanwhile_asks_for_no_more() -> None:
    recovered, _ = counted(2, 2, 2, 9)
    assert recovered == 2


def test_a_rollout_meanwhile_counts_pods_of_the_new_replica_set() -> None:
    above, below = deployment("web", replicas=2)
    newer = replace(below, name="web-new", uid="uid-ReplicaSet-web-new")
    record = start(cluster(*LOST, above, below, replica(1), replica(2)))
    serving = [pod(f"new-{n}", node="nb", owner=owner("ReplicaSet", "web-new")) for n in range(2)]
    found = follow(record, cluster(*LOST, above, below, newer, *serving))
    assert (found.recovered, found.phase) == (2, FailoverPhase.RECOVERED)


def test_a_rollout_with_a_surge_wants_no_more_than_the_replicas() -> None:
    controllers = deployment("web", replicas=2)
    surging = [replica(1), replica(2), replica(3, node="nb")]
    record = start(cluster(*LOST, *controllers, *surging))
    assert record.workloads[0].want == 3
    found = follow(record, cluster(*LOST, *controllers, *six("nb", of=2)))
    assert (found.recovered, found.phase) == (2, FailoverPhase.RECOVERED)


def test_a_job_has_come_back_when_its_new_pod_runs_or_has_succeeded() -> None:
    job = owner("Job", "j")
    record = start(cluster(*LOST, pod("j-1", owner=job)))
    ways: tuple[dict[str, Any], ...] = ({}, {"phase": "Succeeded", "created": NOW})
    for fields in ways:
        found = follow(record, cluster(*LOST, pod("j-2", node="nb", owner=job, **fields)))
        assert (found.recovered, found.phase) == (1, FailoverPhase.RECOVERED)


def test_a_stateful_pod_of_the_same_name_is_another_pod() -> None:
    db = owner("StatefulSet", "db")
    record = start(cluster(*LOST, workload("StatefulSet", "db"), pod("db-0", owner=db)))
    found = follow(
        record,
        cluster(*LOST, workload("StatefulSet", "db"), pod("db-0", node="nb", uid="new", owner=db)),
    )
    assert found.phase is FailoverPhase.RECOVERED


# --- What has no place ----------------------------------------------------------------------------

NO_CPU = (
    "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), "
    "1 node(s) were unschedulable."
)


def stuck(count: int, message: str = NO_CPU) -> list[Pod]:
    return [
        replica(number + 100, node="", phase="Pending", is_ready=False, unschedulable=message)
        for number in range(count)
    ]


def test_recovered_in_part_when_all_that_is_missing_has_no_place() -> None:
    controllers = deployment("web", replicas=6)
    record = start(cluster(*LOST, *controllers, *six("na")))
    found = follow(record, cluster(*LOST, *controllers, *six("nb", of=4), *stuck(2)))
    assert (found.phase, found.recovered) == (FailoverPhase.RECOVERED_IN_PART, 4)
    assert found.unplaceable_count == 2
    assert [(one.pod, one.reason) for one in found.unplaceable] == [
        ("default/web-100", "Capacity"),
        ("default/web-101", "Capacity"),
    ]
    assert found.unplaceable[0].message == NO_CPU


def test_still_moving_while_one_is_merely_starting() -> None:
    controllers = deployment("web", replicas=6)
    record = start(cluster(*LOST, *controllers, *six("na")))
    found = follow(record, cluster(*LOST, *controllers, *six("nb", of=4), *stuck(1)))
    assert found.phase is FailoverPhase.MOVING


def test_recovered_after_all_when_room_is_made() -> None:
    controllers = deployment("web", replicas=2)
    record = start(cluster(*LOST, *controllers, *six("na", of=2)))
    found = follow(record, cluster(*LOST, *controllers, *six("nb", of=1), *stuck(1)))
    assert found.phase is FailoverPhase.RECOVERED_IN_PART
    found = follow(found, cluster(*LOST, *controllers, *six("nb", of=2)), now=NOW + 9)
    assert (found.phase, found.recovered_at) == (FailoverPhase.RECOVERED, NOW + 9)
    assert (found.unplaceable_count, found.unplaceable) == (0, ())


def test_pending_pods_of_others_and_surplus_ones_are_no_problem_of_this_failover() -> None:
    controllers = deployment("web", replicas=2)
    record = start(cluster(*LOST, *controllers, *six("na", of=1)))
    other = pod("other", node="", unschedulable=NO_CPU)
    found = follow(record, cluster(*LOST, *controllers, *six("nb", of=1), *stuck(1), other))
    assert (found.unplaceable_count, found.phase) == (0, FailoverPhase.RECOVERED)


def test_a_pod_whose_volume_stays_on_the_lost_node_is_named_at_once() -> None:
    on_a = ((core.Requirement("metadata.name", "In", ("na",)),),)
    local = (volume("disk-1", device="", node_terms=on_a), claim("data", volume="disk-1"))
    controllers = deployment("web", replicas=1)
    record = start(cluster(*LOST, *controllers, *local, *six("na", of=1)))
    pending = replica(1, node="", phase="Pending", is_ready=False, claims=("data",))
    # Before the scheduler has said anything, and whatever it names first.
    for message in ("", NO_CPU):
        seen = cluster(*LOST, *controllers, *local, replace(pending, unschedulable=message))
        (found,) = follow(record, seen).unplaceable
        assert (found.pod, found.reason) == ("default/web-1", "NodeLocalVolume")
        assert found.message == "claim data is bound to disk-1, which stays on na"
    share = (volume("data"), claim("data"))
    assert not follow(record, cluster(*LOST, *controllers, *share, pending)).unplaceable


def test_the_list_of_misfits_is_bounded_and_their_number_and_messages_are_told() -> None:
    controllers = deployment("web", replicas=50)
    record = start(cluster(*LOST, *controllers, *six("na", of=50)))
    found = follow(record, cluster(*LOST, *controllers, *stuck(50, "x" * 999)))
    assert found.unplaceable_count == 50
    assert len(found.unplaceable) == constants.STATUS_LIST_LIMIT
    assert all(len(one.message) == 300 for one in found.unplaceable)


# --- Beginning and end ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "pair"),
    [
        pytest.param((), None, id="nothing-lost"),
        pytest.param(LOST, ("a", "b"), id="a-lost"),
        pytest.param((failure(node="b"),), ("b", "a"), id="b-lost"),
        pytest.param((failure("fa"), failure("fb", node="b")), None, id="nobody-left"),
        pytest.param((failure(), node("nb", is_ready=False)), None, id="survivor-not-ready"),
        pytest.param((failure(component="PSU1"),), None, id="only-degraded"),
    ],
)
def test_a_failover_starts_with_one_lost_and_one_in_service(
    objects: tuple[Any, ...], pair: tuple[str, str] | None
) -> None:
    found = failover.to_start(views(cluster(*objects)))
    assert (found and (found[0].name, found[1].name)) == pair


def test_a_device_of_one_node_has_nowhere_to_fail_over_to() -> None:
    seen = cluster(failure(), without=["b", "wb", "nb"])
    assert failover.to_start(views(seen)) is None


@pytest.mark.parametrize(
    ("seen", "is_over"),
    [
        pytest.param(cluster(*LOST), False, id="lost"),
        pytest.param(cluster(node("na", owned=OUT_MARK)), False, id="returning"),
        pytest.param(cluster(), True, id="back-in-service"),
        pytest.param(cluster(without=["a", "wa"]), True, id="no-member-any-more"),
        pytest.param(cluster(without=["wa"]), True, id="no-worker-any-more"),
        pytest.param(cluster(without=["na"]), True, id="no-node-any-more"),
    ],
)
def test_it_is_over_when_its_node_is_back_or_gone(seen: Snapshot, is_over: bool) -> None:
    record = start(cluster(*LOST))
    assert failover.is_back(record, views(seen)) is is_over


def test_the_closed_record_keeps_what_history_shows() -> None:
    seen = cluster(*LOST, *deployment(), replica(1, node="nb"))
    record = follow(start(cluster(*LOST, *deployment(), replica(1))), seen)
    closed = failover.close(record, NOW + 99)
    assert closed.ended_at == NOW + 99
    kept = set(FailoverRecord.model_fields) - {"ended_at"}
    assert {name: getattr(closed, name) for name in kept} == {
        name: getattr(record, name) for name in kept
    }


def test_a_node_repaired_before_its_pods_were_moved_is_told_apart() -> None:
    closed = failover.close(start(cluster(*LOST)), NOW + 1)
    assert closed.phase is FailoverPhase.REPAIRED


def test_history_keeps_the_last_ten() -> None:
    records: Sequence[FailoverRecord] = ()
    for number in range(15):
        record = start(cluster(*LOST), now=NOW + number)
        one = device(status={"history": [entry.wire() for entry in records]})
        records = failover.remember(one, failover.close(record, NOW + number))
    assert [one.ended_at for one in records] == [NOW + number for number in range(14, 4, -1)]
    assert len(records) == constants.HISTORY_LIMIT
