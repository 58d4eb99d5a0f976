"""The driver for kind's containers against an engine: what it tells it, asks it and survives."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from asetwin.power import docker
from asetwin.power.docker import LABEL_CLUSTER, DockerDriver
from asetwin.power.drivers import Command, CommandError, EngineError, Machine, Network
from unit.containers import ENDED, EVENT_NANOSECONDS, NAME, STARTED, Json, container

# --- Against an engine --------------------------------------------------------------------------


class Engine:
    """As much of Docker's API as the driver uses, on a socket of its own."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.containers: dict[str, Json] = {}
        self.asked: list[str] = []
        self.statuses: dict[str, int] = {}
        self.output = b"# iptables\n-P PREROUTING ACCEPT\n"
        self.exit_code = 0
        self.filters: Json = {}
        self.delay = 0.0
        self._path = path
        self._events: asyncio.Queue[Json | None] = asyncio.Queue()
        self._runner: web.AppRunner

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/version", self._answer({"ApiVersion": "1.41"}))
        api = "/v1.41"
        app.router.add_get(f"{api}/info", self._answer({"SystemTime": "2026-11-25T08:00:00.25Z"}))
        app.router.add_get(f"{api}/events", self._stream)
        app.router.add_get(f"{api}/containers/{{name}}/json", self._inspect)
        app.router.add_post(f"{api}/containers/{{id}}/exec", self._make_exec)
        app.router.add_post(f"{api}/containers/{{id}}/{{verb}}", self._command)
        app.router.add_post(f"{api}/exec/e/start", self._start_exec)
        app.router.add_get(f"{api}/exec/e/json", self._inspect_exec)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self._path)).start()

    def end_events(self) -> None:
        self._events.put_nowait(None)

    async def stop(self) -> None:
        self.end_events()
        await self._runner.cleanup()

    def put(self, body: Json) -> None:
        self.containers[body["Name"].removeprefix("/")] = body

    def tell(self, kind: str, action: str, **about: str) -> None:
        body = {"Type": kind, "Action": action, "Actor": {"Attributes": about}}
        self._events.put_nowait(body | {"time": 1_795_600_000, "timeNano": EVENT_NANOSECONDS})

    def _answer(self, body: Json) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response(body)

        return answer

    async def _inspect(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay)
        name = request.match_info["name"]
        # Like the engine: by name, by id, by the beginning of an id.
        for key, body in self.containers.items():
            if key == name or body["Id"].startswith(name):
                return web.json_response(body)
        return web.json_response({"message": f"No such container: {name}"}, status=404)

    async def _command(self, request: web.Request) -> web.Response:
        verb = request.match_info["verb"]
        await asyncio.sleep(self.delay)
        self.asked.append(f"{verb} {request.match_info['id']} {request.query_string}".strip())
        status = self.statuses.get(verb, 204)
        if status >= 400:
            return web.json_response({"message": f"it says {status}"}, status=status)
        return web.Response(status=status)

    async def _make_exec(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(f"exec {request.match_info['id']} {body['Cmd'][0]}")
        return web.json_response({"Id": "e"}, status=201)

    async def _start_exec(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        frame = struct.pack(">BxxxL", 1, len(self.output)) + self.output
        error = b"no such module\n"
        frame += struct.pack(">BxxxL", 2, len(error)) + error
        transport.write(
            b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + frame
        )
        transport.close()
        return web.Response()

    async def _inspect_exec(self, _: web.Request) -> web.Response:
        return web.json_response({"ExitCode": self.exit_code, "ProcessConfig": {"tty": False}})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.filters = json.loads(request.query["filters"]) | {"since": request.query["since"]}
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self._events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[Engine, DockerDriver]]:
    engine = Engine(path / "engine.sock")
    engine.put(container())
    engine.put(container(name="twin-control-plane", role="control-plane"))
    engine.put(container(name="other-worker", cluster="other"))
    await engine.start()
    try:
        async with DockerDriver(engine.url, cluster="twin") as driver:
            yield engine, driver
    finally:
        await engine.stop()


async def test_a_running_container_is_looked_at_from_outside_and_inside(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        reading = await driver.observe(NAME)
        assert (reading.machine, reading.network) == (Machine.RUNNING, Network.OPEN)
        assert engine.asked == ["exec id-of-twin-worker sh"]
        await driver.observe(NAME)
        assert len(engine.asked) == 1


async def test_a_container_that_has_started_anew_has_no_rules(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        engine.output = _cut()
        assert (await driver.observe(NAME)).network is Network.CUT
        engine.put(container(started="2026-11-25T10:00:00Z"))
        assert (await driver.observe(NAME)).network is Network.OPEN
        assert len(engine.asked) == 1


def _cut() -> bytes:
    rules = [f"-A {it} eth+ -m comment --comment {docker.COMMENT} -j DROP" for it in docker.RULES]
    return "\n".join(["# iptables", *rules, ""]).encode()


@pytest.mark.parametrize(
    ("name", "machine", "detail"),
    [
        ("nobody", Machine.MISSING, "no container nobody on this engine"),
        # The beginning of an id is no name.
        ("id-of-twin", Machine.MISSING, "no container id-of-twin on this engine"),
        (
            "other-worker",
            Machine.REFUSED,
            "refused: container other-worker belongs to the kind cluster other, not to twin",
        ),
        (
            "twin-control-plane",
            Machine.REFUSED,
            "refused: container twin-control-plane is the cluster's control-plane, not a worker",
        ),
    ],
)
async def test_what_is_not_ours_is_neither_entered_nor_told_anything(
    tmp_path: Path, name: str, machine: Machine, detail: str
) -> None:
    async with connected(tmp_path) as (engine, driver):
        reading = await driver.observe(name)
        assert (reading.machine, reading.detail) == (machine, detail)
        for command in Command:
            with pytest.raises(CommandError):
                await driver.apply(name, command)
        assert engine.asked == []


async def test_a_container_without_a_network_is_detached(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        engine.put(container(networks=()))
        assert (await driver.observe(NAME)).network is Network.DETACHED
        assert engine.asked == []


async def test_a_container_that_cannot_be_entered_has_an_unknown_network(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        engine.exit_code = 1
        assert (await driver.observe(NAME)).network is Network.UNKNOWN
        engine.exit_code = 0
        assert (await driver.observe(NAME)).network is Network.OPEN


async def test_commands_go_to_the_container_by_its_id(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        await driver.apply(NAME, Command.KILL)
        await driver.apply(NAME, Command.START)
        assert engine.asked == ["kill id-of-twin-worker signal=SIGKILL", "start id-of-twin-worker"]


async def test_a_cut_is_known_from_what_the_container_answers(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        await driver.observe(NAME)
        engine.output = _cut()
        await driver.apply(NAME, Command.CUT)
        assert (await driver.observe(NAME)).network is Network.CUT
        engine.exit_code = 1
        with pytest.raises(CommandError, match="exit status 1 in the container: no such module"):
            await driver.apply(NAME, Command.RESTORE)


async def test_a_goal_that_is_reached_is_no_error(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        engine.statuses = {"kill": 409, "start": 304}
        await driver.apply(NAME, Command.KILL)
        await driver.apply(NAME, Command.START)
        assert engine.asked == ["kill id-of-twin-worker signal=SIGKILL", "start id-of-twin-worker"]


async def test_a_command_may_take_longer_than_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: an engine under load took 25 s to start a container."""
    monkeypatch.setattr(docker, "LOOK_SECONDS", 0.3)
    async with connected(tmp_path) as (engine, driver):
        look = driver._inspect

        async def quick(name: str) -> Json | None:
            engine.delay = 0.0
            body = await look(name)
            engine.delay = 0.6
            return body

        monkeypatch.setattr(driver, "_inspect", quick)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await driver.apply(NAME, Command.START)
        assert engine.asked == ["start id-of-twin-worker"]
        assert loop.time() - began > docker.LOOK_SECONDS


async def test_a_refused_command_says_why(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        engine.statuses = {"kill": 500, "start": 409}
        for command, status in ((Command.KILL, 500), (Command.START, 409)):
            with pytest.raises(CommandError, match=f"it says {status}"):
                await driver.apply(NAME, command)


async def test_an_engine_that_is_away_or_silent_is_an_engine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "LOOK_SECONDS", 0.1)
    async with connected(tmp_path) as (engine, driver):
        engine.delay = 1.0
        with pytest.raises(EngineError, match=r"no answer within 0\.1 s"):
            await driver.observe(NAME)
    async with DockerDriver(f"unix://{tmp_path}/nothing", cluster="twin") as driver:
        with pytest.raises(EngineError, match="no connection to the Docker engine"):
            await driver.observe(NAME)


async def test_the_cluster_is_that_of_the_control_plane(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, driver):
        assert await driver.find_cluster("twin-control-plane") == "twin"
        for name in (NAME, "nobody"):
            with pytest.raises(CommandError, match="is not the control plane of a kind cluster"):
                await driver.find_cluster(name)


async def test_events_name_our_containers_after_all_have_been_looked_at(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        await driver.observe(NAME)
        ours = {"name": NAME, LABEL_CLUSTER: "twin"}
        engine.tell("container", "die", name="other-worker", **{LABEL_CLUSTER: "other"})
        engine.tell("container", "die", name="somebody's")
        engine.tell("container", "die", **ours)
        engine.tell("network", "disconnect", name="kind", container="id-of-somebody")
        engine.tell("network", "disconnect", name="kind", container=f"id-of-{NAME}")
        async with aclosing(driver.events()) as events:
            assert [await anext(events) for _ in range(3)] == [None, NAME, NAME]
        assert engine.filters["type"] == ["container", "network"]
        assert {"die", "stop", "kill", "start", "pause", "unpause", "restart"} <= set(
            engine.filters["event"]
        )
        # Processes in a container, ours among them, are no reason to look at it.
        assert not [it for it in engine.filters["event"] if it.startswith("exec")]
        assert engine.filters["since"] == "1795593600.250000"


async def test_events_end_with_an_error_and_can_be_asked_for_again(tmp_path: Path) -> None:
    async with connected(tmp_path) as (engine, driver):
        async with aclosing(driver.events()) as events:
            assert await anext(events) is None
            task = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            await engine.stop()
            with pytest.raises(EngineError):
                await task
        async with aclosing(driver.events()) as events:
            with pytest.raises(EngineError, match="no connection"):
                await anext(events)
        await engine.start()
        async with aclosing(driver.events()) as events:
            assert await anext(events) is None


# --- An engine that is busy with the dead -------------------------------------------------------


OURS = {"name": NAME, LABEL_CLUSTER: "twin"}
BY_EVENT = "container twin-worker exited at 2026-11-25T09:00:00.625Z, exit code 137"


@asynccontextmanager
async def heard(
    path: Path,
) -> AsyncIterator[tuple[Engine, DockerDriver, Callable[..., Awaitable[None]]]]:
    """An engine, a driver that has looked once, and how to let it hear of events."""
    async with connected(path) as (engine, driver), aclosing(driver.events()) as events:
        assert await anext(events) is None
        await driver.observe(NAME)

        async def hear(*actions: str) -> None:
            for action in actions:
                engine.tell("container", action, exitCode="137", **OURS)
                await anext(events)

        yield engine, driver, hear


async def test_the_end_of_a_container_that_was_told_to_end_needs_no_answer(tmp_path: Path) -> None:
    """Seen: nine seconds between the event of the death and an answer of the engine."""
    async with heard(tmp_path) as (engine, driver, hear):
        engine.delay = 60.0
        await hear("kill", "die")
        reading = await driver.observe(NAME)
        assert (reading.machine, reading.detail) == (Machine.STOPPED, BY_EVENT)
        assert reading.started_at == docker._time(STARTED)
        engine.delay = 0.0
        engine.put(container("exited", ended=ENDED, code=137))
        exact = await driver.observe(NAME)
        engine.delay = 60.0
        assert await driver.observe(NAME) == exact


async def test_a_question_that_is_open_when_the_container_ends_is_given_up(tmp_path: Path) -> None:
    async with heard(tmp_path) as (engine, driver, hear):
        engine.delay = 60.0
        asked = asyncio.ensure_future(driver.observe(NAME))
        await asyncio.sleep(0.05)
        await hear("kill", "die")
        async with asyncio.timeout(2):
            assert (await asked).machine is Machine.STOPPED


async def test_a_kill_is_over_when_an_event_tells_the_end(tmp_path: Path) -> None:
    async with heard(tmp_path) as (engine, driver, hear):
        killing = asyncio.ensure_future(driver.apply(NAME, Command.KILL))
        await asyncio.sleep(0.05)
        engine.delay = 60.0
        await hear("kill", "die")
        async with asyncio.timeout(2):
            await killing
        reading = await driver.observe(NAME)
        assert (reading.machine, reading.detail) == (Machine.STOPPED, BY_EVENT)


async def test_a_death_by_itself_is_not_believed_before_the_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its restart policy may have started it again."""
    monkeypatch.setattr(docker, "LOOK_SECONDS", 0.2)
    async with heard(tmp_path) as (engine, driver, hear):
        engine.delay = 60.0
        await hear("die")
        with pytest.raises(EngineError):
            await driver.observe(NAME)


async def test_a_container_that_has_started_again_is_not_dead_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "LOOK_SECONDS", 0.2)
    async with heard(tmp_path) as (engine, driver, hear):
        await hear("kill", "die", "start")
        engine.put(container(started="2026-11-25T10:00:00Z"))
        engine.delay = 60.0
        with pytest.raises(EngineError):
            await driver.observe(NAME)
        engine.delay = 0.0
        assert (await driver.observe(NAME)).machine is Machine.RUNNING


async def test_an_end_is_not_believed_after_the_events_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "LOOK_SECONDS", 0.2)
    async with heard(tmp_path) as (engine, driver, hear):
        await hear("kill", "die")
        engine.end_events()
        with pytest.raises(EngineError, match="it closed the stream"):
            await hear("oom")
        engine.delay = 60.0
        with pytest.raises(EngineError, match="no answer"):
            await driver.observe(NAME)
