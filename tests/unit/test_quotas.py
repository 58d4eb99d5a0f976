"""Somebody else's ResourceQuota at a failover: who is let in, who is refused, who says so (C10)."""

from dataclasses import replace
from typing import Any

import pytest

from asetwin.model import drains, failover, quotas, readiness, rebalance
from asetwin.model.facts import gather
from asetwin.model.references import resolve
from asetwin.model.snapshot import Snapshot
from asetwin.resources import charges, core
from asetwin.resources.core import Requirement
from asetwin.resources.devices import Failover, FailoverPhase, PodProblem, PowerState
from asetwin.resources.updates import Drain
from unit.builders import (
    GPU,
    NOW,
    ase_node,
    cluster,
    condition,
    deployment,
    device,
    failure,
    node,
    owner,
    pod,
    pods,
    replica,
    views,
    worker,
)

UP = [condition(one) for one in ("Available", "WorkerReady")]
BOTH = (ase_node("a", conditions=UP), ase_node("b", conditions=UP))
OUT_MARK = '{"device":"ase","cordon":true}'
LOST = (failure(component="Node"), worker("wa", power=PowerState.OFF), node("na", owned=OUT_MARK))
FULL = {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}


def tenant(name: str = "tenant", **hard: str) -> core.Limit:
    return core.Limit("default", name, f"uid-{name}", hard=hard)


def loss_of_a(*objects: Any, limits: tuple[core.Limit, ...], **fields: Any) -> list[PodProblem]:
    """What the preview says of the loss of a."""
    readiness._memory.clear()
    seen = cluster(*BOTH, *objects, quotas=limits, **fields)
    loss = gather(seen.devices["ase"], seen, resolve(seen), NOW).if_lost["a"].loss
    return list(loss.problems) if loss else []


def read(**spec: Any) -> core.Pod:
    """A pod as the API server would store it, on a."""
    body = {
        "metadata": {"namespace": "default", "name": "p", "uid": "u"},
        "spec": {"nodeName": "na", **spec},
        "status": {"phase": "Running"},
    }
    return replace(core.Pod.read(body), owner=owner("ReplicaSet", "web-rs"))


# --- Before the loss ------------------------------------------------------------------------------


def test_a_full_quota_lets_the_replacement_in_because_the_pod_before_it_is_gone() -> None:
    web = [*deployment(replicas=2), replica(0), replica(1, node="nb")]
    assert loss_of_a(*web, limits=(tenant(pods="2"),)) == []


def test_a_quota_below_its_usage_refuses_the_replacement() -> None:
    web = [*deployment(replicas=3), replica(0), replica(1), replica(2, node="nb")]
    problems = loss_of_a(*web, limits=(tenant(pods="2"),))
    assert [(one.pod, one.reason, one.message) for one in problems] == [
        ("default/web-1", "Quota", "needs 1 pods, the ResourceQuota tenant has 0 of 2 left")
    ]


def test_a_pod_that_a_quota_refuses_drives_nobody_out() -> None:
    """Priority counts for the scheduler, which never sees a pod that was not created."""
    room = {"allocatable": {"cpu": 4000, "memory": 8, "pods": 110, GPU: 1}}
    vital = core.Demands(priority=1_000_000)
    scene = [
        node("na", **room),
        node("nb", **room),
        *deployment("infer"),
        replica(0, "infer", requests={GPU: 1}, demands=vital),
        replica(0, "train", node="nb", requests={GPU: 1}, namespace="other"),
    ]
    assert [(one.pod, one.reason) for one in loss_of_a(*scene, limits=())] == [
        ("other/train-0", "GPU")
    ]
    refused = loss_of_a(*scene, limits=(tenant(**{f"requests.{GPU}": "0"}),))
    assert [(one.pod, one.reason) for one in refused] == [("default/infer-0", "Quota")]


def test_our_own_quota_is_lifted_by_then_and_refuses_nobody() -> None:
    ours = core.Limit("default", "asetwin-reserve", "u", device="ase", hard={"pods": "0"})
    others = replace(ours, device="another")
    web = [*deployment(), replica(0)]
    assert loss_of_a(*web, limits=(ours,)) == []
    # A device that is gone does not limit any more; one that is there does.
    assert loss_of_a(*web, limits=(others,)) == []
    both = loss_of_a(*web, device("another"), limits=(others,))
    assert [one.reason for one in both] == ["Quota"]


