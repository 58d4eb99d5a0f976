"""The agent: follows the PinnedWorkers and the engine, and keeps each worker's power.

Two followers only wake (a list and watch of the PinnedWorkers, the engine's
events); one keeper per worker does the work in its own rhythm, so that a
machine that is slow to die holds up no other. A turn of a keeper is always the
same: look at the machine, decide (:mod:`asetwin.power.rules`), write what has
changed in ``status.power``, carry out a command, look again. It turns every
few seconds without being woken, so an event that is lost costs seconds and
never the truth. Nothing is remembered that a new process would need.

A PinnedWorker acts while its condition Accepted is True. When that ends, or
when it is deleted, its machine gets back what the agent has taken from it: that
is the last time that anybody knows of it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from asetwin.constants import API_VERSION
from asetwin.kube import client, errors
from asetwin.model.power import is_owed
from asetwin.power import rules
from asetwin.power.drivers import Command, CommandError, Driver, EngineError, Machine, Reading
from asetwin.power.metrics import Metrics
from asetwin.power.presence import Presence
from asetwin.resources import conditions, times
from asetwin.resources.devices import PinnedWorker, Power, PowerState

log = logging.getLogger("asetwin.power")

Json = dict[str, Any]

CHECK_SECONDS = 2.0
"""A keeper looks at its machine at least so often, whatever events say."""
RETRY_SECONDS = 1.0
AGAIN_SECONDS = 0.2
"""Between two looks while one and the same command has no effect yet."""
IDLE_SECONDS = 30.0
RESYNC_SECONDS = 30
"""The PinnedWorkers are listed anew, and their Nodes looked up anew, so often."""
RELEASE_TRIES = 10
STUCK_SECONDS = 90.0
"""More than the longest turn may take, all time-outs included."""

WORKERS = client.collection(API_VERSION, "pinnedworkers")
NODES = client.collection("v1", "nodes")


class ApiClient(Protocol):
    """The part of :class:`asetwin.kube.client.Client` that the agent uses."""

    async def get(self, path: str) -> Json: ...
    async def patch(self, path: str, body: Json) -> Json: ...
    def watch(
        self, path: str, *, seconds: int, resourceVersion: str
    ) -> AsyncGenerator[Json, None]: ...


@dataclass(frozen=True, slots=True)
class Edge:
    """What a keeper works with."""

    api: ApiClient
    driver: Driver
    cluster: str
    wall: Callable[[], float]
    """Seconds since the epoch."""
    metrics: Metrics = field(default_factory=Metrics)


class Keeper:
    """Keeps the power of one worker; :meth:`run` turns until it is cancelled."""

    def __init__(self, worker: PinnedWorker, edge: Edge) -> None:
        self.worker = worker
        self.turned_at = _now()
        self.turns = 0
        self._edge = edge
        self._wake = asyncio.Event()
        self._identified_at: float | None = None
        self._last_command: Command | None = None
        self._has_killed = False
        self._trouble = ""
        self._complaint = ""

    @property
    def node(self) -> str:
        """The Node, which is also the machine's name."""
        return self.worker.spec.node_name

    def offer(self, worker: PinnedWorker) -> None:
        """A version of the PinnedWorker from the API; an older one than ours is ignored."""
        if _version(worker) > _version(self.worker):
            self.worker = worker
            self.wake()

    def wake(self) -> None:
        """Something has happened: turn now."""
        self._wake.set()

    async def run(self) -> None:
        """Turn for ever."""
        while True:
            self._wake.clear()
            try:
                pause = await self.turn()
                self._complaint = ""
            except errors.NotFound:
                # Deleted; the watch will say so.
                pause = IDLE_SECONDS
            except errors.KubeError as error:
                self._complain(str(error))
                pause = RETRY_SECONDS
            self.turned_at = _now()
            self.turns += 1
            await _wait(self._wake, pause)

    async def turn(self) -> float:
        """Look, decide, write, act; answers with the seconds until the next turn."""
        power = self.worker.status.power or Power()
        is_accepted = _is_accepted(self.worker)
        if not is_accepted and not is_owed(power):
            return IDLE_SECONDS
        reading = await self._look()
        verdict = rules.judge(
            power.desired if is_accepted else PowerState.ON,
            reading,
            power,
            method=self._edge.driver.method,
            now=self._edge.wall(),
            has_killed=self._has_killed,
            trouble=self._trouble,
        )
        if verdict.changes:
            await self._write(verdict)
            told = (self.worker.status.power or Power()).desired
            if told is not power.desired or _is_accepted(self.worker) != is_accepted:
                # What we knew was old, as behind a watch that is broken: the answer to the
                # announcement says so before anything is done to a machine.
                return 0.0
        self._has_killed = False
        if verdict.command is None:
            self._last_command, self._trouble = None, ""
            if is_accepted and reading.machine is Machine.RUNNING:
                return await self._restart_kubelet()
            is_seen = reading.machine is not Machine.UNREACHABLE
            return CHECK_SECONDS if is_seen else RETRY_SECONDS
        return await self._carry_out(verdict.command)

    async def release(self) -> None:
        """Give back to the machine of a deleted PinnedWorker what we have taken from it."""
        last = self.worker.status.power or Power()
        is_concerned = _is_accepted(self.worker) or is_owed(last)
        if not is_concerned or self._identified_at is None:
            return
        for _ in range(RELEASE_TRIES):
            reading = await self._look(is_known=True)
            verdict = rules.judge(
                PowerState.ON, reading, last, method=self._edge.driver.method, now=0.0
            )
            if reading.machine is not Machine.UNREACHABLE:
                if verdict.command is None:
                    return
                log.info("%s (node=%s): its PinnedWorker is gone", verdict.command, self.node)
                if await self._carry_out(verdict.command) == 0.0:
                    continue
            await asyncio.sleep(RETRY_SECONDS)
        log.warning("left as it is (node=%s): its PinnedWorker is gone", self.node)

    async def _look(self, *, is_known: bool = False) -> Reading:
        refusal = "" if is_known else await self._identify()
        if refusal:
            return Reading(Machine.REFUSED, f"refused: {refusal}")
        try:
            return await self._edge.driver.observe(self.node)
        except (EngineError, CommandError) as error:
            return Reading(Machine.UNREACHABLE, f"engine unreachable: {error}")

    async def _identify(self) -> str:
        """Why the machine called like the Node is not the Node's; empty if it is.

        Once known it is taken for true for a while, also without the API.
        """
        is_known = self._identified_at is not None
        if self._identified_at is not None and _now() - self._identified_at < RESYNC_SECONDS:
            return ""
        expected = f"kind://docker/{self._edge.cluster}/{self.node}"
        try:
            node = await self._edge.api.get(f"{NODES}/{self.node}")
        except errors.NotFound:
            self._identified_at = None
            return f"the cluster has no Node {self.node}"
        except errors.KubeError as error:
            if not is_known or not errors.is_transient(error):
                raise
            return ""
        found = node.get("spec", {}).get("providerID", "")
        if found != expected:
            self._identified_at = None
            return f"the Node's providerID is {found or 'empty'}, not {expected}"
        self._identified_at = _now()
        return ""

    async def _write(self, verdict: rules.Verdict) -> None:
        before = (self.worker.status.power or Power()).observed
        if verdict.observed is not before:
            log.info(
                "%s → %s (worker=%s node=%s): %s",
                before,
                verdict.observed,
                self.worker.name,
                self.node,
                verdict.changes["proof"],
            )
        path = f"{WORKERS}/{self.worker.name}/status"
        body = await self._edge.api.patch(path, {"status": {"power": verdict.changes}})
        answer = _read(body)
        if answer is not None and _version(answer) > _version(self.worker):
            self.worker = answer

    async def _restart_kubelet(self) -> float:
        """Restart it if the operator asks for it, and say so; done twice it does no harm.

        Answers with the seconds until the next turn.
        """
        asked = self.worker.status.kubelet
        if asked is None or asked.asked is None or asked.asked == asked.done:
            return CHECK_SECONDS
        pause = await self._carry_out(Command.RESTART_KUBELET)
        self._last_command = None
        if pause:
            return pause
        done = {"done": asked.asked, "doneAt": times.render(self._edge.wall())}
        path = f"{WORKERS}/{self.worker.name}/status"
        answer = _read(await self._edge.api.patch(path, {"status": {"kubelet": done}}))
        if answer is not None and _version(answer) > _version(self.worker):
            self.worker = answer
        return CHECK_SECONDS

    async def _carry_out(self, command: Command) -> float:
        log.info("%s (worker=%s node=%s)", command, self.worker.name, self.node)
        is_again, self._last_command = command is self._last_command, command
        begun_at = _now()
        try:
            await self._edge.driver.apply(self.node, command)
        except (CommandError, EngineError) as error:
            self._edge.metrics.commanded(command, "failed", _now() - begun_at)
            self._trouble = f"could not {command} it: {error}"
            self._complain(self._trouble)
            return RETRY_SECONDS
        self._edge.metrics.commanded(command, "done", _now() - begun_at)
        self._has_killed, self._trouble = command is Command.KILL, ""
        return AGAIN_SECONDS if is_again else 0.0

    def _complain(self, text: str) -> None:
        # Once per cause: an API server or engine that is away would fill the log.
        if text != self._complaint:
            log.warning("%s (worker=%s node=%s)", text, self.worker.name, self.node)
        self._complaint = text


