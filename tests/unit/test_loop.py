"""The loop: when it turns, that no error of one device stops another, and what it says.

Time is virtual: the event loop jumps to whatever is due next.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asetwin import loop as loops
from asetwin.kube import errors
from asetwin.kube.act import Executor
from asetwin.kube.observe import KINDS, Cluster
from asetwin.loop import (
    CHECK_SECONDS,
    GATHER_SECONDS,
    IDLE_SECONDS,
    LAST_RETRY_SECONDS,
    LISTED_SECONDS,
    UNBOUND,
    Loop,
)
from asetwin.model.plan import Plan
from unit.builders import NOW, FakeApi
from unit.virtual_time import VirtualLoop

QUIET = Plan()
Rule = Callable[[float], Plan]


class Bed:
    """A loop over a cluster of devices, whose rules and executor do what a test says."""

    def __init__(self, clock: VirtualLoop, *devices: str) -> None:
        self.clock = clock
        self.api = FakeApi()
        self.have(*devices)
        self.cluster = Cluster()
        self.turns: list[tuple[float, str]] = []
        self.rules: dict[str, Rule] = {}
        self.counts: dict[str, list[int]] = {}
        self.acts: Callable[[], Awaitable[None]] | None = None
        self.loop = Loop(self.api, self.cluster, cast("Executor", self))
        self.task: asyncio.Task[None] | None = None
        self._current = ""

    def have(self, *devices: str, version: int = 1) -> None:
        """What the API server lists from now on."""
        answer = {"metadata": {"resourceVersion": str(version)}, "items": []}
        items = [
            {"metadata": {"name": one, "uid": f"uid-{one}", "resourceVersion": "1"}}
            for one in devices
        ]
        self.api.answers |= {("get", kind.path): answer for kind in KINDS.values()}
        self.api.answers["get", KINDS["asedevices"].path] = answer | {"items": items}

    # In the place of asetwin.model.decide and of the executor.

    def decide(self, _: Any, name: str, now: float) -> Plan:
        assert now == NOW + self.clock.now
        self.turns.append((round(self.clock.now, 3), name))
        self._current = name
        rule = self.rules.get(name)
        return QUIET if rule is None else rule(now)

    def decide_unbound(self, snapshot: Any, now: float) -> Plan:
        return self.decide(snapshot, UNBOUND, now)

    async def act(self, _: Plan) -> int:
        name = self._current
        if self.acts is not None:
            await self.acts()
        counts = self.counts.get(name) or [0]
        return counts.pop(0)

    # What a test does and sees.

    async def run(self, seconds: float) -> None:
        """Let the loop run for a while."""
        if self.task is None:
            self.task = asyncio.create_task(self.loop.run())
        await asyncio.sleep(seconds)

    def at(self, name: str) -> list[float]:
        """When that device's loop has turned."""
        return [when for when, whose in self.turns if whose == name]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bed]:
    """Run a scenario in virtual time; afterwards nothing may be left running."""

    def run(scenario: Callable[[Bed], Awaitable[None]], *devices: str) -> Bed:
        clock = VirtualLoop()
        bed = Bed(clock, *devices)
        fake_time = SimpleNamespace(time=lambda: NOW + clock.now, monotonic=lambda: 1.0 + clock.now)
        monkeypatch.setattr(loops, "time", fake_time)
        monkeypatch.setattr(loops, "decide", bed)

        async def whole() -> None:
            try:
                await scenario(bed)
            finally:
                if bed.task is not None:
                    bed.task.cancel()
                    await asyncio.gather(bed.task, return_exceptions=True)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left

        try:
            clock.run_until_complete(whole())
        finally:
            clock.close()
        return bed

    return run


Play = Callable[..., Bed]


# --- When it turns --------------------------------------------------------------------------------


