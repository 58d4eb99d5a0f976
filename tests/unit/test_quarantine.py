"""A node that fails too often stays out until a person takes it back (C25, design 4.6)."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from asetwin.model import power, quarantine
from asetwin.model.power import Judgement
from asetwin.model.quarantine import RESTART_SECONDS, Record
from asetwin.resources import conditions as conditions_of
from asetwin.resources.conditions import Condition
from asetwin.resources.devices import AseNode, NodeState, PowerState
from asetwin.resources.times import render
from unit.builders import NOW, cluster, condition, device, failure, node, views, with_status, worker
from unit.builders import ase_node as ase_node_of

HOUR = 3600.0
UP, DOWN = Judgement(), Judgement(is_off=True)
OURS = '{"device":"ase","cordon":true}'


@dataclass
class History:
    """One node's record, turn after turn, kept in its status as the operator does."""

    limits: dict[str, Any] = field(default_factory=dict)
    failures: tuple[float, ...] = ()
    is_lost: bool = False
    is_suspect: bool = False
    is_quarantined: bool = False
    booted_at: float | None = None
    forgiven: float | None = None

    def look(
        self, at: float, judged: Judgement, *, started: float | None = None, out: bool = False
    ) -> Record:
        found = quarantine.record(
            device(spec={"quarantine": self.limits}),
            self._node(),
            worker("wa", status=_seen(started)),
            judged,
            NOW + at,
            is_out=out,
        )
        self.failures, self.booted_at = found.failures, found.booted_at
        self.is_quarantined, self.is_lost = found.is_quarantined, judged.is_lost
        self.is_suspect = judged.is_suspect
        return found

    def fail(self, at: float, *, lasts: float = 60.0) -> Record:
        """One outage; what is remembered when it has begun."""
        found = self.look(at, DOWN)
        self.look(at + lasts, UP)
        return found

    def _node(self) -> AseNode:
        available = "False" if self.is_lost else "Unknown" if self.is_suspect else "True"
        held = (
            condition("Available", available),  # type: ignore[arg-type]
            condition("Quarantined", "True" if self.is_quarantined else "False"),
        )
        one = ase_node_of("a", conditions=held)
        status = one.status.model_copy(
            update={"recent_failures": self.failures, "booted_at": self.booted_at}
        )
        spec = one.spec.model_copy(update={"failures_forgiven_until": self.forgiven})
        return with_status(one, status).model_copy(update={"spec": spec})


def _seen(started: float | None) -> dict[str, Any]:
    if started is None:
        return {}
    seen = {"desired": "On", "observed": "On", "startedAt": render(NOW + started)}
    return {"power": seen | {"method": "Docker"}}


# --- Counting -------------------------------------------------------------------------------------


def test_one_failure_more_than_allowed_within_the_hour_is_too_many() -> None:
    # Case C25; the thresholds come from the spec.
    history = History(limits={"failures": 2})
    quarantined = [history.fail(at).is_quarantined for at in (0, 900, 1800)]
    assert quarantined == [False, False, True]


def test_by_default_the_fourth_in_an_hour_is_too_many() -> None:
    history = History()
    quarantined = [history.fail(at).is_quarantined for at in (0, 600, 1200, 1800)]
    assert quarantined == [False, False, False, True]


def test_an_outage_counts_once_however_often_it_is_looked_at() -> None:
    history = History()
    for at in range(0, 100, 10):
        assert history.look(at, DOWN).failures == (NOW,)


def test_a_suspicion_is_no_failure() -> None:
    # Case C25: spells that are shorter than the detection cause nothing.
    history = History(limits={"failures": 1})
    for at in range(0, 300, 30):
        found = history.look(at, Judgement(is_suspect=True))
        assert (found.failures, found.is_quarantined) == ((), False)
        history.look(at + 12, UP)


@pytest.mark.parametrize(
    "judged",
    [
        pytest.param(Judgement(is_intended=True), id="stated-failure"),
        pytest.param(Judgement(is_off=True), id="power-lost"),
        pytest.param(Judgement(is_suspect=True, is_assumed=True), id="taken-for-off"),
    ],
)
def test_every_loss_counts_whatever_its_cause(judged: Judgement) -> None:
    assert History().look(0, judged).failures == (NOW,)


def test_what_was_never_seen_in_service_has_not_failed() -> None:
    found = views(cluster(failure()))[0]
    assert (found.is_lost, found.record.failures) == (True, ())


def test_a_suspicion_that_is_proven_counts_from_the_proof() -> None:
    history = History()
    history.look(0, Judgement(is_suspect=True))
    assert history.look(7, DOWN).failures == (NOW + 7,)


