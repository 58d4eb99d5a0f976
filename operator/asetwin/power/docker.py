"""The driver for kind: a worker VM is a container, its power is docker's.

Off is ``docker kill``: SIGKILL, nothing is flushed, as when the power goes, and
the restart policy of kind's containers does not bring it back. A cut network
is two packet filter rules inside the container, which carry our comment and
are read back; address and routes stay. They sit in the mangle table: it sees
all traffic, that of pods too, and nobody else in a kind node puts rules there.
A container that starts again has a network without them.

An engine that is busy cleaning up after a dead container answers no question
about it for as long, seconds sometimes; its event of the death came before. So
the end of a container that was told to end is believed from the event alone.
One that died by itself may be started again by its restart policy: there the
engine's answer is waited for.

Only worker containers of this one kind cluster are touched: kind's labels on
the container say which cluster and which role it has.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import aiodocker
import aiohttp

from asetwin.power.drivers import Command, CommandError, EngineError, Machine, Network, Reading
from asetwin.resources import times

log = logging.getLogger("asetwin.power")

Json = dict[str, Any]
T = TypeVar("T")

LABEL_CLUSTER = "io.x-k8s.kind.cluster"
LABEL_ROLE = "io.x-k8s.kind.role"
ROLE_WORKER = "worker"
ROLE_CONTROL_PLANE = "control-plane"

LOOK_SECONDS = 5.0
COMMAND_SECONDS = 30.0
PATIENCE_SECONDS = 0.3
"""How long an answer is waited for where an event has told it already."""
CONNECT_SECONDS = 2.0
RECHECK_OPEN_SECONDS = 30.0
RECHECK_CUT_SECONDS = 10.0
"""How long what a packet filter said is taken for true; it costs a process in the container."""

NO_CONNECTION = 900
"""The client library's own status, beyond those of HTTP."""

EVENTS = {
    "container": ("die", "stop", "kill", "start", "pause", "unpause", "restart", "destroy"),
    "network": ("connect", "disconnect"),
}

COMMENT = "asetwin-cut"
RULES = ("PREROUTING -i", "POSTROUTING -o")
_SCRIPT = f"""
for tool in iptables ip6tables; do
  [ $tool = iptables ] || $tool -w 5 -t mangle -S >/dev/null 2>&1 || continue
  for rule in {" ".join(f"'{rule}'" for rule in RULES)}; do
    set -- $rule eth+ -m comment --comment {COMMENT} -j DROP
    @ACT@
  done
  echo "# $tool"
  $tool -w 5 -t mangle -S || exit 1
done
"""
_ACTS = {
    None: ":",
    Command.CUT: (
        '$tool -w 5 -t mangle -C "$@" 2>/dev/null || $tool -w 5 -t mangle -I "$@" || exit 1'
    ),
    Command.RESTORE: 'while $tool -w 5 -t mangle -D "$@" 2>/dev/null; do :; done',
}
# kind's entrypoint chooses the flavour of iptables and rewrites the rules. Whatever is to be cut
# off starts after it, so nothing is lost by waiting for its end.
_AFTER_ENTRYPOINT = """
for _ in $(seq 100); do grep -qa entrypoint /proc/1/cmdline || break; sleep 0.1; done
"""


_RESTART_KUBELET = "systemctl restart kubelet"


@dataclass(frozen=True, slots=True)
class _Filter:
    """What the packet filter of one run of one container said, and when."""

    run: tuple[str, str]
    network: Network
    asked_at: float


@dataclass(slots=True)
class _Life:
    """One run of one container, and what events have told of its end."""

    run: tuple[str, str]
    is_told_to_end: bool = False
    finished_at: float | None = None
    exit_code: int = 0
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, finished_at: float, exit_code: int) -> None:
        self.finished_at, self.exit_code = finished_at, exit_code
        self.has_ended.set()


