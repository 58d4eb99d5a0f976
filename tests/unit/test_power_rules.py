"""What the power agent makes of one look: every desired power × every state of a machine."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin.model.power import STOPPED_BY_US
from asetwin.power import rules
from asetwin.power.drivers import Command, Machine, Network, Reading
from asetwin.power.rules import Verdict
from asetwin.resources import times
from asetwin.resources.devices import Power, PowerState

NOW = 1_800_000_000.0
STARTED = NOW - 100
FINISHED = NOW - 10
ON, OFF, ISOLATED, UNKNOWN = (
    PowerState.ON,
    PowerState.OFF,
    PowerState.ISOLATED,
    PowerState.UNKNOWN,
)


def seen(machine: Machine, network: Network = Network.UNKNOWN) -> Reading:
    ended = FINISHED if machine is Machine.STOPPED else None
    return Reading(machine, f"it is {machine}", network, STARTED, ended)


def unseen(machine: Machine) -> Reading:
    return Reading(machine, f"it is {machine}")


RUNNING = seen(Machine.RUNNING, Network.OPEN)
STOPPED = seen(Machine.STOPPED)
READINGS = {
    "open": RUNNING,
    "cut": seen(Machine.RUNNING, Network.CUT),
    "partly-cut": seen(Machine.RUNNING, Network.PARTLY_CUT),
    "detached": seen(Machine.RUNNING, Network.DETACHED),
    "unread": seen(Machine.RUNNING, Network.UNKNOWN),
    "paused": seen(Machine.PAUSED),
    "restarting": seen(Machine.RESTARTING),
    "stopped": STOPPED,
    "missing": unseen(Machine.MISSING),
    "refused": unseen(Machine.REFUSED),
    "unreachable": unseen(Machine.UNREACHABLE),
}
UNSEEN = ("missing", "refused", "unreachable")


def last(*, ours: bool, started: float | None = STARTED) -> Power:
    """The status as it is found; ``ours``: it says that we stopped the run that began then."""
    proof = f"{STOPPED_BY_US}: it is Stopped" if ours else "it is Stopped"
    return Power(observed=OFF, observed_at=NOW - 5, proof=proof, started_at=started)


def judge(desired: PowerState, reading: Reading, before: Power, **more: object) -> Verdict:
    return rules.judge(desired, reading, before, method="Test", now=NOW, **more)  # type: ignore[arg-type]


def after(verdict: Verdict, before: Power) -> Power:
    """The status once the verdict is written."""
    return Power.model_validate(before.wire() | verdict.changes)


KILL, START, CUT, RESTORE = (Command.KILL, Command.START, Command.CUT, Command.RESTORE)
OURS = "stopped, by us"
COMMANDS: dict[PowerState, dict[str, Command]] = {
    ON: {"cut": RESTORE, "partly-cut": RESTORE, OURS: START},
    ISOLATED: {"open": CUT, "partly-cut": CUT, "unread": CUT, OURS: START},
    OFF: dict.fromkeys(
        ("open", "cut", "partly-cut", "detached", "unread", "paused", "restarting"), KILL
    ),
    UNKNOWN: {},
}
"""All commands that there are; everything else is left alone."""


@pytest.mark.parametrize("desired", PowerState)
@pytest.mark.parametrize("state", READINGS)
@pytest.mark.parametrize("ours", [True, False], ids=["our-stop", "not-our-stop"])
def test_a_command_is_given_where_the_table_has_one(
    desired: PowerState, state: str, ours: bool
) -> None:
    row = OURS if ours and state == "stopped" else state
    verdict = judge(desired, READINGS[state], last(ours=ours))
    assert verdict.command is COMMANDS[desired].get(row)


@pytest.mark.parametrize("desired", PowerState)
@pytest.mark.parametrize("state", READINGS)
def test_what_is_observed_does_not_depend_on_what_is_desired(
    desired: PowerState, state: str
) -> None:
    expected = {"open": ON, "cut": ISOLATED, "detached": ISOLATED, "stopped": OFF}
    verdict = judge(desired, READINGS[state], Power(desired=desired))
    assert verdict.observed is expected.get(state, UNKNOWN)
    assert verdict.changes["observed"] == verdict.observed.value


def test_desired_is_never_written() -> None:
    for desired, reading in itertools.product(PowerState, READINGS.values()):
        verdict = judge(desired, reading, Power(desired=desired))
        assert verdict.changes.keys() == {
            "observed",
            "observedAt",
            "method",
            "proof",
            "startedAt",
            "finishedAt",
        }


@pytest.mark.parametrize("desired", PowerState)
@pytest.mark.parametrize("state", READINGS)
@pytest.mark.parametrize("ours", [True, False], ids=["our-stop", "not-our-stop"])
def test_the_same_look_again_changes_nothing(desired: PowerState, state: str, ours: bool) -> None:
    before = last(ours=ours)
    first = judge(desired, READINGS[state], before)
    second = judge(desired, READINGS[state], after(first, before))
    assert second.changes == {}
    assert second.command is first.command


# --- Whose stop it was --------------------------------------------------------------------------


def test_the_intent_to_stop_is_written_with_the_command() -> None:
    verdict = judge(OFF, RUNNING, Power(desired=OFF))
    assert verdict.command is Command.KILL
    assert verdict.changes["proof"] == f"it is Running, to be {STOPPED_BY_US}"
    assert verdict.changes["startedAt"] == times.render(STARTED)


def test_a_new_agent_finds_the_stop_that_the_old_one_had_announced_to_be_ours() -> None:
    announced = after(judge(OFF, RUNNING, Power(desired=OFF)), Power(desired=OFF))
    verdict = judge(ON, STOPPED, announced)
    assert verdict.command is Command.START
    assert verdict.changes["proof"] == f"{STOPPED_BY_US}: it is Stopped"


def test_an_intent_that_was_not_carried_out_is_forgotten() -> None:
    announced = after(judge(OFF, RUNNING, Power(desired=OFF)), Power(desired=OFF))
    taken_back = after(judge(ON, RUNNING, announced), announced)
    assert STOPPED_BY_US not in (taken_back.proof or "")
    assert judge(ON, STOPPED, taken_back).command is None


def test_a_stop_by_somebody_else_stays_theirs_through_a_failure_of_the_hardware() -> None:
    theirs = after(judge(ON, STOPPED, last(ours=False)), last(ours=False))
    while_failed = after(judge(OFF, STOPPED, theirs), theirs)
    assert while_failed.proof == "it is Stopped"
    assert judge(ON, STOPPED, while_failed).command is None


def test_our_stop_of_an_earlier_run_says_nothing_about_this_one() -> None:
    assert judge(ON, STOPPED, last(ours=True, started=STARTED - 1)).command is None


def test_a_machine_that_came_back_by_itself_between_intent_and_command_was_stopped_by_us() -> None:
    """1. Intent written for a run, 2. it dies and restarts, 3. our command ends the next run."""
    announced = last(ours=True, started=STARTED - 1)
    assert judge(ON, STOPPED, announced, has_killed=True).command is Command.START


@pytest.mark.parametrize("state", UNSEEN)
def test_whose_stop_it_was_is_still_known_after_the_engine_was_away(state: str) -> None:
    before = last(ours=True)
    away = after(judge(OFF, READINGS[state], before), before)
    assert (away.observed, away.started_at) == (UNKNOWN, STARTED)
    assert judge(ON, STOPPED, away).command is Command.START


@pytest.mark.parametrize("state", UNSEEN)
def test_a_stop_by_somebody_else_does_not_become_ours_while_the_engine_is_away(state: str) -> None:
    before = last(ours=False)
    away = after(judge(OFF, READINGS[state], before), before)
    assert judge(ON, STOPPED, away).command is None


# --- What is written, and when ------------------------------------------------------------------


def test_observed_at_moves_with_a_reboot_that_nobody_saw() -> None:
    before = Power(observed=ON, observed_at=NOW - 50, method="Test", started_at=STARTED)
    rebooted = replace(RUNNING, started_at=NOW - 1, finished_at=NOW - 2)
    changes = judge(ON, rebooted, before).changes
    assert changes["observed"] == "On"
    assert changes["startedAt"] == times.render(NOW - 1)
    assert changes["finishedAt"] == times.render(NOW - 2)
    assert changes["observedAt"] == times.render(NOW)


def test_observed_at_stays_when_only_the_words_change() -> None:
    before = Power(observed=ON, observed_at=NOW - 50, method="Test", started_at=STARTED, proof="?")
    changes = judge(OFF, RUNNING, before).changes
    assert changes["observedAt"] == times.render(NOW - 50)


def test_observed_at_stays_when_the_time_of_the_end_becomes_exact() -> None:
    before = last(ours=False).model_copy(update={"method": "Test", "finished_at": FINISHED + 0.2})
    changes = judge(ON, STOPPED, before).changes
    assert changes["finishedAt"] == times.render(FINISHED)
    assert changes["observedAt"] == times.render(NOW - 5)


def test_what_was_simulated_is_found_anew() -> None:
    before = Power(observed=ON, observed_at=NOW - 50, method="Simulated")
    changes = judge(ON, RUNNING, before).changes
    assert (changes["method"], changes["observedAt"]) == ("Test", times.render(NOW))


def test_a_machine_made_anew_has_no_end_any_more() -> None:
    before = last(ours=False)
    changes = judge(ON, replace(RUNNING, finished_at=None), before).changes
    assert changes["finishedAt"] is None


def test_a_command_that_fails_is_part_of_the_proof_until_it_is_due_no_more() -> None:
    due = judge(ON, STOPPED, last(ours=True), trouble="could not start it: no memory")
    assert due.changes["proof"] == f"{STOPPED_BY_US}: it is Stopped; could not start it: no memory"
    done = judge(ON, RUNNING, last(ours=True), trouble="could not start it: no memory")
    assert done.changes["proof"] == "it is Running"


@pytest.mark.parametrize("desired", PowerState)
@pytest.mark.parametrize("state", READINGS)
def test_a_proof_fits_its_field_and_keeps_the_mark(desired: PowerState, state: str) -> None:
    long = replace(READINGS[state], detail="x" * 5000)
    changes = judge(desired, long, last(ours=True), trouble="y" * 5000).changes
    assert len(changes["proof"]) <= 1024
    assert (STOPPED_BY_US in changes["proof"]) == (STOPPED_BY_US in _proof(desired, state))


def _proof(desired: PowerState, state: str) -> str:
    return str(judge(desired, READINGS[state], last(ours=True)).changes["proof"])


# --- Any story ----------------------------------------------------------------------------------


@dataclass
class World:
    """One machine, its status, an agent that may die, and who has really stopped it."""

    power: Power = field(default_factory=Power)
    reading: Reading = field(default_factory=lambda: replace(RUNNING, started_at=1.0))
    stopped_by: str = ""
    clock: float = 1.0
    is_away: bool = False

    def tick(self) -> float:
        self.clock += 1
        return self.clock

    def stop(self, who: str) -> None:
        started = self.reading.started_at
        if self.reading.machine is not Machine.STOPPED:
            # Nobody can tell a stop that falls between our intent and our command from ours.
            is_announced = (
                STOPPED_BY_US in (self.power.proof or "") and self.power.started_at == started
            )
            self.stopped_by = "agent" if is_announced else who
            self.reading = Reading(Machine.STOPPED, "", started_at=started, finished_at=self.tick())

    def start(self) -> None:
        if self.reading.machine is Machine.STOPPED:
            ended = self.reading.finished_at
            self.reading = Reading(Machine.RUNNING, "", Network.OPEN, self.tick(), ended)

    def pause(self) -> None:
        if self.reading.machine is Machine.RUNNING:
            self.reading = replace(self.reading, machine=Machine.PAUSED)

    def restart(self) -> None:
        if self.reading.machine is not Machine.STOPPED:
            self.reading = Reading(Machine.RUNNING, "", Network.OPEN, self.tick(), self.tick())

    def desire(self, state: PowerState) -> None:
        self.power = self.power.model_copy(update={"desired": state})

    def turn(self, *, dies_after: int = 9) -> bool:
        """One turn of the agent that may die on the way; whether it gave a command."""
        reading = unseen(Machine.UNREACHABLE) if self.is_away else self.reading
        verdict = judge(self.power.desired, reading, self.power)
        if dies_after > 0:
            self.power = after(verdict, self.power)
        if dies_after > 1 and verdict.command is not None and not self.is_away:
            self._obey(verdict.command)
        return verdict.command is not None

    def _obey(self, command: Command) -> None:
        if command is Command.KILL:
            self.stop("agent")
        elif command is Command.START:
            self.start()
        else:
            network = Network.CUT if command is Command.CUT else Network.OPEN
            self.reading = replace(self.reading, network=network)

    def settle(self) -> None:
        self.is_away = False
        for _ in range(4):
            if not self.turn():
                return
        raise AssertionError("the agent finds no end")


def steps() -> Iterator[st.SearchStrategy[tuple[str, object]]]:
    for name in ("stop", "start", "pause", "restart", "away", "back"):
        yield st.just((name, None))
    yield st.tuples(st.just("desire"), st.sampled_from([ON, OFF, ISOLATED]))
    yield st.tuples(st.just("turn"), st.sampled_from([0, 1, 2]))


@given(st.lists(st.one_of(*steps()), max_size=12))
def test_in_any_story_a_machine_ends_as_desired_unless_somebody_holds_it(
    story: list[tuple[str, object]],
) -> None:
    world = World()
    world.settle()
    for step, value in story:
        match step, value:
            case "stop", _:
                world.stop("person")
            case "desire", PowerState():
                world.desire(value)
            case "turn", int():
                world.turn(dies_after=value)
            case "away", _:
                world.is_away = True
            case "back", _:
                world.is_away = False
            case _:
                getattr(world, step)()
    is_held = world.reading.machine is Machine.STOPPED and world.stopped_by == "person"
    world.settle()
    machine, desired = world.reading.machine, world.power.desired
    if is_held or desired is OFF:
        assert machine is Machine.STOPPED
        assert world.power.observed is OFF
    elif machine is Machine.STOPPED:
        assert (world.stopped_by, world.power.observed) == ("person", OFF)
    elif machine is Machine.RUNNING:
        assert world.power.observed is desired
    else:
        assert (machine, world.power.observed) == (Machine.PAUSED, UNKNOWN)
