"""May a node be lost now, and if not, who would not run (design 4.8, C05, C16, C18)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asetwin.model import decide, losses, readiness
from asetwin.model.facts import gather
from asetwin.model.plan import WriteStatus
from asetwin.model.references import resolve
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core
from asetwin.resources.budgets import Budget
from asetwin.resources.conditions import Reason
from asetwin.resources.devices import LabelSelector
from unit.builders import (
    ANY_SPEED,
    GPU,
    NOW,
    ase_node,
    claim,
    cluster,
    condition,
    deployment,
    device,
    master_pod,
    node,
    owner,
    pod,
    replica,
    volume,
    workload,
)

ROOM = {"cpu": 4000, "memory": 8, "pods": 110, GPU: 1}


def ask(seen: Snapshot) -> dict[str, readiness.Verdict]:
    facts = gather(seen.devices["ase"], seen, resolve(seen), NOW)
    return facts.if_lost


def told(seen: Snapshot, name: str = "a") -> list[tuple[str, str]]:
    loss = ask(seen)[name].loss
    return [(one.pod, one.reason) for one in loss.problems] if loss else []


def serving(*objects: Any, without: tuple[str, ...] = (), **fields: Any) -> Snapshot:
    """The standard device with both nodes in service."""
    up = [condition(one) for one in ("Available", "WorkerReady")]
    nodes = [ase_node(name, conditions=up) for name in "ab" if name not in without]
    return cluster(*nodes, *objects, without=without, **fields)


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    readiness._memory.clear()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        pytest.param("node.kubernetes.io/not-ready", Reason.EVERY_POD_FITS, id="not-ready"),
        pytest.param("node.kubernetes.io/unreachable", Reason.EVERY_POD_FITS, id="unreachable"),
        pytest.param("node.kubernetes.io/unschedulable", Reason.EVERY_POD_FITS, id="uncordoned"),
        pytest.param("node.kubernetes.io/disk-pressure", Reason.PODS_WOULD_NOT_RUN, id="pressure"),
        pytest.param("somebody/else", Reason.PODS_WOULD_NOT_RUN, id="foreign"),
    ],
)
def test_a_taint_that_kubernetes_takes_off_a_ready_node_in_a_moment_is_no_risk(
    key: str, reason: Reason
) -> None:
    # A node had just returned, and for a tenth of a second no pod would have run there.
    tainted = node("nb", allocatable=ROOM, taints=(core.Taint(key, "NoSchedule"),))
    web = (*deployment("web", replicas=1), replica(0, "web", requests={"cpu": 100}))
    seen = serving(node("na", allocatable=ROOM), tainted, *web)
    assert ask(seen)["a"].reason is reason


def test_the_taint_of_a_cordon_that_is_there_is_a_risk() -> None:
    cordon = core.Taint("node.kubernetes.io/unschedulable", "NoSchedule")
    cordoned = node("nb", allocatable=ROOM, taints=(cordon,), unschedulable=True)
    web = (*deployment("web", replicas=1), replica(0, "web", requests={"cpu": 100}))
    seen = serving(node("na", allocatable=ROOM), cordoned, *web)
    assert ask(seen)["a"].reason is Reason.PODS_WOULD_NOT_RUN


def test_two_empty_nodes_may_be_lost() -> None:
    verdicts = ask(serving())
    assert [one.is_ready for one in verdicts.values()] == [True, True]
    whole = readiness.summarize(verdicts)
    assert whole is not None
    assert (whole.is_ready, whole.message) == (True, "every pod would run without a or b")


def test_what_does_not_fit_is_named_and_counted() -> None:
    room = {"allocatable": ROOM}
    seen = serving(
        node("na", **room),
        node("nb", **room),
        *deployment("infer", replicas=1),
        *deployment("train", replicas=1),
        replica(0, "infer", requests={GPU: 1}),
        replica(0, "train", node="nb", requests={GPU: 1}),
        replica(1, "train", requests={"cpu": 100}),
    )
    verdict = ask(seen)["a"]
    assert (verdict.is_ready, verdict.reason) == (False, Reason.PODS_WOULD_NOT_RUN)
    assert verdict.message == (
        "1 of 2 pods would not run on b: default/infer-0 GPU (needs 1, b has 0 free)"
    )
    whole = readiness.summarize(ask(seen))
    assert whole is not None
    assert whole.message.startswith("without a: 1 of 2 pods")


def test_a_more_important_pod_would_drive_another_out() -> None:
    room = {"allocatable": ROOM}
    vital = core.Demands(priority=10)
    seen = serving(
        node("na", **room),
        node("nb", **room),
        replica(0, "infer", requests={GPU: 1}, demands=vital),
        replica(0, "train", node="nb", requests={GPU: 1}),
    )
    (problem,) = (ask(seen)["a"].loss or pytest.fail("ready")).problems
    assert (problem.pod, problem.reason) == ("default/train-0", "GPU")
    assert problem.message == "a more important pod takes its place; needs 1, b has 0 free"
    never = replace(vital, preempts=False)
    kept = replace(
        seen,
        pods=tuple(
            replace(one, demands=never) if one.name == "infer-0" else one for one in seen.pods
        ),
    )
    assert told(kept) == [("default/infer-0", "GPU")]


def test_what_moves_what_stays_and_what_is_lost() -> None:
    """The six pods of C05: one moves, two are lost, three are none of the survivor's business."""
    tiny = {"na": node("na"), "nb": node("nb", allocatable={"cpu": 100, "memory": 8, "pods": 2})}
    daemons = workload("DaemonSet", "agent")
    seen = serving(
        *tiny.values(),
        daemons,
        *deployment("web"),
        pod("agent-x", owner=owner("DaemonSet", "agent")),
        pod("static", is_mirror=True),
        pod("bare"),
        pod("done", phase="Succeeded"),
        pod("orphan-x", owner=owner("DaemonSet", "gone")),
        replica(0, requests={"cpu": 100}),
    )
    assert told(seen) == [("default/bare", "NoController"), ("default/orphan-x", "NoController")]
    assert ask(seen)["a"].message.startswith("2 of 3 pods would not run on b: ")


