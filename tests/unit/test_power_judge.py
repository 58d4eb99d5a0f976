"""Is a worker off, and should it be (design 4.3): facts, suspicion, fencing, and the way back."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from asetwin import constants
from asetwin.model import failures, hardware, power
from asetwin.model.power import Agent, Heartbeat, Judgement
from asetwin.resources import core
from asetwin.resources.devices import PinnedWorker, PowerState
from asetwin.resources.times import render
from unit.builders import (
    NOW,
    cluster,
    device,
)
from unit.builders import ase_node as ase_node_of
from unit.powered import LONG_AGO, THEIRS, pinned

TIMEOUT, FENCING = 3.0, 5
"""Heartbeat time-out and fencing time-out of the fast profile."""
OURS = f"container exited with 137 ({power.STOPPED_BY_US})"

ON, OFF, ISOLATED, UNKNOWN = (
    PowerState.ON,
    PowerState.OFF,
    PowerState.ISOLATED,
    PowerState.UNKNOWN,
)
AGENTS = {
    "none": Agent(),
    "alive": Agent(True, True, NOW + 9.0),
    "silent": Agent(True, False, NOW - 1.0),
}
HEARTBEATS = {
    "none": None,
    "fresh": Heartbeat(NOW - 1.0, TIMEOUT),
    "silent": Heartbeat(NOW - 100.0, TIMEOUT),
    "blind": Heartbeat(NOW - 100.0, TIMEOUT, is_blind=True),
}
INTENTS: dict[str, tuple[str, ...]] = {"none": (), "dead": ("Node",), "port": ("Port3",)}


def judge(
    one: PinnedWorker,
    *,
    agent: str | Agent = "alive",
    heartbeat: str | Heartbeat | None = "fresh",
    failed: tuple[str, ...] = (),
    rebooting: bool = False,
    fencing: str = "Required",
    evacuated: bool = True,
    now: float = NOW,
) -> Judgement:
    """Judge ``wa``; agents and heartbeats may be named."""
    return power.judge(
        one,
        hardware.judge(failed, ase_node_of("a").spec.hardware),
        failures.InForce(components=failed, is_rebooting=rebooting),
        device(spec={"timing": {"profile": "Fast"}, "fencing": fencing}),
        agent=AGENTS[agent] if isinstance(agent, str) else agent,
        heartbeat=HEARTBEATS[heartbeat] if isinstance(heartbeat, str) else heartbeat,
        is_evacuated=evacuated,
        now=now,
    )


# --- The table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One row; On was desired so far."""

    intent: str
    observed: PowerState
    agent: str
    heartbeat: str
    fencing: str

    @property
    def has_agent(self) -> bool:
        return self.agent != "none"

    @property
    def is_proven(self) -> bool:
        """An agent's Off is a fact; simulated power is off only while somebody wants it off."""
        return self.observed is OFF and (self.has_agent or self.intent != "none")

    @property
    def is_suspected(self) -> bool:
        """Nobody asked for it, it is not proven, but the kubelet is silent or it is cut off."""
        if self.intent != "none" or self.is_proven:
            return False
        is_cut_off = self.has_agent and self.observed is ISOLATED
        return self.heartbeat == "silent" or is_cut_off

    @property
    def is_given_up(self) -> bool:
        """BestEffort, nobody who could prove it, and silent for longer than both time-outs."""
        is_long = self.heartbeat == "silent"
        may_give_up = self.agent == "none" and self.fencing == "BestEffort"
        return self.is_suspected and may_give_up and is_long

    @property
    def desired(self) -> PowerState:
        if self.intent == "port" and self.has_agent and self.observed not in (ISOLATED, OFF):
            return ISOLATED
        if self.intent != "none":
            return OFF
        return OFF if self.is_suspected and self.agent == "alive" else ON

    @property
    def is_waiting(self) -> bool:
        if self.intent != "none":
            return self.agent == "silent" and not self.is_proven
        return self.is_suspected and not self.is_given_up


def cases() -> Iterator[Any]:
    for row in itertools.product(
        INTENTS, PowerState, AGENTS, HEARTBEATS, ("Required", "BestEffort")
    ):
        case = Case(*row)
        yield pytest.param(case, id="-".join(map(str, row)))


