"""The operator's process in the simulated cluster: its loop, in virtual time.

Observe, decide and act are the real ones; what :class:`asetwin.loop.Loop`
adds, the rhythm of the turns, is done here with the same constants. The
process can be killed at any write and starts again with an empty memory.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from asetwin import loop
from asetwin.kube import errors
from asetwin.kube.act import Executor, Settings
from asetwin.kube.observe import KINDS, Cluster
from asetwin.model import decide
from asetwin.model.plan import Plan
from asetwin.model.snapshot import Snapshot
from asetwin.sim.apiserver import DELETED, ApiServer, Change
from asetwin.sim.beats import Beats
from asetwin.sim.clock import Process, Timeline
from asetwin.sim.wire import Call, Crashed, Trouble, Wire

if TYPE_CHECKING:
    from asetwin.kube.client import Client

ACTOR = "operator"
WATCH_SECONDS = 0.005
"""How long a watch event is on its way."""
LISTING_SECONDS = 0.3
"""From the start of a process, or of hearing again, until kopf has listed and watches."""
RESTART_SECONDS = 4.0
"""From the death of the process to the start of the next one."""
INSTALL_RETRY_SECONDS = 2.0
FRESH_SECONDS = 2.5
"""Who has renewed no longer ago than this goes on to renew, or says so when it ends."""
AGES_SECONDS = 1e6
MOST_POLL_SECONDS = 30.0
OF_DEVICES_ONLY = frozenset(
    {
        *("pods", "leases", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs"),
        *("persistentvolumeclaims", "poddisruptionbudgets"),
    }
)
"""What the loop for objects without a device does not look at; pods of masters come with more."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one device's loop, as a recorder sees it."""

    at: float
    device: str
    snapshot: Snapshot
    plan: Plan


@dataclass(slots=True)
class Track:
    """One device's loop."""

    due: float = 0.0
    is_busy: bool = False
    is_woken: bool = False
    failures: int = 0
    changes: int = -1
    """What had been counted at its last turn."""
    is_settled: bool = False
    """Whether the last turn had nothing to do."""
    polls: int = 0
    """How often in a row it has asked to look again in a moment, and nothing had changed."""
    calm_until: float | None = None
    """In quiet: how long that holds, by the wall clock, while all go on to renew; None: unknown."""