def test_pods_may_be_short_where_cpu_and_memory_are_not() -> None:
    """60 pods on each node, 4 of them of a DaemonSet, and 30 that have ended (C16)."""
    objects: list[Any] = [workload("DaemonSet", "agent"), *deployment("web", replicas=112)]
    for at in ("na", "nb"):
        objects += [
            pod(f"agent-{at}-{number}", node=at, owner=owner("DaemonSet", "agent"))
            for number in range(4)
        ]
        objects += [replica(number, f"web-{at}", node=at) for number in range(56)]
    objects += [replica(number, "old", node="nb", phase="Succeeded") for number in range(30)]
    verdict = ask(serving(*objects))["a"]
    assert verdict.loss is not None
    assert {one.reason for one in verdict.loss.problems} == {"PodSlots"}
    assert (verdict.loss.pods, verdict.loss.problem_count) == (56, 6)


def test_the_list_is_bounded_and_the_rest_is_counted() -> None:
    pods = [pod(f"bare-{number:02}") for number in range(30)]
    verdict = ask(serving(*pods))["a"]
    assert verdict.loss is not None
    assert (len(verdict.loss.problems), verdict.loss.problem_count) == (20, 30)
    assert verdict.message.endswith("default/bare-04 NoController and 25 more")


def test_a_volume_of_one_node_holds_its_pod_there() -> None:
    here = core.Requirement("kubernetes.io/hostname", "In", ("na",))
    seen = serving(
        node("na", labels={"kubernetes.io/hostname": "na"}),
        node("nb", labels={"kubernetes.io/hostname": "nb"}),
        volume("disk", device="", node_terms=((here,),)),
        claim("disk"),
        replica(0, "db", claims=("disk",)),
    )
    assert told(seen) == [("default/db-0", "NodeLocalVolume")]
    assert told(seen, "b") == []


def test_the_master_takes_room_on_the_survivor() -> None:
    small = {"cpu": 100, "memory": 8, "pods": 9}
    seen = serving(
        node("na", allocatable=small),
        node("nb", allocatable=small),
        master_pod(1, requests={"cpu": 60}),
        replica(0, requests={"cpu": 60}),
    )
    assert told(seen) == [("default/web-0", "Capacity")]


def test_a_pod_may_also_go_to_a_node_that_is_none_of_the_devices() -> None:
    seen = serving(
        node("nc"),
        node("nb", allocatable={"cpu": 1, "memory": 1, "pods": 9}),
        replica(0, requests={"cpu": 60}),
    )
    assert told(seen) == []


def test_what_waits_already_competes_and_is_not_reported() -> None:
    seen = serving(
        node("na"),
        node("nb", allocatable={"cpu": 100, "memory": 8, "pods": 9}),
        replica(0, requests={"cpu": 60}, created=2.0),
        pod("waits", node="", phase="Pending", requests={"cpu": 60}, created=1.0),
    )
    assert told(seen) == [("default/web-0", "Capacity")]


def test_a_device_that_would_lose_its_quorum_is_not_ready() -> None:
    witness = {"witness": {"type": "Cloud", "online": False}}
    verdicts = ask(serving(device(spec=witness)))
    assert verdicts["a"].reason is Reason.QUORUM_AT_RISK
    assert verdicts["b"].is_ready is True


def test_one_node_has_nowhere_to_go() -> None:
    (verdict,) = ask(serving(without=("b", "wb"))).values()
    assert (verdict.is_ready, verdict.reason) == (False, Reason.SINGLE_NODE)