@pytest.mark.parametrize("case", list(cases()))
def test_what_is_known_and_what_is_desired_follow_from_the_sources(case: Case) -> None:
    # Off was seen after the last heartbeat, or the two would contradict each other.
    at = NOW - 0.5 if case.observed is OFF else LONG_AGO
    method = "Docker" if case.has_agent else power.SIMULATED
    found = judge(
        pinned(case.observed, at=at, method=method),
        agent=case.agent,
        heartbeat=case.heartbeat,
        failed=INTENTS[case.intent],
        fencing=case.fencing,
    )
    assert found.desired is case.desired
    assert found.is_lost is (case.intent != "none" or case.is_proven or case.is_given_up)
    assert found.is_fenced is (case.is_proven or case.is_given_up)
    assert found.is_suspect is case.is_suspected
    assert bool(found.waits_for) is case.is_waiting
    assert not found.is_contradicted
    if case.is_waiting:
        assert "waiting for proof that na is off" in found.waits_for


@pytest.mark.parametrize("case", list(cases()))
def test_pods_are_taken_away_only_with_proof_or_where_best_effort_says_so(case: Case) -> None:
    # The rule that must hold whatever else changes: fenced needs Off, or BestEffort.
    method = "Docker" if case.has_agent else power.SIMULATED
    for rebooting in (False, True):
        found = judge(
            pinned(case.observed, at=NOW - 0.5, method=method),
            agent=case.agent,
            heartbeat=case.heartbeat,
            failed=INTENTS[case.intent],
            rebooting=rebooting,
            fencing=case.fencing,
        )
        if found.is_fenced and case.observed is not OFF:
            assert (case.fencing, case.agent) == ("BestEffort", "none")
        if found.is_fenced:
            assert found.is_lost


# --- An intent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", PowerState)
@pytest.mark.parametrize("agent", AGENTS)
def test_a_reboot_takes_the_power(observed: PowerState, agent: str) -> None:
    method = "Docker" if agent != "none" else power.SIMULATED
    found = judge(pinned(observed, at=NOW, method=method), agent=agent, rebooting=True)
    assert (found.desired, found.is_intended, found.is_lost) == (OFF, True, True)
    assert found.is_fenced is (observed is OFF)


def test_a_storage_port_takes_the_network_first_and_then_the_power() -> None:
    one = pinned(ON)
    seen = []
    for _ in range(4):
        found = judge(one, failed=("Port3",))
        seen.append((found.desired, found.is_lost, found.is_fenced))
        one = pinned(found.desired, desired=found.desired, at=NOW, proof=OURS)
    assert seen == [
        (ISOLATED, True, False),
        (OFF, True, False),
        (OFF, True, True),
        (OFF, True, True),
    ]


@pytest.mark.parametrize(
    ("agent", "failed", "rebooting"),
    [
        pytest.param("none", ("Port3",), False, id="simulated"),
        pytest.param("alive", ("Port3",), True, id="rebooting-as-well"),
        pytest.param("alive", ("Port3", "Motherboard"), False, id="dead-as-well"),
    ],
)
def test_where_the_power_goes_anyway_the_network_is_not_cut_first(
    agent: str, failed: tuple[str, ...], rebooting: bool
) -> None:
    assert judge(pinned(ON), agent=agent, failed=failed, rebooting=rebooting).desired is OFF


# --- A loss by somebody's hand --------------------------------------------------------------------


def test_a_container_stopped_by_hand_is_a_loss_with_proof_and_stays_as_it_is() -> None:
    found = judge(pinned(OFF, at=NOW), heartbeat=Heartbeat(NOW - 1.0, TIMEOUT))
    assert (found.is_lost, found.is_fenced, found.is_suspect) == (True, True, False)
    # Nothing is taken back: the agent starts only what it has stopped itself.
    assert (found.desired, found.is_coming_on, found.waits_for) == (ON, False, "")


@pytest.mark.parametrize(
    ("proof", "coming"),
    [
        pytest.param(OURS, True, id="stopped-by-us"),
        pytest.param(THEIRS, False, id="stopped-by-hand"),
    ],
)
@pytest.mark.parametrize("before", [ON, OFF])
def test_only_a_stop_of_ours_ends_by_itself(proof: str, coming: bool, before: PowerState) -> None:
    one = pinned(OFF, desired=before, at=NOW - 99.0, proof=proof)
    found = judge(one, heartbeat="silent", evacuated=True)
    assert found.desired is ON
    # Off is still a fact, but a pod must not be removed from a node that is being switched on.
    assert (found.is_lost, found.is_coming_on, found.is_fenced) == (True, coming, not coming)


