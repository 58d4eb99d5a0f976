"""Who belongs to whom: every bad reference has its answer, and the first one keeps its place."""

import itertools
from typing import Any

import pytest

from asetwin.model import references
from asetwin.model.references import References
from asetwin.model.snapshot import Snapshot
from asetwin.resources.conditions import Reason
from unit.builders import ase_node, cluster, device, failure, node, worker

CONTROL_PLANE = node("cp", labels={"node-role.kubernetes.io/control-plane": ""})


def answer(found: References, one: Any) -> references.Answer:
    """The answer that an object got."""
    by_kind = {
        "AseNode": found.ase_nodes,
        "PinnedWorker": found.workers,
        "HardwareFailure": found.failures,
    }
    return by_kind[type(one).__name__][one.name]


def test_a_complete_device_is_accepted_as_a_whole() -> None:
    found = references.resolve(cluster(failure("f1", node="b", component="Disk5")))
    answers = [*found.ase_nodes.values(), *found.workers.values(), *found.failures.values()]
    assert len(answers) == 5
    assert all(one.is_accepted for one in answers)
    a, b = found.members["ase"]
    assert (a.ase_node.name, a.worker and a.worker.name, a.failures) == ("a", "wa", ())
    assert (b.ase_node.name, b.worker and b.worker.name) == ("b", "wb")
    assert [one.name for one in b.failures] == ["f1"]


BAD: dict[str, tuple[Any, Reason, str]] = {
    "node-of-an-unknown-device": (
        ase_node("c", device="gone"),
        Reason.DEVICE_NOT_FOUND,
        "spec.device: there is no AseDevice gone; there is ase",
    ),
    "slot-taken": (
        ase_node("c", slot="B", created=9),
        Reason.SLOT_TAKEN,
        "spec.slot: slot B of ase is taken by AseNode b",
    ),
    "worker-of-an-unknown-node": (
        worker("wc", ase_node="gone", node="nc"),
        Reason.ASE_NODE_NOT_FOUND,
        "spec.aseNode: there is no AseNode gone; there is a, b",
    ),
    "worker-on-an-unknown-node": (
        worker("wc", ase_node="a", node="gone", created=9),
        Reason.NODE_NOT_FOUND,
        "spec.nodeName: there is no Node gone; there is cp, na, nb, nc",
    ),
    "worker-on-the-control-plane": (
        worker("wc", ase_node="a", node="cp", created=9),
        Reason.CONTROL_PLANE_NODE,
        "spec.nodeName: cp is the control plane",
    ),
    "node-pinned-twice": (
        worker("wc", ase_node="b", node="na", created=9),
        Reason.NODE_TAKEN,
        "spec.nodeName: Node na is pinned by PinnedWorker wa",
    ),
    "second-worker-of-a-node": (
        worker("wc", ase_node="b", node="nc", created=9),
        Reason.WORKER_TAKEN,
        "spec.aseNode: AseNode b has PinnedWorker wb already",
    ),
    "failure-of-an-unknown-node": (
        failure("f", node="gone"),
        Reason.ASE_NODE_NOT_FOUND,
        "spec.node: there is no AseNode gone; there is a, b",
    ),
    "failure-of-a-part-that-is-not-there": (
        failure("f", node="a", component="PSU3"),
        Reason.NO_SUCH_COMPONENT,
        "spec.component on a: the node has no PSU3: it has PSU1, PSU2",
    ),
    "failure-of-nonsense": (
        failure("f", node="a", component="Fan"),
        Reason.NO_SUCH_COMPONENT,
        "spec.component on a: there is no component Fan",
    ),
}


@pytest.mark.parametrize(("bad", "reason", "message"), BAD.values(), ids=BAD)
def test_a_bad_reference_is_told_what_is_wrong_and_what_there_is(
    bad: Any, reason: Reason, message: str
) -> None:
    seen = cluster(CONTROL_PLANE, node("nc"), bad)
    found = references.resolve(seen)
    got = answer(found, bad)
    assert (got.reason, got.is_accepted) == (reason, False)
    assert message in got.message


@pytest.mark.parametrize("bad", [one[0] for one in BAD.values()], ids=BAD)
def test_a_bad_object_changes_nothing_for_the_good_ones(bad: Any) -> None:
    good = references.resolve(cluster(CONTROL_PLANE, node("nc")))
    found = references.resolve(cluster(CONTROL_PLANE, node("nc"), bad))
    assert found.members["ase"] == good.members["ase"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(worker("wc", ase_node="c", node="nc"), "DeviceNotFound", id="worker"),
        pytest.param(failure("f", node="c"), "DeviceNotFound", id="failure"),
    ],
)
def test_what_points_to_a_refused_node_is_told_why_that_was_refused(bad: Any, reason: str) -> None:
    found = references.resolve(cluster(node("nc"), ase_node("c", device="gone"), bad))
    assert answer(found, bad).reason is Reason.ADDRESSED_ELSEWHERE
    assert found.ase_nodes["c"].reason == reason
    assert "there is no AseDevice gone" in answer(found, bad).message


