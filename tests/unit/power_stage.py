"""A power agent between a fake engine and a fake API server, in virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

from asetwin.kube import errors
from asetwin.power.agent import NODES, WORKERS, Agent, Edge
from asetwin.power.drivers import Command, CommandError, EngineError, Machine, Network, Reading
from asetwin.power.presence import Presence
from unit.virtual_time import VirtualLoop, now

Json = dict[str, Any]

WALL = 1_800_000_000.0
SOON = 0.01
"""Nothing in here takes time but waiting: whatever is not done by then is not done by an event."""


class Engine:
    """A driver whose machines are in memory; time passes only when something says so."""

    method = "Fake"

    def __init__(self, *names: str) -> None:
        self.machines = dict.fromkeys(names, Reading(Machine.RUNNING, "runs", Network.OPEN, 1.0))
        self.commands: list[tuple[str, Command]] = []
        self.is_away = False
        self.looks = 0
        self.refuses = ""
        self.before_command: Callable[[], Awaitable[None]] | None = None
        self._listeners: list[asyncio.Queue[str | None]] = []

    async def observe(self, name: str) -> Reading:
        self.looks += 1
        if self.is_away:
            raise EngineError("no connection")
        return self.machines.get(name) or Reading(Machine.MISSING, f"no machine {name}")

    async def apply(self, name: str, command: Command) -> None:
        self.commands.append((name, command))
        if self.before_command is not None:
            await self.before_command()
        if self.is_away:
            raise EngineError("no connection")
        if self.refuses:
            raise CommandError(self.refuses)
        if command is Command.KILL:
            self.stop(name)
        elif command is Command.START:
            self.start(name)
        elif command is not Command.RESTART_KUBELET:
            network = Network.CUT if command is Command.CUT else Network.OPEN
            self.put(name, Machine.RUNNING, network, self.machines[name].finished_at)

    async def events(self) -> AsyncGenerator[str | None, None]:
        if self.is_away:
            raise EngineError("no connection")
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.append(queue)
        yield None
        while (name := await queue.get()) is not None:
            yield name
        raise EngineError("it went away")

    def put(
        self, name: str, machine: Machine, network: Network, ended: float | None = None
    ) -> None:
        started = self.machines[name].started_at
        self.machines[name] = Reading(machine, machine.lower(), network, started, ended)
        self.tell(name)

    def stop(self, name: str) -> None:
        self.put(name, Machine.STOPPED, Network.UNKNOWN, WALL + now())

    def start(self, name: str) -> None:
        ended = self.machines[name].finished_at
        started = WALL + now() + 0.001
        self.machines[name] = Reading(Machine.RUNNING, "runs", Network.OPEN, started, ended)
        self.tell(name)

    def tell(self, name: str) -> None:
        for queue in self._listeners:
            queue.put_nowait(name)

    def leave(self) -> None:
        self.is_away = True
        for queue in self._listeners:
            queue.put_nowait(None)
        self._listeners.clear()


class Api:
    """PinnedWorkers, their Nodes and one Lease, with list, watch and merge patch."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.patches: list[tuple[str, Json]] = []
        self.error: errors.KubeError | None = None
        self.is_mute = False
        """Whether its watches tell of nothing new, and do not break."""
        self._version = 0
        self._events: list[Json] = []
        self._changed = asyncio.Condition()

    async def get(self, path: str) -> Json:
        self._check()
        if path == WORKERS:
            items = [it for key, it in sorted(self.objects.items()) if key.startswith(WORKERS)]
            return deepcopy({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        if path not in self.objects:
            raise errors.NotFound(f"GET {path}: not found", status=404)
        return deepcopy(self.objects[path])

    async def create(self, path: str, body: Json) -> Json:
        self._check()
        return self.put(f"{path}/{body['metadata']['name']}", body)

    async def patch(self, path: str, body: Json) -> Json:
        self._check()
        self.patches.append((path, body))
        key = path.removesuffix("/status")
        if key not in self.objects:
            raise errors.NotFound(f"PATCH {path}: not found", status=404)
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted not in (None, self.objects[key]["metadata"]["resourceVersion"]):
            raise errors.Conflict(f"PATCH {path}: conflict", status=409)
        return self.put(key, merge(self.objects[key], body))

    async def watch(
        self, path: str, *, seconds: int, resourceVersion: str
    ) -> AsyncGenerator[Json, None]:
        assert path == WORKERS
        self._check()
        ends_at = now() + seconds
        told = int(resourceVersion)
        while True:
            for event in [it for it in self._events if int(it["version"]) > told]:
                told = int(event["version"])
                yield deepcopy(event)
            try:
                async with asyncio.timeout(ends_at - now()), self._changed:
                    await self._changed.wait()
            except TimeoutError:
                return
            self._check()

    def put(self, key: str, body: Json) -> Json:
        kind = "MODIFIED" if key in self.objects else "ADDED"
        self._version += 1
        body = deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = body
        if key.startswith(WORKERS) and not self.is_mute:
            self._tell({"type": kind, "object": body, "version": self._version})
        return deepcopy(body)

    def remove(self, key: str, *, silently: bool = False) -> None:
        self._version += 1
        body = self.objects.pop(key)
        if not silently:
            self._tell({"type": "DELETED", "object": body, "version": self._version})

    def _tell(self, event: Json) -> None:
        self._events.append(event)
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


def merge(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return patch
    kept = {key: value for key, value in old.items() if patch.get(key, 0) is not None}
    new = {key: merge(old.get(key, {}), one) for key, one in patch.items() if one is not None}
    return kept | new


class Stage:
    """A cluster ``c`` with the Nodes na, nb and their PinnedWorkers wa, wb."""

    def __init__(self) -> None:
        self.api = Api()
        self.engine = Engine("na", "nb")
        self.agent: Agent
        self._task: asyncio.Task[None] | None = None
        for name in ("na", "nb"):
            self.node(name, f"kind://docker/c/{name}")
        self.worker("wa", "na")
        self.worker("wb", "nb")

    def node(self, name: str, provider: str) -> None:
        self.api.put(
            f"{NODES}/{name}", {"metadata": {"name": name}, "spec": {"providerID": provider}}
        )

    def worker(self, name: str, node: str, *, uid: str = "1", accepted: str = "True") -> None:
        condition = {
            "type": "Accepted",
            "status": accepted,
            "reason": "Accepted",
            "lastTransitionTime": "2026-11-25T08:00:00Z",
        }
        self.api.put(
            f"{WORKERS}/{name}",
            {
                "metadata": {"name": name, "uid": uid},
                "spec": {"aseNode": name, "nodeName": node},
                "status": {"conditions": [condition]},
            },
        )

    def power(self, name: str = "wa") -> Json:
        found: Json = self.api.objects[f"{WORKERS}/{name}"]["status"].get("power", {})
        return found

    def desire(self, state: str, name: str = "wa") -> None:
        key = f"{WORKERS}/{name}"
        body = merge(self.api.objects[key], {"status": {"power": {"desired": state}}})
        self.api.put(key, body)

    async def start(self, presence: Presence | None = None) -> None:
        """A new agent: the one before is dead and has left nothing behind."""
        edge = Edge(api=self.api, driver=self.engine, cluster="c", wall=lambda: WALL + now())
        self.agent = Agent(edge)
        self._task = asyncio.create_task(self.agent.run(presence))
        await asyncio.sleep(SOON)

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None


def play(scenario: Callable[[Stage], Awaitable[None]], *, is_started: bool = True) -> None:
    async def whole() -> None:
        stage = Stage()
        if is_started:
            await stage.start()
        try:
            await scenario(stage)
        finally:
            await stage.kill()

    loop = VirtualLoop()
    try:
        loop.run_until_complete(whole())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