@pytest.mark.parametrize(
    ("evacuated", "desired", "fenced"),
    [
        pytest.param(False, OFF, True, id="held-until-nothing-is-left"),
        pytest.param(True, ON, False, id="evacuated"),
    ],
)
def test_the_power_comes_back_when_nothing_is_left_to_take_away(
    evacuated: bool, desired: PowerState, fenced: bool
) -> None:
    one = pinned(OFF, desired=OFF, at=NOW - 99.0, proof=OURS)
    found = judge(one, heartbeat="silent", evacuated=evacuated)
    assert (found.desired, found.is_lost, found.is_fenced) == (desired, True, fenced)


def test_power_that_was_not_taken_is_not_held_back() -> None:
    # Still On while Off is desired: the intent has gone before the agent did anything.
    found = judge(pinned(ON, desired=OFF), evacuated=False)
    assert (found.desired, found.is_lost, found.is_suspect) == (ON, False, False)


def test_simulated_power_is_not_held_back() -> None:
    one = pinned(OFF, desired=OFF, method=power.SIMULATED, proof="")
    found = judge(one, agent="none", evacuated=False)
    assert (found.desired, found.is_lost, found.is_fenced) == (ON, False, False)


# --- Contradiction --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "contradicted"),
    [
        pytest.param(-50.0, False, id="long-before"),
        pytest.param(0.0, False, id="at-the-same-time"),
        # The last renewal may still have been on its way when the power went.
        pytest.param(power.CONTRADICTION_SECONDS, False, id="a-late-one"),
        pytest.param(power.CONTRADICTION_SECONDS + 0.01, True, id="really-alive"),
        pytest.param(60.0, True, id="much-later"),
    ],
)
@pytest.mark.parametrize("agent", ["alive", "silent"])
@pytest.mark.parametrize("failed", [(), ("Node",)], ids=["by-itself", "intended"])
def test_a_kubelet_that_is_alive_contradicts_the_agent(
    after: float, contradicted: bool, agent: str, failed: tuple[str, ...]
) -> None:
    off_at = NOW - 100.0
    beat = Heartbeat(off_at + after, 1000.0)
    found = judge(pinned(OFF, at=off_at), agent=agent, heartbeat=beat, failed=failed)
    assert found.is_contradicted is contradicted
    assert found.is_fenced is not contradicted
    assert found.is_lost is (bool(failed) or not contradicted)
    if contradicted:
        assert "says that na is off, but its kubelet is alive" in found.waits_for


def test_a_lease_that_was_only_found_contradicts_nobody() -> None:
    # An operator that starts anew finds the Lease of a kubelet that died long before, and took
    # that for a sign of life: the agent's Off counted for nothing, for ever.
    beat = Heartbeat(NOW - 1.0, 12.0, is_heard=False)
    found = judge(pinned(OFF, at=NOW - 100.0), heartbeat=beat)
    assert (found.is_contradicted, found.is_fenced) == (False, True)


def test_a_contradiction_lasts_only_as_long_as_the_kubelet_is_heard() -> None:
    # A renewal from before the end may come late; the next one does not.
    one, beat = pinned(OFF, at=NOW - 10.0), Heartbeat(NOW, 12.0)
    found = judge(one, heartbeat=beat)
    assert (found.is_contradicted, found.wake_at) == (True, NOW + 12.0)
    found = judge(one, heartbeat=beat, now=NOW + 12.0)
    assert (found.is_contradicted, found.is_fenced) == (False, True)


def test_without_an_agent_there_is_nobody_to_contradict() -> None:
    one = pinned(OFF, at=NOW - 100.0, method=power.SIMULATED)
    found = judge(one, agent="none", failed=("Node",))
    assert (found.is_contradicted, found.is_fenced) == (False, True)


@pytest.mark.parametrize(
    ("renewed", "found_ago", "is_alive"),
    [
        pytest.param(NOW - 1.0, 0.5, True, id="after-the-proof"),
        pytest.param(NOW - 501.0, 0.5, False, id="before-the-proof"),
        pytest.param(NOW - 1.0, 3.5, False, id="not-again-under-our-eyes"),
    ],
)
def test_a_proof_that_a_kubelet_has_outlived_is_none(
    renewed: float, found_ago: float, is_alive: bool
) -> None:
    """The agent died, a hand started the machine, and a new operator finds the old proof."""
    lease = core.Lease(constants.LEASE_NAMESPACE, "na", "na", 0, 4.0, render(renewed))
    key = f"{constants.LEASE_NAMESPACE}/na"
    seen = cluster(lease, renewed={key: NOW - found_ago}, unheard=(key,))
    beat = power.find_heartbeat(seen, "na", device())
    off = pinned(OFF, at=NOW - 500.0)
    judged = judge(off, agent=AGENTS["silent"], heartbeat=beat)
    assert judged.is_contradicted is is_alive
    assert judged.is_off is not is_alive


