"""The process of ``asetwin power-agent``: connect both sides, probes, an orderly end.

Started by :mod:`asetwin.cli.power_agent`. In a pod it finds out by itself which
kind cluster it belongs to: its Node is the control-plane container of that
cluster, and both the Node and the container have to say so.

``/healthz`` fails when a loop hangs, ``/readyz`` until every worker has been
looked at once. Neither fails because the engine or the API server is away:
starting anew would not bring them back.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from asetwin.kube import client, errors
from asetwin.power.agent import NODES, RETRY_SECONDS, Agent, Edge
from asetwin.power.docker import DockerDriver
from asetwin.power.drivers import CommandError, EngineError
from asetwin.power.metrics import Metrics
from asetwin.power.presence import Presence

log = logging.getLogger("asetwin.power")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the process was started."""

    context: str | None
    """A context of the kubeconfig; None in a pod."""
    cluster: str | None
    """The kind cluster; None to find it through ``control_plane``."""
    control_plane: str
    """The Node that the agent's pod runs on; empty outside a pod."""
    holder: str
    """The name under which the Lease is held."""
    engine: str
    port: int


async def serve(settings: Settings, *, wall: Callable[[], float]) -> None:
    """Run until SIGTERM or SIGINT; what is off stays off, what is cut stays cut.

    Raises CommandError when the cluster cannot be told, and what the
    connection to the API server raises at its start.
    """
    running = asyncio.create_task(_run(settings, wall))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


async def _run(settings: Settings, wall: Callable[[], float]) -> None:
    driver = DockerDriver(settings.engine, cluster=settings.cluster or "")
    async with client.connect(context=settings.context) as api, driver:
        health = Health()
        async with health.serve(settings.port):
            if not driver.cluster:
                driver.cluster = await _find_cluster(api, driver, settings.control_plane)
            log.info("keeps the workers of the kind cluster %s", driver.cluster)
            edge = Edge(api, driver, driver.cluster, wall, health.metrics)
            health.agent = Agent(edge)
            presence = Presence(api, settings.holder, wall=wall)
            try:
                await health.agent.run(presence)
            finally:
                await presence.leave()


async def _find_cluster(api: client.Client, driver: DockerDriver, control_plane: str) -> str:
    """Ask until both sides answer; raises CommandError if they contradict each other."""
    complaint = ""
    while True:
        try:
            cluster = await driver.find_cluster(control_plane)
            node = await api.get(f"{NODES}/{control_plane}")
        except (EngineError, errors.KubeError) as error:
            if str(error) != complaint:
                complaint = str(error)
                log.warning("cannot find out the kind cluster yet: %s", complaint)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        found = node.get("spec", {}).get("providerID", "")
        if found != f"kind://docker/{cluster}/{control_plane}":
            raise CommandError(
                f"the engine's container {control_plane} is of the kind cluster {cluster}, but"
                f" the Node's providerID is {found or 'empty'}: not the engine of this cluster"
            )
        return cluster


class Health:
    """The probes; they answer before there is an agent."""

    def __init__(self) -> None:
        self.agent: Agent | None = None
        self.metrics = Metrics()

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[None]:
        """Serve ``/healthz``, ``/readyz`` and ``/metrics`` while the block runs."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=port).start()
            yield
        finally:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        stuck = self.agent.stuck() if self.agent is not None else []
        text = f"stuck: {', '.join(stuck)}\n" if stuck else "ok\n"
        return web.Response(text=text, status=503 if stuck else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        is_ready = self.agent is not None and self.agent.is_well()
        text = "ok\n" if is_ready else "the workers have not been looked at yet\n"
        return web.Response(text=text, status=200 if is_ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=self.metrics.render(), headers=headers)