class Operator(Process):
    """The process. It does nothing until it is started."""

    def __init__(
        self,
        server: ApiServer,
        timeline: Timeline,
        *,
        record: Callable[[Turn], None],
        report: Callable[[str], None],
        watch: Callable[[Call], None],
        beats: Beats | None = None,
    ) -> None:
        super().__init__(timeline)
        self.turns = 0
        self.wire = Wire(server, ACTOR)
        self._beats = beats
        self.cluster = Cluster(self._hears_at, self._hears_after)
        self.is_running = False
        self.trouble: Callable[[Call], Trouble | None] = lambda call: None
        """What befalls the requests of the next process that is started."""
        self.is_deaf = False
        """Its watches are broken: no event comes in."""
        self._server = server
        self._record = record
        self._report = report
        self._watch = watch
        self._executor: Executor | None = None
        self._tracks: dict[str, Track] = {}
        self._news: deque[tuple[float, Change]] = deque()
        self._resync_at = math.inf
        self._watch_at = math.inf
        """When kopf lists what there is and begins to tell of what happens; infinite: it has."""
        self._echoes: list[float] = []
        """When everything is read once more, as in the loop."""
        self._changes = 0
        """Counts what may make a plan another one, renewals apart."""
        self._has_missed = self._has_found = False
        self._started_at = self._trouble_until = 0.0
        self._lag = self._twice = 0.0
        self._lag_until = 0.0
        self._arrives: dict[str, float] = {}
        """The last arrival of each kind, while events come late."""
        self._run = 0
        server.watch(self._seen)

    def start(self, *, crash_after: int | None = None, is_watching: bool = False) -> None:
        """A new process; ``crash_after`` so many writes it dies and is started again.

        ``is_watching``: it has begun long before the world, and hears of all that happens there.
        """
        self._run += 1
        self.is_running = True
        self._resync_at = math.inf
        self._started_at = self.timeline.time()
        self.cluster = Cluster(self._hears_at, self._hears_after)
        self.wire = Wire(self._server, ACTOR, watch=self._watch, skew=lambda: self.timeline.skew)
        self.wire.trouble = self.trouble
        self.wire.crash_after = crash_after
        api = cast("Client", self.wire)
        settings = Settings(image="asetwin.local/operator:sim", instance="sim")
        self._executor = Executor(api, self.cluster, settings, clock=self.wall)
        self._tracks, self._news, self._arrives = {}, deque(), {}
        self.timeline.call_soon(self._retry_sync, self._run)
        if not is_watching:
            self._watch_soon()

    def stop(self) -> None:
        """The process is gone, whatever it was doing."""
        self.wire.is_cut = True
        self.is_running = False
        self._run += 1
        self._resync_at = self._watch_at = math.inf
        self._echoes = []
        self._tracks, self._news = {}, deque()
        self.sleep()

    def befall(self, trouble: Callable[[Call], Trouble | None]) -> None:
        """What befalls its requests from now on, also those of later processes."""
        self.trouble = self.wire.trouble = trouble

    def listen(self, *, is_deaf: bool) -> None:
        """Whether watch events reach it; what it has missed it finds when it lists anew."""
        was_deaf, self.is_deaf = self.is_deaf, is_deaf
        if was_deaf and not is_deaf and self.is_running:
            self._watch_soon()

    def _watch_soon(self) -> None:
        """kopf begins to list each kind, and watches it from then on."""
        self._echoes = []
        self._watch_at = self.timeline.after(LISTING_SECONDS)
        self._started_at = self._watch_at + loop.LISTED_SECONDS[0]
        self.wake_at(self._watch_at)

    def _list(self) -> None:
        """What kopf has listed comes as events; what is not there any more is in none."""
        self._watch_at = math.inf
        listed = [
            self.cluster.apply(plural, body)
            for plural in KINDS
            for body in self._server.objects(plural).values()
        ]
        self._echoes = [self.timeline.after(one) for one in loop.LISTED_SECONDS]
        if any(listed):
            self._changes += 1
            self._wake_tracks(loop.GATHER_SECONDS)

    def hears_well(self, *, for_seconds: float) -> bool:
        """Whether it has been there, and in the picture, for at least so long."""
        now = self.timeline.time()
        since = max(self._started_at, self._lag_until, self._trouble_until)
        return self.is_running and not self.is_deaf and now - since > for_seconds

    @property
    def _is_watching(self) -> bool:
        return not self.is_deaf and math.isinf(self._watch_at)

    def hears_at_once(self) -> bool:
        """Whether its watches bring what happens without delay."""
        is_late = self.timeline.time() < self._lag_until or bool(self._arrives)
        return self._is_watching and not is_late

    def _hears_at(self) -> float:
        """The time of day at which it hears of what it takes in just now."""
        return self.wall() - self.timeline.time() + self._hears_after()

    def _hears_after(self) -> float:
        """The same moment as the time since the start, which no clock that is set changes."""
        late = self._beats.at if self._beats is not None else None
        now = self.timeline.time()
        return now if late is None else min(now, late + WATCH_SECONDS)

    def wall(self) -> float:
        """What this process takes for the time of day."""
        return self.timeline.host()

    # --- Observing ------------------------------------------------------------------------------

    def _seen(self, change: Change) -> None:
        if not self.is_running or change.plural not in KINDS:
            return
        if not self._is_watching:
            self._has_missed = True
            return
        if self._beats is not None and self._beats.at is not None:
            # A renewal that was made belatedly has been heard of in time, and wakes nobody.
            if self.cluster.is_synced:
                self.cluster.apply(change.plural, change.body, is_one_of_many=True)
            return
        due = self.timeline.after(self.timeline.varied(WATCH_SECONDS))
        if self.timeline.time() < self._lag_until or self._arrives:
            self._arrive_late(change, due)
            return
        # One kind's events come in their order; one queue keeps it for all of them.
        due = max(due, self._news[-1][0]) if self._news else due
        self._news.append((due, change))
        self.wake_at(self._news[0][0])

    def lag(self, delay: float, twice: float, *, until: float) -> None:
        """Watch events come up to so much later, and some of them twice, until a moment."""
        self._lag, self._twice, self._lag_until = delay, twice, until

    def _arrive_late(self, change: Change, due: float) -> None:
        """Each kind in its own order, but one kind after the other."""
        rng = self.timeline.rng
        if self.timeline.time() < self._lag_until:
            due = self.timeline.after(rng.uniform(0.0, self._lag))
        due = max(due, self._arrives.get(change.plural, 0.0))
        self._arrives[change.plural] = due
        self._news.append((due, change))
        if rng.random() < self._twice:
            self._news.append((due, change))
        self._news = deque(sorted(self._news, key=lambda one: one[0]))
        self.wake_at(self._news[0][0])

    def _take_news(self, now: float) -> None:
        changed = concerns_unbound = False
        while self._news and self._news[0][0] <= now:
            _, change = self._news.popleft()
            is_gone = change.type == DELETED
            if self.cluster.apply(change.plural, change.body, is_gone=is_gone):
                changed = True
                concerns_unbound = concerns_unbound or change.plural not in OF_DEVICES_ONLY
        if not self._news:
            self._arrives = {}
        if changed:
            self._changes += 1
            everybody = concerns_unbound or self._beats is None
            self._wake_tracks(loop.GATHER_SECONDS, unbound=everybody)

    async def _sync(self) -> None:
        is_first = not self.cluster.is_synced
        self._has_found = await self.cluster.resync(cast("Client", self.wire)) or is_first

    def _synced(self, error: BaseException | None) -> None:
        if isinstance(error, errors.KubeError):
            self._report(f"cannot read the cluster: {error}")
            run = self._run
            self.timeline.call_later(INSTALL_RETRY_SECONDS, self._retry_sync, run)
            return
        self._resync_at = self.timeline.time() + loop.RESYNC_SECONDS
        if self._has_found:
            # Nothing new wakes nobody: one that waits after a failed turn would never wait.
            self._changes += 1
            self._wake_tracks(0.0)
        self.wake()

    def _resynced(self, error: BaseException | None) -> None:
        """As :meth:`_synced`; one that fails is made up for as in the loop."""
        if isinstance(error, errors.KubeError):
            self._report(f"resync failed: {error}")
            self._has_missed = True
            self._echoes = self._echoes or [self.timeline.after(loop.LAST_RETRY_SECONDS)]
            self.wake_at(self._echoes[0])
        else:
            self._synced(None)

    def _retry_sync(self, run: int) -> None:
        if run == self._run and self.is_running:
            self._spawn(self._sync, self._synced)

    # --- The rhythm -----------------------------------------------------------------------------

    def _wake_tracks(self, delay: float, *, unbound: bool = True) -> None:
        due = self.timeline.after(delay)
        for name, track in self._tracks.items():
            if name == loop.UNBOUND and not unbound:
                continue
            track.is_woken = True
            track.polls = 0
            track.due = min(track.due, due)
        self.wake_at(due)

    def tick(self) -> None:
        if not self.is_running:
            return
        now = self.timeline.time()
        if now >= self._watch_at and not self.is_deaf:
            self._list()
        self._take_news(now)
        if self.cluster.is_synced:
            self._keep_tracks()
            for name, track in self._tracks.items():
                if track.due <= now and not track.is_busy:
                    self._turn(name, track)
            if now >= min([self._resync_at, *self._echoes]):
                self._resync_at = now + loop.RESYNC_SECONDS
                self._echoes = [at for at in self._echoes if at > now]
                # In quiet only where it can find something: it has heard of all else.
                if self._beats is None or self._has_missed:
                    self._has_missed = False
                    self._spawn(self._sync, self._resynced)
        dues = [track.due for track in self._tracks.values() if not track.is_busy]
        dues += [due for due, _ in list(self._news)[:1]] + [self._resync_at]
        if self.cluster.is_synced:
            dues += self._echoes
        if not self.is_deaf:
            dues.append(self._watch_at)
        if min(dues) < math.inf:
            self.wake_at(max(min(dues), now))

    def _keep_tracks(self) -> None:
        wanted = {loop.UNBOUND, *self.cluster.snapshot().devices}
        for name in sorted(wanted - set(self._tracks)):
            self._tracks[name] = Track(due=self.timeline.time())
        for name in sorted(set(self._tracks) - wanted):
            del self._tracks[name]

    def _is_calm(self, name: str, track: Track) -> bool:
        """Whether a turn would decide the same again, because it is due for a renewal's age only.

        In quiet a plan that does nothing is asked once for how long it holds if
        those who renew now go on to; :meth:`turn_soon` is called when one ends.
        """
        is_same = not track.is_woken and track.changes == self._changes and track.is_settled
        if self._beats is None or not is_same or track.polls:
            return False
        now = self.wall()
        if track.calm_until is None:
            track.calm_until = self._holds_until(name, now)
        if now >= track.calm_until - 1e-3:
            return False
        track.due = math.inf
        if not math.isinf(track.calm_until):
            track.due = self.timeline.after(track.calm_until - now)
            self.wake_at(track.due)
        return True

    def _holds_until(self, name: str, now: float) -> float:
        """When a plan that does nothing is over, renewals apart; ``now`` where it is over."""
        assert self._beats is not None
        self._beats.settle()
        snapshot = self.cluster.snapshot()
        # One that was only found may be of a kubelet that is silent: nobody renews it, and no beat
        # that ends will tell.
        renewed = {
            key: now + AGES_SECONDS
            if now - at < FRESH_SECONDS and key not in snapshot.unheard
            else at
            for key, at in snapshot.renewed.items()
        }
        todo = _decide(replace(snapshot, renewed=renewed), name, now)
        if todo.stages:
            return now
        return math.inf if todo.wake_at is None else todo.wake_at

    def turn_soon(self) -> None:
        """Somebody does not renew any more: what was calm is looked at again."""
        if self.is_running:
            for track in self._tracks.values():
                track.calm_until, track.is_settled = None, False
                track.due = min(track.due, self.timeline.time())
            self.wake()

    def _turn(self, name: str, track: Track) -> None:
        if self._is_calm(name, track):
            return
        track.is_woken, track.is_busy = False, True
        self.turns += 1
        if self._beats is not None:
            self._beats.settle()
        now, snapshot = self.wall(), self.cluster.snapshot()
        track.changes, track.calm_until = self._changes, None
        todo = _decide(snapshot, name, now)
        track.is_settled = not todo.stages
        self._record(Turn(self.timeline.time(), name, snapshot, todo))
        if not todo.stages:
            self._turned(name, track, todo, 0)
            return
        executor = self._executor
        assert executor is not None
        count = 0

        async def act() -> None:
            nonlocal count
            count = await executor.act(todo)

        def acted(error: BaseException | None) -> None:
            if isinstance(error, errors.KubeError):
                self._failed(name, track, error)
            else:
                self._turned(name, track, todo, count)

        self._spawn(act, acted)

    def _turned(self, name: str, track: Track, todo: Plan, count: int) -> None:
        track.is_busy, track.failures = False, 0
        delay = loop.CHECK_SECONDS if count else loop.IDLE_SECONDS
        if self._beats is not None and not todo.stages:
            delay = math.inf
        if todo.wake_at is not None:
            delay = min(delay, max(0.0, todo.wake_at - self.wall()))
        if self._beats is not None and not todo.stages and abs(delay - decide.WAIT_SECONDS) < 0.01:
            # It looks again and again at what no event tells of. Here everything is told of, but
            # for a renewal now and then: after a while of this it looks less and less often.
            track.polls += 1
            delay = min(MOST_POLL_SECONDS, delay * 2.0 ** max(0, track.polls - 5))
        track.due = self.timeline.after(loop.GATHER_SECONDS if track.is_woken else delay)
        if count:
            self._changes += 1
            self._wake_tracks(loop.GATHER_SECONDS)
        if not math.isinf(track.due):
            self.wake_at(track.due)

    def _failed(self, name: str, track: Track, error: errors.KubeError) -> None:
        self._report(f"{name or 'unbound'}: turn ended early: {error}")
        self._trouble_until = self.timeline.time() + loop.LAST_RETRY_SECONDS
        delay = min(
            loop.FIRST_RETRY_SECONDS * 2.0 ** min(track.failures, 10), loop.LAST_RETRY_SECONDS
        )
        track.failures += 1
        track.is_busy, track.due = False, self.timeline.after(delay)
        if track.failures > 2 or isinstance(error, errors.Outdated):
            self._spawn(self._sync, self._resynced)
        self.wake_at(track.due)

    def _spawn(
        self,
        start: Callable[[], Coroutine[Any, Any, None]],
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Run a coroutine of this process; ``then`` gets its error, unless the process died."""
        run = self._run
        task = self.timeline.create_task(start())

        def done(finished: "asyncio.Task[None]") -> None:
            error = finished.exception()
            if run != self._run or not self.is_running:
                return
            if isinstance(error, Crashed):
                self._report(f"killed after {self.wire.writes} writes")
                self.stop()
                self.timeline.call_later(RESTART_SECONDS, self._restart, self._run)
                return
            if error is not None and not isinstance(error, errors.KubeError):
                raise error
            then(error)

        task.add_done_callback(done)

    def _restart(self, run: int) -> None:
        if run == self._run and not self.is_running:
            self.start()


def _decide(snapshot: Snapshot, name: str, now: float) -> Plan:
    if name == loop.UNBOUND:
        return decide.decide_unbound(snapshot, now)
    return decide.decide(snapshot, name, now)
