"""Each transition is told once, in plain words, and again under the same key when repeated."""

import itertools
from typing import Any

import pytest

from asetwin.model import stories
from asetwin.model.plan import Announce, WriteStatus
from asetwin.resources.devices import (
    AseDeviceStatus,
    AseNodeStatus,
    DeviceState,
    FailurePhase,
    HardwareFailureStatus,
    NodeState,
    PinnedWorkerStatus,
    Resource,
    Wire,
)
from asetwin.resources.times import render
from unit.builders import NOW, ase_node, device, failure, with_status, worker

STATUSES: dict[str, tuple[Resource, type[Wire]]] = {
    "device": (device(), AseDeviceStatus),
    "node": (ase_node(), AseNodeStatus),
    "worker": (worker(power=None), PinnedWorkerStatus),
    "failure": (failure(), HardwareFailureStatus),
}


def tell(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[Announce]:
    """What is told when an object of that kind goes from one status to the next."""
    resource, status = STATUSES[kind]
    old = with_status(resource, status.model_validate(before))
    step = WriteStatus("kinds", resource.name, {})
    return stories.tell([(step, (old, status.model_validate(after)))])


def told(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Reason, message and whether it is a warning."""
    return [(one.reason, one.message, one.is_warning) for one in tell(kind, before, after)]


def reasons(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [one.reason for one in tell(kind, before, after)]


def accepted(status: str, reason: str, message: str = "why") -> dict[str, Any]:
    return condition("Accepted", status, reason, message)


def condition(kind: str, status: str, reason: str, message: str = "why") -> dict[str, Any]:
    one = {"type": kind, "status": status, "reason": reason, "message": message}
    return {"conditions": [one | {"lastTransitionTime": render(0)}]}


RECORD: dict[str, Any] = {
    "id": "a-1",
    "trigger": "both power supplies failed",
    "from": "a",
    "to": "b",
    "detectedAt": render(NOW),
    "displaced": 6,
}
STEPS: list[tuple[dict[str, Any], list[tuple[str, str, bool]]]] = [
    (
        {},
        [
            (
                "NodeLost",
                "a is lost (both power supplies failed); displaced pods: 6, to go to b",
                True,
            )
        ],
    ),
    (
        {"fencedAt": render(NOW + 1), "fencedBy": "container a ended", "phase": "Moving"},
        [("NodeFenced", "a is off: container a ended", False)],
    ),
    ({"evacuatedAt": render(NOW + 2)}, [("PodsRemoved", "no pod is left on a", False)]),
    (
        {"podsReadyAt": render(NOW + 3.5), "recovered": 6},
        [("PodsReady", "6 of 6 displaced pods are Ready again after 3.5 s", False)],
    ),
    (
        {"phase": "Recovered", "recoveredAt": render(NOW + 4)},
        [("FailedOver", "pods and master recovered after 4.0 s", False)],
    ),
]


def test_another_address_of_a_worker_is_told() -> None:
    before, after = {"address": "172.18.0.3"}, {"address": "172.18.0.5"}
    text = "the InternalIP of its Node was 172.18.0.3, and is 172.18.0.5 now"
    assert told("worker", before, after) == [("AddressChanged", text, False)]
    assert told("worker", {}, after) == told("worker", after, after) == []


def test_a_failover_tells_its_steps_one_by_one() -> None:
    before: dict[str, Any] = {}
    record = dict(RECORD)
    for change, expected in STEPS:
        record |= change
        after = {"failover": dict(record)}
        assert told("device", before, after) == expected
        assert told("device", after, after) == []
        before = after
    assert told("device", before, {}) == [("NodeReturned", "a is back in service", False)]


def test_a_failover_that_is_seen_at_once_tells_all_of_it_in_order() -> None:
    record = dict(RECORD)
    for change, _ in STEPS:
        record |= change
    expected = [line for _, lines in STEPS for line in lines]
    assert told("device", {}, {"failover": record}) == expected


def test_the_next_failover_tells_the_return_and_starts_anew() -> None:
    first = {"failover": {**RECORD, "fencedAt": render(NOW), "phase": "Moving"}}
    second = {"failover": {**RECORD, "id": "b-2", "from": "b", "to": "a"}}
    assert reasons("device", first, second) == ["NodeReturned", "NodeLost"]


def test_what_nothing_recreates_is_told_by_name() -> None:
    record = {**RECORD, "lost": 2, "lostPods": ["default/p", "default/q"]}
    text = "lost, because no controller replaces them: default/p, default/q"
    assert ("PodsLost", text, True) in told("device", {}, {"failover": record})


def test_what_has_no_place_is_told_with_the_reason() -> None:
    problems = [{"pod": f"default/p{n}", "reason": "GPU"} for n in range(7)]
    part = {"unplaceableCount": 7, "unplaceable": problems, "phase": "RecoveredInPart"}
    ((reason, message, is_warning),) = told(
        "device", {"failover": RECORD}, {"failover": {**RECORD, **part}}
    )
    assert (reason, is_warning) == ("FailedOverInPart", True)
    assert message.startswith("7 pods have no place on b: default/p0 (GPU), default/p1 (GPU)")
    assert "p5" not in message


def master(node: str, epoch: int, phase: str) -> dict[str, Any]:
    return {"master": {"node": node, "epoch": epoch, "phase": phase, "since": render(0)}}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            {}, master("a", 1, "Waiting"), [("MasterMoving", "to a, epoch 1", False)], id="first"
        ),
        pytest.param(
            master("a", 1, "Serving"),
            master("b", 2, "Waiting"),
            [("MasterMoving", "from a to b, epoch 2", False)],
            id="moves",
        ),
        pytest.param(
            master("a", 1, "Serving"),
            master("a", 2, "Waiting"),
            [("MasterMoving", "to a, epoch 2", False)],
            id="starts-anew-in-place",
        ),
        pytest.param(
            master("b", 2, "Booting"),
            master("b", 2, "Serving"),
            [("MasterServing", "on b under epoch 2", False)],
            id="serves",
        ),
        pytest.param(
            master("b", 2, "Serving"),
            master("b", 2, "Booting"),
            [("MasterStopped", "on b under epoch 2", True)],
            id="stops",
        ),
        pytest.param(master("b", 2, "Waiting"), master("b", 2, "Booting"), [], id="boots"),
        pytest.param(master("b", 2, "Serving"), {}, [], id="is-no-more"),
    ],
)
def test_the_master_tells_where_it_is(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, str, bool]]
) -> None:
    assert told("device", before, after) == expected


def kept(status: str, reason: str) -> dict[str, Any]:
    return condition("ReserveKept", status, reason)


WITHIN, OVER = kept("True", "WithinReserve"), kept("False", "OverReserve")
LIFTED, FOREIGN = kept("Unknown", "LiftedForFailover"), kept("False", "ForeignObject")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({}, WITHIN, [], id="nothing-to-say-at-the-start"),
        pytest.param({}, OVER, [("OverReserve", "why", True)], id="over-at-the-start"),
        pytest.param(WITHIN, OVER, [("OverReserve", "why", True)], id="over"),
        pytest.param(OVER, FOREIGN, [("ForeignObject", "why", True)], id="another-cause"),
        pytest.param(OVER, WITHIN, [("ReserveRestored", "why", False)], id="within-again"),
        pytest.param(WITHIN, LIFTED, [("ReserveLifted", "why", False)], id="lifted"),
        pytest.param(LIFTED, WITHIN, [("ReserveRestored", "why", False)], id="restored"),
        pytest.param(OVER, kept("False", "OverReserve"), [], id="no-change"),
    ],
)
def test_the_reserve_tells_when_it_is_not_kept(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, str, bool]]
) -> None:
    assert told("device", before, after) == expected


WARNING_STATES = {
    DeviceState.OFFLINE,
    DeviceState.NEEDS_ATTENTION,
    NodeState.DOWN,
    NodeState.ISOLATED,
    NodeState.REBOOTING,
    NodeState.QUARANTINED,
    NodeState.UNKNOWN,
}


@pytest.mark.parametrize(
    ("kind", "name", "states"),
    [("device", "Device", DeviceState), ("node", "Node", NodeState)],
    ids=["device", "node"],
)
def test_every_change_of_state_is_told_once(kind: str, name: str, states: Any) -> None:
    for old, new in itertools.product([None, *states], states):
        before = {"state": old.value} if old else {}
        lines = told(kind, before, {"state": new.value, "summary": "so"})
        # Not to be known yet is no news of a new object.
        is_news = old is not new and not (old is None and new is NodeState.UNKNOWN)
        expected = (f"{name}{new.value}", "so", new in WARNING_STATES)
        assert lines == ([expected] if is_news else [])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([], ["PSU1"], [("ComponentFailed", "so", True)], id="fails"),
        pytest.param(
            ["PSU1", "DIMM"], [], [("ComponentRepaired", "DIMM, PSU1", False)], id="repaired"
        ),
        pytest.param(
            ["PSU1"],
            ["Disk1"],
            [("ComponentFailed", "so", True), ("ComponentRepaired", "PSU1", False)],
            id="one-for-the-other",
        ),
        pytest.param(["PSU1"], ["PSU1"], [], id="still"),
    ],
)
def test_a_node_tells_what_fails_and_what_is_repaired(
    before: list[str], after: list[str], expected: list[tuple[str, str, bool]]
) -> None:
    lines = told("node", {"failedComponents": before}, {"failedComponents": after, "summary": "so"})
    assert lines == expected


REFUSED, TAKEN = accepted("False", "NodeNotFound"), accepted("False", "NodeTaken")
ACCEPTED = accepted("True", "Accepted")


@pytest.mark.parametrize("kind", ["node", "worker"])
@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({}, ACCEPTED, [], id="accepted-at-once"),
        pytest.param({}, REFUSED, [("NodeNotFound", "why", True)], id="refused"),
        pytest.param(REFUSED, REFUSED, [], id="still-refused"),
        pytest.param(REFUSED, TAKEN, [("NodeTaken", "why", True)], id="for-another-reason"),
        pytest.param(REFUSED, ACCEPTED, [("Accepted", "why", False)], id="accepted-after-all"),
    ],
)
def test_a_refusal_and_its_end_are_told(
    kind: str,
    before: dict[str, Any],
    after: dict[str, Any],
    expected: list[tuple[str, str, bool]],
) -> None:
    assert told(kind, before, after) == expected


def power(observed: str, method: str | None = None) -> dict[str, Any]:
    how = {"method": method} if method else {}
    return {"power": {"observed": observed} | how, "summary": f"power {observed}"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({}, power("On"), [("PowerOn", "power is On", False)], id="first-seen"),
        pytest.param(
            power("On"),
            power("Off", "Simulated"),
            [("PowerOff", "power is Off (simulated)", False)],
            id="off",
        ),
        pytest.param(power("Off"), power("Off", "Simulated"), [], id="still-off"),
        pytest.param(power("Off"), {}, [], id="forgotten"),
        # The agent writes what it sees before the operator's turn; only the summary is ours.
        pytest.param(
            power("Off", "Docker") | {"summary": "power On"},
            power("Off", "Docker"),
            [("PowerOff", "power is Off (docker)", False)],
            id="written-by-the-agent",
        ),
        pytest.param(
            power("On"),
            power("On") | accepted("False", "NodeTaken") | {"summary": "refused"},
            [("NodeTaken", "why", True)],
            id="refused",
        ),
    ],
)
def test_a_worker_tells_its_power(
    before: dict[str, Any], after: dict[str, Any], expected: list[tuple[str, str, bool]]
) -> None:
    assert told("worker", before, after) == expected


def test_a_failure_tells_every_new_phase_once() -> None:
    for old, new in itertools.product([None, *FailurePhase], FailurePhase):
        before = {"phase": old.value} if old else {}
        lines = told("failure", before, {"phase": new.value, "summary": "so"})
        is_warning = new in (FailurePhase.REJECTED, FailurePhase.ACTIVE)
        assert lines == ([] if old is new else [(f"Failure{new.value}", "so", is_warning)])


# --- Keys -----------------------------------------------------------------------------------------


def test_a_repeated_turn_tells_under_the_same_keys_and_the_next_version_under_others() -> None:
    after = {"failover": RECORD, "state": "NeedsAttention"}
    once, again = tell("device", {}, after), tell("device", {}, after)
    assert once == again
    assert [one.key for one in once] == [
        "uid-ase/7/NodeLost",
        "uid-ase/7/DeviceNeedsAttention",
    ]
    newer = device(resourceVersion="8")
    step = WriteStatus("asedevices", "ase", {})
    (line,) = stories.tell([(step, (newer, AseDeviceStatus(state=DeviceState.OFFLINE)))])
    assert line.key == "uid-ase/8/DeviceOffline"


def test_one_turn_tells_nothing_twice_under_one_key() -> None:
    record = dict(RECORD) | {"lost": 1, "lostPods": ["p"]}
    for change, _ in STEPS:
        record |= change
    after = {"failover": record, "state": "NeedsAttention", **master("b", 2, "Serving"), **OVER}
    keys = [one.key for one in tell("device", {}, after)]
    assert len(keys) == len(set(keys)) == 9


def test_an_event_is_about_its_object() -> None:
    (one,) = tell("failure", {}, {"phase": "Active", "summary": "so"})
    assert one.regarding == {
        "apiVersion": "asetwin.dev/v1alpha1",
        "kind": "HardwareFailure",
        "name": "f",
        "uid": "uid-f",
    }


def test_a_message_is_as_long_as_an_event_may_be() -> None:
    (one,) = tell("failure", {}, {"phase": "Active", "summary": "x" * 5000})
    assert len(one.message) == 1000


def test_events_come_in_the_order_of_the_writes() -> None:
    step = WriteStatus("kinds", "x", {})
    changes: list[tuple[WriteStatus, tuple[Resource, Wire]]] = [
        (step, (failure(), HardwareFailureStatus(phase=FailurePhase.ACTIVE))),
        (step, (ase_node(), AseNodeStatus(state=NodeState.DOWN))),
    ]
    assert [one.reason for one in stories.tell(changes)] == ["FailureActive", "NodeDown"]