class Agent:
    """One agent for one kind cluster; :meth:`run` until it is cancelled."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group = asyncio.TaskGroup()
        self._has_listed = False
        self._listed_at = _now()
        self._complaints: dict[str, str] = {}

    async def run(self, presence: Presence | None = None) -> None:
        """Follow and keep; an error that nobody expected ends it, with all its tasks."""
        async with self._group as group:
            group.create_task(self._follow_workers())
            group.create_task(self._follow_engine())
            if presence is not None:
                group.create_task(presence.run(self.is_well))

    def stuck(self) -> list[str]:
        """What has not turned for too long; an API server that is away is no reason."""
        limit = _now() - STUCK_SECONDS
        late = [name for name, keeper in self._keepers.items() if keeper.turned_at < limit]
        return sorted(late) + (["the list of PinnedWorkers"] if self._listed_at < limit else [])

    def is_well(self) -> bool:
        """Whether the operator may rely on us: every worker has been looked at, nothing hangs."""
        has_looked = all(keeper.turns for keeper in self._keepers.values())
        return self._has_listed and has_looked and not self.stuck()

    # --- The cluster ----------------------------------------------------------------------------

    async def _follow_workers(self) -> None:
        while True:
            try:
                version = await self._list()
                await self._watch(version)
                self._complaints.pop("workers", "")
            except errors.KubeError as error:
                self._complain("workers", f"cannot follow the PinnedWorkers: {error}")
                await asyncio.sleep(RETRY_SECONDS)
            self._listed_at = _now()

    async def _list(self) -> str:
        answer = await self.edge.api.get(WORKERS)
        bodies = answer.get("items", [])
        # By the bare name: one that cannot be read is still there, and keeps what it has.
        names = {body["metadata"]["name"] for body in bodies}
        for name in [name for name in self._keepers if name not in names]:
            self._drop(name)
        for worker in (_read(body) for body in bodies):
            if worker is not None:
                self._take(worker)
        self._listed_at, self._has_listed = _now(), True
        return str(answer["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> None:
        events = self.edge.api.watch(WORKERS, resourceVersion=version, seconds=RESYNC_SECONDS)
        async with aclosing(events):
            async for event in events:
                worker = _read(event["object"])
                if worker is None:
                    continue
                if event["type"] == "DELETED":
                    self._drop(worker.name)
                else:
                    self._take(worker)

    def _take(self, worker: PinnedWorker) -> None:
        keeper = self._keepers.get(worker.name)
        if keeper is not None and keeper.worker.metadata.uid != worker.metadata.uid:
            self._drop(worker.name)
            keeper = None
        if keeper is not None:
            keeper.offer(worker)
            return
        keeper = Keeper(worker, self.edge)
        self._keepers[worker.name] = keeper
        self._tasks[worker.name] = self._group.create_task(keeper.run())

    def _drop(self, name: str) -> None:
        keeper = self._keepers.pop(name, None)
        if keeper is not None:
            self._tasks.pop(name).cancel()
            self._group.create_task(keeper.release())

    # --- The engine -----------------------------------------------------------------------------

    async def _follow_engine(self) -> None:
        while True:
            try:
                async with aclosing(self.edge.driver.events()) as names:
                    async for name in names:
                        if name is None and self._complaints.pop("engine", ""):
                            log.info("the engine is back")
                        self._wake(name)
            except (EngineError, CommandError) as error:
                self._complain("engine", f"cannot follow the engine's events: {error}")
            # Nothing is known of any machine until it is looked at anew.
            self._wake(None)
            await asyncio.sleep(RETRY_SECONDS)

    def _wake(self, name: str | None) -> None:
        for keeper in self._keepers.values():
            if name is None or keeper.node == name:
                keeper.wake()

    def _complain(self, about: str, text: str) -> None:
        if self._complaints.get(about) != text:
            log.warning("%s", text)
        self._complaints[about] = text


def _is_accepted(worker: PinnedWorker) -> bool:
    return conditions.is_true(worker.status.conditions, "Accepted")


def _read(body: Json) -> PinnedWorker | None:
    try:
        return PinnedWorker.read(body)
    except ValidationError as error:
        name = body.get("metadata", {}).get("name")
        log.error("cannot read PinnedWorker %s: %s", name, " ".join(str(error).split()))
        return None


def _version(worker: PinnedWorker) -> int:
    """Resource versions of one kind can be compared as numbers (KEP-5504)."""
    return int(worker.metadata.resource_version or 0)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return
