"""Renewals that nobody looks at are not made: only the last one before a look is.

Kubelets, the power agent and the master renew Leases every second or two,
which would be nearly all that happens in a quiet hour. While nothing else
happens to them they are here, and whoever reads a Lease has them catch up
first. What is written then has the moment at which it would have been
written; so nobody can tell, but for the writes in between.
"""

import math
from collections.abc import Callable

from asetwin.sim.clock import Timeline


class Beat:
    """Something that happens again and again at a fixed pace."""

    __slots__ = ("_write", "last", "period")

    def __init__(self, last: float, period: float, write: Callable[[float], None]) -> None:
        self.last = last
        self.period = period
        self._write = write

    def settle(self, now: float) -> None:
        """Do what is due, once: as of the last time that it was."""
        count = math.floor((now - self.last) / self.period + 1e-9)
        if count > 0:
            self.last = round(self.last + count * self.period, 6)
            self._write(self.last)


class Beats:
    """All of them."""

    def __init__(self, timeline: Timeline) -> None:
        self.at: float | None = None
        """The moment of which something is written belatedly; None for now."""
        self.has_ended: Callable[[], None] = lambda: None
        """Called when somebody stops renewing."""
        self._timeline = timeline
        self._beats: dict[Beat, None] = {}

    def add(self, period: float, write: Callable[[float], None]) -> Beat:
        """From now on, first after one period; ``write`` gets the moment of which it is."""
        beat = Beat(self._timeline.time(), period, write)
        self._beats[beat] = None
        return beat

    def end(self, beat: Beat) -> None:
        """What was due up to now is done, and then no more."""
        if beat in self._beats:
            self._catch_up(beat)
            self.drop(beat)

    def drop(self, beat: Beat) -> None:
        """No more, not even what was due."""
        if self._beats.pop(beat, 0) is None:
            self.has_ended()

    def settle(self) -> None:
        """All catch up. Called from within one of them it does nothing."""
        if self.at is None:
            for beat in list(self._beats):
                if beat in self._beats:
                    self._catch_up(beat)

    def _catch_up(self, beat: Beat) -> None:
        now = self._timeline.time()
        if now - beat.last < beat.period * (1.0 - 1e-9):
            return
        outer = self.at
        self.at = beat.last + beat.period * math.floor((now - beat.last) / beat.period + 1e-9)
        try:
            beat.settle(now)
        finally:
            self.at = outer
