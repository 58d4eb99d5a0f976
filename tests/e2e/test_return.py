"""A node comes back: pods return to it, budgets held, and nothing moves that cannot (C24, C18)."""

import json
import subprocess
import time

import pytest

from e2e.twin import DEVICE, NODE_A, NODE_B, Json, Twin, is_ready
from e2e.workloads import (
    GPU,
    HOSTNAME,
    budget,
    deployment,
    of,
    places,
    preferred,
    required,
    uids,
    wait_moved_to,
    with_gpu,
)


def watch_until_steady(twin: Twin, app: str, within: float = 120) -> list[int]:
    """How many pods were Ready at each look, until the device is steady."""
    seen, deadline = [], time.monotonic() + within
    while "failover" in twin.status():
        seen.append(sum(is_ready(pod) for pod in of(twin, app)))
        assert time.monotonic() < deadline, twin.describe()
        time.sleep(0.05)
    return seen


def rebalanced(twin: Twin) -> Json:
    return twin.condition("AseDevice", DEVICE, "Rebalanced")


def test_pods_go_back_one_by_one_and_their_budget_holds(twin: Twin) -> None:
    twin.apply(deployment(twin, "web", 6), budget(twin, "web", "web", minAvailable=5))
    twin.wait("six pods", lambda: len(places(twin, "web")) == 6, within=60)
    twin.fail(NODE_A, "Node")
    wait_moved_to(twin, NODE_B, web=6)
    before = uids(twin, "web")

    twin.repair_all()
    ready = watch_until_steady(twin, "web")

    assert min(ready) >= 5, ready
    assert places(twin, "web") == [NODE_A] * 3 + [NODE_B] * 3
    assert len(before - uids(twin, "web")) == 3
    twin.wait("no taint", lambda: "rebalancing" not in str(twin.footprint()))
    twin.wait(
        "the reserve to be kept again",
        lambda: twin.get("ResourceQuota", "asetwin-reserve", twin.namespace)["spec"].get("hard"),
    )
    told = twin.status()["history"][0]["rebalance"]
    assert (told["outcome"], told["moved"]) == ("Balanced", 3)
    assert rebalanced(twin)["reason"] == "Balanced"
    told_of = ("Rebalancing", "Rebalanced", "ReserveRestored")

    def is_told() -> bool:
        story = [one for one in twin.events("AseDevice", DEVICE) if one in told_of][-3:]
        # The last two are told in one turn, at one moment.
        return story[:1] == ["Rebalancing"] and set(story) == set(told_of)

    twin.wait("the Events of the return", is_told)
    # A second look finds nothing to do.
    after = uids(twin, "web")
    time.sleep(5)
    assert uids(twin, "web") == after


def test_only_what_fits_and_is_free_to_go_is_moved_back(twin: Twin) -> None:
    """C24, with the real scheduler deciding where a replacement goes."""
    a, b = twin.nodes[NODE_A], twin.nodes[NODE_B]
    twin.apply(
        deployment(twin, "plain", 4),
        deployment(twin, "pinned", 1, affinity=required(b)),
        deployment(twin, "alone", 1, affinity=preferred(a)),
        deployment(twin, "fond", 2),
        deployment(twin, "attached", 2),
        budget(twin, "alone", "alone", minAvailable=1),
    )
    counts = {"plain": 4, "pinned": 1, "alone": 1, "fond": 2, "attached": 2}
    twin.wait(
        "all pods", lambda: all(len(places(twin, app)) == n for app, n in counts.items()), within=90
    )
    assert places(twin, "alone") == [NODE_A]
    twin.fail(NODE_A, "Node")
    wait_moved_to(twin, NODE_B, **counts)
    # From now on one of them would rather be where it is, and one cannot be anywhere else.
    near = {"labelSelector": {"matchLabels": {"app": "pinned"}}, "topologyKey": HOSTNAME}
    tied = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}
    for app, affinity in (("fond", preferred(b)), ("attached", tied)):
        patch = {"spec": {"template": {"spec": {"affinity": affinity}}}}
        twin.kubectl("-n", twin.namespace, "patch", f"deploy/{app}", "-p", json.dumps(patch))
        twin.kubectl("-n", twin.namespace, "rollout", "status", f"deploy/{app}", "--timeout=60s")
    twin.wait("no old pods", lambda: all(len(of(twin, app)) == n for app, n in counts.items()))
    before = {app: uids(twin, app) for app in counts}

    twin.repair_all()
    seen: dict[str, set[str]] = {app: set(before[app]) for app in counts}
    deadline = time.monotonic() + 150
    while "failover" in twin.status():
        for app in counts:
            seen[app] |= uids(twin, app)
        assert time.monotonic() < deadline, twin.describe()
    evicted = {app: len(before[app] - uids(twin, app)) for app in counts}

    assert places(twin, "plain") == [NODE_A] * 2 + [NODE_B] * 2
    assert (evicted["pinned"], evicted["alone"]) == (0, 0)
    assert evicted["plain"] == 2
    assert evicted["fond"] <= 1
    assert evicted["attached"] == 0
    assert places(twin, "attached") == [NODE_B] * 2
    # No pod that was made in between was evicted again.
    assert {app: len(seen[app] - before[app]) for app in counts} == evicted
    told = rebalanced(twin)
    assert told["reason"] == "RebalanceBlocked", told
    # The list is capped: the pinned one is among those that are only counted.
    for text in ("alone needs 1 healthy, has 1", "PodAffinity", "and 1 more"):
        assert text in told["message"], told
    after = {app: uids(twin, app) for app in counts}
    time.sleep(5)
    assert {app: uids(twin, app) for app in counts} == after


