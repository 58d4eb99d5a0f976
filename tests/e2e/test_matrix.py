"""Cells of tests/failure_matrix.yaml with real power: the part under ``on_kind``.

Each begins with the master on A and restores the twin; where its cell is about
a GPU, a pod with one runs on A.
"""

import json
import time
from typing import Any

import pytest

import matrix
from e2e import workloads
from e2e.twin import DEVICE, NODE_A, NODE_B, Twin, is_ready
from matrix import MATRIX, WELL, Cell

NODES = {"A": NODE_A, "B": NODE_B}
CELLS = [matrix.cell(*one) for one in MATRIX["on_kind"]]
REPLICAS = 4
QUIET_SECONDS = 4.0
"""What is as expected has to be so for this long: what must not move, too, has had its time."""


def patch(twin: Twin, spec: dict[str, Any]) -> None:
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", json.dumps({"spec": spec}))


def master_slot(twin: Twin) -> str:
    """Where the device says that its master serves; "" where none does."""
    master = twin.status().get("master") or {}
    slots = {name: slot for slot, name in NODES.items()}
    return slots.get(master.get("node", ""), "") if master.get("phase") == "Serving" else ""


def bring_master_to_a(twin: Twin) -> None:
    twin.bring_master_to(NODE_A)
    twin.wait("the device to say so", lambda: master_slot(twin) == "A")
    twin.wait_steady()


def deploy_gpu(twin: Twin) -> None:
    """One pod with a GPU, on A."""
    wish = workloads.preferred(twin.nodes[NODE_A])
    infer = workloads.with_gpu(twin, "infer", affinity=wish)
    twin.apply(infer)
    twin.wait("the GPU pod on A", lambda: located(twin, "infer", "A"), within=60)


def pods(twin: Twin, app: str) -> dict[str, str]:
    """uid → slot of its node; "" while it has none."""
    slots = {twin.nodes[name]: slot for slot, name in NODES.items()}
    return {
        pod["metadata"]["uid"]: slots.get(pod["spec"].get("nodeName", ""), "")
        for pod in twin.pods()
        if pod["metadata"]["labels"]["app"] == app
    }


def located(twin: Twin, app: str, slot: str) -> bool:
    """Whether some pod of it runs there, and is Ready."""
    return any(
        is_ready(pod) and pod["metadata"]["labels"]["app"] == app
        for pod in twin.pods_on(NODES[slot])
    )


def are_ready(twin: Twin, node: str) -> bool:
    """Whether all of the Deployment is Ready on one node."""
    return sum(name.startswith("web-") for name in twin.ready_on(node)) == REPLICAS


def moved(before: dict[str, str], after: dict[str, str]) -> str:
    """``A>B``: all that was on A is now on B, as other pods; "" : they are the same pods.

    ``none``: what replaces that of A has no node. Anything else is in between.
    """
    gone = {before[uid] for uid in before if uid not in after}
    kept = {uid: slot for uid, slot in before.items() if uid in after}
    if not gone and after == before:
        return ""
    new = [slot for uid, slot in after.items() if uid not in before]
    is_whole = len(gone) == 1 and not gone & set(kept.values()) and len(after) == len(before)
    if not is_whole or len(set(new)) != 1 or any(after[uid] != kept[uid] for uid in kept):
        return f"half way: {before} to {after}"
    return "none" if new[0] == "" else f"{gone.pop()}>{new[0]}"


def is_gpu_named(twin: Twin) -> bool:
    """Whether the device names the GPU pod, with the reason GPU."""
    unplaceable = (twin.status().get("failover") or {}).get("unplaceable") or ()
    is_unplaceable = any(
        one["reason"] == "GPU" and f"{twin.namespace}/infer-" in one["pod"] for one in unplaceable
    )
    served = twin.condition("AseDevice", DEVICE, "GpusServed")
    is_unserved = served.get("status") == "False" and "infer-" in served.get("message", "")
    return is_unplaceable or is_unserved


