"""The failure matrix, design 4.1, 4.2 and 4.7: see tests/failure_matrix.yaml.

Twice: every component, alone and in every pair, through the rules in one turn
from the moment at which its power is settled; and the cells of groups through
a simulated cluster with a power agent, from the failure until all is quiet.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import matrix
from asetwin import constants
from asetwin.model import decide, hardware
from asetwin.model.plan import DeletePod, WriteStatus
from asetwin.resources.devices import Hardware, PowerState
from asetwin.sim import bodies, invariants
from asetwin.sim.world import World
from matrix import MATRIX, WELL, Cell, Failure
from unit import builders
from unit.builders import NOW

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
NODES = {"A": "node-a", "B": "node-b"}
WORKERS = {"A": "asetwin-worker", "B": "asetwin-worker2"}
QUIET_SECONDS = 7.0
"""From a failure until nothing moves any more: the new master boots when the old Lease is out."""

WITNESS: dict[str, dict[str, Any]] = {
    "online": {"type": "Cloud", "online": True},
    "offline": {"type": "Cloud", "online": False},
    "none": {"type": "None"},
    "lost": {"type": "Cloud", "online": False},
}


# --- The table itself -----------------------------------------------------------------------------


def test_every_component_of_a_node_is_in_the_matrix() -> None:
    groups = MATRIX["groups"]
    named = {one.component for group in groups for way in matrix.ways("A", group) for one in way}
    assert named == set(hardware.components(Hardware()))


def test_every_table_has_a_cell_for_every_two_groups() -> None:
    groups = {WELL, *MATRIX["groups"]}
    for table in MATRIX["witness"].values():
        assert set(table) - {"columns"} == set(table["columns"]) == groups
    two = [frozenset(pair[:2]) for pair in matrix.pairs()]
    alike = [frozenset(pair) for pair in product(MATRIX["groups"], repeat=2)]
    assert set(two) == set(alike)
    assert len(two) == len(set(two))
    assert set(MATRIX["one_node"]) == groups


def test_every_group_of_either_node_is_tried_on_a_real_cluster() -> None:
    tried = {group for _, a, b in MATRIX["on_kind"] for group in (a, b)}
    assert tried == {WELL, *MATRIX["groups"]}
    assert len({tuple(one) for one in MATRIX["on_kind"]}) == len(MATRIX["on_kind"])


# --- Every component through the rules ------------------------------------------------------------

CELLS = list(matrix.cells())
PAIRS = list(matrix.pairs())


def turn(cell: Cell, failures: Iterable[Failure]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """One turn when power has followed the failures: the statuses, and the steps of the plan."""
    names = {"A": "a", "B": "b"}
    states = {slot: cell.state(slot) for slot in names}
    has_witness = cell.witness in ("online", "lost")
    # Its memory from before: with whom it had its quorum.
    votes = {"holders": ["a", "b", "witness"] if has_witness else ["a"]}
    master = {"node": "a", "epoch": 1, "phase": "Serving", "since": "2027-01-15T07:00:00.000Z"}
    master["pod"] = "ase-master-1"
    objects = [
        builders.device(
            spec={"timing": {"profile": "Fast"}, "witness": WITNESS[cell.witness]},
            status={"votes": votes, "master": master},
            finalizers=[constants.FINALIZER],
        ),
        *(
            builders.worker(
                f"w{name}",
                power=PowerState.ON if states[slot] == "Up" else PowerState.OFF,
            )
            for slot, name in names.items()
        ),
        *(
            builders.failure(
                one.name(names[one.slot]),
                spec=one.spec(names[one.slot]),
            )
            for one in failures
        ),
        *builders.deployment(replicas=2),
        builders.replica(1, node="na"),
        builders.replica(2, node="nb"),
        builders.master_pod(1),
        builders.lease(1),
    ]
    plan = decide.decide(builders.cluster(*objects), "ase", NOW)
    statuses = {one.name: one.patch for one in plan.steps if isinstance(one, WriteStatus)}
    return statuses, plan.steps


def decided(cell: Cell, failures: list[Failure]) -> dict[str, Any]:
    """What the operator makes of it in this turn, in the words of :func:`wanted`."""
    statuses, steps = turn(cell, failures)
    device = statuses["ase"]
    record = device.get("failover")
    gone = {one.name for one in steps if isinstance(one, DeletePod)}
    return {
        "states": {slot: statuses[slot.lower()]["state"] for slot in NODES},
        "device": device["state"],
        "pods": f"{record['from']}>{record['to']}".upper() if record else "",
        "gone": {name for name in gone if name.startswith("web")},
        "epoch": device.get("master", {}).get("epoch", 1),
        "said": {
            slot: {words for words in matrix.WORDS if words in statuses[slot.lower()]["summary"]}
            for slot in NODES
        },
    }


def wanted(cell: Cell, failures: list[Failure]) -> dict[str, Any]:
    """What the cell asks of one turn."""
    outcome = cell.outcome
    lost = outcome["pods"][:1]
    named = {
        slot: {one.component for one in failures if one.slot == slot and not one.is_reboot}
        for slot in NODES
    }
    return {
        "states": {slot: cell.state(slot) for slot in NODES},
        "device": outcome["device"],
        "pods": outcome["pods"],
        # A Node whose pods go has its quota lifted and its taint first; nobody else's pods go.
        "gone": {"web-1" if lost == "A" else "web-2"} if lost else set(),
        "epoch": 2 if outcome["master"].endswith("+") else 1,
        "said": {slot: networks(named[slot]) for slot in NODES},
    }


def networks(components: set[str]) -> set[str]:
    """The networks that a node's summary has to name."""
    return {
        group["says"]
        for group in MATRIX["groups"].values()
        if "says" in group and components & set("+".join(group["fails"]).split("+"))
    }