def test_the_other_node_fails_in_the_middle_of_a_return(twin: Twin) -> None:
    twin.apply(deployment(twin, "web", 6))
    twin.wait("six pods", lambda: len(places(twin, "web")) == 6, within=60)
    twin.fail(NODE_A, "Node")
    wait_moved_to(twin, NODE_B, web=6)
    twin.repair_all()
    twin.wait("the first pod on A", lambda: NODE_A in places(twin, "web"), within=60)

    twin.fail(NODE_B, "Node", unforetold="the other node has only begun to take pods back")
    wait_moved_to(twin, NODE_A, web=6)

    assert twin.status()["history"][0]["rebalance"]["outcome"] == "Interrupted"
    twin.wait("no taint", lambda: "rebalancing" not in str(twin.footprint()))
    twin.repair_all()
    twin.wait_steady(within=120)
    assert places(twin, "web") == [NODE_A] * 3 + [NODE_B] * 3


def test_two_budgets_on_one_pod_are_named_and_not_waited_for(twin: Twin) -> None:
    """C02 e: an eviction would be answered with 500, whatever time it is."""
    twin.apply(
        deployment(twin, "web", 4),
        budget(twin, "one", "web", maxUnavailable=1),
        budget(twin, "two", "web", maxUnavailable=1),
    )
    twin.wait("four pods", lambda: len(places(twin, "web")) == 4, within=60)
    twin.fail(NODE_A, "Node")
    wait_moved_to(twin, NODE_B, web=4)
    before = uids(twin, "web")
    twin.repair_all()
    twin.wait_steady(within=60)
    assert uids(twin, "web") == before
    told = rebalanced(twin)
    assert told["reason"] == "RebalanceBlocked"
    assert f"{twin.namespace}/one and {twin.namespace}/two" in told["message"]


# --- GPUs -----------------------------------------------------------------------------------------


def served(twin: Twin) -> Json:
    return twin.condition("AseDevice", DEVICE, "GpusServed")


def test_a_pod_whose_gpu_fails_moves_where_one_is_free(twin: Twin) -> None:
    twin.apply(with_gpu(twin, "infer", affinity=preferred(twin.nodes[NODE_A])))
    twin.wait("the pod on A", lambda: places(twin, "infer") == [NODE_A], within=60)

    twin.fail(NODE_A, "GPU1")
    twin.wait("the pod on B", lambda: places(twin, "infer") == [NODE_B], within=60)
    twin.wait("no move", lambda: "gpuMove" not in twin.status())
    assert twin.status("AseNode", NODE_A)["state"] == "Up"
    assert served(twin)["status"] == "True"
    # The reserve is kept again: half of the one GPU that is left is none.
    twin.wait(
        "the reserve to be exceeded",
        lambda: twin.condition("AseDevice", DEVICE, "ReserveKept")["reason"] == "OverReserve",
    )

    # Nobody has one left now: the pod stays and is named.
    (pod,) = twin.wait("one pod", lambda: len(uids(twin, "infer")) == 1 and uids(twin, "infer"))
    twin.fail(NODE_B, "GPU1")
    twin.wait("the pod to be named", lambda: served(twin)["reason"] == "GPU")
    assert f"{twin.namespace}/infer-" in served(twin)["message"]
    time.sleep(2)
    assert uids(twin, "infer") == {pod}


@pytest.mark.usefixtures("whole_reserve")
def test_a_gpu_pod_without_a_place_is_named_and_runs_again_on_return(twin: Twin) -> None:
    """C18: the survivor's GPU is taken."""
    twin.apply(
        with_gpu(twin, "infer", affinity=preferred(twin.nodes[NODE_A])),
        with_gpu(twin, "train", affinity=preferred(twin.nodes[NODE_B])),
    )
    twin.wait(
        "one pod on each node",
        lambda: (places(twin, "infer"), places(twin, "train")) == ([NODE_A], [NODE_B]),
        within=60,
    )
    train = uids(twin, "train")
    twin.fail(NODE_A, "Node")
    problem = twin.wait(
        "infer to be named",
        lambda: next(iter(twin.status().get("failover", {}).get("unplaceable") or ()), None),
        within=60,
    )
    assert problem["reason"] == "GPU"
    assert problem["pod"].startswith(f"{twin.namespace}/infer-")
    assert uids(twin, "train") == train

    twin.repair_all()
    twin.wait("infer on A", lambda: places(twin, "infer") == [NODE_A], within=90)
    twin.wait_steady(within=90)
    assert uids(twin, "train") == train


def test_a_kubelet_that_starts_anew_does_not_lose_its_gpus(twin: Twin) -> None:
    node = twin.nodes[NODE_A]
    subprocess.run(["docker", "exec", node, "systemctl", "restart", "kubelet"], check=True)
    deadline = time.monotonic() + 20
    versions = set()
    while time.monotonic() < deadline:
        found = twin.get("Node", node)
        versions.add(found["metadata"]["resourceVersion"])
        time.sleep(0.5)
    status = twin.get("Node", node)["status"]
    assert status["capacity"][GPU] == status["allocatable"][GPU] == "1"
    # Asserted once, not again and again: a kubelet reports every ten seconds at most.
    assert len(versions) < 12, versions