def test_one_outage_that_turns_into_a_suspicion_is_still_one() -> None:
    # The agent has left and comes back meanwhile; the node was never in service in between.
    history = History()
    history.look(0, DOWN)
    history.look(20, Judgement(is_suspect=True), out=True)
    assert history.look(50, DOWN, out=True).failures == (NOW,)


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        pytest.param(HOUR - 1.0, 2, id="within"),
        pytest.param(HOUR, 1, id="an-hour-later"),
        pytest.param(2 * HOUR, 1, id="long-after"),
    ],
)
def test_a_failure_counts_for_an_hour(after: float, kept: int) -> None:
    history = History()
    history.fail(0)
    assert len(history.fail(after).failures) == kept


def test_failures_that_are_far_enough_apart_never_add_up() -> None:
    history = History(limits={"failures": 1, "windowSeconds": 600})
    assert not any(history.fail(at).is_quarantined for at in range(0, 6000, 601))


def test_not_more_is_remembered_than_is_needed() -> None:
    history = History(limits={"failures": 9})
    for at in range(0, 3000, 100):
        history.fail(at, lasts=50)
    assert history.is_quarantined
    assert len(history.failures) == quarantine.REMEMBERED
    assert history.failures[-1] == NOW + 2900


# --- Staying out, and coming back -----------------------------------------------------------------


def in_quarantine() -> History:
    history = History(limits={"failures": 1})
    history.fail(0)
    assert history.fail(600).is_quarantined
    return history


def test_an_hour_alone_does_not_take_it_back() -> None:
    history = in_quarantine()
    for at in (HOUR, 10 * HOUR, 1000 * HOUR):
        found = history.look(at, UP)
        assert (found.is_quarantined, len(found.failures)) == (True, 2)


def test_a_person_takes_it_back_by_forgiving_what_was_before() -> None:
    history = in_quarantine()
    history.forgiven = NOW + 5 * HOUR
    found = history.look(5 * HOUR, UP)
    assert (found.is_quarantined, found.failures) == (False, ())
    # What comes after that counts anew.
    assert history.fail(5 * HOUR + 10).failures == (NOW + 5 * HOUR + 10,)


def test_forgiving_only_the_older_ones_is_enough_if_few_are_left() -> None:
    history = in_quarantine()
    history.forgiven = NOW + 300
    # The one that is left is an hour old, or not: out of quarantine the window counts again.
    assert not history.look(700, UP).is_quarantined
    assert history.failures == (NOW + 600,)


def test_forgiving_one_too_few_leaves_it_out() -> None:
    history = in_quarantine()
    history.forgiven = NOW - 1
    assert history.look(2 * HOUR, UP).is_quarantined


def test_a_failure_at_the_very_moment_is_forgiven() -> None:
    history = in_quarantine()
    history.forgiven = NOW + 600
    assert history.look(700, UP).failures == ()


# --- Restarts that nobody saw ---------------------------------------------------------------------


def test_a_machine_that_started_anew_unseen_has_failed() -> None:
    # Case C30: the failure that heals itself before anyone looks.
    history = History()
    first = history.look(0, UP, started=-100)
    assert (first.has_restarted, first.failures, first.booted_at) == (False, (), NOW - 100)
    second = history.look(50, UP, started=45)
    assert (second.has_restarted, second.failures) == (True, (NOW + 50,))
    assert second.booted_at == NOW + 45
    third = history.look(51, UP, started=45)
    assert (third.has_restarted, third.failures) == (False, (NOW + 50,))


def test_restarts_alone_lead_into_quarantine() -> None:
    history = History(limits={"failures": 2})
    history.look(0, UP, started=0)
    found = [history.look(at, UP, started=at).is_quarantined for at in (100, 200, 300)]
    assert found == [False, False, True]


@pytest.mark.parametrize(
    ("later", "restarted"),
    [
        pytest.param(0.0, False, id="same"),
        pytest.param(RESTART_SECONDS, False, id="told-more-precisely"),
        pytest.param(RESTART_SECONDS + 0.1, True, id="another"),
        pytest.param(-5.0, False, id="an-older-one"),
    ],
)
def test_only_a_later_start_is_a_restart(later: float, restarted: bool) -> None:
    history = History()
    history.look(0, UP, started=-100)
    assert history.look(10, UP, started=-100 + later).has_restarted is restarted


def test_a_restart_after_a_loss_is_the_end_of_it_and_no_second_failure() -> None:
    history = History()
    history.look(0, UP, started=-100)
    assert len(history.look(10, DOWN, started=-100).failures) == 1
    back = history.look(40, UP, started=35)
    assert (back.has_restarted, len(back.failures), back.booted_at) == (False, 1, NOW + 35)
    assert not history.look(50, UP, started=35).has_restarted


