"""How the end-to-end tests compare what FailoverReady foretells with what comes of it."""

from collections import Counter
from typing import Any

import pytest

from e2e import foresight
from e2e.foresight import Foretold, Json

NAMESPACE = "e2e-mine"
WEB, DB = f"{NAMESPACE}/ReplicaSet/web-1", f"{NAMESPACE}/StatefulSet/db"
BARE = f"{NAMESPACE}/Pod/bare"
BEFORE: Json = {"history": [{"id": "old", "from": "node-a", "phase": "Recovered"}]}


def pod(name: str, owner: str = "", *, node: str = "", refused: bool = False, **more: Any) -> Json:
    """A pod whose uid is its name; ``refused``: the scheduler has said that nothing fits."""
    namespace, kind, controller = owner.split("/") if owner else (NAMESPACE, "", "")
    references = [{"kind": kind, "name": controller, "controller": True}] if owner else []
    meta = {"name": name, "uid": name, "namespace": namespace, "ownerReferences": references}
    is_placed = {"type": "PodScheduled", "status": "False" if refused else "True"}
    return {
        "metadata": meta | more,
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": "Pending", "conditions": [is_placed] if refused or node else []},
    }


STEADY = [
    pod("web-1-a", WEB, node="na"),
    pod("web-1-b", WEB, node="nb"),
    pod("db-0", DB, node="na"),
    pod("bare", node="na"),
    pod("filler", refused=True),
    pod("agent-a", f"{NAMESPACE}/DaemonSet/agent", node="na"),
    pod("ase-master-1", "asetwin-system/Service/x", node="na"),
    pod("of-another-test", "e2e-other/ReplicaSet/x", node="na"),
]


def kept(*named: str) -> Foretold:
    """What is kept before the loss of A, if those pods are named."""
    problems = [{"pod": f"{NAMESPACE}/{one}", "reason": "Capacity"} for one in named]
    found = foresight.keep(
        "node-a",
        "na",
        NAMESPACE,
        if_lost={"problemCount": len(problems), "problems": problems},
        pods=STEADY,
        device=BEFORE,
    )
    assert found is not None
    return found


def after(*pods: Json) -> Counter[str] | None:
    left = [one for one in STEADY if one["spec"].get("nodeName") != "na"]
    return foresight.not_running(kept(), NAMESPACE, [*left, *pods])


def test_what_is_foretold_is_counted_by_owner() -> None:
    assert kept("db-0", "bare").who == {DB: 1, BARE: 1}
    assert kept().owners == {WEB: 2, DB: 1}


def test_what_does_not_run_has_no_node_or_is_gone_for_good() -> None:
    found = after(pod("web-1-c", WEB, node="nb"), pod("db-0-new", DB, refused=True))
    assert found == {DB: 1, BARE: 1}


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param([pod("web-1-c", WEB, node="nb")], id="one-is-not-made-again-yet"),
        pytest.param(
            [pod("web-1-c", WEB, node="nb"), pod("db-0-new", DB)], id="one-was-not-looked-at-yet"
        ),
        pytest.param(
            [pod("web-1-c", WEB, node="nb"), pod("db-0", DB, node="na", deletionTimestamp="now")],
            id="one-is-still-ending",
        ),
    ],
)
def test_nothing_is_said_before_every_pod_is_placed_or_refused(pods: list[Json]) -> None:
    assert after(*pods) is None


def test_an_answer_about_a_pod_that_is_there_no_more_is_not_kept() -> None:
    if_lost = {"problemCount": 1, "problems": [{"pod": f"{NAMESPACE}/web-1-z"}]}
    found = foresight.keep("node-a", "na", NAMESPACE, if_lost=if_lost, pods=STEADY, device=BEFORE)
    assert found is None


def test_an_answer_that_is_longer_than_its_list_cannot_be_compared() -> None:
    if_lost = {"problemCount": 21, "problems": []}
    with pytest.raises(AssertionError, match="deploy fewer"):
        foresight.keep("node-a", "na", NAMESPACE, if_lost=if_lost, pods=STEADY, device=BEFORE)


@pytest.mark.parametrize(
    ("record", "has_ended"),
    [
        pytest.param({}, False, id="none-yet"),
        pytest.param({"from": "node-a", "phase": "Moving"}, False, id="under-way"),
        pytest.param({"from": "node-b", "phase": "Recovered"}, False, id="of-the-other"),
        pytest.param({"from": "node-a", "phase": "RecoveredInPart"}, True, id="in-part"),
        pytest.param(
            {"from": "node-a", "phase": "TakenBack", "recoveredAt": "x"}, True, id="on-its-way-back"
        ),
    ],
)
def test_the_end_is_that_of_a_new_failover_of_this_node(record: Json, has_ended: bool) -> None:
    device = BEFORE | ({"failover": record | {"id": "new"}} if record else {})
    assert foresight.has_ended(kept(), device) is has_ended
    if record.get("from") == "node-a":
        assert foresight.has_ended(
            kept(), {"history": [record | {"id": "new"}, *BEFORE["history"]]}
        )


@pytest.mark.parametrize(
    ("components", "is_lost"),
    [
        (("PSU1",), False),
        (("PSU1", "PSU2"), True),
        (("Port3",), True),
        (("Port1", "Port2"), False),
        (("GPU1", "Node"), True),
    ],
)
def test_a_node_is_lost_with_the_parts_that_the_failure_matrix_says(
    components: tuple[str, ...], is_lost: bool
) -> None:
    assert foresight.loses_node(components) is is_lost