@pytest.mark.parametrize("witness", MATRIX["witness"])
def test_every_component_of_both_nodes_does_what_its_cell_says(witness: str) -> None:
    for cell in (one for one in CELLS if one.witness == witness):
        for ours, theirs in product(matrix.ways("A", cell.a), matrix.ways("B", cell.b)):
            failures = [*ours, *theirs]
            assert decided(cell, failures) == wanted(cell, failures), f"{cell.id}: {failures}"


@pytest.mark.parametrize("slot", ["A", "B"])
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_components_of_one_node_do_what_the_worse_one_does(
    slot: str, pair: tuple[str, str, str]
) -> None:
    first, second, both = pair
    for witness in MATRIX["witness"]:
        cell = matrix.cell(witness, *((both, WELL) if slot == "A" else (WELL, both)))
        for one, other in product(matrix.ways(slot, first), matrix.ways(slot, second)):
            # The same part twice is one failure; which group it is then is the other test's.
            if first == second and set(one) & set(other):
                continue
            failures = [*one, *(each for each in other if each not in one)]
            assert decided(cell, failures) == wanted(cell, failures), f"{cell.id}: {failures}"


# --- Through a simulated cluster ------------------------------------------------------------------

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}


def deployment(name: str, replicas: int, *, gpus: int = 0, near: str = "") -> dict[str, Any]:
    """A Deployment in ``shop``; its pods would rather be on the Node ``near``."""
    resources: dict[str, Any] = {"requests": {"cpu": "50m", "memory": "32Mi"}}
    if gpus:
        resources["limits"] = {"nvidia.com/gpu": gpus}
    spec: dict[str, Any] = {"containers": [{"name": name, "image": name, "resources": resources}]}
    if near:
        wish = {"key": "kubernetes.io/hostname", "operator": "In", "values": [near]}
        term = {"weight": 1, "preference": {"matchExpressions": [wish]}}
        terms = {"preferredDuringSchedulingIgnoredDuringExecution": [term]}
        spec["affinity"] = {"nodeAffinity": terms}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def settled(witness: str, *, without: str = "") -> World:
    """A device in its steady state, with a power agent; ``without`` this slot."""
    world = World()
    invariants.watch(world)
    world.agent.start()
    world.apply(SAMPLES / "device.yaml", NAMESPACE, deployment("web", 4))
    if without:
        world.delete("PinnedWorker", f"worker-{without.lower()}")
        world.delete("AseNode", NODES[without])
        world.delete("Node", WORKERS[without])
        # Half of one GPU is none.
        world.patch("AseDevice", "ase", {"spec": {"reserve": {"percent": 100}}})
    before = "online" if witness == "lost" else witness
    world.patch("AseDevice", "ase", {"spec": {"witness": WITNESS[before]}})
    world.run(1)
    world.apply(deployment("infer", 1, gpus=1, near=WORKERS["A"]))
    world.run_until(lambda: master_node(world) == "A", within=20)
    return world


def inject(world: World, failures: Iterable[Failure]) -> None:
    world.apply(
        *(
            {
                "apiVersion": constants.API_VERSION,
                "kind": "HardwareFailure",
                "metadata": {"name": one.name(NODES[one.slot])},
                "spec": one.spec(NODES[one.slot]),
            }
            for one in failures
        )
    )


def master_node(world: World) -> str:
    """The slot whose master serves; "" where none does."""
    serving = [one for one in world.masters() if one.is_serving]
    assert len(serving) <= 1
    status = world.device().status.master
    if not serving or status is None or serving[0].settings.me.epoch != status.epoch:
        return ""
    return status.node[-1].upper()


def pods(world: World, app: str) -> dict[str, tuple[str, bool]]:
    """uid → slot of its node ("" while it has none), and whether it is Ready."""
    slots = {node: slot for slot, node in WORKERS.items()}
    return {
        pod["metadata"]["uid"]: (slots.get(bodies.node_of(pod), ""), bodies.is_ready(pod))
        for pod in world.pods("shop")
        if pod["metadata"]["labels"]["app"] == app
    }