def expected(cell: Cell, has_gpu: bool) -> dict[str, Any]:
    outcome = cell.outcome
    home = outcome["master"].rstrip("+")
    if home == "A if up":
        home = "A" if cell.state("A") == "Up" else ""
    return {
        "A": cell.state("A"),
        "B": cell.state("B"),
        "device": outcome["device"],
        "pods": outcome["pods"],
        "gpu": outcome["gpu"] if has_gpu else "",
        "named": outcome.get("named", False) if has_gpu else False,
        "master": home,
        "epochs": 1 if outcome["master"].endswith("+") else 0,
    }


@pytest.mark.parametrize("cell", CELLS, ids=lambda one: one.id)
def test_the_device_does_what_the_failure_matrix_says(twin: Twin, cell: Cell) -> None:
    has_gpu = "gpu" in (cell.a, cell.b)
    try:
        bring_master_to_a(twin)
        if cell.witness == "offline":
            patch(twin, {"witness": {"online": False}})
            holders = [NODE_A]
            twin.wait("A's vote alone", lambda: twin.status()["votes"]["holders"] == holders)
        twin.deploy(REPLICAS)
        if has_gpu:
            deploy_gpu(twin)
        assert end_of(twin, cell, has_gpu=has_gpu) == expected(cell, has_gpu)
        assert uninjected(twin, cell) == []
    finally:
        # The vote first: without it the nodes come back to a device that may not act.
        patch(twin, {"witness": None, "master": None})
        twin.repair_all()
        twin.wait_steady(within=120)


def end_of(twin: Twin, cell: Cell, *, has_gpu: bool) -> dict[str, Any]:
    """What the failures of a cell come to, in the words of :func:`expected`."""
    web, gpu = pods(twin, "web"), pods(twin, "infer")
    epoch = twin.status()["master"]["epoch"]
    assert set(web.values()) == {"A", "B"}
    moves = cell.outcome["pods"]
    # Two nodes that fail at one moment: nobody was asked of the one without parts of the other.
    if moves and WELL in (cell.a, cell.b):
        twin.foretell(NODES[moves[0]])

    # Two writes are never one moment. With the GPU that is free failing last, its pod might be on
    # the way already.
    failed = sorted(cell.failures(), key=lambda one: one.slot, reverse=cell.a == cell.b == "gpu")
    twin.apply(
        *(
            {
                "kind": "HardwareFailure",
                "metadata": {"name": one.name(NODES[one.slot])},
                "spec": one.spec(NODES[one.slot]),
            }
            for one in failed
        )
    )

    def found() -> dict[str, Any]:
        status = twin.status()
        return {
            **{slot: twin.status("AseNode", name).get("state") for slot, name in NODES.items()},
            "device": status.get("state"),
            "pods": moved(web, pods(twin, "web")),
            "gpu": moved(gpu, pods(twin, "infer")),
            "named": is_gpu_named(twin),
            "master": master_slot(twin),
            "epochs": status["master"]["epoch"] - epoch,
        }

    wanted = expected(cell, has_gpu)
    survivor = cell.outcome["pods"][-1:]
    try:
        twin.wait("what the matrix says", lambda: found() == wanted, within=45)
    except AssertionError as error:
        error.add_note(f"found {found()}, wanted {wanted}")
        raise
    if survivor:
        twin.wait(f"the pods Ready on {survivor}", lambda: are_ready(twin, NODES[survivor]))
    time.sleep(QUIET_SECONDS)
    twin.wait_as_foretold()
    return found()


def uninjected(twin: Twin, cell: Cell) -> list[str]:
    """The failures that are not reported as injected, after a wait for all of them."""
    names = [one.name(NODES[one.slot]) for one in cell.failures()]

    def missing() -> list[str]:
        seen = {name: twin.condition("HardwareFailure", name, "Injected") for name in names}
        return [name for name in names if seen[name].get("status") != "True"]

    twin.wait("the failures to be reported as injected", lambda: not missing())
    return missing()