def test_the_verdict_names_the_quota() -> None:
    readiness._memory.clear()
    seen = cluster(*BOTH, *deployment(), replica(0), quotas=(tenant(pods="0"),))
    verdict = gather(seen.devices["ase"], seen, resolve(seen), NOW).if_lost["a"]
    assert verdict.message == (
        "1 of 1 pods would not run on b: default/web-0 Quota "
        "(needs 1 pods, the ResourceQuota tenant has 0 of 0 left)"
    )


@pytest.mark.parametrize(
    ("hard", "given", "is_refused"),
    [
        pytest.param({"cpu": "1"}, read(containers=[FULL]), False, id="cpu-fits"),
        pytest.param({"cpu": "999m"}, read(containers=[FULL]), True, id="cpu"),
        pytest.param({"requests.cpu": "999m"}, read(containers=[FULL]), True, id="requests"),
        pytest.param({"limits.cpu": "2"}, read(containers=[FULL]), False, id="limits-fit"),
        pytest.param({"limits.cpu": "1999m"}, read(containers=[FULL]), True, id="limits"),
        pytest.param({"limits.cpu": "9"}, read(containers=[FULL, {}]), True, id="no-limit"),
        pytest.param({"memory": "9Gi"}, read(containers=[FULL]), True, id="no-request"),
        pytest.param(
            {"memory": "9Gi"},
            read(containers=[{"resources": {"limits": {"memory": "1Gi"}}}]),
            False,
            id="a-limit-is-a-request",
        ),
        pytest.param(
            {"limits.cpu": "4"},
            read(containers=[FULL], initContainers=[{**FULL, "restartPolicy": "Always"}, FULL]),
            False,
            id="sidecar-and-init",
        ),
        pytest.param({"count/pods": "0"}, read(containers=[FULL]), True, id="count"),
        pytest.param({"services": "0"}, read(containers=[FULL]), False, id="no-matter-of-pods"),
    ],
)
def test_what_a_quota_counts(hard: dict[str, str], given: core.Pod, is_refused: bool) -> None:
    books = quotas.Books.of([tenant(**hard)], [])
    assert (books.admit(given) is not None) is is_refused


def test_a_limit_range_may_state_what_a_container_leaves_open() -> None:
    limits = [tenant(memory="9Gi")]
    theirs = core.Limit("default", "own")
    ours = core.Limit("default", "asetwin-defaults", device="ase")
    for one, keys in ((theirs, set(charges.MUST_STATE)), (ours, quotas.REQUESTS)):
        given = quotas.defaulted(Snapshot(limit_ranges=(one,)))
        assert given == {"default": keys}
        assert quotas.Books.of(limits, [], defaulted=given).admit(read(containers=[FULL])) is None


@pytest.mark.parametrize(
    ("scope", "spec", "is_counted"),
    [
        (Requirement("BestEffort", "Exists"), {"containers": [{}]}, True),
        (Requirement("BestEffort", "Exists"), {"containers": [FULL]}, False),
        (Requirement("NotBestEffort", "Exists"), {"containers": [FULL]}, True),
        (Requirement("Terminating", "Exists"), {"activeDeadlineSeconds": 5}, True),
        (Requirement("Terminating", "Exists"), {}, False),
        (Requirement("NotTerminating", "Exists"), {}, True),
        (Requirement("PriorityClass", "Exists"), {"priorityClassName": "high"}, True),
        (Requirement("PriorityClass", "Exists"), {}, False),
        (Requirement("PriorityClass", "In", ("high",)), {"priorityClassName": "high"}, True),
        (Requirement("PriorityClass", "In", ("high",)), {"priorityClassName": "low"}, False),
        (Requirement("PriorityClass", "NotIn", ("high",)), {"priorityClassName": "low"}, True),
        (Requirement("PriorityClass", "DoesNotExist"), {}, True),
        (Requirement("VolumeAttributesClass", "Exists"), {}, False),
    ],
)
def test_a_quota_counts_the_pods_in_its_scopes_only(
    scope: Requirement, spec: dict[str, Any], is_counted: bool
) -> None:
    limit = replace(tenant(pods="0"), scopes=(scope,))
    assert (quotas.Books.of([limit], []).admit(read(**spec)) is not None) is is_counted


def test_both_notations_of_scopes_are_read() -> None:
    match = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    spec = {"scopes": ["NotTerminating"], "scopeSelector": {"matchExpressions": [match]}}
    assert charges.scopes(spec) == (
        Requirement("NotTerminating", "Exists"),
        Requirement("PriorityClass", "In", ("high",)),
    )


# --- While the failover is open -------------------------------------------------------------------