class DockerDriver:
    """Docker containers of one kind cluster; use it as an async context."""

    method = "Docker"

    def __init__(self, url: str, *, cluster: str = "") -> None:
        self.cluster = cluster
        self._url = url
        self._names: dict[str, str] = {}
        self._filters: dict[str, _Filter] = {}
        self._lives: dict[str, _Life] = {}
        self._docker: aiodocker.Docker

    async def __aenter__(self) -> Self:
        # How long an answer may take depends on the question: see _errors.
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS)
        self._docker = aiodocker.Docker(url=self._url, timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._docker.close()

    async def find_cluster(self, name: str) -> str:
        """The kind cluster whose control plane is the container ``name``.

        Raises EngineError, and CommandError when there is no such container.
        """
        body = await self._inspect(name)
        labels = _labels(body or {})
        cluster = str(labels.get(LABEL_CLUSTER, ""))
        if not cluster or labels.get(LABEL_ROLE) != ROLE_CONTROL_PLANE:
            raise CommandError(f"{name} is not the control plane of a kind cluster on this engine")
        return cluster

    async def observe(self, name: str) -> Reading:
        """Look at one container; raises EngineError."""
        life = self._lives.get(name)
        try:
            body = await _answer(self._inspect(name), life)
        except EngineError:
            if life is None or not life.has_ended.is_set():
                raise
            return _read_end(name, life)
        if body is None:
            return Reading(Machine.MISSING, f"no container {name} on this engine")
        refusal = refuse(body, self.cluster)
        if refusal:
            return Reading(Machine.REFUSED, f"refused: container {name} {refusal}")
        self._note(name, body)
        network = await self._look_at_network(name, body)
        return read(name, body, network)

    async def apply(self, name: str, command: Command) -> None:
        """Carry out one command; raises EngineError and CommandError."""
        body = await self._inspect(name)
        refusal = "is missing" if body is None else refuse(body, self.cluster)
        if body is None or refusal:
            raise CommandError(f"container {name} {refusal}")
        # By its id: another container may be given the same name in the meantime.
        container = self._docker.containers.container(body["Id"])
        if command is Command.KILL:
            life = self._note(name, body)
            async with _errors(COMMAND_SECONDS, reached=409):
                with suppress(_Ended):
                    await _answer(container.kill(signal="SIGKILL"), life, patience_seconds=0.0)
        elif command is Command.START:
            async with _errors(COMMAND_SECONDS):
                await container.start()
        elif command is Command.RESTART_KUBELET:
            await self._execute(body["Id"], _RESTART_KUBELET, COMMAND_SECONDS)
        else:
            script = _AFTER_ENTRYPOINT + _script(command)
            said = await self._execute(body["Id"], script, COMMAND_SECONDS)
            self._remember(name, body, read_filter(said))

    async def events(self) -> AsyncGenerator[str | None, None]:
        """Names of containers that something happened to; None first, for all of them."""
        # The engine may be another version than before; and what we knew of it may be past.
        self._docker.api_version = "auto"
        self._filters.clear()
        self._lives.clear()
        async with _errors(LOOK_SECONDS):
            # By the engine's clock, so that what happens from here on is told later.
            since = times.parse((await self._docker.system.info())["SystemTime"])
        yield None
        names = [name for names in EVENTS.values() for name in names]
        stream = self._docker.events
        subscriber = stream.subscribe(create_task=False)  # type: ignore[no-untyped-call]
        task = asyncio.create_task(
            stream.run(
                since=f"{since:.6f}", filters=json.dumps({"type": list(EVENTS), "event": names})
            )
        )
        try:
            while (event := await subscriber.get()) is not None:
                name = self._concerns(event)
                if name is not None:
                    yield name
            async with _errors(LOOK_SECONDS):
                await task
            raise EngineError("it closed the stream")
        finally:
            # What is not told any more must not be believed.
            self._lives.clear()
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def _concerns(self, event: Json) -> str | None:
        """The container of ours that an event is about, if any."""
        about = event.get("Actor", {}).get("Attributes", {})
        if event.get("Type") == "network":
            return self._names.get(about.get("container", ""))
        if about.get(LABEL_CLUSTER) != self.cluster:
            return None
        name = str(about.get("name", ""))
        self._hear(name, event, about)
        return name

    def _hear(self, name: str, event: Json, about: Json) -> None:
        """Keep what an event tells of the end of a run."""
        life = self._lives.get(name)
        if life is None:
            return
        match event.get("Action"):
            case "kill":
                life.is_told_to_end = True
            case "die" if life.is_told_to_end:
                life.end(event["timeNano"] / 1e9, int(about.get("exitCode", 0)))
            case "start":
                # Another run: nothing is known of it until it has been looked at.
                del self._lives[name]

    def _note(self, name: str, body: Json) -> _Life:
        """The life that the engine's answer speaks of; what events told of it is kept."""
        self._names[body["Id"]] = name
        life = self._lives.get(name)
        if life is None or life.run != _run_of(body):
            life = self._lives[name] = _Life(_run_of(body))
        state = body["State"]
        finished_at = _time(state["FinishedAt"])
        if life.has_ended.is_set() and state["Status"] == "exited" and finished_at is not None:
            # Exact, where the time of the event was a moment late.
            life.end(finished_at, state.get("ExitCode", 0))
        return life

    async def _inspect(self, name: str) -> Json | None:
        """The engine's description of the container of exactly this name; None without one."""
        try:
            async with _errors(LOOK_SECONDS):
                body = await self._docker.containers.container(name).show()
        except _NotFound:
            return None
        # The engine also takes the beginning of an id for a name.
        return body if body.get("Name") == f"/{name}" else None

    async def _look_at_network(self, name: str, body: Json) -> Network:
        if body["State"]["Status"] != "running":
            return Network.UNKNOWN
        if not (body.get("NetworkSettings") or {}).get("Networks"):
            return Network.DETACHED
        known = self._filters.get(name)
        if known is not None and known.run != _run_of(body):
            # It has started since we last asked, with a network of its own and no rules in it.
            known = self._remember(name, body, Network.OPEN)
        if known is not None and not self._is_old(known):
            return known.network
        try:
            script = self._execute(body["Id"], _script(None), LOOK_SECONDS)
            said = await _answer(script, self._lives.get(name))
        except (CommandError, EngineError) as error:
            # Most often it is about to end. The last answer stands; without one, nothing is known.
            log.info("cannot read the packet filter of %s: %s", name, error)
            return Network.UNKNOWN if known is None else known.network
        return self._remember(name, body, read_filter(said)).network

    def _is_old(self, known: _Filter) -> bool:
        is_open = known.network is Network.OPEN
        limit = RECHECK_OPEN_SECONDS if is_open else RECHECK_CUT_SECONDS
        return asyncio.get_running_loop().time() - known.asked_at > limit

    def _remember(self, name: str, body: Json, network: Network) -> _Filter:
        known = _Filter(_run_of(body), network, asyncio.get_running_loop().time())
        self._filters[name] = known
        return known

    async def _execute(self, container_id: str, script: str, seconds: float) -> str:
        """Run a script in the container; what it wrote, or CommandError with its last words."""
        async with _errors(seconds):
            container = self._docker.containers.container(container_id)
            run = await container.exec(["sh", "-c", script])
            written: dict[int, bytes] = {1: b"", 2: b""}
            async with run.start(detach=False) as stream:
                while (part := await stream.read_out()) is not None:
                    written[part.stream] += part.data
            status = (await run.inspect())["ExitCode"]
        if status != 0:
            last_words = written[2].decode(errors="replace").strip().splitlines()[-1:]
            raise CommandError(f"exit status {status} in the container: {' '.join(last_words)}")
        return written[1].decode(errors="replace")


async def _answer(
    asking: Coroutine[Any, Any, T],
    life: _Life | None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> T:
    """What the engine answers; once an event has told the end, only for a moment longer."""
    if life is None:
        return await asking
    asked = asyncio.create_task(asking)
    told = asyncio.create_task(life.has_ended.wait())
    try:
        await asyncio.wait({asked, told}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            await asyncio.wait({asked}, timeout=patience_seconds)
        if asked.done():
            return await asked
        raise _Ended("the engine is busy with its end")
    finally:
        asked.cancel()
        told.cancel()


class _Ended(EngineError):
    """No answer, but an event has told the end of the container."""


class _NotFound(CommandError):
    """404."""


@asynccontextmanager
async def _errors(seconds: float, *, reached: int = 0) -> AsyncIterator[None]:
    """The client library's errors become ours; the status ``reached`` is none: it is so already."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except aiodocker.DockerError as error:
        if error.status == reached:
            return
        text = " ".join(error.message.split())
        if error.status == 404:
            raise _NotFound(text) from error
        if error.status < NO_CONNECTION:
            raise CommandError(text) from error
        raise EngineError("no connection to the Docker engine") from error
    except TimeoutError as error:
        raise EngineError(f"no answer within {seconds:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineError("the connection to the Docker engine broke") from error


def refuse(body: Json, cluster: str) -> str:
    """Why a container is not ours to touch; empty for a worker of our kind cluster."""
    labels = _labels(body)
    theirs = labels.get(LABEL_CLUSTER)
    if theirs is None:
        return "was not made by kind"
    if theirs != cluster:
        return f"belongs to the kind cluster {theirs}, not to {cluster}"
    if labels.get(LABEL_ROLE) != ROLE_WORKER:
        return f"is the cluster's {labels.get(LABEL_ROLE)}, not a worker"
    return ""


def read(name: str, body: Json, network: Network) -> Reading:
    """The engine's description of a container as a reading."""
    state = body["State"]
    started_at, finished_at = _time(state["StartedAt"]), _time(state["FinishedAt"])
    status = state["Status"]
    if status == "removing":
        return Reading(Machine.MISSING, f"container {name} is being removed")
    machine = {
        "running": Machine.RUNNING,
        "paused": Machine.PAUSED,
        "restarting": Machine.RESTARTING,
    }.get(status, Machine.STOPPED)
    if machine is Machine.STOPPED and finished_at is not None:
        detail = _about_end(name, finished_at, state.get("ExitCode", 0))
    elif machine is Machine.STOPPED:
        detail = f"container {name} was never started"
    elif machine is Machine.RUNNING:
        since = "" if started_at is None else f" since {times.render(started_at)}"
        detail = f"container {name} runs{since}{_ABOUT_NETWORK[network]}"
    else:
        detail = f"container {name} is {status}"
    return Reading(machine, detail, network, started_at, finished_at)


def _read_end(name: str, life: _Life) -> Reading:
    """The end of a container as events have told it."""
    ended = life.finished_at or 0.0
    detail = _about_end(name, ended, life.exit_code)
    return Reading(Machine.STOPPED, detail, Network.UNKNOWN, _time(life.run[1]), ended)


def _about_end(name: str, finished_at: float, code: int) -> str:
    return f"container {name} exited at {times.render(finished_at)}, exit code {code}"


_ABOUT_NETWORK = {
    Network.OPEN: "",
    Network.CUT: ", rules in its packet filter drop all traffic of its network",
    Network.PARTLY_CUT: ", rules in its packet filter drop part of the traffic of its network",
    Network.DETACHED: ", it is connected to no network",
    Network.UNKNOWN: ", but its packet filter could not be read",
}


def read_filter(said: str) -> Network:
    """What the rules say that a script has printed."""
    tools = sum(line.startswith("# ") for line in said.splitlines())
    ours = {
        (tool, rule)
        for tool, line in _by_tool(said)
        for rule in RULES
        if line.startswith(f"-A {rule} eth+ ") and COMMENT in line and line.endswith("-j DROP")
    }
    if not tools:
        return Network.UNKNOWN
    if not ours:
        return Network.OPEN
    return Network.CUT if len(ours) == tools * len(RULES) else Network.PARTLY_CUT


def _by_tool(said: str) -> list[tuple[str, str]]:
    pairs, tool = [], ""
    for line in said.splitlines():
        if line.startswith("# "):
            tool = line
        else:
            pairs.append((tool, line.strip()))
    return pairs


def _script(command: Command | None) -> str:
    return _SCRIPT.replace("@ACT@", _ACTS[command])


def _labels(body: Json) -> Json:
    return (body.get("Config") or {}).get("Labels") or {}


def _run_of(body: Json) -> tuple[str, str]:
    """One run of one container; the next start is another one."""
    return body["Id"], body["State"]["StartedAt"]


def _time(text: str) -> float | None:
    """The engine writes the year 1 for "never"."""
    return None if not text or text.startswith("0001-") else times.parse(text)
