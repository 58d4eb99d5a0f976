"""``asetwin power-agent``: its options, its way into the cluster, its probes and its end."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import unused_port
from kubernetes.aio.config import ConfigException

from asetwin.cli import common, power_agent
from asetwin.kube import client, errors
from asetwin.power import presence, serving
from asetwin.power.drivers import CommandError, EngineError
from asetwin.power.serving import Health, Settings


class Driver:
    """Finds its cluster at the third attempt."""

    def __init__(self) -> None:
        self.attempts = 0

    async def find_cluster(self, name: str) -> str:
        self.attempts += 1
        if self.attempts < 3:
            raise EngineError("no connection")
        return "twin"


class Api:
    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.attempts = 0

    async def get(self, path: str) -> dict[str, Any]:
        self.attempts += 1
        assert path == "/api/v1/nodes/twin-control-plane"
        if self.attempts < 2:
            raise errors.Unavailable("away", status=0)
        return {"spec": {"providerID": self.provider}}


async def find(provider: str) -> str:
    api, driver = Api(provider), Driver()
    return await serving._find_cluster(api, driver, "twin-control-plane")  # type: ignore[arg-type]


async def test_the_cluster_is_asked_for_until_both_sides_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.0)
    assert await find("kind://docker/twin/twin-control-plane") == "twin"


@pytest.mark.parametrize("provider", ["kind://docker/other/twin-control-plane", ""])
async def test_an_engine_of_another_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.0)
    with pytest.raises(CommandError, match="not the engine of this cluster"):
        await find(provider)


def test_outside_a_pod_the_cluster_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    with pytest.raises(common.Problem, match="--cluster NAME") as raised:
        power_agent.command()
    assert raised.value.exit_status == common.BAD_INPUT


def test_a_cluster_that_cannot_be_found_is_a_problem_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect(**_: Any) -> Any:
        raise ConfigException("no configuration")

    monkeypatch.setattr(client, "connect", connect)
    with pytest.raises(common.Problem, match="no cluster to talk to: no configuration"):
        power_agent.command(cluster="twin", port=0)


# --- Probes -------------------------------------------------------------------------------------


class Agent:
    def __init__(self) -> None:
        self.late: list[str] = []

    def stuck(self) -> list[str]:
        return self.late

    def is_well(self) -> bool:
        return not self.late


async def test_probes_answer_before_there_is_an_agent_and_tell_when_it_hangs() -> None:
    health, port = Health(), unused_port()
    async with health.serve(port), ClientSession() as session:

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}/{path}") as answer:
                return answer.status, await answer.text()

        assert await ask("healthz") == (200, "ok\n")
        assert await ask("readyz") == (503, "the workers have not been looked at yet\n")
        agent = Agent()
        health.agent = agent  # type: ignore[assignment]
        assert await ask("readyz") == (200, "ok\n")
        agent.late = ["wa"]
        assert await ask("healthz") == (503, "stuck: wa\n")


# --- The end ------------------------------------------------------------------------------------


class Leases:
    """An API server with nothing but the agent's Lease."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "spec": {}}
        self.held = asyncio.Event()

    async def get(self, path: str) -> dict[str, Any]:
        if path == presence.PATH:
            return self.lease
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    async def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == presence.PATH
        self.lease["spec"] |= body["spec"]
        self.held.set()
        return self.lease

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(60)
        yield {}


async def test_a_signal_ends_it_and_empties_the_lease(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api = Leases()

    @asynccontextmanager
    async def connect(**_: Any) -> AsyncIterator[Leases]:
        yield api

    monkeypatch.setattr(client, "connect", connect)
    settings = Settings(
        context=None,
        cluster="twin",
        control_plane="",
        holder="me",
        engine=f"unix://{tmp_path}/none",
        port=0,
    )
    running = asyncio.create_task(serving.serve(settings, wall=lambda: 1_800_000_000.0))
    await api.held.wait()
    assert api.lease["spec"]["holderIdentity"] == "me"
    signal.raise_signal(signal.SIGTERM)
    await running
    assert api.lease["spec"]["holderIdentity"] == ""
