"""An event loop for tests in which nothing takes time but waiting."""

import asyncio
import selectors
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

Args = TypeVarTuple("Args")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        # A timer that is due within the clock's resolution fires at once. Two tasks that wait for
        # a moment so near would wake in turns for ever: only waiting moves this clock.
        soonest = self.now + 2 * time.get_clock_info("monotonic").resolution
        return super().call_at(max(when, soonest), callback, *args, context=context)


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits, and nothing is left to happen"
        self.loop.now += max(timeout, 0.0)
        return []


def now() -> float:
    """The running loop's moment."""
    return asyncio.get_running_loop().time()