# --- Suspicion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
def test_a_kubelet_is_silent_from_its_time_out_on(agent: str) -> None:
    method = "Docker" if agent != "none" else power.SIMULATED
    for age, silent in ((TIMEOUT - 0.001, False), (TIMEOUT, True), (TIMEOUT + 50.0, True)):
        beat = Heartbeat(NOW - age, TIMEOUT)
        found = judge(pinned(ON, method=method), agent=agent, heartbeat=beat)
        assert found.is_suspect is silent
        assert not found.is_lost


def test_best_effort_gives_up_after_both_time_outs() -> None:
    one = pinned(ON, method=power.SIMULATED)
    for age, lost in ((TIMEOUT + FENCING - 0.001, False), (TIMEOUT + FENCING, True)):
        beat = Heartbeat(NOW - age, TIMEOUT)
        found = judge(one, agent="none", heartbeat=beat, fencing="BestEffort")
        assert (found.is_lost, found.is_fenced, found.is_suspect) == (lost, lost, True)


def test_required_never_gives_up() -> None:
    beat = Heartbeat(NOW - 1e6, TIMEOUT)
    for agent in AGENTS:
        method = "Docker" if agent != "none" else power.SIMULATED
        assert not judge(pinned(ON, method=method), agent=agent, heartbeat=beat).is_lost


@pytest.mark.parametrize(
    ("came_on", "heard", "suspect"),
    [
        pytest.param(1.0, 100.0, False, id="just-started"),
        pytest.param(power.BOOT_SECONDS - 0.1, 100.0, False, id="boots-slowly"),
        pytest.param(power.BOOT_SECONDS, 100.0, True, id="never-came-up"),
        pytest.param(50.0, 40.0, True, id="heard-since-then"),
    ],
)
def test_a_machine_that_boots_is_not_silent(came_on: float, heard: float, suspect: bool) -> None:
    one = pinned(ON, at=NOW - came_on)
    assert judge(one, heartbeat=Heartbeat(NOW - heard, TIMEOUT)).is_suspect is suspect


def test_simulated_machines_do_not_boot() -> None:
    one = pinned(ON, at=NOW - 1.0, method=power.SIMULATED)
    assert judge(one, agent="none", heartbeat="silent").is_suspect


# --- When to look again ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "agent", "heartbeat", "failed", "fencing", "after"),
    [
        pytest.param(ON, "alive", "fresh", (), "Required", TIMEOUT - 1.0, id="when-silent"),
        pytest.param(ON, "none", "fresh", (), "BestEffort", TIMEOUT - 1.0, id="simulated"),
        pytest.param(ON, "alive", "none", (), "Required", None, id="no-lease"),
        pytest.param(ON, "alive", "fresh", ("Node",), "Required", None, id="intended"),
        pytest.param(OFF, "alive", "silent", (), "Required", None, id="proven"),
        pytest.param(ON, "none", "silent", (), "Required", None, id="waits-for-ever"),
        pytest.param(
            ON, "none", Heartbeat(NOW - 4.0, TIMEOUT), (), "BestEffort", 4.0, id="gives-up"
        ),
    ],
)
def test_asks_to_be_woken_when_time_alone_changes_the_answer(
    observed: PowerState,
    agent: str,
    heartbeat: str | Heartbeat,
    failed: tuple[str, ...],
    fencing: str,
    after: float | None,
) -> None:
    method = "Docker" if agent != "none" else power.SIMULATED
    found = judge(
        pinned(observed, at=NOW - 99.0, method=method),
        agent=agent,
        heartbeat=heartbeat,
        failed=failed,
        fencing=fencing,
    )
    assert found.wake_at == (None if after is None else NOW + after)


def test_looking_only_when_asked_to_misses_nothing() -> None:
    # The kubelet goes silent at NOW, nobody can prove it, BestEffort: two looks are enough.
    one, beat, now = pinned(ON, method=power.SIMULATED), Heartbeat(NOW, TIMEOUT), NOW
    seen = []
    while True:
        found = judge(one, agent="none", heartbeat=beat, fencing="BestEffort", now=now)
        seen.append((now - NOW, found.is_suspect, found.is_lost))
        if found.wake_at is None or found.wake_at <= now:
            break
        now = found.wake_at
    assert seen == [
        (0.0, False, False),
        (TIMEOUT, True, False),
        (TIMEOUT + FENCING, True, True),
    ]
