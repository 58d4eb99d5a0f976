"""Virtual time: an event loop whose clock jumps to whatever is due next.

It is a loop for asyncio's tasks and futures, so the operator's coroutines run
on it as they are, and for the simulated cluster's own callbacks. Nothing here
waits and nothing does I/O; what is due at one moment runs in the order in
which it was asked for, so a run is the same every time.
"""

import asyncio
import heapq
import itertools
import math
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random  # noqa: TID251 (the type; each simulation makes its own from its seed)
from typing import Any, TypeVar

__all__ = ["START", "Process", "Random", "Timeline"]

START = 1767225600.0
"""Where the simulated wall clock begins: 2026-01-01T00:00:00Z."""

MOST_AT_ONCE = 20_000
"""So many callbacks at one moment are a loop that waits for itself."""

T = TypeVar("T")


class Timeline(asyncio.AbstractEventLoop):
    """All that is going to happen, by the moment at which it is due."""

    def __init__(self, rng: Random, *, jitter: float = 0.0) -> None:
        self.rng = rng
        self.jitter = jitter
        """By which part of itself a delay varies at most; 0 for none."""
        self.wall_offset = START
        self.skew = 0.0
        """By how many seconds the host's clock has jumped."""
        self.jumps: list[tuple[float, float]] = []
        """When it did, and by how much."""
        self._now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._error: BaseException | None = None
        self._count = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        """Seconds since the start of the simulation; never goes back."""
        return self._now

    def wall(self) -> float:
        """What a process reads as the time of day: seconds since the epoch."""
        return self._now + self.wall_offset

    def jump(self, by: float) -> None:
        """Set the host's clock."""
        self.skew += by
        self.jumps.append((self._now, by))

    def host(self) -> float:
        """The time of day of the machine that operator, power agent and engine share."""
        return self._now + self.wall_offset + self.skew

    def after(self, delay: float) -> float:
        """The moment after a delay, in whole microseconds, so that decimal fractions meet."""
        return round(self._now + delay, 6)

    def varied(self, seconds: float) -> float:
        """A delay of about this length."""
        if not self.jitter or not seconds:
            return seconds
        return seconds * (1.0 + self.jitter * self.rng.uniform(-1.0, 1.0))

    def advance(self, until: float, *, stop: Callable[[], bool] | None = None) -> bool:
        """Let everything happen that is due up to ``until``.

        ``stop`` is asked after each callback and ends it early; whether it did
        is the answer. Raises what a callback raised.
        """
        outer = events._get_running_loop()
        events._set_running_loop(self)
        try:
            while self._next(until):
                if stop is not None and stop():
                    return True
        except BaseException:
            self._abandon()
            raise
        finally:
            events._set_running_loop(outer)
        self._now = max(self._now, until)
        return False

    def _abandon(self) -> None:
        """Close what is half done; after an error nobody will go on here."""
        for task in list(self._tasks):
            coroutine = task.get_coro()
            if not task.done() and coroutine is not None:
                coroutine.close()

    def _next(self, until: float) -> bool:
        while not self._ready:
            if not self._timers or self._timers[0][0] > until:
                return False
            when, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                if when > self._now:
                    self._now, self._count = when, 0
                self._ready.append(timer)
        handle = self._ready.popleft()
        self._count += 1
        if self._count > MOST_AT_ONCE:
            raise RuntimeError(f"time stands still at {self._now} s: {handle!r} comes up for ever")
        if not handle.cancelled():
            handle._run()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    # What asyncio asks of a loop.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.after(delay), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        # Whole microseconds, and never before the moment asked for: who wakes a hair early finds
        # nothing due and asks for the same moment again, for ever.
        exact = round(when, 6)
        when = max(exact if exact >= when else round(when + 1e-6, 6), self._now)
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer stays in the heap until its time."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error in a callback ends the simulation instead of a line in a log."""
        error = context.get("exception") or RuntimeError(context.get("message"))
        self._error = self._error or error


class Process:
    """Plain state that is ticked when its time has come."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self._due = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def wake_at(self, when: float) -> None:
        """Tick at ``when``, unless it ticks before anyway."""
        if when >= self._due:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._due = when
        self._handle = self.timeline.call_at(when, self._fire)

    def wake(self, delay: float = 0.0) -> None:
        """Tick after this delay, unless it ticks before anyway."""
        self.wake_at(self.timeline.after(delay))

    def sleep(self) -> None:
        """Do not tick any more until woken."""
        if self._handle is not None:
            self._handle.cancel()
        self._due, self._handle = math.inf, None

    def _fire(self) -> None:
        self._due, self._handle = math.inf, None
        self.tick()

    def tick(self) -> None:
        """Do what is due; wake for what comes later."""
        raise NotImplementedError
