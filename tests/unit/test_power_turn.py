"""What a snapshot says of agents and kubelets, and what a whole turn makes of a silence (4.3)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin import constants
from asetwin.model import decide, power
from asetwin.model.plan import DeletePod, Draft, Evict, PatchNode, WriteStatus
from asetwin.model.power import Agent, Heartbeat, Judgement
from asetwin.model.snapshot import Gap, Snapshot
from asetwin.resources import core
from asetwin.resources.devices import PowerState
from unit.builders import (
    NOW,
    cluster,
    condition,
    deployment,
    device,
    failure,
    node,
    replica,
    views,
)
from unit.builders import ase_node as ase_node_of
from unit.powered import pinned

# --- The sources in a snapshot --------------------------------------------------------------------

AGENT_KEY = f"{constants.SYSTEM_NAMESPACE}/{power.AGENT_LEASE}"


def agent_lease(holder: str = "agent-1") -> core.Lease:
    return core.Lease(constants.SYSTEM_NAMESPACE, power.AGENT_LEASE, holder, 0, 6.0)


def node_lease(name: str, duration: float = 4.0) -> core.Lease:
    return core.Lease(constants.LEASE_NAMESPACE, name, name, 0, duration)


@pytest.mark.parametrize(
    ("leases", "age", "found"),
    [
        pytest.param((), 0.0, Agent(), id="not-installed"),
        pytest.param((agent_lease(""),), 0.0, Agent(), id="left-in-order"),
        pytest.param((agent_lease(),), 0.0, Agent(True, True, NOW + 10.0), id="alive"),
        pytest.param((agent_lease(),), 9.9, Agent(True, True, NOW + 0.1), id="late"),
        pytest.param((agent_lease(),), 10.0, Agent(True, False, NOW), id="silent"),
        pytest.param(
            (core.Lease("default", power.AGENT_LEASE, "x"),), 0.0, Agent(), id="elsewhere"
        ),
    ],
)
def test_the_agent_is_known_by_its_lease(
    leases: tuple[core.Lease, ...], age: float, found: Agent
) -> None:
    seen = cluster(*leases, renewed={AGENT_KEY: NOW - age})
    one = power.find_agent(seen, NOW)
    assert (one.is_installed, one.is_alive) == (found.is_installed, found.is_alive)
    assert one.fades_at == (None if found.fades_at is None else pytest.approx(found.fades_at))


@pytest.mark.parametrize(
    ("duration", "stated", "timeout"),
    [
        pytest.param(4.0, 3, 3.0, id="as-stated"),
        pytest.param(40.0, 3, 30.0, id="a-kubelet-that-renews-rarely"),
        pytest.param(40.0, 60, 60.0, id="more-than-needed"),
    ],
)
def test_a_kubelet_may_be_as_late_as_its_own_lease_allows(
    duration: float, stated: int, timeout: float
) -> None:
    seen = heard({"na": 1.0, "nb": 0.0}, duration=duration)
    patient = device(spec={"timing": {"profile": "Fast", "heartbeatTimeoutSeconds": stated}})
    beat = power.find_heartbeat(seen, "na", patient)
    assert beat is not None
    assert (beat.seen_at, beat.timeout) == (NOW - 1.0, timeout)


def heard(ages: dict[str, float], *, duration: float = 4.0, **fields: Any) -> Snapshot:
    """The standard device, whose kubelets were heard so long ago."""
    renewed = {f"{constants.LEASE_NAMESPACE}/{name}": NOW - age for name, age in ages.items()}
    leases = [node_lease(name, duration) for name in ages]
    return cluster(*leases, **fields, renewed=renewed)


@pytest.mark.parametrize(
    ("ages", "silent"),
    [
        pytest.param({"na": 50.0, "nb": 0.5}, True, id="one-of-two"),
        pytest.param({"na": 50.0, "nb": 50.5}, False, id="none-is-heard"),
        pytest.param({"na": 50.0, "nb": 49.0}, False, id="stopped-together"),
        pytest.param({"na": 50.0, "nb": 50.0, "cp": 0.5}, True, id="both-but-not-the-third"),
        pytest.param({"na": 2.0, "nb": 0.5}, False, id="not-yet"),
    ],
)
def test_when_no_kubelet_is_heard_it_is_we_who_do_not_hear(
    ages: dict[str, float], silent: bool
) -> None:
    beat = power.find_heartbeat(heard(ages), "na", device())
    assert beat is not None
    assert beat.is_silent(NOW) is silent


@pytest.mark.parametrize(
    ("ages", "gaps", "silent"),
    [
        # Both were well; the API server was away for a minute, and b's renewal is there first.
        pytest.param({"na": 61.0, "nb": 0.5}, [(60.5, 0.5)], False, id="not-heard-yet"),
        pytest.param({"na": 65.0, "nb": 0.5}, [(64.0, 4.0)], True, id="not-heard-since"),
        pytest.param({"na": 70.0, "nb": 0.5}, [(60.0, 0.5)], True, id="silent-before"),
        pytest.param({"na": 90.0, "nb": 0.5}, [(89.0, 4.0), (3.5, 0.5)], False, id="two-gaps"),
        pytest.param({"na": 4.0, "nb": 0.5}, [(3.9, 2.5)], True, id="a-short-one"),
        pytest.param({"na": 90.0, "nb": 0.5}, [(89.0, 9.0), (3.5, 0.5)], True, id="well-before"),
    ],
)
def test_silence_does_not_count_while_nobody_was_heard(
    ages: dict[str, float], gaps: list[tuple[float, float]], silent: bool
) -> None:
    noted = tuple(Gap(NOW - since, NOW - until) for since, until in gaps)
    beat = power.find_heartbeat(heard(ages, gaps=noted), "na", device())
    assert beat is not None
    assert beat.is_silent(NOW) is silent


def test_what_is_not_heard_now_is_no_silence() -> None:
    """a was late already when all went quiet: of more than that nobody knows."""
    patient = device(spec={"timing": {"profile": "Fast", "heartbeatTimeoutSeconds": 12}})
    for late, is_silent in ((7.0, False), (11.0, True)):
        beat = power.find_heartbeat(heard({"na": 60.0 + late, "nb": 60.0}), "na", patient)
        assert beat is not None
        assert beat.is_silent(NOW) is is_silent


@pytest.mark.parametrize("what", ["lease", "renewal"])
def test_without_a_lease_there_is_nothing_to_judge_by(what: str) -> None:
    key = f"{constants.LEASE_NAMESPACE}/na"
    seen = cluster(renewed={key: NOW}) if what == "lease" else cluster(node_lease("na"))
    assert power.find_heartbeat(seen, "na", device()) is None


# --- In a whole turn ------------------------------------------------------------------------------

STANDING = ("Available", "WorkerReady")


def plan_for(seen: Snapshot) -> list[Any]:
    return list(decide.decide(seen, "ase", NOW).steps)


def serving(
    *more: Any, ages: dict[str, float], fencing: str = "Required", **fields: Any
) -> Snapshot:
    """The device in service with three replicas on node a."""
    leases = [node_lease(name) for name in ages]
    renewed = {f"{constants.LEASE_NAMESPACE}/{name}": NOW - age for name, age in ages.items()}
    return cluster(
        device(spec={"fencing": fencing}, finalizers=[constants.FINALIZER]),
        *(
            ase_node_of(name, conditions=[condition(kind) for kind in STANDING])
            for name in ("a", "b")
        ),
        *deployment(replicas=3),
        *(replica(number) for number in range(3)),
        *leases,
        *more,
        renewed=renewed | fields.pop("renewed", {}),
    )


@pytest.mark.parametrize("agent", ["none", "alive"])
def test_a_suspicion_evacuates_nothing_before_there_is_proof(agent: str) -> None:
    installed = (agent_lease(),) if agent == "alive" else ()
    method = "Docker" if agent == "alive" else power.SIMULATED
    seen = serving(
        *installed,
        pinned(PowerState.ON, method=method),
        ages={"na": 50.0, "nb": 0.5},
        renewed={AGENT_KEY: NOW},
    )
    steps = plan_for(seen)
    assert not [one for one in steps if isinstance(one, DeletePod | Evict)]
    # It may be alive: no taint that would end pods there either.
    for step in steps:
        if isinstance(step, PatchNode) and step.name == "na":
            assert not [one for one in step.taints if one.effect == "NoExecute"]
    (written,) = (
        one
        for one in steps
        if isinstance(one, WriteStatus) and (one.plural, one.name) == ("pinnedworkers", "wa")
    )
    wanted = "Off" if agent == "alive" else "On"
    assert written.patch.get("power", {}).get("desired", "On") == wanted


def test_with_an_agent_only_what_is_desired_is_written() -> None:
    seen = serving(
        agent_lease(),
        pinned(PowerState.ON),
        failure(component="Node"),
        ages={"na": 0.5, "nb": 0.5},
        renewed={AGENT_KEY: NOW},
    )
    (written,) = (
        one
        for one in plan_for(seen)
        if isinstance(one, WriteStatus) and (one.plural, one.name) == ("pinnedworkers", "wa")
    )
    assert written.patch["power"] == {"desired": "Off"}


def test_views_stay_as_they_are_without_leases() -> None:
    assert [one.judged for one in views(cluster(node("na")))] == [Judgement(), Judgement()]


@given(
    seen_at=st.floats(1.7e9, 1.9e9),
    timeout=st.integers(1, 600),
)
def test_at_the_moment_it_asked_for_a_silence_is_a_silence(seen_at: float, timeout: int) -> None:
    # Sum and difference of floats differ: the loop once asked for the same moment without end.
    draft = Draft()
    draft.wake(seen_at + timeout)
    woken_at = draft.finish().wake_at
    assert woken_at is not None
    now = round(woken_at * 1000) / 1000
    assert now == woken_at
    assert Heartbeat(seen_at, timeout).is_silent(now)