def test_each_device_and_the_rest_have_a_loop_of_their_own(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(1)

    bed = play(scenario, "x", "y")
    assert sorted(bed.turns) == [(0, UNBOUND), (0, "x"), (0, "y")]


def test_a_quiet_loop_turns_now_and_then(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(35)

    assert play(scenario, "x").at("x") == [0, 10, 20, 30]


def test_an_event_wakes_it_and_a_burst_of_events_is_one_turn(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(3)
        for _ in range(10):
            bed.loop.wake()
            await asyncio.sleep(0.001)
        await bed.run(5)

    bed = play(scenario, "x", "y")
    assert bed.at("x") == bed.at("y") == [0, 3 + GATHER_SECONDS]


def test_an_event_during_a_turn_is_not_lost(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        async def slow() -> None:
            await asyncio.sleep(0.5)

        bed.acts = slow
        await bed.run(0.2)
        bed.loop.wake()
        await bed.run(1)

    assert play(scenario, "x").at("x") == [0, 0.52]


def test_after_a_turn_that_did_something_it_looks_at_once_and_soon_again(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.counts["x"] = [1, 0]
        await bed.run(9)

    assert play(scenario, "x").at("x") == [0, GATHER_SECONDS]
    assert CHECK_SECONDS < IDLE_SECONDS


def test_it_wakes_at_the_moment_that_the_rules_ask_for(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = lambda now: Plan(wake_at=NOW + 4.5 if now < NOW + 4.5 else None)
        await bed.run(6)

    assert play(scenario, "x").at("x") == [0, 4.5]


def test_a_moment_that_has_passed_is_now(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = lambda _: Plan(wake_at=NOW - 5 if not bed.at("x")[1:] else None)
        await bed.run(6)

    assert play(scenario, "x").at("x") == [0, 0]


# --- Errors ---------------------------------------------------------------------------------------


def boom(_: float) -> Plan:
    raise ZeroDivisionError("a mistake of ours")


def test_an_exception_in_one_devices_turn_does_not_stop_the_others(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = boom
        await bed.run(25)

    bed = play(scenario, "x", "y")
    assert bed.at("y") == [0, 10, 20]
    assert bed.at(UNBOUND) == [0, 10, 20]
    assert "x: this turn failed; the loop goes on" in caplog.text
    assert "a mistake of ours" in caplog.text


def test_a_failing_device_is_tried_again_less_and_less_often(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = boom
        await bed.run(30)

    times = play(scenario, "x").at("x")
    pauses = [round(b - a, 3) for a, b in itertools.pairwise(times)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]


def test_the_pauses_start_anew_after_a_turn_that_succeeded(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = boom
        await bed.run(1)
        del bed.rules["x"]
        await bed.run(1)
        bed.rules["x"] = boom
        bed.loop.wake()
        await bed.run(0.3)

    times = play(scenario, "x").at("x")
    assert [round(b - times[-2], 3) for b in times[-2:]] == [0, 0.1]


def test_an_outage_of_hours_does_not_end_the_loop(play: Play) -> None:
    # 2.0 ** 1024 is an OverflowError, raised where nothing caught it.
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = boom
        logging.getLogger("asetwin.loop").disabled = True
        try:
            await bed.run(1100 * 5)
        finally:
            logging.getLogger("asetwin.loop").disabled = False
        del bed.rules["x"]
        await bed.run(20)

    bed = play(scenario, "x")
    assert len(bed.at("x")) > 1100
    assert bed.at("x")[-1] > 1100 * 5


@pytest.mark.parametrize(
    ("error", "levels"),
    [
        pytest.param(
            errors.Conflict("c", status=409),
            ["DEBUG", "DEBUG", "DEBUG", "DEBUG", "WARNING"],
            id="transient",
        ),
        pytest.param(
            errors.NotFound("n", status=404),
            ["ERROR", "ERROR", "ERROR", "ERROR", "WARNING"],
            id="not-transient",
        ),
    ],
)
def test_a_refused_write_ends_the_turn_and_is_told_as_loudly_as_it_matters(
    play: Play, caplog: pytest.LogCaptureFixture, error: errors.KubeError, levels: list[str]
) -> None:
    def refused(_: float) -> Plan:
        raise error

    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = refused
        await bed.run(2)

    with caplog.at_level(logging.DEBUG, "asetwin.loop"):
        play(scenario, "x")
    told = [one.levelname for one in caplog.records if "turn ended early" in one.getMessage()]
    assert told == levels


def test_after_some_failures_the_cluster_is_read_anew(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.rules["x"] = boom
        await bed.run(0.05)
        bed.api.calls.clear()
        await bed.run(0.2)
        assert bed.api.calls == []
        await bed.run(0.2)
        assert len(bed.api.calls) == len(KINDS)

    play(scenario, "x")


def test_where_one_thing_was_outdated_all_is_read_anew_at_once(play: Play) -> None:
    def outdated(now: float) -> Plan:
        raise errors.Outdated("leases na has changed unnoticed", status=409)

    async def scenario(bed: Bed) -> None:
        await bed.run(0.05)
        bed.api.calls.clear()
        bed.rules["x"] = outdated
        bed.loop.wake()
        await bed.run(0.05)
        assert len(bed.api.calls) == len(KINDS)

    play(scenario, "x")


def test_a_resync_that_fails_is_told_and_ends_nothing(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(30)
        bed.api.answers["get", KINDS["pods"].path] = errors.Unavailable("down", status=503)
        await bed.run(55)

    bed = play(scenario, "x")
    assert "resync failed: down" in caplog.text
    assert bed.at("x")[-1] == 80


# --- Start and resync -----------------------------------------------------------------------------


def test_a_reading_that_failed_is_made_up_for_within_seconds(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.have("x", "y")
        await bed.run(0.3)
        bed.have("x", version=2)
        whole = dict(bed.api.answers)
        bed.api.answers["get", KINDS["pods"].path] = errors.KubeError("away", status=503)
        bed.loop.listed()
        await bed.run(LISTED_SECONDS[1] + 0.1)
        assert list(bed.cluster.snapshot().devices) == ["x", "y"]
        bed.api.answers = whole
        await bed.run(LAST_RETRY_SECONDS)
        assert list(bed.cluster.snapshot().devices) == ["x"]
        reads = len(bed.api.calls)
        await bed.run(40)
        assert len(bed.api.calls) == reads

    play(scenario)


def test_crds_that_are_missing_are_told_once_and_waited_for(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bed: Bed) -> None:
        path = KINDS["asedevices"].path
        there = bed.api.answers["get", path]
        bed.api.answers["get", path] = errors.NotFound("no such kind", status=404)
        await bed.run(21)
        assert bed.turns == []
        assert not bed.loop.is_ready
        assert bed.loop.stuck(1.0 + bed.clock.now) == []
        bed.api.answers["get", path] = there
        await bed.run(2)
        assert bed.loop.is_ready

    bed = play(scenario, "x")
    told = [one for one in caplog.records if "CRDs are not installed" in one.getMessage()]
    assert [one.levelname for one in told] == ["ERROR"]
    assert "kubectl apply" in told[0].getMessage()
    assert bed.at("x") == [22]


def test_an_api_server_that_is_not_there_yet_is_waited_for(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bed: Bed) -> None:
        path = KINDS["pods"].path
        there = bed.api.answers["get", path]
        bed.api.answers["get", path] = errors.Unavailable("refused", status=0)
        await bed.run(2.5)
        bed.api.answers["get", path] = there
        await bed.run(2)

    assert play(scenario, "x").at("x") == [3]
    assert "cannot read the cluster yet: refused" in caplog.text


def test_the_cluster_is_read_anew_every_minute_and_what_is_new_wakes_everybody(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(55)
        node = {"metadata": {"name": "n", "uid": "u", "resourceVersion": "2"}}
        listed = {"metadata": {"resourceVersion": "3"}, "items": [node]}
        bed.api.answers["get", KINDS["nodes"].path] = listed
        await bed.run(6)
        assert list(bed.cluster.snapshot().nodes) == ["n"]

    # Quiet turns every ten seconds, and one more when the list has shown something new.
    assert play(scenario, "x").at("x")[-2:] in ([60, 60 + GATHER_SECONDS], [50, 60])


def test_what_was_deleted_before_kopf_listed_is_found_soon_after(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.have("x", "y")
        await bed.run(0.3)
        # y goes before kopf has listed and watches: its events tell of x alone.
        bed.have("x", version=2)
        bed.loop.listed()
        await bed.run(LISTED_SECONDS[0] + 0.1)
        assert list(bed.cluster.snapshot().devices) == ["x"]

    play(scenario)


def test_a_kind_that_kopf_lists_late_and_empty_is_read_once_more(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        bed.have("x", "y")
        await bed.run(0.3)
        bed.loop.listed()
        await bed.run(LISTED_SECONDS[0] + 0.1)
        bed.have("x", version=2)
        await bed.run(LISTED_SECONDS[1] - LISTED_SECONDS[0])
        assert list(bed.cluster.snapshot().devices) == ["x"]
        reads = len(bed.api.calls)
        await bed.run(40)
        assert len(bed.api.calls) == reads

    play(scenario)


def test_a_long_list_is_followed_by_two_readings_not_by_one_for_each_object(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(0.3)
        reads = len(bed.api.calls)
        for _ in range(50):
            bed.loop.listed()
            await bed.run(0.01)
        await bed.run(20)
        assert len(bed.api.calls) == reads + 2 * len(KINDS)

    play(scenario, "x")


# --- Devices come and go --------------------------------------------------------------------------


def device(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


def test_a_new_device_gets_its_loop_at_once(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(3)
        bed.cluster.apply("asedevices", device("y", 5))
        bed.loop.wake()
        await bed.run(1)

    bed = play(scenario, "x")
    assert bed.at("y") == [3]


def test_the_loop_of_a_device_ends_with_it_and_starts_again_with_the_next(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(3)
        bed.cluster.apply("asedevices", device("x", 5), is_gone=True)
        bed.loop.wake()
        await bed.run(30)
        assert bed.at("x") == [0]
        again = device("x", 9)
        again["metadata"]["uid"] = "another"
        bed.cluster.apply("asedevices", again)
        bed.loop.wake()
        await bed.run(1)

    bed = play(scenario, "x", "y")
    assert bed.at("x") == [0, 33]
    assert bed.at("y")[:3] == [0, 3 + GATHER_SECONDS, 13 + GATHER_SECONDS]


def test_without_any_device_only_the_rest_is_looked_after(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.run(1)
        assert bed.loop.is_ready

    assert play(scenario).turns == [(0, UNBOUND)]


# --- Alive and ready ------------------------------------------------------------------------------


def test_it_is_ready_when_the_cluster_was_read(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        assert not bed.loop.is_ready
        await bed.run(0.1)
        assert bed.loop.is_ready

    play(scenario, "x")


def test_a_loop_that_hangs_is_named_and_the_others_are_not(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        async def hang() -> None:
            if bed._current == "x":
                await asyncio.sleep(1000)

        bed.acts = hang
        await bed.run(44)
        assert bed.loop.stuck(1.0 + bed.clock.now) == []
        await bed.run(2)
        assert bed.loop.stuck(1.0 + bed.clock.now) == ["x"]

    play(scenario, "x", "y")


def test_a_quiet_loop_is_not_stuck(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        for _ in range(20):
            await bed.run(7)
            assert bed.loop.stuck(1.0 + bed.clock.now) == []

    play(scenario, "x")


def test_what_has_not_begun_is_not_stuck(play: Play) -> None:
    async def scenario(bed: Bed) -> None:
        assert bed.loop.stuck(1e9) == []

    play(scenario, "x")
