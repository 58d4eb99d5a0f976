"""Updates on real kind: nodes reboot in turn, budgets hold, and hardly a request is lost."""

import subprocess
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import pytest

from e2e import engine, probes
from e2e.test_campaigns import kill_operator
from e2e.twin import DEVICE, NODE_A, NODE_B, Json, Twin, epoch
from e2e.workloads import budget, deployment, of, places, uids

SPREAD = [NODE_A] * 3 + [NODE_B] * 3
PERMITTED_PERCENT = 1.0


@pytest.fixture(autouse=True)
def _machines(twin: Twin) -> Iterator[None]:
    yield
    engine.make_right(twin)


def update(name: str, kind: str = "DeviceSoftware", **spec: Any) -> Json:
    return {
        "kind": "DeviceUpdate",
        "metadata": {"name": name},
        "spec": {"device": DEVICE, "type": kind, **spec},
    }


def status(twin: Twin, name: str) -> Json:
    return twin.status("DeviceUpdate", name)


def stage(twin: Twin, name: str) -> tuple[str, str]:
    """The phase of an update and its stage."""
    found = status(twin, name)
    return str(found.get("phase")), str(found.get("stage"))


def wait_result(twin: Twin, name: str, result: str, within: float = 200) -> Json:
    twin.wait(f"{name} to end", lambda: "result" in status(twin, name), within=within)
    found = status(twin, name)
    assert found["result"] == result, found
    return found


def wait_recorded(twin: Twin, name: str) -> None:
    """Both nodes' absences are in the history of the device, whose status is another object."""
    twin.wait(
        f"the history to tell of {name}",
        lambda: [one.get("update") for one in twin.status()["history"][:2]] == [name] * 2,
    )


def wait_version(twin: Twin, kind: str, names: Iterable[str], version: str) -> None:
    """The objects say which version they have, which is not in the status of the update."""
    twin.wait(
        f"version {version}",
        lambda: all(twin.status(kind, name).get("version") == version for name in names),
    )


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def load(twin: Twin, **spec: Any) -> None:
    """Six replicas over both nodes with a budget, and who asks them."""
    twin.apply(deployment(twin, "web", 6), budget(twin, "web", "web", **spec))
    probes.start_client(twin)
    twin.wait("six pods", lambda: places(twin, "web") == SPREAD, within=90)
    twin.wait_steady()


def kubelet_started(node: str) -> str:
    return engine.docker(
        "exec", node, "systemctl", "show", "kubelet", "-p", "ExecMainStartTimestampMonotonic"
    )


def tell(capsys: pytest.CaptureFixture[str], twin: Twin, found: Json, api: probes.Losses) -> None:
    """The outage table of the update, on the terminal."""
    began, ended = seconds(found["startedAt"]), seconds(found["finishedAt"])
    lost = probes.losses(twin, began, ended)
    with capsys.disabled():
        print(f"\n{found['summary']}")
        print(
            f"requests: {lost.asked}, lost: {len(lost.lost)} ({lost.percent:.2f} %), "
            f"longest: {lost.longest_seconds:.1f} s; API: {api.asked}, lost: {len(api.lost)}"
        )
        for row in found.get("outages", ()):
            print(f"  {row['kind']} {row['name']}: {row['milliseconds'] / 1000:.1f} s")


