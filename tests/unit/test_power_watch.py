"""A watch through the thin client: events, its end, and every way in which it can break."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from asetwin.kube import client, errors
from unit.builders import NOW

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATH = "/apis/asetwin.dev/v1alpha1/pinnedworkers"


@asynccontextmanager
async def served_by(handler: Handler) -> AsyncIterator[client.Client]:
    app = web.Application()
    app.router.add_get(PATH, handler)
    async with TestServer(app) as server:
        configuration = Configuration(host=str(server.make_url("")).rstrip("/"))
        configuration.retries = None
        async with ApiClient(configuration) as api:
            yield client.Client(api)


def streams(
    *events: Any, then: Callable[[web.StreamResponse], Awaitable[None]] | None = None
) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
        if then is not None:
            await then(response)
        return response

    return handler


async def told(api: client.Client, **params: Any) -> list[Any]:
    async with aclosing(api.watch(PATH, **params)) as events:
        return [event async for event in events]


def event(sort: str, **content: Any) -> Any:
    return {"type": sort, "object": content}


async def test_events_come_in_order_until_the_server_ends_the_watch() -> None:
    given = [event("ADDED", a="1"), event("MODIFIED", a="2" * 300_000), event("DELETED")]
    async with served_by(streams(*given)) as api:
        assert await told(api) == given


@pytest.mark.parametrize(
    ("seconds", "ahead"),
    [
        pytest.param(-90, 90, id="ours-is-fast"),
        pytest.param(3600, -3600, id="ours-is-slow"),
        pytest.param(0, 0, id="the-same"),
    ],
)
async def test_an_answer_tells_how_far_our_clock_is_ahead(
    seconds: float, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "time", SimpleNamespace(time=lambda: NOW + 0.9))

    async def handler(_: web.Request) -> web.StreamResponse:
        date = formatdate(NOW + seconds, usegmt=True)
        return web.json_response({"items": []}, headers={"Date": date})

    async with served_by(handler) as api:
        assert api.ahead == 0
        await api.get(PATH)
        assert api.ahead == pytest.approx(ahead, abs=0.5 if ahead else 0)


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_without_a_date_the_clocks_are_taken_for_the_same(date: str | None) -> None:
    assert client._ahead(date, NOW) == 0


async def test_the_watch_is_asked_for_with_its_version_and_its_time() -> None:
    asked: dict[str, str] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.update(request.query)
        return await streams()(request)

    async with served_by(handler) as api:
        await told(api, seconds=7, resourceVersion="41")
    assert asked == {"watch": "true", "timeoutSeconds": "7", "resourceVersion": "41"}


async def test_an_error_event_is_raised_with_its_status() -> None:
    gone = event("ERROR", kind="Status", code=410, message="too old")
    async with served_by(streams(event("ADDED"), gone)) as api:
        with pytest.raises(errors.KubeError, match="too old") as raised:
            await told(api)
    assert raised.value.status == 410


async def test_a_refused_watch_is_raised_like_a_refused_call() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "no rights"}, status=403)

    async with served_by(handler) as api:
        with pytest.raises(errors.Forbidden, match=r"WATCH .*: no rights"):
            await told(api)


async def test_a_connection_that_breaks_is_transient() -> None:
    async def cut(response: web.StreamResponse) -> None:
        await asyncio.sleep(0)
        transport = response._req.transport if response._req is not None else None
        assert transport is not None
        transport.abort()

    async with served_by(streams(event("ADDED"), then=cut)) as api:
        with pytest.raises(errors.Unavailable):
            await told(api)


async def test_a_server_that_forgets_the_watch_does_not_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forget(_: web.StreamResponse) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(client, "WATCH_SLACK_SECONDS", 0.2)
    async with served_by(streams(event("ADDED"), then=forget)) as api:
        with pytest.raises(errors.Unavailable):
            await told(api, seconds=0)