def test_beside_a_node_that_is_out_of_service_none_may_be_lost() -> None:
    verdicts = ask(serving(without=("wb",)))
    assert (verdicts["a"].is_ready, verdicts["a"].reason) == (False, Reason.NO_SURVIVOR)
    assert (verdicts["b"].is_ready, verdicts["b"].reason) == (None, Reason.OUT_OF_SERVICE)


def test_the_same_cluster_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = losses.foresee

    def counted(scene: Any, lost: str, survivors: Any) -> Any:
        asked.append(lost)
        return real(scene, lost, survivors)

    monkeypatch.setattr(losses, "foresee", counted)
    seen = serving(replica(0))
    ask(seen)
    # A heartbeat: another version of a Node, and new containers around the same objects.
    ask(replace(seen, nodes={**seen.nodes, "na": replace(seen.nodes["na"], resource_version="8")}))
    assert asked == ["na", "nb"]
    ask(replace(seen, pods=(*seen.pods, replica(1))))
    assert asked == ["na", "nb", "na", "nb"]


# --- Properties -----------------------------------------------------------------------------------

Row = tuple[str, int, int, int, bool]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["na", "nb"]),
        st.integers(0, 40),
        st.integers(0, 2),
        st.integers(0, 2),
        st.booleans(),
    ),
    max_size=8,
)


def filled(rows: list[Row], cpu: int = 100, pods: int = 6) -> Snapshot:
    apart = core.Demands.read(
        {
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app": "lonely"}},
                        }
                    ]
                }
            }
        },
        {"namespace": "default"},
    )
    objects = [
        replica(
            number,
            node=at,
            requests={"cpu": amount, GPU: gpus} if gpus else {"cpu": amount},
            demands=replace(apart if is_lonely else core.Demands(), priority=rank),
            labels={"app": "lonely"} if is_lonely else {},
        )
        for number, (at, amount, gpus, rank, is_lonely) in enumerate(rows)
    ]
    room = {"cpu": cpu, "memory": 8, "pods": pods, GPU: 2}
    for at in ("na", "nb"):
        own = [row for row in rows if row[0] == at]
        # What runs already has fitted.
        assume(sum(row[1] for row in own) <= 100)
        assume(sum(row[2] for row in own) <= 2)
        assume(len(own) <= 6)
    nodes = [
        node(name, allocatable=room, labels={"kubernetes.io/hostname": name})
        for name in ("na", "nb")
    ]
    return serving(*nodes, *objects)


@ANY_SPEED
@given(ROWS)
def test_it_is_never_ready_when_the_sum_does_not_fit(rows: list[Row]) -> None:
    seen = filled(rows)
    amounts = {
        "cpu": sum(row[1] for row in rows),
        GPU: sum(row[2] for row in rows),
        "pods": len(rows),
    }
    offered = seen.nodes["na"].allocatable
    does_fit = all(amounts[name] <= offered[name] for name in amounts)
    for verdict in ask(seen).values():
        assert does_fit or not verdict.is_ready


@ANY_SPEED
@given(ROWS, st.integers(0, 100), st.integers(0, 5))
def test_more_capacity_never_makes_a_ready_node_unready(
    rows: list[Row], cpu: int, pods: int
) -> None:
    before, after = ask(filled(rows)), ask(filled(rows, 100 + cpu, 6 + pods))
    for name, verdict in before.items():
        assert after[name].is_ready or not verdict.is_ready


@ANY_SPEED
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(rows: list[Row], rng: Any) -> None:
    seen = filled(rows)
    shuffled = list(seen.pods)
    rng.shuffle(shuffled)
    assert ask(replace(seen, pods=tuple(shuffled))) == ask(seen)


def test_a_guarded_pod_is_spared_where_another_will_do() -> None:
    held = Budget(
        "default", "keep", "u", LabelSelector(match_labels={"app": "kept"}), needed=1, expected=1
    )
    seen = serving(
        node("na", allocatable={"cpu": 100, "memory": 8, "pods": 9}),
        node("nb", allocatable={"cpu": 100, "memory": 8, "pods": 9}),
        replica(0, requests={"cpu": 50}, demands=core.Demands(priority=9)),
        replica(1, node="nb", requests={"cpu": 50}, labels={"app": "kept"}),
        replica(2, node="nb", requests={"cpu": 50}),
        budgets=(held,),
    )
    assert told(seen) == [("default/web-2", "Capacity")]


def test_decide_writes_it_to_the_device_and_its_nodes() -> None:
    seen = serving(device(finalizers=["asetwin.dev/cleanup"]), pod("bare"))
    plan = decide.decide(seen, "ase", NOW)
    written = {
        step.name: step.patch
        for stage in plan.stages
        for step in stage
        if isinstance(step, WriteStatus) and "conditions" in step.patch
    }
    for name in ("ase", "a"):
        found = {one["type"]: one["status"] for one in written[name]["conditions"]}
        assert found["FailoverReady"] == "False"
    assert written["a"]["ifLost"]["problems"][0]["pod"] == "default/bare"