@pytest.mark.parametrize(
    ("missing", "member", "text"),
    [
        pytest.param("na", None, "create the Node first", id="node"),
        pytest.param("wa", None, "", id="worker"),
    ],
)
def test_a_node_without_an_accepted_worker_is_still_a_member(
    missing: str, member: None, text: str
) -> None:
    seen = cluster(without=[missing, "nb", "wb"])
    found = references.resolve(seen)
    a = found.members["ase"][0]
    assert (a.ase_node.name, a.worker) == ("a", member)
    assert all(text in one.message for one in found.workers.values())


def test_a_device_without_nodes_has_no_members() -> None:
    found = references.resolve(cluster(without=["a", "b", "wa", "wb"]))
    assert found.members == {"ase": ()}


def test_two_devices_do_not_share_members() -> None:
    other = [
        device("other"),
        ase_node("c", slot="A", device="other"),
        worker("wc", ase_node="c", node="nc"),
        node("nc"),
    ]
    found = references.resolve(cluster(*other))
    assert [one.ase_node.name for one in found.members["ase"]] == ["a", "b"]
    assert [one.ase_node.name for one in found.members["other"]] == ["c"]


def test_members_come_in_the_order_of_their_slots() -> None:
    seen = cluster(ase_node("z", slot="A"), ase_node("y", slot="B"), without=["a", "b"])
    assert [one.ase_node.name for one in references.resolve(seen).members["ase"]] == ["z", "y"]


AGES = list(itertools.product((1, 2), repeat=2))


@pytest.mark.parametrize(("first", "second"), AGES)
def test_the_older_node_keeps_a_slot_and_of_equal_age_the_first_by_name(
    first: int, second: int
) -> None:
    rivals = [ase_node("a", created=first), ase_node("x", slot="A", created=second)]
    found = references.resolve(cluster(*rivals))
    winner = "x" if second < first else "a"
    assert [name for name in ("a", "x") if found.ase_nodes[name].is_accepted] == [winner]
    assert found.members["ase"][0].ase_node.name == winner


@pytest.mark.parametrize(("first", "second"), AGES)
@pytest.mark.parametrize("rival", ["same-node", "same-ase-node"])
def test_the_older_worker_keeps_its_place(first: int, second: int, rival: str) -> None:
    other = (
        worker("wx", ase_node="b", node="na", created=second)
        if rival == "same-node"
        else worker("wx", ase_node="a", node="nx", created=second)
    )
    seen = cluster(worker("wa", created=first), other, node("nx"), without=["wb"])
    found = references.resolve(seen)
    winner = "wx" if second < first else "wa"
    assert [name for name in ("wa", "wx") if found.workers[name].is_accepted] == [winner]


def test_an_older_object_that_is_refused_holds_no_place() -> None:
    ghost = worker("w0", ase_node="gone", node="na", created=1)
    seen = cluster(ghost, worker("wa", created=5))
    assert references.resolve(seen).workers["wa"].is_accepted


def turned(seen: Snapshot, turn: int) -> Snapshot:
    """The same snapshot with every mapping in another order."""
    fields: dict[str, Any] = {}
    for name in ("devices", "ase_nodes", "workers", "failures", "nodes"):
        items = list(getattr(seen, name).items())
        items = items[turn % len(items) :] + items[: turn % len(items)]
        fields[name] = dict(reversed(items) if turn % 2 else items)
    return Snapshot(**fields)


@pytest.mark.parametrize("turn", range(10))
def test_the_answer_does_not_depend_on_the_order_of_the_objects(turn: int) -> None:
    seen = cluster(
        CONTROL_PLANE,
        node("nc"),
        ase_node("c", slot="A", created=0),
        worker("w1", ase_node="b", node="na", created=0),
        worker("w2", ase_node="a", node="na", created=0),
        failure("f1", node="c"),
        failure("f2", node="a", component="PSU9"),
    )
    expected = references.resolve(seen)
    assert references.resolve(turned(seen, turn)) == expected


def test_names_a_few_of_what_there_is_and_counts_the_rest() -> None:
    many = [node(f"n{number}") for number in range(10)]
    bad = worker("wz", ase_node="a", node="gone", created=9)
    message = references.resolve(cluster(*many, bad)).workers["wz"].message
    assert message.endswith("there is n0, n1, n2, n3, n4, n5 and 6 more")