def states(world: World) -> dict[str, str]:
    """Slot → state of the AseNode."""
    return {
        slot: world.server.read("asenodes", name)["status"]["state"]
        for slot, name in NODES.items()
        if world.server.find("asenodes", name)
    }


def named_for_gpu(world: World) -> list[str]:
    """The pods that the device names as without a place or a GPU, with the reason GPU."""
    status = world.device().status
    record = status.failover.unplaceable if status.failover else ()
    named = [one.pod for one in record if one.reason == "GPU"]
    served = next(one for one in status.conditions if one.type == "GpusServed")
    if served.status == "False":
        named += [
            key
            for pod in world.pods("shop")
            if (key := "/".join(bodies.key(pod))) in served.message
        ]
    return named


PLAYED = [
    matrix.cell(witness, a, b)
    for witness, groups in MATRIX["worlds"].items()
    for a, b in product(groups, repeat=2)
]


def check_pods(
    before: dict[str, tuple[str, bool]], after: dict[str, tuple[str, bool]], moves: str
) -> None:
    """``A>B``: what was on A is Ready on B; ``none``: it has no node; "" : nothing has moved.

    What was on another node is untouched, uid by uid.
    """
    lost = {"": "", "none": "A"}.get(moves, moves[:1])
    stayed = {uid: node for uid, (node, _) in before.items() if node != lost}
    assert {uid: node for uid, (node, _) in after.items() if uid in before} == stayed
    new = [one for uid, one in after.items() if uid not in before]
    goal = ("", False) if moves == "none" else (moves[-1:], True)
    assert new == [goal] * (len(before) - len(stayed))


@pytest.mark.parametrize("cell", PLAYED, ids=lambda one: one.id)
def test_a_cluster_ends_as_its_cell_says(cell: Cell) -> None:
    world = settled(cell.witness)
    web, gpu = pods(world, "web"), pods(world, "infer")
    assert sorted(node for node, _ in web.values()) == ["A", "A", "B", "B"]
    assert list(gpu.values()) == [("A", True)]

    if cell.witness == "lost":
        world.patch("AseDevice", "ase", {"spec": {"witness": WITNESS["lost"]}})
    inject(world, cell.failures())
    world.run(QUIET_SECONDS)

    outcome = cell.outcome
    assert states(world) == {slot: cell.state(slot) for slot in NODES}
    assert world.device().status.state == outcome["device"]
    check_pods(web, pods(world, "web"), outcome["pods"])
    check_pods(gpu, pods(world, "infer"), outcome["gpu"])
    assert bool(named_for_gpu(world)) == outcome.get("named", False)
    home = outcome["master"].rstrip("+")
    if home == "A if up":
        home = "A" if cell.state("A") == "Up" else ""
    assert master_node(world) == home
    status = world.device().status.master
    assert status is not None
    assert status.epoch == (2 if outcome["master"].endswith("+") else 1)


@pytest.mark.parametrize("group", MATRIX["one_node"])
def test_a_device_of_one_node_goes_offline_where_another_one_fails_over(group: str) -> None:
    world = settled("online", without="B")
    inject(world, matrix.ways("A", group)[0])
    world.run(QUIET_SECONDS)
    expected = MATRIX["one_node"][group]
    assert world.device().status.state == expected["device"]
    assert states(world) == {"A": matrix.node_state(group)}
    assert world.device().status.failover is None
    assert bool(named_for_gpu(world)) == expected.get("named", False)


@pytest.mark.parametrize("story", MATRIX["in_order"])
def test_failures_that_follow_each_other_end_as_told(story: str) -> None:
    world = settled("online")
    for number, step in enumerate(MATRIX["in_order"][story]):
        if "witness" in step:
            world.patch("AseDevice", "ase", {"spec": {"witness": WITNESS[step["witness"]]}})
        inject(world, matrix.written(step.get("fail", "")))
        for one in matrix.written(step.get("repair", "")):
            world.delete("HardwareFailure", one.name(NODES[one.slot]))
        # A return takes its time: stable first, then pod by pod.
        world.run(40 if "repair" in step else QUIET_SECONDS)

        seen = [*pods(world, "web").values()]
        up = {slot for slot, state in states(world).items() if state == "Up"}
        assert len(seen) == 4
        assert all(is_ready for node, is_ready in seen if node in up)
        where = {node for node, _ in seen}
        if "gpu" in step:
            assert [node for node, _ in pods(world, "infer").values()] == [step["gpu"]]
        found = {
            **states(world),
            "device": world.device().status.state,
            "pods": "both" if where == {"A", "B"} else "".join(sorted(where)),
            "master": master_node(world),
            "epoch": (master := world.device().status.master) and master.epoch,
        }
        wanted = {key: step[key] for key in found}
        assert found == wanted, f"step {number + 1}: {step}"
