"""One device node: its state, what it needs to come back, and when it does."""

import itertools
from collections.abc import Iterable

import pytest

from asetwin import constants
from asetwin.model import decide, marks, nodes
from asetwin.model.marks import Mark
from asetwin.model.nodes import View
from asetwin.model.power import SIMULATED
from asetwin.resources.conditions import Condition, find
from asetwin.resources.devices import NodeState, PowerState
from asetwin.resources.times import render
from unit.builders import (
    NOW,
    ase_node,
    cluster,
    condition,
    device,
    failure,
    node,
    views,
    worker,
)

STABLE_SECONDS = 3
OURS = Mark("ase", cordon=True).render() or ""
FAILED = {"nothing": (), "supply": ("PSU1",), "port": ("Port3",), "board": ("Motherboard",)}


def view(*objects: object, now: float = NOW) -> View:
    """Node a of the standard device."""
    return views(cluster(*objects), now=now)[0]


def expected_state(
    failed: str, power: PowerState, *, rebooting: bool, out: bool, ready: bool
) -> NodeState:
    """Design 2, 4.1 and 4.6 for a node that has its worker."""
    if failed == "board":
        return NodeState.DOWN
    if failed == "port":
        return NodeState.DOWN if power is PowerState.OFF else NodeState.ISOLATED
    if rebooting:
        return NodeState.REBOOTING
    # Simulated power that is still seen as off without a failure is being switched on.
    if out:
        return NodeState.RETURNING
    return NodeState.UP if ready else NodeState.UNKNOWN


@pytest.mark.parametrize("failed", FAILED)
@pytest.mark.parametrize("power", [*PowerState, None])
def test_the_state_follows_from_hardware_power_marks_and_readiness(
    failed: str, power: PowerState | None
) -> None:
    for rebooting, out, ready in itertools.product((False, True), repeat=3):
        found = view(
            *(failure(one.lower(), component=one) for one in FAILED[failed]),
            *([failure("boot", spec={"action": "Reboot"})] if rebooting else []),
            worker("wa", power=power),
            node("na", is_ready=ready, owned=OURS if out else ""),
        )
        observed = power or PowerState.UNKNOWN
        wanted = expected_state(failed, observed, rebooting=rebooting, out=out, ready=ready)
        assert found.state is wanted
        is_lost = failed in ("board", "port") or rebooting
        assert found.is_lost is is_lost
        assert found.is_voting is not is_lost
        # Only the observed power proves that nothing runs there any more.
        assert found.is_fenced is (is_lost and observed is PowerState.OFF)
        assert found.is_out is out
        assert found.in_service is (wanted is NodeState.UP)


@pytest.mark.parametrize("missing", ["wa", "na"])
def test_a_node_without_a_worker_is_unknown(missing: str) -> None:
    (found, _) = views(cluster(without=[missing]))
    assert found.state is NodeState.UNKNOWN
    assert not found.in_service
    assert states(found.conditions)["WorkerReady"] == ("Unknown", "NoWorker")


def test_dead_hardware_has_no_vote_although_no_worker_is_pinned_to_it() -> None:
    (found, _) = views(cluster(failure(component="DIMM"), without=["wa"]))
    assert (found.state, found.is_voting) == (NodeState.UNKNOWN, False)
    assert states(found.conditions)["Available"] == ("False", "ComponentFailed")


@pytest.mark.parametrize(
    ("objects", "desired"),
    [
        pytest.param([], PowerState.ON, id="healthy"),
        pytest.param([failure(component="PSU1")], PowerState.ON, id="degraded"),
        pytest.param([failure(component="Node")], PowerState.OFF, id="dead"),
        pytest.param([failure(component="Port4")], PowerState.OFF, id="isolated-is-fenced"),
        pytest.param([failure(spec={"action": "Reboot"})], PowerState.OFF, id="rebooting"),
        pytest.param([worker("wa", power=PowerState.OFF)], PowerState.ON, id="repaired"),
    ],
)
def test_power_is_taken_from_a_lost_node_and_given_back(
    objects: list[object], desired: PowerState
) -> None:
    assert view(*objects).judged.desired is desired


def states(conditions: Iterable[Condition]) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {one.type: (one.status, one.reason) for one in conditions}


