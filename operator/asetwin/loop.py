"""The one loop: observe, decide, act, per AseDevice and one for what has no device.

Watch events only wake it; it decides in its own rhythm on a whole snapshot.
Nothing is remembered here that matters: kill the process between any two
lines and the next one derives from the cluster what is left to do.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asetwin.kube import errors
from asetwin.kube.act import Executor
from asetwin.kube.observe import Cluster
from asetwin.metrics import Metrics
from asetwin.model import decide
from asetwin.model.plan import Plan

if TYPE_CHECKING:
    from asetwin.kube.client import Client

logger = logging.getLogger(__name__)

UNBOUND = ""
"""The name of the loop for objects that lead to no device."""

GATHER_SECONDS = 0.02
"""A burst of events is answered by one turn."""
CHECK_SECONDS = 2.0
"""After a turn that did something: when to look again although no event has come."""
IDLE_SECONDS = 10.0
"""The longest time between two turns, so that liveness can tell a stuck loop from a quiet one."""
RESYNC_SECONDS = 60.0
LISTED_SECONDS = (1.0, 10.0)
"""After kopf has listed a kind, everything is read once more; again for kinds that came late."""
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0
STUCK_SECONDS = 45.0
"""A turn may wait for the API server's time-outs, but not for longer than this."""


@dataclass(slots=True)
class Track:
    """What one device's loop tells about itself."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    turned_at: float = 0.0
    turns: int = 0
    failures: int = 0


class Loop:
    """All devices' loops over one cluster."""

    def __init__(
        self, api: "Client", cluster: Cluster, executor: Executor, metrics: Metrics | None = None
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._executor = executor
        self._metrics = metrics or Metrics()
        self._tracks: dict[str, Track] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._keeper = Track()
        self._echoes: list[float] = []
        """When, monotonic, everything is read once more: kopf has listed, or a reading failed."""

    def listed(self) -> None:
        """kopf has listed a kind: it begins to watch, or the version it watched from was gone.

        Of what was deleted between our own reading and its listing no event tells.
        """
        now = time.monotonic()
        self._echoes = [now + one for one in LISTED_SECONDS]
        self._keeper.wake.set()

    def wake(self) -> None:
        """Something has changed: every loop looks again."""
        self._keeper.wake.set()
        for track in self._tracks.values():
            track.wake.set()

    @property
    def is_ready(self) -> bool:
        """Whether the cluster has been read and every device has a loop."""
        return self._cluster.is_synced and UNBOUND in self._tasks

    def stuck(self, now: float) -> list[str]:
        """The loops that have not turned for too long; ``now`` is monotonic."""
        tracks = {"keeper": self._keeper, **self._tracks}
        return sorted(
            name or "unbound"
            for name, track in tracks.items()
            if track.turned_at and now - track.turned_at > STUCK_SECONDS
        )

    def scrape(self) -> bytes:
        """The metrics at this moment, as Prometheus reads them."""
        return self._metrics.render(
            self._cluster.snapshot(), now=time.time(), monotonic=time.monotonic()
        )

    async def run(self) -> None:
        """Read the cluster, then keep one loop per device until cancelled."""
        await self._first_sync()
        resynced_at = time.monotonic()
        try:
            while True:
                self._keeper.turned_at = time.monotonic()
                self._keep()
                dues = [resynced_at + RESYNC_SECONDS, *self._echoes]
                due = min(dues) - time.monotonic()
                if due <= 0:
                    resynced_at = time.monotonic()
                    self._echoes = [at for at in self._echoes if at > resynced_at]
                    await self._resync()
                    continue
                await _wait(self._keeper.wake, min(due, IDLE_SECONDS))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _keep(self) -> None:
        """Start a loop for each device, and end those of devices that are gone."""
        devices = self._cluster.snapshot().devices
        wanted = {UNBOUND, *devices}
        for name in sorted(wanted - set(self._tasks)):
            self._tracks[name] = Track()
            self._tasks[name] = asyncio.create_task(self._device(name), name=f"loop {name}")
        for name in sorted(set(self._tasks) - wanted):
            self._tasks.pop(name).cancel()
            self._tracks.pop(name)
            self._metrics.forget(name, devices)

    async def _first_sync(self) -> None:
        said = ""
        while not self._cluster.is_synced:
            self._keeper.turned_at = time.monotonic()
            try:
                await self._cluster.resync(self._api)
            except errors.NotFound as error:
                text = f"asetwin's CRDs are not installed ({error}); kubectl apply -k crds/"
                if text != said:
                    logger.error("%s", text)
                said = text
                await asyncio.sleep(2.0)
            except errors.KubeError as error:
                logger.warning("cannot read the cluster yet: %s", error)
                await asyncio.sleep(1.0)
        logger.info("cluster read; acting")

    async def _resync(self) -> None:
        try:
            if await self._cluster.resync(self._api):
                logger.debug("a resync found changes that no event had told of")
                self.wake()
        except errors.KubeError as error:
            logger.warning("resync failed: %s", error)
            # What it was to find may be missed for a minute; one that is due anyway will do.
            self._echoes = self._echoes or [time.monotonic() + LAST_RETRY_SECONDS]

    async def _device(self, name: str) -> None:
        """One device's loop; no error of one turn ends it."""
        track = self._tracks[name]
        while True:
            track.turned_at = time.monotonic()
            track.wake.clear()
            delay = await self._guarded_turn(name, track)
            track.turns += 1
            woken = await _wait(track.wake, delay)
            if woken:
                await asyncio.sleep(GATHER_SECONDS)

    async def _guarded_turn(self, name: str, track: Track) -> float:
        """One turn; how long to wait for an event after it."""
        begun_at = time.monotonic()

        def ended(outcome: str) -> None:
            at = time.monotonic()
            self._metrics.turned(name, outcome, at - begun_at, ended_at=at)

        is_outdated = False
        try:
            waits = await self._turn(name)
            track.failures = 0
            ended("done")
            return waits
        except errors.KubeError as error:
            ended("ended")
            is_outdated = isinstance(error, errors.Outdated)
            level = logging.DEBUG if errors.is_transient(error) else logging.ERROR
            level = logging.WARNING if track.failures > 3 else level
            logger.log(level, "%s: turn ended early: %s", name or "unbound", error)
        except Exception:
            ended("failed")
            logger.exception("%s: this turn failed; the loop goes on", name or "unbound")
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(track.failures, 10), LAST_RETRY_SECONDS)
        track.failures += 1
        if track.failures > 2 or is_outdated:
            # What we believe may be wrong in more places than the one that was refused.
            await self._resync()
        return delay

    async def _turn(self, name: str) -> float:
        now = time.time()
        snapshot = self._cluster.snapshot()
        todo: Plan
        if name == UNBOUND:
            todo = decide.decide_unbound(snapshot, now)
        else:
            # What the last turn has written is in the cluster, and is what counts.
            if name in snapshot.devices:
                self._metrics.look(snapshot.devices[name])
            todo = decide.decide(snapshot, name, now)
        count = await self._executor.act(todo)
        if count:
            # Our own writes are in the view already: see at once what follows from them.
            self.wake()
        delay = CHECK_SECONDS if count else IDLE_SECONDS
        if todo.wake_at is not None:
            delay = min(delay, max(0.0, todo.wake_at - time.time()))
        return delay


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Sleep until the event or the time; True if it was the event. Clears the event."""
    # NB: not wait_for, which on Python 3.11 swallows a cancellation that comes in the tick in
    # which the event is set: the loop of a deleted device would go on for ever.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    was_set = event.is_set()
    event.clear()
    return was_set