def test_device_software_reboots_each_node_and_hardly_a_request_is_lost(
    twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    load(twin, maxUnavailable=1)
    before = {node: engine.state(node)["StartedAt"] for node in twin.nodes.values()}
    with probes.api_asked(twin) as api:
        twin.apply(update("soft", version="3.3.2604"))
        found = wait_result(twin, "soft", "Succeeded")
    tell(capsys, twin, found, api)
    after = {node: engine.state(node)["StartedAt"] for node in twin.nodes.values()}
    assert all(after[node] > before[node] for node in before), (before, after)
    wait_version(twin, "AseNode", (NODE_A, NODE_B), "3.3.2604")
    assert places(twin, "web") == SPREAD
    lost = probes.losses(twin, seconds(found["startedAt"]), seconds(found["finishedAt"]))
    assert lost.asked > 300
    assert lost.percent <= PERMITTED_PERCENT, lost
    assert not api.lost
    out = [one["namespace"] for one in found.get("outages", ())]
    assert twin.namespace not in out, found["outages"]
    told = {"NodeLeaving", "NodeDrained", "NodeReturned"}
    twin.wait("its Events", lambda: told <= set(twin.events("AseDevice", DEVICE)[-30:]))
    wait_recorded(twin, "soft")
    assert [one["phase"] for one in twin.status()["history"][:2]] == ["Recovered"] * 2


def test_kubernetes_moves_and_updates_the_master_and_restarts_kubelets(
    twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    load(twin, maxUnavailable=1)
    first = twin.master()
    assert first is not None
    machines = {node: engine.state(node)["StartedAt"] for node in twin.nodes.values()}
    kubelets = {node: kubelet_started(node) for node in twin.nodes.values()}
    # One that no run before has brought: the master that has it already needs no new pod.
    version = f"v1.36.{int(time.time())}"
    with probes.api_asked(twin) as api:
        twin.apply(update("kube", "Kubernetes", version=version))
        found = wait_result(twin, "kube", "Succeeded")
    tell(capsys, twin, found, api)
    master = twin.wait("the master", twin.master)
    assert master["metadata"]["labels"]["asetwin.dev/version"] == version
    assert master["spec"]["nodeName"] != first["spec"]["nodeName"]
    assert epoch(master) == epoch(first) + 2
    for node in twin.nodes.values():
        assert kubelet_started(node) != kubelets[node]
        assert engine.state(node)["StartedAt"] == machines[node]
    wait_version(twin, "PinnedWorker", ("worker-a", "worker-b"), version)
    lost = probes.losses(twin, seconds(found["startedAt"]), seconds(found["finishedAt"]))
    assert lost.percent <= PERMITTED_PERCENT, lost
    assert not api.lost


def test_a_budget_that_blocks_is_named_and_relaxing_it_is_enough(twin: Twin) -> None:
    load(twin, minAvailable=6)
    before = uids(twin, "web")
    twin.apply(update("held", drainTimeoutSeconds=5))
    twin.wait(
        "the budget to be named",
        lambda: "web needs 6 healthy, has 6" in status(twin, "held").get("waitingFor", ""),
    )
    twin.wait(
        "the time-out to be told",
        lambda: (
            twin.condition("DeviceUpdate", "held", "Progressing").get("reason") == "DrainTimedOut"
        ),
    )
    assert uids(twin, "web") == before
    assert stage(twin, "held") == ("Running", "Draining")
    twin.kubectl(
        *("-n", twin.namespace, "patch", "pdb", "web", "--type=merge"),
        *("-p", '{"spec":{"minAvailable":5}}'),
    )
    wait_result(twin, "held", "Succeeded")
    assert places(twin, "web") == SPREAD


def test_a_drain_that_fails_takes_the_node_back_and_the_next_update_has_its_turn(
    twin: Twin,
) -> None:
    load(twin, minAvailable=6)
    before = twin.footprint()
    twin.apply(update("hasty", drainTimeoutSeconds=8, onDrainTimeout="Fail"))
    twin.apply(update("next", "Kubernetes", paused=True))
    twin.wait("it to wait", lambda: stage(twin, "next")[0] == "Queued")
    found = wait_result(twin, "hasty", "Failed")
    assert found["reason"] == "DrainTimedOut"
    twin.wait("its turn", lambda: stage(twin, "next")[0] == "Paused")
    twin.wait("the Nodes as before", lambda: twin.footprint() == before)


def test_a_late_drain_goes_on_by_force_where_that_was_asked_for(twin: Twin) -> None:
    load(twin, minAvailable=6)
    before = uids(twin, "web")
    forced = {"drainTimeoutSeconds": 3, "onDrainTimeout": "Force"}
    twin.apply(update("forced", "Kubernetes", version=f"v1.36.{int(time.time())}", **forced))
    wait_result(twin, "forced", "Succeeded")
    # The first node's three go to the second one, and then all six go the other way.
    twin.wait("six other pods", lambda: len(places(twin, "web")) == 6)
    assert not before & uids(twin, "web")


def test_the_other_node_dies_while_one_is_off_for_an_update(twin: Twin) -> None:
    load(twin, maxUnavailable=1)
    twin.apply(update("unlucky"))
    first = twin.wait(
        "a node to be off",
        lambda: next(
            (one["name"] for one in status(twin, "unlucky").get("nodes", ()) if "offAt" in one),
            None,
        ),
        within=90,
    )
    other = NODE_B if first == NODE_A else NODE_A
    engine.lose(twin, other, "kill", unforetold="the one that it would fail over to is off")
    twin.wait("Offline", lambda: twin.status()["state"] == "Offline")
    twin.wait("one is back", lambda: twin.status()["state"] == "NeedsAttention", within=60)
    twin.wait("pods on it", lambda: places(twin, "web") == [first] * 6, within=90)
    engine.docker("start", twin.nodes[other])
    wait_result(twin, "unlucky", "Succeeded", within=250)
    assert places(twin, "web") == SPREAD


def test_the_last_good_node_is_not_drained(twin: Twin) -> None:
    load(twin, minAvailable=6)
    twin.apply(update("cautious"))
    twin.wait("a drain", lambda: stage(twin, "cautious") == ("Running", "Draining"))
    leaving = status(twin, "cautious")["nodes"][0]["name"]
    stay = {pod["metadata"]["uid"] for pod in twin.pods_on(leaving)} & uids(twin, "web")
    run = engine.state(twin.nodes[leaving])["StartedAt"]
    twin.wait("its cordon", lambda: twin.footprint()[twin.nodes[leaving]]["unschedulable"])
    other = NODE_B if leaving == NODE_A else NODE_A
    engine.lose(twin, other, "kill", unforetold="the one that it would fail over to is leaving")
    twin.wait("no cordon", lambda: not twin.footprint()[twin.nodes[leaving]]["unschedulable"])
    twin.wait("pods on it", lambda: places(twin, "web") == [leaving] * 6, within=90)
    twin.wait(
        "the update to leave it alone",
        lambda: (
            "stays in service" in status(twin, "cautious").get("waitingFor", "")
            or stage(twin, "cautious") == ("Waiting", "Pending")
        ),
    )
    assert len(stay) == 3
    assert stay <= uids(twin, "web")
    assert engine.state(twin.nodes[leaving])["StartedAt"] == run
    twin.delete("DeviceUpdate", "cautious")
    engine.docker("start", twin.nodes[other])
    twin.wait_steady(within=150)


STAGES = ("Draining", "Rebooting", "Returning", "MovingMaster")
BROKEN_OFF_SECONDS = 120
"""For so long Kubernetes counts an eviction whose client went away in the middle of it.

Its API server takes it from the budget first and then deletes the pod; the
disruption controller gives it back after DeletionTimeout, two minutes.
"""


def is_broken_off(twin: Twin) -> bool:
    """Whether the budget counts a pod as going that nobody has deleted for some seconds."""
    counted = twin.get("PodDisruptionBudget", "web", twin.namespace)["status"].get("disruptedPods")
    stay = {
        pod["metadata"]["name"]
        for pod in of(twin, "web")
        if "deletionTimestamp" not in pod["metadata"]
    }
    return any(
        name in stay and time.time() - seconds(at) > 5 for name, at in (counted or {}).items()
    )


def wait_stage(twin: Twin, name: str, wanted: str) -> None:
    """Two minutes, and two more only where an eviction was broken off."""
    was_broken_off = False

    def is_reached() -> bool:
        nonlocal was_broken_off
        was_broken_off = was_broken_off or is_broken_off(twin)
        return stage(twin, name)[1] == wanted

    try:
        twin.wait(wanted, is_reached, within=120)
    except AssertionError:
        if not was_broken_off:
            raise
        twin.wait(wanted, is_reached, within=BROKEN_OFF_SECONDS)


@pytest.mark.timeout(420)
def test_an_operator_that_is_killed_at_each_stage_goes_on(twin: Twin) -> None:
    load(twin, maxUnavailable=1)
    twin.apply(update("stubborn"))
    for name in STAGES:
        wait_stage(twin, "stubborn", name)
        kill_operator(twin)
    found = wait_result(twin, "stubborn", "Succeeded", within=250)
    assert [one["stage"] for one in found["nodes"]] == ["Updated", "Updated"]
    assert places(twin, "web") == SPREAD
    wait_recorded(twin, "stubborn")


def test_a_cancelled_update_leaves_the_nodes_as_they_were(twin: Twin) -> None:
    load(twin, maxUnavailable=1)
    before = twin.footprint()
    twin.apply(update("regretted"))
    twin.wait("a cordon", lambda: twin.footprint() != before, within=60)
    began = time.monotonic()
    twin.delete("DeviceUpdate", "regretted")
    twin.wait(
        "no cordon",
        lambda: not any(one["unschedulable"] for one in twin.footprint().values()),
        within=15,
    )
    assert time.monotonic() - began < 15
    twin.wait_steady(within=120)
    twin.wait("the Nodes as before", lambda: twin.footprint() == before)
    assert places(twin, "web") == SPREAD


def test_updates_of_a_device_wait_for_each_other(twin: Twin) -> None:
    twin.apply(deployment(twin, "web", 2))
    twin.wait("two pods", lambda: len(places(twin, "web")) == 2, within=60)
    twin.apply(update("one", paused=True))
    twin.wait("it to be paused", lambda: stage(twin, "one")[0] == "Paused")
    time.sleep(1.1)  # creation times have whole seconds
    twin.apply(update("two", "Kubernetes"))
    twin.wait("it to wait", lambda: stage(twin, "two")[0] == "Queued")
    assert "update one of ase to end" in status(twin, "two")["waitingFor"]
    twin.delete("DeviceUpdate", "one")
    wait_result(twin, "two", "Succeeded")


def test_kubectl_shows_where_an_update_stands_and_refuses_to_change_it(twin: Twin) -> None:
    twin.apply(update("shown", paused=True, version="1"))
    twin.wait("it to be paused", lambda: stage(twin, "shown")[0] == "Paused")
    head, row = twin.kubectl("get", "dup", "-o", "wide").splitlines()
    for word in ("DEVICE", "TYPE", "VERSION", "PHASE", "STAGE", "NODES", "WAITING-FOR"):
        assert word in head
    assert "DeviceSoftware" in row
    assert "spec.paused to be false" in row
    for patch in ('{"spec":{"type":"Kubernetes"}}', '{"spec":{"version":"2"}}'):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            twin.kubectl_quietly("patch", "dup", "shown", "--type=merge", "-p", patch)
        assert "create a new one" in str(refused.value.stderr)
    assert of(twin, "web") == []
