"""The master stand-in: the process that stands for the device's master VM.

Started by the operator as ``asetwin master``, one Pod per epoch. A loop reads
and renews the device's Lease and asks :mod:`asetwin.model.epochs` what follows;
a small web server says whether this master serves. Nothing is decided here.

Environment, all by the operator's Pod template:

- ``ASETWIN_DEVICE``, ``ASETWIN_EPOCH`` (1 and up), ``ASETWIN_POD``: required;
- ``ASETWIN_POD_UID``: the Pod's UID, tells two Pods of one name apart; may be absent;
- ``ASETWIN_NODE``: the AseNode it runs on, for people; default empty;
- ``ASETWIN_BOOT_SECONDS``: how long the VM boots; 0 to 86400, default 0;
- ``ASETWIN_LEASE_SECONDS``: whole seconds, 1 to 3600, default 3;
- ``ASETWIN_PORT``: default 8080;
- ``ASETWIN_JOURNAL``: the file of its journal; default empty, which means none.

Exit status: 0 after SIGTERM and after standing down for a higher epoch, 2 for
an environment that makes no sense or a cluster that cannot be found.
"""

import asyncio
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from aiohttp import web
from kubernetes.aio.config import ConfigException

from asetwin.constants import SYSTEM_NAMESPACE
from asetwin.kube import client, errors
from asetwin.model import epochs, journals
from asetwin.model.epochs import Step
from asetwin.standin import journal
from asetwin.standin.settings import RETRIES_PER_LEASE, Settings, SettingsError, read_settings

log = logging.getLogger("asetwin.master")

HEALTHY_SECONDS = 10.0
"""A loop that has not turned for so long (or three lease durations) hangs."""


class LeaseClient(Protocol):
    """The part of :class:`asetwin.kube.client.Client` that a master uses."""

    async def get(self, path: str) -> dict[str, Any]: ...
    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]: ...
    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]: ...


