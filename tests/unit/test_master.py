"""A master's loop and its journal against a bad API server and a bad disk, in virtual time."""

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asetwin.kube import errors
from asetwin.model import epochs, journals
from asetwin.standin.master import Master
from asetwin.standin.settings import Settings
from unit.leases import WALL, Leases
from unit.virtual_time import VirtualLoop


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()


class Link:
    """One master's way to the API server; ``mood`` says what happens to a request."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.mood = "good"
        self.delay = 0.0

    async def get(self, path: str) -> dict[str, Any]:
        return await self._pass(lambda: self.leases.get(path))

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._pass(lambda: self.leases.create(path, body))

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._pass(lambda: self.leases.replace(path, body))

    async def _pass(self, call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        await asyncio.sleep(self.delay)
        if self.mood == "cut":
            await asyncio.sleep(1e6)
        if self.mood == "refuses":
            raise errors.Forbidden("not allowed", status=403)
        if self.mood == "down":
            raise errors.Unavailable("connection refused", status=0)
        answer = await call()
        if self.mood == "loses answers":
            await asyncio.sleep(1e6)
        return answer


class Run:
    """One master that runs under the virtual clock."""

    def __init__(
        self,
        leases: Leases,
        *,
        epoch: int = 2,
        pod: str = "",
        boot: float = 0,
        disk: "Disk | None" = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        me = epochs.Identity(pod or f"ase-master-{epoch}", epoch, uid=f"uid-{pod or epoch}")
        self.loop = loop
        self.link = Link(leases)
        path = str(disk.path) if disk is not None else ""
        self.master = Master(
            Settings("ase", "node-b", me, boot_seconds=boot, lease_seconds=3, port=0, journal=path),
            self.link,
            started_at=loop.time(),
            clock=loop.time,
            wall=lambda: WALL + loop.time(),
            **({"in_thread": disk.in_thread} if disk is not None else {}),
        )
        self.task = loop.create_task(self.master.run())

    @property
    def is_serving(self) -> bool:
        return not self.task.done() and bool(self.master.describe()["serving"])

    async def until(self, moment: float) -> None:
        await asyncio.sleep(moment - self.loop.time())

    async def end(self) -> None:
        self.master.stop()
        await self.task


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the master has logged, without the part that is the same in each line."""
    caplog.set_level(logging.INFO, logger="asetwin.master")
    return lambda: [record.getMessage().partition(" (device=")[0] for record in caplog.records]


# --- The loop -------------------------------------------------------------------------------------


def test_creates_a_missing_lease_and_serves_when_nobody_else_can(told: Any) -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(0.1)
        assert (leases.calls, leases.holder) == (["GET", "POST"], "ase-master-2")
        await run.until(2.99)
        assert not run.is_serving
        await run.until(3.01)
        assert run.is_serving
        assert run.master.describe()["since"] == "2026-11-25T08:00:03.000000Z"
        await run.end()

    play(scenario)
    assert told() == ["acquired", "serving", "stopped serving: was told to end", "released"]


def test_renews_without_reading() -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(10.5)
        assert leases.calls == ["GET", "POST"] + ["PUT"] * 10
        await run.end()

    play(scenario)


def test_takes_the_lease_at_once_and_serves_when_the_old_master_is_silent() -> None:
    async def scenario() -> None:
        leases = Leases()
        old = Run(leases, epoch=1)
        await old.until(10.0)
        assert old.is_serving
        old.link.mood = "cut"
        new = Run(leases, epoch=2)
        await new.until(10.1)
        assert leases.holder == "ase-master-2"
        # The renewal that was sent at 9 s was the last one.
        await new.until(11.9)
        assert (old.is_serving, new.is_serving) == (True, False)
        await new.until(12.1)
        assert (old.is_serving, new.is_serving) == (False, False)
        await new.until(13.1)
        assert (old.is_serving, new.is_serving) == (False, True)
        old.link.mood = "good"
        await old.task
        await new.end()

    play(scenario)


def test_a_release_lets_the_next_one_serve_after_its_boot() -> None:
    async def scenario() -> None:
        leases = Leases()
        old = Run(leases, epoch=1)
        await old.until(5.0)
        await old.end()
        assert (leases.holder, old.loop.time()) == ("", 5.0)
        new = Run(leases, epoch=2, boot=2)
        await new.until(6.99)
        assert not new.is_serving
        await new.until(7.01)
        assert new.is_serving
        await new.end()

    play(scenario)


def test_stands_down_for_a_higher_epoch(told: Any) -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(3.5)
        leases.put("ase-master-3", 3)
        await run.task
        assert leases.holder == "ase-master-3"
        assert run.loop.time() == pytest.approx(4.0)

    play(scenario)
    assert told() == [
        "acquired",
        "serving",
        "lost: superseded by epoch 3",
        "superseded: superseded by epoch 3, stands down for good",
    ]