def follow(record: Failover, seen: Snapshot, *, now: float = NOW + 1) -> Failover:
    books = quotas.in_force(seen.devices["ase"], seen, now)
    return failover.follow(
        record, views(seen), pods(seen), is_master_ready=True, now=now, books=books
    )


def started(replicas: int = 2) -> Failover:
    seen = cluster(
        *LOST, *deployment(replicas=replicas), replica(0), replica(1, node="nb", is_ready=True)
    )
    return _start(seen)


def _start(seen: Snapshot) -> Failover:
    lost, survivor = views(seen)
    return failover.start(lost, survivor, pods(seen), NOW)


def test_status_names_the_quota_that_keeps_a_replacement_out() -> None:
    seen = cluster(
        *LOST, *deployment(replicas=2), replica(1, node="nb"), quotas=(tenant(pods="1"),)
    )
    after = follow(started(), seen)
    assert after.phase is FailoverPhase.RECOVERED_IN_PART
    assert [(one.pod, one.reason, one.message) for one in after.unplaceable] == [
        ("default/web", "Quota", "needs 1 pods, the ResourceQuota tenant has 0 of 1 left")
    ]


def test_a_replacement_that_is_not_created_yet_is_not_refused_for_that() -> None:
    seen = cluster(
        *LOST, *deployment(replicas=2), replica(1, node="nb"), quotas=(tenant(pods="2"),)
    )
    assert follow(started(), seen).unplaceable == ()


def test_a_dead_pod_is_charged_until_twice_its_grace_is_over() -> None:
    ghost = replica(0, deleting=NOW + 30, grace_seconds=30)
    seen = cluster(
        *LOST, *deployment(replicas=2), ghost, replica(1, node="nb"), quotas=(tenant(pods="2"),)
    )
    blocked = follow(started(), seen, now=NOW + 60)
    assert [one.reason for one in blocked.unplaceable] == ["Quota"]
    assert follow(started(), seen, now=NOW + 60.1).unplaceable == ()
    # As an object it is there all the same.
    counted = replace(seen, quotas=(tenant(**{"count/pods": "2"}),))
    assert len(follow(started(), counted, now=NOW + 60.1).unplaceable) == 1


def test_a_controller_without_any_pod_left_is_judged_by_its_template() -> None:
    body = {
        "metadata": {"namespace": "default", "name": "db", "uid": "uid-StatefulSet-db"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [FULL]}}},
    }
    above = core.Workload.read(body, "StatefulSet")
    before = cluster(*LOST, above, pod("db-0", owner=owner("StatefulSet", "db")))
    record = _start(before)
    seen = cluster(*LOST, above, quotas=(tenant(**{"requests.cpu": "500m"}),))
    assert [(one.pod, one.message) for one in follow(record, seen).unplaceable] == [
        ("default/db", "needs 1 requests.cpu, the ResourceQuota tenant has 500m of 500m left")
    ]


# --- Nothing is moved that would be refused -------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "goes"), [pytest.param("4", True, id="full"), pytest.param("3", False, id="below")]
)
def test_a_pod_goes_back_only_where_its_quota_lets_the_next_one_in(most: str, goes: bool) -> None:
    old: dict[str, Any] = {"created": NOW - 1000, "node": "nb"}
    seen = cluster(
        *deployment(replicas=4), *(replica(n, **old) for n in range(4)), quotas=(tenant(pods=most),)
    )
    record = started(4).model_copy(update={"from_node": "a", "to_node": "b"})
    verdict = rebalance.rule(record, views(seen), pods(seen), seen, seen.devices["ase"], NOW)
    assert verdict.is_steered is goes
    kept = {one.reason for one in verdict.memory.kept}
    assert kept == (set() if goes else {"Quota"})


def test_an_update_waits_for_a_pod_whose_replacement_a_quota_would_refuse() -> None:
    """Evicted, it would be missing for as long as the quota is below its usage."""
    web = [replica(number, created=NOW - 1000) for number in range(2)]
    for most, reasons in (("2", []), ("1", ["Quota", "Quota"])):
        seen = cluster(*deployment(replicas=2), *web, quotas=(tenant(pods=most),))
        leaving, other = views(seen)
        verdict = drains.rule(
            leaving,
            other,
            started(),
            pods(seen),
            seen,
            Drain(since=NOW),
            drains.Request(60.0),
            NOW,
            quotas.in_force(seen.devices["ase"], seen, NOW),
        )
        assert [one.reason for one in verdict.memory.blocked] == reasons
        assert len(verdict.evictions) == (0 if reasons else 1)
