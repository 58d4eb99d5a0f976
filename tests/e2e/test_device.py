"""The device's documented responses as a whole: reboots, both nodes, the witness (4.2, 4.6)."""

import json
from collections.abc import Iterator

import pytest

from e2e import engine
from e2e.twin import DEVICE, NODE_A, NODE_B, Json, Twin, epoch
from e2e.workloads import deployment, places, uids, wait_moved_to

REPLICAS = 4


@pytest.fixture
def web(twin: Twin) -> str:
    """A Deployment over both nodes."""
    twin.apply(deployment(twin, "web", REPLICAS))
    half = REPLICAS // 2
    twin.wait(
        "pods on both nodes",
        lambda: places(twin, "web") == [NODE_A] * half + [NODE_B] * half,
        within=60,
    )
    return "web"


@pytest.fixture
def master_on_a(twin: Twin) -> None:
    twin.bring_master_to(NODE_A)


def home(twin: Twin) -> str:
    master = twin.master()
    names = {node: name for name, node in twin.nodes.items()}
    return names.get(master["spec"]["nodeName"], "") if master is not None else ""


def states(twin: Twin) -> tuple[str, str]:
    a, b = (str(twin.status("AseNode", name).get("state")) for name in (NODE_A, NODE_B))
    return a, b


def device_state(twin: Twin) -> str:
    return str(twin.status().get("state"))


@pytest.mark.usefixtures("master_on_a")
def test_node_a_reboots_and_comes_back_without_the_master(twin: Twin, web: str) -> None:
    node, before = twin.nodes[NODE_A], twin.status()["master"]["epoch"]
    run = engine.state(node)
    twin.fail(NODE_A, "Node", action="Reboot")
    twin.wait("rebooting", lambda: states(twin)[0] == "Rebooting")
    wait_moved_to(twin, NODE_B, web=REPLICAS)
    twin.wait("another run", lambda: engine.state(node)["StartedAt"] != run["StartedAt"], within=60)
    twin.wait_steady(within=120)
    assert engine.state(node)["FinishedAt"] > run["StartedAt"]
    assert twin.status("HardwareFailure", f"{NODE_A}-node")["phase"] == "Expired"
    assert (home(twin), twin.status()["master"]["epoch"]) == (NODE_B, before + 1)
    assert places(twin, web) == [NODE_A] * 2 + [NODE_B] * 2


@pytest.mark.usefixtures("master_on_a")
def test_node_b_reboots_and_the_master_never_moves(twin: Twin, web: str) -> None:
    before = twin.master()
    assert before is not None
    node, run = twin.nodes[NODE_B], engine.state(twin.nodes[NODE_B])
    twin.fail(NODE_B, "Node", action="Reboot")
    wait_moved_to(twin, NODE_A, web=REPLICAS)
    twin.wait("another run", lambda: engine.state(node)["StartedAt"] != run["StartedAt"], within=60)
    twin.wait_steady(within=120)
    after = twin.master()
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert places(twin, web) == [NODE_A] * 2 + [NODE_B] * 2


@pytest.mark.usefixtures("master_on_a")
def test_one_node_then_both_fail_and_the_first_to_return_takes_over(twin: Twin, web: str) -> None:
    """C22: 2 of 3 votes is Online; both lost is Offline, and nothing is moved or limited then."""
    before = twin.status()["master"]["epoch"]
    twin.fail(NODE_A, "Node")
    wait_moved_to(twin, NODE_B, web=REPLICAS)
    twin.wait("the master on B", lambda: home(twin) == NODE_B, within=60)
    assert twin.status()["master"]["epoch"] == before + 1
    assert twin.status()["votes"]["present"] == 2
    twin.repair_all()
    twin.wait_steady(within=120)
    assert home(twin) == NODE_B

    pods, quotas = uids(twin, web), hard(twin)
    both = "both nodes are lost"
    twin.fail(NODE_A, "Motherboard", unforetold=both)
    twin.fail(NODE_B, "PSU1", "PSU2", unforetold=both)
    twin.wait("Offline", lambda: device_state(twin) == "Offline", within=60)
    twin.wait("both off", lambda: not any(map(engine.is_running, twin.nodes.values())), within=60)
    assert twin.condition("AseDevice", DEVICE, "Available")["reason"] == "QuorumLost"
    assert states(twin) == ("Down", "Down")
    assert twin.status()["master"]["epoch"] <= before + 2
    told = pods - uids(twin, web)
    # What went before the second loss may have gone; nothing goes after it.
    assert len(told) <= REPLICAS // 2
    assert hard(twin) in (quotas, {})

    twin.delete("HardwareFailure", f"{NODE_B}-psu1")
    twin.wait(
        "the first to return to carry all",
        lambda: places(twin, web) == [NODE_B] * REPLICAS,
        within=150,
    )
    twin.wait("the master on B", lambda: home(twin) == NODE_B, within=60)
    assert device_state(twin) == "NeedsAttention"
    twin.repair_all()
    twin.wait_steady(within=150)