@pytest.mark.parametrize("mood", ["cut", "down", "refuses"])
def test_stops_serving_by_itself_and_comes_back(mood: str, told: Any) -> None:
    async def scenario() -> None:
        run = Run(Leases())
        await run.until(3.5)
        run.link.mood = mood
        await run.until(5.99)
        assert run.is_serving
        await run.until(6.01)
        assert not run.is_serving
        await run.until(60.0)
        # The API server's absence is not the process's fault: a restart would not help.
        assert run.master.is_alive()
        run.link.mood = "good"
        await run.until(64.0)
        assert run.is_serving
        await run.end()

    play(scenario)
    lines = [line for line in told() if not line.startswith("cannot")]
    assert lines[:3] == ["acquired", "serving", "lost: could not renew the Lease for 3.0 s"]
    assert "serving" in lines[3:]
    assert len(told()) - len(lines) == 1, "one complaint, however long it lasts"


def test_a_lost_answer_is_not_taken_for_success_nor_for_failure(told: Any) -> None:
    async def scenario() -> None:
        leases = Leases()
        leases.put("ase-master-1", 1)
        run = Run(leases)
        run.link.delay = 0.1
        await run.until(0.15)
        run.link.mood = "loses answers"
        await run.until(2.0)
        assert (leases.holder, run.master.memory.tenure) == ("ase-master-2", None)
        run.link.mood = "good"
        # Given up after 3 s and read again; by then it no longer knows how long ago it took it.
        await run.until(6.0)
        assert not run.is_serving
        await run.until(6.6)
        assert run.is_serving
        await run.end()

    play(scenario)
    assert "acquired" in told()


def test_a_deleted_lease_comes_back() -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(3.5)
        leases.body = None
        await run.until(4.5)
        assert (leases.holder, run.is_serving) == ("ase-master-2", False)
        await run.until(7.1)
        assert run.is_serving
        await run.end()

    play(scenario)


def test_two_pods_of_one_epoch_take_turns() -> None:
    async def scenario() -> None:
        leases = Leases()
        first = Run(leases, pod="first")
        await first.until(0.1)
        second = Run(leases, pod="second")
        await first.until(30.0)
        assert (first.is_serving, second.is_serving) == (True, False)
        assert "held by first under epoch 2" in second.master.describe()["reason"]
        await first.end()
        await second.until(32.0)
        assert second.is_serving
        await second.end()

    play(scenario)


@pytest.mark.parametrize("mood", ["good", "cut", "loses answers", "down"])
def test_ends_soon_whatever_the_network_does(mood: str) -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(4.5)
        run.link.mood = mood
        await run.until(5.5)
        run.master.stop()
        assert not run.is_serving
        await run.task
        assert run.loop.time() <= 7.3
        assert leases.holder == ("" if mood == "good" else "ase-master-2")

    play(scenario)


def test_release_follows_a_renewal_that_arrived_after_all() -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(3.5)
        run.link.mood = "loses answers"
        await run.until(4.1)
        run.link.mood = "good"
        leases.calls.clear()
        await run.end()
        assert (leases.calls, leases.holder) == (["GET", "PUT"], "")
        assert run.loop.time() == pytest.approx(4.4)

    play(scenario)


def test_hands_off_a_lease_that_somebody_else_has_taken() -> None:
    async def scenario() -> None:
        leases = Leases()
        run = Run(leases)
        await run.until(3.5)
        leases.put("ase-master-3", 3)
        await run.end()
        assert leases.holder == "ase-master-3"

    play(scenario)


def test_a_loop_that_hangs_is_noticed() -> None:
    now = [100.0]
    me = epochs.Identity("ase-master-2", 2)
    master = Master(
        Settings("ase", "", me, 0, 3, 0), Leases(), started_at=100.0, clock=lambda: now[0]
    )
    assert master.is_alive()
    now[0] = 109.9
    assert master.is_alive()
    now[0] = 110.0
    assert not master.is_alive()


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=True))
def test_of_many_masters_in_a_bad_network_at_most_one_serves(rng: Any) -> None:
    async def scenario() -> None:
        leases = Leases()
        runs: list[Run] = []
        for _ in range(400):
            if len(runs) < 4 and rng.random() < 0.03:
                runs.append(Run(leases, epoch=len(runs) + 1, boot=rng.choice((0, 0, 2))))
            for run in runs:
                if rng.random() < 0.05:
                    run.link.mood = rng.choice(("good", "good", "cut", "loses answers", "down"))
                    run.link.delay = rng.choice((0.0, 0.01, rng.uniform(0, 2)))
                if rng.random() < 0.002:
                    run.master.stop()
            serving = [run.master.settings.me.pod for run in runs if run.is_serving]
            assert len(serving) <= 1, serving
            await asyncio.sleep(0.05)
        for run in runs:
            run.master.stop()
        await asyncio.gather(*(run.task for run in runs))

    play(scenario)


# --- The journal ---------------------------------------------------------------------------------


