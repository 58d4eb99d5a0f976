"""Which HardwareFailures count now, and what their status says."""

import itertools
from typing import Any

import pytest

from asetwin.model import failures
from asetwin.model.references import Answer
from asetwin.resources.conditions import Condition, Reason, find
from asetwin.resources.devices import FailureAction, FailurePhase, HardwareFailure, Timing
from asetwin.resources.times import render
from unit.builders import NOW, failure

FAST = Timing.model_validate({"profile": "Fast"})
REBOOT_SECONDS = 5

DURATIONS = {"until-deleted": None, "ten-seconds": 10}
ACTIONS = {"fail": "Fail", "reboot": "Reboot"}
AGES = {"new": None, "at-its-end": "end", "just-before": "before", "long-ago": "long"}


def made(action: str, duration: int | None, age: str | None, *, deleting: bool) -> HardwareFailure:
    """A failure of PSU1 that is as old as the name says, measured by its own length."""
    length = duration or (REBOOT_SECONDS if action == "Reboot" else None)
    ages = {"end": length or 100, "before": (length or 100) - 0.001, "long": 100000}
    spec: dict[str, Any] = {"action": action}
    if duration is not None:
        spec["durationSeconds"] = duration
    status = {"startedAt": render(NOW - ages[age])} if age is not None else {}
    return failure(component="PSU1", spec=spec, status=status, deleting=deleting)


@pytest.mark.parametrize(
    ("action", "duration", "age", "deleting"),
    [
        pytest.param(ACTIONS[a], DURATIONS[d], AGES[t], gone, id=f"{a}-{d}-{t}-{gone}")
        for a, d, t, gone in itertools.product(ACTIONS, DURATIONS, AGES, (False, True))
    ],
)
def test_a_failure_counts_until_its_end_or_its_deletion(
    action: str, duration: int | None, age: str | None, deleting: bool
) -> None:
    one = made(action, duration, age, deleting=deleting)
    found = failures.in_force([one], FAST, NOW)
    ends_by_itself = duration is not None or action == "Reboot"
    is_over = deleting or (ends_by_itself and age in ("end", "long"))
    assert found.names == (() if is_over else ("f",))
    assert found.components == (("PSU1",) if not is_over and action == "Fail" else ())
    assert found.is_rebooting is (not is_over and action == "Reboot")
    assert bool(found.expires) is (ends_by_itself and not is_over)
    assert all(end > NOW for end in found.expires)


def test_failures_of_one_node_add_up() -> None:
    several = [
        failure("f1", component="PSU1"),
        failure("f2", component="PSU2", spec={"durationSeconds": 7}),
        failure("f3", component="Node", spec={"action": "Reboot"}),
        failure("f4", component="DIMM", deleting=True),
    ]
    found = failures.in_force(several, FAST, NOW)
    assert found.components == ("PSU1", "PSU2")
    assert found.is_rebooting
    assert found.names == ("f1", "f2", "f3")
    assert found.expires == (NOW + 7, NOW + REBOOT_SECONDS)


def test_it_started_when_the_operator_first_saw_it() -> None:
    assert failures.started_at(failure(), NOW) == NOW
    assert failures.started_at(failure(status={"startedAt": render(5)}), NOW) == 5.0


@pytest.mark.parametrize(
    ("spec", "end"),
    [
        pytest.param({}, None, id="fails-until-deleted"),
        pytest.param({"durationSeconds": 30}, 30, id="fails-for-a-while"),
        pytest.param({"action": "Reboot"}, REBOOT_SECONDS, id="reboots-as-long-as-the-timing-says"),
        pytest.param({"action": "Reboot", "durationSeconds": 30}, 30, id="own-duration-wins"),
        pytest.param({"durationSeconds": 0}, 0, id="no-time-at-all"),
    ],
)
def test_when_it_ends(spec: dict[str, Any], end: int | None) -> None:
    expected = None if end is None else NOW + end
    assert failures.expires_at(failure(spec=spec), FAST, NOW) == expected


def test_a_failure_that_names_nothing_is_rejected_in_words() -> None:
    one = failure(generation=4)
    status = failures.rejected(one, Answer(Reason.NO_SUCH_COMPONENT, "no PSU3"), NOW)
    assert (status.phase, status.summary) == (FailurePhase.REJECTED, "no PSU3")
    assert (status.started_at, status.proof, status.observed_generation) == (None, None, 4)
    assert brief(status.conditions) == {"Accepted": ("False", "NoSuchComponent")}


def brief(conditions: tuple[Condition, ...]) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {one.type: (one.status, one.reason) for one in conditions}


@pytest.mark.parametrize(
    ("age", "proof", "phase", "injected"),
    [
        pytest.param(0, None, FailurePhase.PENDING, ("False", "PowerPending"), id="no-proof-yet"),
        pytest.param(0, "it is off", FailurePhase.ACTIVE, ("True", "Injected"), id="proven"),
        pytest.param(9.999, "it is off", FailurePhase.ACTIVE, ("True", "Injected"), id="last"),
        pytest.param(10, "it is off", FailurePhase.EXPIRED, ("False", "Expired"), id="over"),
        pytest.param(10, None, FailurePhase.EXPIRED, ("False", "Expired"), id="over-unproven"),
    ],
)
def test_the_status_says_how_far_it_is(
    age: float, proof: str | None, phase: FailurePhase, injected: tuple[str, str]
) -> None:
    one = failure(spec={"durationSeconds": 10}, status={"startedAt": render(NOW - age)})
    status = failures.report(one, FAST, effect="no power", proof=proof, now=NOW)
    assert status.phase is phase
    assert brief(status.conditions) == {"Accepted": ("True", "Accepted"), "Injected": injected}
    assert status.started_at == pytest.approx(NOW - age)
    assert status.expires_at == pytest.approx(NOW - age + 10)


def test_only_a_proven_failure_says_that_it_was_injected_and_by_what() -> None:
    pending = failures.report(failure(), FAST, effect="no power", proof=None, now=NOW)
    injected = find(pending.conditions, "Injected")
    assert injected is not None
    assert "waiting for its proof" in injected.message
    proven = failures.report(failure(), FAST, effect="no power", proof="it is off", now=NOW)
    injected = find(proven.conditions, "Injected")
    assert injected is not None
    assert (injected.message, proven.proof, proven.summary) == (
        "it is off",
        "it is off",
        "no power",
    )


def test_the_proof_is_kept_after_the_end() -> None:
    one = failure(
        spec={"durationSeconds": 10},
        status={"startedAt": render(NOW - 10), "proof": "it was off"},
    )
    assert failures.report(one, FAST, effect="", proof=None, now=NOW).proof == "it was off"


def test_every_action_is_known() -> None:
    assert {one.value for one in FailureAction} == set(ACTIONS.values())