def hard(twin: Twin) -> Json:
    quota = twin.find("ResourceQuota", "asetwin-reserve", twin.namespace) or {}
    found: Json = (quota.get("spec") or {}).get("hard") or {}
    return found


@pytest.fixture
def witness_lost(twin: Twin) -> Iterator[None]:
    def set_online(value: object) -> None:
        patch = json.dumps({"spec": {"witness": {"online": value}}})
        twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", patch)

    set_online(False)
    twin.wait("one vote dropped", lambda: len(twin.status()["votes"]["holders"]) == 1)
    yield
    set_online(True)


@pytest.mark.usefixtures("master_on_a", "witness_lost")
def test_the_witness_is_lost_and_then_the_node_with_the_last_vote(twin: Twin, web: str) -> None:
    pods, epoch_before = uids(twin, web), twin.status()["master"]["epoch"]
    (last,) = twin.status()["votes"]["holders"]
    twin.fail(last, "Node", unforetold="without a quorum nothing fails over")
    twin.wait("Offline", lambda: device_state(twin) == "Offline", within=60)
    twin.wait("its machine off", lambda: not engine.is_running(twin.nodes[last]), within=30)
    assert "failover" not in twin.status()
    assert uids(twin, web) == pods
    assert twin.status()["master"]["epoch"] == epoch_before
    assert twin.footprint()[twin.nodes[last]]["unschedulable"]
    twin.repair_all()
    twin.wait("online again", lambda: device_state(twin) != "Offline", within=120)
    twin.wait("both up", lambda: states(twin) == ("Up", "Up"), within=120)


@pytest.mark.usefixtures("witness_lost")
def test_the_witness_is_lost_and_then_the_node_without_a_vote(twin: Twin, web: str) -> None:
    (survivor,) = twin.status()["votes"]["holders"]
    dropped = NODE_A if survivor == NODE_B else NODE_B
    twin.fail(dropped, "Node")
    wait_moved_to(twin, survivor, web=REPLICAS)
    assert device_state(twin) == "NeedsAttention"


def test_a_failure_for_a_while_ends_by_itself(twin: Twin, web: str) -> None:
    node = twin.nodes[NODE_A]
    twin.fail(NODE_A, "OSDisk", durationSeconds=15)
    twin.wait("the machine off", lambda: not engine.is_running(node), within=30)
    wait_moved_to(twin, NODE_B, web=REPLICAS)
    twin.wait("the machine back", lambda: engine.is_running(node), within=60)
    twin.wait_steady(within=120)
    assert places(twin, web) == [NODE_A] * 2 + [NODE_B] * 2


def test_a_cut_storage_network_isolates_and_fences_before_it_moves(twin: Twin, web: str) -> None:
    node = twin.nodes[NODE_B]
    twin.fail(NODE_B, "Port3", "Port4")
    wait_moved_to(twin, NODE_A, web=REPLICAS)
    assert not engine.is_running(node)
    told = [one for one in twin.events("PinnedWorker", "worker-b") if one.startswith("Power")]
    assert told[-2:] == ["PowerIsolated", "PowerOff"]
    failure = twin.status("HardwareFailure", f"{NODE_B}-port3")
    assert failure["proof"]
    twin.repair_all()
    twin.wait_steady(within=120)
    assert engine.is_running(node)


@pytest.mark.usefixtures("master_on_a")
def test_a_master_cut_off_with_its_node_stops_before_the_next_one_starts(twin: Twin) -> None:
    """Its own account of what it did is in the journal; this looks at the moments of the Lease."""
    before = twin.master()
    assert before is not None
    node = twin.nodes[NODE_A]
    twin.foretell(NODE_A)
    engine.docker("network", "disconnect", "kind", node)
    try:
        twin.wait("the master on B", lambda: home(twin) == NODE_B, within=90)
    finally:
        engine.make_right(twin)
    after = twin.master()
    assert after is not None
    assert epoch(after) == epoch(before) + 1
    fenced = twin.wait("the fence", lambda: _last(twin).get("fencedAt"))
    assert fenced <= _last(twin)["masterReadyAt"]
    twin.wait_steady(within=150)


def _last(twin: Twin) -> Json:
    found: Json = twin.status().get("failover") or (twin.status().get("history") or [{}])[0]
    return found