@pytest.mark.parametrize(
    ("objects", "changed"),
    [
        pytest.param([], {}, id="healthy"),
        pytest.param(
            [failure(component="PSU1")],
            {"HardwareHealthy": ("False", "ComponentFailed")},
            id="degraded",
        ),
        pytest.param(
            [failure(component="Node")],
            {
                "HardwareHealthy": ("False", "ComponentFailed"),
                "Available": ("False", "ComponentFailed"),
                "InService": ("False", "OutOfService"),
            },
            id="dead",
        ),
        pytest.param(
            [failure(spec={"action": "Reboot"})],
            {
                "Available": ("False", "ComponentFailed"),
                "InService": ("False", "OutOfService"),
            },
            id="rebooting",
        ),
        pytest.param(
            [node("na", is_ready=False)],
            {
                "WorkerReady": ("False", "NodeNotReady"),
                "InService": ("False", "OutOfService"),
            },
            id="not-ready",
        ),
        pytest.param(
            [node("na", owned=OURS, unschedulable=True)],
            {"InService": ("False", "Returning")},
            id="returning",
        ),
        pytest.param(
            [node("na", unschedulable=True)],
            {"InService": ("False", "ForeignCordon")},
            id="foreign-cordon",
        ),
    ],
)
def test_the_conditions_tell_the_causes_apart(
    objects: list[object], changed: dict[str, tuple[str, str]]
) -> None:
    healthy = {
        "Accepted": ("True", "Accepted"),
        "HardwareHealthy": ("True", "ComponentsWork"),
        "Available": ("True", "ComponentsWork"),
        "WorkerReady": ("True", "NodeReady"),
        "Quarantined": ("False", "FewFailures"),
        "InService": ("True", "InService"),
    }
    assert states(view(*objects).conditions) == healthy | changed


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        pytest.param([], "healthy", id="healthy"),
        pytest.param([failure(component="Disk1")], "Disk1 failed", id="degraded"),
        pytest.param(
            [node("na", owned=OURS)], "taken into service when healthy for 3 s", id="back"
        ),
        pytest.param([node("na", unschedulable=True)], "cordoned by someone else", id="foreign"),
        pytest.param([node("na", is_ready=False)], "Unknown", id="not-ready"),
    ],
)
def test_the_summary_is_for_people(objects: list[object], words: str) -> None:
    assert words in view(*objects).summary


def test_a_foreign_cordon_does_not_hide_what_failed() -> None:
    summary = view(failure(component="Disk1"), node("na", unschedulable=True)).summary
    assert "Disk1 failed" in summary
    assert "cordoned by someone else" in summary


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has", "pinned", "failed", "offers"),
    [
        pytest.param(1, None, [], 1, id="all"),
        pytest.param(2, 1, [], 1, id="worker-has-fewer"),
        pytest.param(1, 2, [], 1, id="worker-wants-more-than-there-are"),
        pytest.param(1, 0, [], 0, id="worker-has-none"),
        pytest.param(2, None, ["GPU1"], 1, id="one-failed"),
        pytest.param(2, 1, ["GPU1", "GPU2"], 0, id="never-below-none"),
    ],
)
def test_offers_the_gpus_that_the_worker_has_and_that_work(
    has: int, pinned: int | None, failed: list[str], offers: int
) -> None:
    found = view(
        ase_node("a", hardware={"gpus": has}),
        worker("wa", spec={} if pinned is None else {"gpus": pinned}),
        *(failure(one.lower(), component=one) for one in failed),
    )
    assert found.gpus == offers


# --- The way back ---------------------------------------------------------------------------------


class Turns:
    """Looks at node a again and again and keeps its conditions, as its status does."""

    def __init__(self) -> None:
        self.conditions: tuple[Condition, ...] = ()

    def look(self, at: float, *objects: object, ready: bool = True, out: bool = True) -> View:
        found = view(
            ase_node("a", conditions=self.conditions),
            node("na", is_ready=ready, owned=OURS if out else "", unschedulable=out),
            *objects,
            now=at,
        )
        self.conditions = found.conditions
        return found


def test_a_node_comes_back_when_it_was_healthy_for_the_stable_time() -> None:
    turns = Turns()
    assert turns.look(100.0, failure()).returns_at is None
    assert turns.look(110.0).returns_at == 110.0 + STABLE_SECONDS
    assert turns.look(112.0).returns_at == 110.0 + STABLE_SECONDS


@pytest.mark.parametrize("what", ["readiness", "hardware"])
def test_each_flip_restarts_the_stable_time(what: str) -> None:
    # Case C25: Ready for a while, NotReady, Ready for good.
    turns = Turns()
    turns.look(100.0, failure())
    for start in (110.0, 115.0, 120.0):
        healthy = turns.look(start)
        assert healthy.returns_at == start + STABLE_SECONDS
        if what == "readiness":
            sick = turns.look(start + 2.5, ready=False)
        else:
            sick = turns.look(
                start + 2.5, failure(component="PSU1"), failure("g", component="PSU2")
            )
        assert sick.returns_at is None
    assert turns.look(130.0).returns_at == 130.0 + STABLE_SECONDS


def test_a_degraded_node_comes_back_all_the_same() -> None:
    turns = Turns()
    turns.look(100.0, failure())
    assert turns.look(110.0, failure(component="Disk1")).returns_at == 110.0 + STABLE_SECONDS


def test_the_stable_time_counts_from_the_last_of_power_and_readiness() -> None:
    turns = Turns()
    turns.look(100.0, failure(), ready=False)
    assert turns.look(105.0, ready=False).returns_at is None
    assert turns.look(108.0, ready=True).returns_at == 108.0 + STABLE_SECONDS


