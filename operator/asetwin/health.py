"""Probes of the operator: alive is a loop that turns, ready is a cluster that was read."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from asetwin.loop import Loop


@asynccontextmanager
async def serve(loop: Loop, port: int) -> AsyncIterator[None]:
    """Serve ``/healthz``, ``/readyz`` and ``/metrics`` while the block runs."""

    async def healthz(_: web.Request) -> web.Response:
        # The web server answering says little; what matters is when the loops last turned.
        stuck = loop.stuck(time.monotonic())
        text = f"stuck: {', '.join(stuck)}\n" if stuck else "ok\n"
        return web.Response(text=text, status=503 if stuck else 200)

    async def readyz(_: web.Request) -> web.Response:
        text = "ok\n" if loop.is_ready else "the cluster has not been read yet\n"
        return web.Response(text=text, status=200 if loop.is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=loop.scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