def test_a_start_that_only_the_kubelet_told_of_is_no_second_failure() -> None:
    # The agent saw the end and died; what it says is contradicted until it sees the new run.
    history = History()
    history.look(0, UP, started=-100)
    history.look(10, DOWN, started=-100)
    wrong = history.look(30, Judgement(is_contradicted=True), started=-100)
    assert (wrong.has_restarted, wrong.booted_at) == (False, None)
    right = history.look(45, UP, started=29)
    assert (right.has_restarted, right.failures) == (False, (NOW + 10,))
    assert history.look(60, UP, started=55).has_restarted


@pytest.mark.parametrize("before", [None, -100.0])
def test_without_start_times_there_are_no_restarts(before: float | None) -> None:
    history = History()
    history.look(0, UP, started=before)
    found = history.look(10, UP)
    assert (found.has_restarted, found.failures) == (False, ())
    # What was known stays: an agent that was away for a while must not hide a restart.
    assert found.booted_at == (None if before is None else NOW + before)


def test_the_first_start_time_ever_is_no_restart() -> None:
    history = History()
    history.look(0, UP)
    assert not history.look(10, UP, started=5).has_restarted


# --- In the view of a node ------------------------------------------------------------------------


def quarantined_node(*held: Condition, **spec: Any) -> AseNode:
    healthy = [condition(kind, since=NOW - 100) for kind in ("Available", "WorkerReady")]
    one = ase_node_of("a", conditions=(*healthy, condition("Quarantined"), *held))
    status = one.status.model_copy(update={"recent_failures": (NOW - 9, NOW - 8, NOW - 7, NOW - 6)})
    kept = one.spec.model_copy(update=spec)
    return with_status(one, status).model_copy(update={"spec": kept})


def test_a_quarantined_node_is_healthy_and_has_a_vote_but_does_not_come_back() -> None:
    found = views(cluster(quarantined_node(), node("na", owned=OURS, unschedulable=True)))[0]
    assert (found.state, found.returns_at) == (NodeState.QUARANTINED, None)
    assert (found.is_lost, found.is_voting, found.in_service) == (False, True, False)
    told = conditions_of.find(found.conditions, "Quarantined")
    assert told is not None
    assert (told.status, told.reason) == ("True", "TooManyFailures")
    assert told.message == (
        "failures in 3600 s: 4, allowed: 3; "
        "set spec.failuresForgivenUntil to now to take it back into service"
    )


def test_a_forgiven_node_comes_back_as_any_other() -> None:
    one = quarantined_node(failures_forgiven_until=NOW)
    found = views(cluster(one, node("na", owned=OURS, unschedulable=True)))[0]
    assert (found.state, found.returns_at) == (NodeState.RETURNING, NOW - 100 + 3)
    told = conditions_of.find(found.conditions, "Quarantined")
    assert told is not None
    assert (told.status, told.reason) == ("False", "FewFailures")


def test_a_quarantined_node_that_fails_again_is_down() -> None:
    found = views(cluster(quarantined_node(), failure(), node("na", owned=OURS)))[0]
    assert (found.state, found.record.is_quarantined) == (NodeState.DOWN, True)
    assert len(found.record.failures) == 5


def test_each_flip_restarts_the_way_back_and_is_no_failure() -> None:
    # Case C25: an outage, then Ready for 20 s, NotReady, Ready for good.
    held: tuple[Condition, ...] = ()
    remembered: tuple[float, ...] = ()
    returns = []
    for at, power_off, ready in (
        (0.0, True, False),
        (60.0, False, True),
        (80.0, False, False),
        (90.0, False, True),
    ):
        one = ase_node_of("a", conditions=held or (condition("Available"),))
        one = with_status(one, one.status.model_copy(update={"recent_failures": remembered}))
        seen = cluster(
            device(spec={"timing": {"profile": "Realistic"}}),
            one,
            worker("wa", power=PowerState.OFF if power_off else PowerState.ON),
            *((failure(),) if power_off else ()),
            node("na", is_ready=ready, owned=OURS, unschedulable=True),
        )
        found = views(seen, now=NOW + at)[0]
        held, remembered = found.conditions, found.record.failures
        returns.append(found.returns_at)
    assert returns == [None, NOW + 60 + 60, None, NOW + 90 + 60]
    assert remembered == (NOW,)


def test_the_mark_of_a_stop_is_what_the_statuses_of_earlier_versions_have() -> None:
    # A machine that an earlier agent has stopped is started again by this one.
    assert power.STOPPED_BY_US == "stopped by asetwin"