class Master:
    """One master process: :meth:`run` turns the loop until it is over."""

    def __init__(
        self,
        settings: Settings,
        api: LeaseClient,
        *,
        started_at: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self.settings = settings
        self.memory = epochs.Memory()
        self._api = api
        self._terms = epochs.Terms(
            started_at=started_at,
            boot_seconds=settings.boot_seconds,
            lease_seconds=settings.lease_seconds,
        )
        self._clock = clock
        self._wall = wall
        self._collection = client.collection(
            epochs.LEASE_API_VERSION, "leases", namespace=SYSTEM_NAMESPACE
        )
        self._path = f"{self._collection}/{epochs.lease_name(settings.device)}"
        self._body: dict[str, Any] | None = None
        self._stop = asyncio.Event()
        self._news = asyncio.Event()
        """Something may have changed for the journal."""
        self._request: asyncio.Timeout | None = None
        self._turned_at = clock()
        self._held = False
        self._serving_since: float | None = None
        self._complaint = ""
        self._journal = _Keeper(settings, clock=clock, wall=wall, in_thread=in_thread)

    async def run(self) -> None:
        """Hold the Lease and keep the journal, until :meth:`stop` or for a higher epoch."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep_journal()) if self.settings.journal else None
            await self._hold()
            if keeping is not None:
                keeping.cancel()

    async def _hold(self) -> None:
        while True:
            now = self._clock()
            self._turned_at = now
            verdict = self.look(now)
            if verdict.step is Step.STAND_DOWN:
                self._tell(f"superseded: {verdict.reason}, stands down for good")
                return
            if verdict.step is Step.LEAVE:
                return
            if verdict.step is Step.WAIT:
                await self._pause(verdict.ask_again_at - now)
            else:
                await self._attempt(verdict)

    async def _keep_journal(self) -> None:
        """A line a second while the Lease allows it."""
        while not self._stop.is_set():
            now = self._clock()
            opens, closes = epochs.window(self._terms, self.memory)
            if opens <= now < closes and now >= self._journal.due_at:
                await self._journal.write(self._may_serve)
                self.look(self._clock())
                continue
            due = max(opens, self._journal.due_at) if now < closes else math.inf
            with suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(due) else due - now):
                    await self._news.wait()
            self._news.clear()

    def _may_serve(self) -> bool:
        """Whether the Lease allows it at this very moment; asked in the journal's thread."""
        return epochs.judge(
            self.settings.me,
            self._terms,
            self.memory,
            self._clock(),
            is_stopping=self._stop.is_set(),
        ).is_serving

    def stop(self) -> None:
        """Stop serving now; the loop then releases the Lease and ends."""
        self._stop.set()
        self._news.set()
        self.look(self._clock())
        if self._request is not None and not self._request.expired():
            # The request in flight may still arrive. That is harmless: it and the release that
            # follows are conditional on the same version, so that only one of them succeeds.
            self._request.reschedule(asyncio.get_running_loop().time())

    def look(self, now: float) -> epochs.Verdict:
        """The rule's verdict at this moment; logs what has changed since the last look."""
        verdict = epochs.judge(
            self.settings.me, self._terms, self.memory, now, is_stopping=self._stop.is_set()
        )
        if verdict.is_serving and (complaint := self._journal.complain(now)):
            verdict = replace(verdict, is_serving=False, reason=complaint)
        _, closes = epochs.window(self._terms, self.memory)
        is_held = now < closes
        if self._held and not is_held and not self._stop.is_set():
            self._tell(f"lost: {verdict.reason}")
        if verdict.is_serving and self._serving_since is None:
            self._serving_since = self._wall()
            self._tell("serving")
        elif not verdict.is_serving and self._serving_since is not None:
            self._serving_since = None
            if self._stop.is_set():
                self._tell("stopped serving: was told to end")
            elif is_held:
                self._tell(f"stopped serving: {verdict.reason}")
        self._held = is_held
        return verdict

    def is_alive(self) -> bool:
        """Whether the loop turns; says nothing about the API server."""
        limit = max(HEALTHY_SECONDS, 3.0 * self.settings.lease_seconds)
        return self._clock() - self._turned_at < limit

    def describe(self) -> dict[str, Any]:
        """The answer to ``GET /``."""
        verdict = self.look(self._clock())
        since = self._serving_since
        return {
            "device": self.settings.device,
            "node": self.settings.node,
            "pod": self.settings.me.pod,
            "epoch": self.settings.me.epoch,
            "serving": verdict.is_serving,
            "since": None if since is None else _moment(since),
            "reason": verdict.reason,
        }

    async def _attempt(self, verdict: epochs.Verdict) -> None:
        """One request; whatever comes of it goes into the memory."""
        try:
            async with asyncio.timeout(verdict.timeout_seconds) as self._request:
                await self._call(verdict.step)
            return
        except errors.Conflict:
            # Somebody was faster, or our own earlier write has arrived after all.
            self.memory = self.memory.failed()
            return
        except (errors.KubeError, TimeoutError) as error:
            self.memory = self.memory.failed()
            self._complain(error)
        finally:
            self._request = None
            self._news.set()
        await self._pause(self.settings.lease_seconds / RETRIES_PER_LEASE)

    async def _call(self, step: Step) -> None:
        me, sent_at = self.settings.me, self._clock()
        if step is Step.READ:
            try:
                self._body = await self._api.get(self._path)
            except errors.NotFound:
                self._body = None
            lease = epochs.read(self._body) if self._body is not None else None
            self.memory = self.memory.saw(me, lease, at=self._clock())
            return
        if step is Step.RELEASE:
            # The next one may serve as soon as it reads this: a line on its way has to be first.
            await self._journal.settle()
        make = epochs.release if step is Step.RELEASE else epochs.claim
        lease = make(me, self._terms, self.memory, sent_at)
        body = epochs.render(
            lease, device=self.settings.device, moment=_moment(self._wall()), base=self._body
        )
        if step is Step.CREATE:
            self._body = await self._api.create(self._collection, body)
        else:
            self._body = await self._api.replace(self._path, body)
        self._complaint = ""
        answer, answered_at = epochs.read(self._body), self._clock()
        if step is Step.RELEASE:
            self.memory = self.memory.released(me, answer, at=answered_at)
            self._tell("released")
            return
        self.memory = self.memory.wrote(
            me, self._terms, answer, sent_at=sent_at, answered_at=answered_at
        )
        if step is not Step.RENEW:
            self._tell("acquired")

    async def _pause(self, seconds: float) -> None:
        if self._stop.is_set():
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _complain(self, error: Exception) -> None:
        # Once per cause: an API server that is away would fill the log.
        text = str(error) or type(error).__name__
        if text != self._complaint and not self._stop.is_set():
            log.warning("cannot reach the Lease: %s", text)
        self._complaint = text

    def _tell(self, event: str) -> None:
        mine = self.settings
        log.info(
            "%s (device=%s epoch=%d pod=%s node=%s)",
            event,
            mine.device,
            mine.me.epoch,
            mine.me.pod,
            mine.node,
        )


class _Keeper:
    """Writes the journal for a master, and knows how it stands.

    A master serves only while its last line is on the disk and younger than a
    Lease lasts: what it does without a trace would prove nothing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        me = settings.me
        self.due_at = -math.inf
        self._file = journal.Journal(settings.journal, me.epoch, me.pod, settings.node, wall)
        self._limit_seconds = settings.lease_seconds
        self._clock = clock
        self._in_thread = in_thread
        self._written_at = -math.inf
        self._error = ""
        self._writing = asyncio.Lock()

    def complain(self, now: float) -> str:
        """Why it keeps the master from serving; "" where it does not."""
        if not self._file.path or (
            not self._error and now < self._written_at + self._limit_seconds
        ):
            return ""
        if self._error:
            return self._error
        if math.isinf(self._written_at):
            return f"the journal {self._file.path} is not written yet"
        return f"the journal {self._file.path} was last written {now - self._written_at:.1f} s ago"

    async def settle(self) -> None:
        """Wait for the line that is being written."""
        async with self._writing:
            return

    async def write(self, may_serve: Callable[[], bool]) -> None:
        """Write a line, and set when the next one is due."""
        started_at = self._clock()
        # In the rhythm of the last line, unless that was long ago.
        due_at = self.due_at + journals.PERIOD_SECONDS
        self.due_at = due_at if due_at > started_at else started_at + journals.PERIOD_SECONDS
        async with self._writing:
            try:
                entry = await self._in_thread(lambda: self._file.append(may_serve))
            except (OSError, journal.Refused) as error:
                text = journal.explain(error, self._file.path)
                if text != self._error:
                    log.warning("%s", text)
                self._error = text
                self.due_at = self._clock() + self._limit_seconds / RETRIES_PER_LEASE
                return
        self._error = ""
        if entry is not None:
            self._written_at = started_at


def _moment(seconds: float) -> str:
    """A ``MicroTime``: the API server wants exactly six digits."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def application(master: Master) -> web.Application:
    """``/readyz``, ``/healthz`` and ``/``."""

    async def ready(_request: web.Request) -> web.Response:
        about = master.describe()
        return web.Response(text=f"{about['reason']}\n", status=200 if about["serving"] else 503)

    async def healthy(_request: web.Request) -> web.Response:
        if master.is_alive():
            return web.Response(text="ok\n")
        return web.Response(text="the loop does not turn\n", status=500)

    async def about(_request: web.Request) -> web.Response:
        return web.json_response(master.describe())

    app = web.Application()
    app.add_routes([web.get("/readyz", ready), web.get("/healthz", healthy), web.get("/", about)])
    return app


async def serve(settings: Settings, *, started_at: float) -> None:
    """Connect, serve the web pages, and turn the loop to its end."""
    async with client.connect() as api:
        master = Master(settings, api, started_at=started_at)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, master.stop)
        runner = web.AppRunner(application(master), access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=settings.port).start()
            await master.run()
        finally:
            await runner.cleanup()


def main() -> int:
    """The process; returns its exit status."""
    started_at = time.monotonic()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        asyncio.run(serve(read_settings(os.environ), started_at=started_at))
    except (SettingsError, ConfigException, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
