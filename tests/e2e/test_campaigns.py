"""The same thing many times: the operator killed at ten points, twenty failovers in a row."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from e2e import engine
from e2e.shares import journal
from e2e.twin import NODE_A, NODE_B, SYSTEM, Json, Twin, epoch
from e2e.workloads import deployment, places, uids, wait_moved_to

REPLICAS = 4
FAILOVERS = 20
MEMORY_GROWTH_KIB = 30_000

Reached = Callable[[Twin, str, str, int], bool]


def picture(twin: Twin) -> Json:
    """Nodes, taints, quotas and PVs as a failover and a return must leave them."""
    names = ("default", twin.namespace)
    # Which limits there are; how high they are depends on what the namespaces of earlier tests,
    # which may still be on their way out, have left in use.
    quotas = {
        f"{one['metadata']['namespace']}/{one['metadata']['name']}": sorted(
            one["spec"].get("hard") or ()
        )
        for name in names
        for one in twin.all("ResourceQuota", name)
    }
    limits = {
        f"{one['metadata']['namespace']}/{one['metadata']['name']}": one["spec"]
        for name in names
        for one in twin.all("LimitRange", name)
    }
    volumes = {
        one["metadata"]["name"]: (one["spec"].get("claimRef") or {}).get("name")
        for one in twin.all("PersistentVolume")
    }
    return {
        "nodes": twin.footprint(),
        "quotas": quotas,
        "limits": limits,
        "volumes": volumes,
        "machines": [engine.is_running(node) for node in twin.nodes.values()],
        "places": places(twin, "web"),
        "pods": len(uids(twin, "web")),
    }


def _is_desired(twin: Twin, home: str, power: str) -> bool:
    worker = "worker-a" if home == NODE_A else "worker-b"
    return bool((twin.status("PinnedWorker", worker).get("power") or {}).get(power) == "Off")


def _is_seen(twin: Twin, home: str, text: str) -> bool:
    return text in str(twin.footprint()[twin.nodes[home]])


# In the order in which a failover and a return come by.
FAILING: dict[str, Reached] = {
    "recorded": lambda twin, home, other, before: "failover" in twin.status(),
    "cordoned": lambda twin, home, other, before: _is_seen(twin, home, "'unschedulable': True"),
    "power-desired": lambda twin, home, other, before: _is_desired(twin, home, "desired"),
    "power-proven": lambda twin, home, other, before: _is_desired(twin, home, "observed"),
    "tainted": lambda twin, home, other, before: _is_seen(twin, home, "node-down"),
    "evacuating": lambda twin, home, other, before: not twin.ready_on(home),
    "master-moving": lambda twin, home, other, before: twin.status()["master"]["epoch"] > before,
}
RETURNING: dict[str, Reached] = {
    "returning": lambda twin, home, other, before: (
        twin.status("AseNode", home).get("state") == "Returning"
    ),
    "uncordoned": lambda twin, home, other, before: (
        not twin.footprint()[twin.nodes[home]]["unschedulable"]
    ),
    "rebalancing": lambda twin, home, other, before: bool(twin.ready_on(home)),
}


def wait_as_before(twin: Twin, before: Json) -> None:
    """Wait until the cluster looks as it did; what differs is the message."""
    deadline = time.monotonic() + 60
    while (after := picture(twin)) != before:
        different = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
        assert time.monotonic() < deadline, f"before and after: {different}"
        time.sleep(0.3)


def kill_operator(twin: Twin) -> None:
    """Without a word; its Deployment starts the next one."""
    for one in twin.all("Pod", SYSTEM, **{"app.kubernetes.io/component": "operator"}):
        name = one["metadata"]["name"]
        twin.kubectl("-n", SYSTEM, "delete", "pod", name, "--force", "--grace-period=0")


@pytest.mark.parametrize("point", [*FAILING, *RETURNING])
def test_wherever_the_operator_is_killed_the_end_is_the_same(twin: Twin, point: str) -> None:
    twin.apply(deployment(twin, "web", REPLICAS))
    spread = [NODE_A] * 2 + [NODE_B] * 2
    twin.wait("pods on both nodes", lambda: places(twin, "web") == spread, within=60)
    twin.wait_steady()
    before = picture(twin)
    master = twin.master()
    assert master is not None
    home = NODE_A if master["spec"]["nodeName"] == twin.nodes[NODE_A] else NODE_B
    other = NODE_B if home == NODE_A else NODE_A

    twin.fail(home, "Motherboard")
    if point in FAILING:
        twin.wait(point, lambda: FAILING[point](twin, home, other, epoch(master)))
        kill_operator(twin)
    wait_moved_to(twin, other, web=REPLICAS)
    moved = twin.wait("the master to move", twin.master, within=60)
    assert moved["spec"]["nodeName"] == twin.nodes[other]
    assert epoch(moved) == epoch(master) + 1
    failover = twin.status()["failover"]
    assert failover["displaced"] == failover["recovered"]

    on_other = uids(twin, "web")
    twin.repair_all()
    if point in RETURNING:
        twin.wait(point, lambda: RETURNING[point](twin, home, other, epoch(master)), within=60)
        kill_operator(twin)
    twin.wait_steady(within=150)
    wait_as_before(twin, before)
    # Neither twice nor too many: what went back is what had to.
    assert len(on_other - uids(twin, "web")) == REPLICAS // 2


def memory_kib(twin: Twin) -> int:
    """Resident memory of the operator's process."""
    program = "print(open('/proc/1/status').read().split('VmRSS:')[1].split()[0])"
    target = ("exec", "deploy/asetwin-operator", "--", "python3", "-c", program)
    return int(twin.kubectl("-n", SYSTEM, *target))


@pytest.mark.timeout(1500)
def test_twenty_failovers_in_a_row_leave_nothing_behind(
    twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    twin.apply(deployment(twin, "web", REPLICAS))
    spread = [NODE_A] * 2 + [NODE_B] * 2
    twin.wait("pods on both nodes", lambda: places(twin, "web") == spread, within=60)
    before, memory = picture(twin), memory_kib(twin)
    operators = operator_pods(twin)
    master = twin.master()
    assert master is not None
    began, parts = time.monotonic(), ("Motherboard", "DIMM", "OSDisk", "Node", "Port3")
    for number in range(FAILOVERS):
        lost, other = (NODE_A, NODE_B) if number % 2 == 0 else (NODE_B, NODE_A)
        twin.fail(lost, parts[number % len(parts)])
        wait_moved_to(twin, other, web=REPLICAS)
        twin.repair_all()
        twin.wait_steady(within=150)
    after = memory_kib(twin)
    with capsys.disabled():
        seconds = (time.monotonic() - began) / FAILOVERS
        print(f"\n{FAILOVERS} failovers, {seconds:.1f} s each; operator {memory} → {after} KiB")
    wait_as_before(twin, before)
    assert operator_pods(twin) == operators
    assert after - memory < MEMORY_GROWTH_KIB
    proof = journal(twin)
    assert not proof.problems, proof
    ended = twin.master()
    assert ended is not None
    # It moves only when its own node is lost: at least every other time.
    assert FAILOVERS // 2 <= epoch(ended) - epoch(master) <= FAILOVERS


def operator_pods(twin: Twin) -> list[Any]:
    """Each with its restarts: one that crashed and came back is not the same any more."""
    return [
        (
            pod["metadata"]["uid"],
            [one["restartCount"] for one in pod["status"]["containerStatuses"]],
        )
        for pod in twin.all("Pod", SYSTEM, **{"app.kubernetes.io/component": "operator"})
    ]