@pytest.mark.parametrize(
    ("boot", "since"),
    [
        pytest.param(90.0, 100.0, id="before-it-was-well"),
        pytest.param(105.0, 105.0, id="unseen-as-behind-a-broken-watch"),
        pytest.param(300.0, 100.0, id="told-by-a-clock-that-was-ahead"),
    ],
)
def test_the_stable_time_counts_from_the_last_boot_that_is_known(boot: float, since: float) -> None:
    conditions = condition("Available", since=100.0), condition("WorkerReady", since=60.0)
    found = view(
        ase_node("a", conditions=conditions),
        worker("wa", status={"power": {"observed": "On", "startedAt": render(boot)}}),
        node("na", owned=OURS),
        now=106.0,
    )
    assert found.returns_at == since + STABLE_SECONDS


def test_a_node_that_never_left_has_no_moment_of_return() -> None:
    assert Turns().look(100.0, out=False).returns_at is None


def test_a_node_with_another_devices_mark_is_not_on_its_way_back() -> None:
    foreign = node("na", owned=Mark("other", cordon=True).render() or "", unschedulable=True)
    found = view(foreign)
    assert (found.returns_at, found.is_out) == (None, False)
    assert not marks.is_out_of_service(foreign, "ase")


def test_the_timing_is_the_devices() -> None:
    since = condition("Available", since=50.0), condition("WorkerReady", since=60.0)
    found = view(
        device(spec={"timing": {"profile": "Realistic", "stableSeconds": 7}}),
        ase_node("a", conditions=since),
        node("na", owned=OURS),
    )
    assert found.returns_at == 67.0


@pytest.mark.parametrize(
    ("paused", "age", "wakes"),
    [
        pytest.param([], 1.0, True, id="not-yet"),
        pytest.param(["work"], 1.0, True, id="paused-not-yet"),
        # It is not taken back during a pause: a moment that has passed would make the loop spin.
        pytest.param(["work"], 3.0, False, id="paused-and-due"),
        pytest.param(["work"], 99.0, False, id="paused-and-overdue"),
    ],
)
def test_asks_to_be_woken_only_for_a_moment_that_comes(
    paused: list[str], age: float, wakes: bool
) -> None:
    since = NOW - age
    seen = cluster(
        device(spec={"paused": paused}, finalizers=[constants.FINALIZER]),
        ase_node(
            "a",
            conditions=(
                condition("Available", since=since),
                condition("WorkerReady", since=since),
            ),
        ),
        node("na", owned=OURS, unschedulable=True),
    )
    expected = since + STABLE_SECONDS if wakes else None
    assert decide.decide(seen, "ase", NOW).wake_at == expected


@pytest.mark.parametrize(
    ("age", "state"),
    [
        pytest.param(4.999, NodeState.REBOOTING, id="while-it-lasts"),
        pytest.param(5.0, NodeState.RETURNING, id="when-it-is-over"),
    ],
)
def test_a_reboot_is_over_after_its_time(age: float, state: NodeState) -> None:
    boot = failure(spec={"action": "Reboot"}, status={"startedAt": render(NOW - age)})
    assert view(boot, node("na", owned=OURS)).state is state


def test_a_failure_that_has_expired_is_a_repair() -> None:
    over = failure(spec={"durationSeconds": 9}, status={"startedAt": render(NOW - 9)})
    found = view(over)
    assert (found.state, found.verdict.failed) == (NodeState.UP, ())


# --- The worker's status --------------------------------------------------------------------------


@pytest.mark.parametrize("before", [*PowerState, None])
@pytest.mark.parametrize("is_dead", [False, True])
def test_simulated_power_is_observed_as_desired(before: PowerState | None, is_dead: bool) -> None:
    desired = PowerState.OFF if is_dead else PowerState.ON
    known = {"power": {"observed": before.value, "observedAt": render(5)}} if before else {}
    found = view(
        worker("wa", power=None, status=known), *([failure(component="Node")] if is_dead else [])
    )
    status = nodes.worker_status(found, NOW)
    assert status is not None
    assert status.power is not None
    power = status.power
    assert (power.desired, power.observed, power.method) == (desired, desired, SIMULATED)
    assert power.observed_at == (5.0 if before is desired else NOW)


def test_there_is_no_worker_status_without_a_worker() -> None:
    (found, _) = views(cluster(without=["wa"]))
    assert nodes.worker_status(found, NOW) is None


def test_the_workers_status_names_its_node_and_gpus() -> None:
    status = nodes.worker_status(view(), NOW)
    assert status is not None
    assert (status.summary, status.gpus) == ("Node na, power On (simulated)", 1)
    accepted = find(status.conditions, "Accepted")
    assert accepted is not None
    assert accepted.message == "Node na is the worker VM of AseNode a"