class Disk:
    """A share that can be full, or slow, or gone; appends take place in the loop's own thread."""

    def __init__(self, path: Path) -> None:
        self.path = path / "ase.log"
        self.error = ""
        self.seconds = 0.0

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        if self.error:
            await asyncio.sleep(self.seconds)
            raise OSError(28, self.error)
        found = call()
        await asyncio.sleep(self.seconds)
        return found

    def proof(self) -> journals.Proof:
        return journals.check(self.path.read_text().splitlines() if self.path.exists() else [])


def test_a_line_a_second_is_written_while_it_serves_and_none_before_or_after(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        disk, leases = Disk(tmp_path), Leases()
        run = Run(leases, disk=disk)
        await run.until(2.99)
        assert not disk.proof().reigns
        await run.until(9.5)
        assert run.is_serving
        await run.end()
        (reign,) = disk.proof().reigns
        assert (reign.lines, reign.first_at - WALL, reign.last_at - WALL) == (7, 3.0, 9.0)

    play(scenario)


def test_the_journal_proves_that_a_cut_off_master_stopped_before_the_next_one(
    tmp_path: Path,
) -> None:
    """Partitioned with its node, it hears of nothing; its Lease runs out all the same."""

    async def scenario() -> None:
        disk, leases = Disk(tmp_path), Leases()
        old = Run(leases, epoch=1, disk=disk)
        await old.until(10.2)
        old.link.mood = "cut"
        await old.until(11.5)
        new = Run(leases, epoch=2, disk=disk)
        await old.until(30.0)
        assert (old.is_serving, new.is_serving) == (False, True)
        # It is let back in, finds a higher epoch, and stands down for good.
        old.link.mood = "good"
        await old.task
        await new.until(40.0)
        await new.end()
        proof = disk.proof()
        assert proof.problems == ()
        first, second = proof.reigns
        assert (first.epoch, second.epoch) == (1, 2)
        # Renewed last at 10 s for 3 s; the next one waits 3 s from when it first saw that.
        assert first.last_at - WALL < 13.0 <= 14.5 <= second.first_at - WALL

    play(scenario)


def test_a_master_whose_journal_cannot_be_written_does_not_serve(tmp_path: Path, told: Any) -> None:
    async def scenario() -> None:
        disk, leases = Disk(tmp_path), Leases()
        disk.error = "No space left on device"
        run = Run(leases, disk=disk)
        await run.until(6.0)
        about = run.master.describe()
        assert not about["serving"]
        assert about["reason"] == f"the journal {disk.path} cannot be written: {disk.error}"
        # It keeps the Lease: another master would have the same disk.
        assert leases.holder == "ase-master-2"
        disk.error = ""
        await run.until(6.5)
        assert run.is_serving
        disk.error = "Input/output error"
        await run.until(7.6)
        assert not run.is_serving
        disk.error = ""
        await run.until(8.5)
        assert run.is_serving
        await run.end()
        assert disk.proof().holds

    play(scenario)
    assert any(line.startswith("stopped serving: the journal") for line in told())


def test_a_disk_that_hangs_stops_the_service_but_not_the_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, leases = Disk(tmp_path), Leases()
        run = Run(leases, disk=disk)
        await run.until(4.5)
        disk.seconds = 1e6
        leases.calls.clear()
        await run.until(6.9)
        assert run.is_serving
        await run.until(7.1)
        assert not run.is_serving
        assert leases.calls == ["PUT"] * 3
        assert run.master.describe()["reason"].endswith("ase.log was last written 3.1 s ago")
        run.task.cancel()
        with suppress(asyncio.CancelledError):
            await run.task

    play(scenario)


def test_it_does_not_let_go_of_the_lease_while_a_line_is_on_its_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk, leases = Disk(tmp_path), Leases()
        run = Run(leases, disk=disk)
        await run.until(4.9)
        disk.seconds = 0.5
        await run.until(5.1)
        await run.end()
        assert run.loop.time() == pytest.approx(5.5)
        assert leases.holder == ""

    play(scenario)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=True))
def test_the_journal_holds_whatever_the_network_and_the_disk_do(rng: Any) -> None:
    async def scenario(path: Path) -> None:
        disk, leases, runs = Disk(path), Leases(), list[Run]()
        for _ in range(300):
            if len(runs) < 4 and rng.random() < 0.03:
                runs.append(Run(leases, epoch=len(runs) + 1, disk=disk))
            for run in runs:
                if rng.random() < 0.05:
                    run.link.mood = rng.choice(("good", "good", "cut", "loses answers", "down"))
                    run.link.delay = rng.choice((0.0, 0.01, rng.uniform(0, 2)))
                if rng.random() < 0.002:
                    run.master.stop()
            if rng.random() < 0.05:
                disk.error = rng.choice(("", "", "No space left on device"))
                disk.seconds = rng.choice((0.0, rng.uniform(0, 1)))
            await asyncio.sleep(0.1)
        disk.seconds = 0.0
        for run in runs:
            run.master.stop()
        await asyncio.gather(*(run.task for run in runs))
        assert disk.proof().problems == ()

    with tempfile.TemporaryDirectory() as folder:
        play(lambda: scenario(Path(folder)))
