"""Virtual time: order, jumps, asyncio's tasks on it, and that nothing waits for itself."""

import asyncio

import pytest

from asetwin.sim.clock import START, Process, Random, Timeline


@pytest.fixture
def timeline() -> Timeline:
    return Timeline(Random(0))  # type: ignore[abstract]


def test_what_is_due_together_runs_in_the_order_of_asking(timeline: Timeline) -> None:
    seen: list[str] = []
    for name, when in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        timeline.call_at(when, seen.append, name)
    timeline.advance(1.5)
    assert (seen, timeline.time(), timeline.wall()) == (["first", "second"], 1.5, START + 1.5)
    timeline.advance(9)
    assert seen[-1] == "late"


def test_decimal_fractions_meet(timeline: Timeline) -> None:
    for _ in range(3):
        timeline.advance(timeline.after(0.1))
    assert timeline.time() == 0.3


def test_tasks_run_without_waiting(timeline: Timeline) -> None:
    async def work() -> list[float]:
        gate = asyncio.Semaphore(1)

        async def one(seconds: float) -> float:
            async with gate:
                await asyncio.sleep(seconds)
                return timeline.time()

        return list(await asyncio.gather(one(3600), one(7200)))

    task = timeline.create_task(work())
    timeline.advance(20_000)
    assert task.result() == [3600, 10800]


def test_an_error_ends_the_simulation(timeline: Timeline) -> None:
    def fail() -> None:
        raise ValueError("planted")

    timeline.call_later(1, fail)
    with pytest.raises(ValueError, match="planted"):
        timeline.advance(2)
    assert timeline.time() == 1


class Restless(Process):
    def tick(self) -> None:
        self.wake()


def test_time_that_stands_still_is_an_error(timeline: Timeline) -> None:
    Restless(timeline).wake(1)
    with pytest.raises(RuntimeError, match="time stands still at"):
        timeline.advance(2)


class Counting(Process):
    ticks = 0

    def tick(self) -> None:
        self.ticks += 1


def test_a_process_ticks_once_for_the_soonest_wake(timeline: Timeline) -> None:
    process = Counting(timeline)
    for delay in (3, 1, 2):
        process.wake(delay)
    timeline.advance(1)
    assert process.ticks == 1
    timeline.advance(10)
    assert process.ticks == 1
    process.wake(1)
    process.sleep()
    timeline.advance(20)
    assert process.ticks == 1
