"""kopf's wiring: what is watched, and that each event wakes the loop.

Only ``@kopf.on.event`` is used. Handlers for creation, updates or deletion,
timers and daemons would make kopf put its finalizer or annotations on the
objects, and most of these are not ours (design 3). Deletion of an AseDevice
is held by our own finalizer, which the loop sets and removes.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import kopf

from asetwin import constants
from asetwin.health import serve
from asetwin.kube import client
from asetwin.kube.act import Executor, Settings
from asetwin.kube.observe import KINDS, Cluster, Kind
from asetwin.loop import Loop
from asetwin.metrics import Metrics

logger = logging.getLogger(__name__)


class Operator:
    """The operator of one process: kopf's handlers and the loop that they wake."""

    def __init__(self, *, context: str | None, port: int) -> None:
        self._context = context
        self._port = port
        self._cluster = Cluster()
        self._loop: Loop | None = None
        self._stack = contextlib.AsyncExitStack()
        self.registry = kopf.OperatorRegistry()
        kopf.on.startup(registry=self.registry)(self._start)
        kopf.on.cleanup(registry=self.registry)(self._stop)
        kopf.on.login(registry=self.registry)(self._login)
        for kind in KINDS.values():
            self._watch(kind)

    def _watch(self, kind: Kind) -> None:
        group, _, version = kind.group.rpartition("/")

        async def seen(event: Any, **_: Any) -> None:
            self._seen(kind, event)

        kopf.on.event(group, version, kind.plural, id=kind.plural, registry=self.registry)(seen)

    def _seen(self, kind: Kind, event: Mapping[str, Any]) -> None:
        is_gone = event["type"] == "DELETED"
        changed = self._cluster.apply(kind.plural, event["object"], is_gone=is_gone)
        if self._loop is None:
            return
        if event["type"] is None:
            # kopf's word for what it has found by listing, in its documentation of on.event().
            self._loop.listed()
        if changed:
            self._loop.wake()

    async def _start(self, settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False  # our Events are posted by the loop
        settings.watching.server_timeout = 240
        settings.watching.client_timeout = 300
        for kind in KINDS.values():
            if len(kind.namespaces) == 1:
                group, _unused, version = kind.group.rpartition("/")
                selector = f"metadata.namespace={kind.namespaces[0]}"
                settings.watching.field_selectors[group, version, kind.plural] = selector
        api = await self._stack.enter_async_context(client.connect(context=self._context))
        metrics = Metrics()
        executor = Executor(api, self._cluster, _surroundings(), report=metrics.acted)
        self._loop = Loop(api, self._cluster, executor, metrics)
        await self._stack.enter_async_context(serve(self._loop, self._port))
        task = asyncio.create_task(self._loop.run(), name="asetwin loop")
        self._stack.push_async_callback(_end, task)

    async def _stop(self, **_: Any) -> None:
        await self._stack.aclose()

    async def _login(self, **kwargs: Any) -> kopf.ConnectionInfo | None:
        if client.is_in_pod(self._context):
            return kopf.login_with_service_account(**kwargs)
        # kopf's own reader of kubeconfigs knows no --context.
        found = await client.load(context=self._context)
        token = found.api_key.get("BearerToken", "").removeprefix("Bearer ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            token=token or None,
        )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _surroundings() -> Settings:
    return Settings(
        image=os.environ.get("ASETWIN_IMAGE", f"{constants.MANAGED_BY}.local/operator:dev"),
        instance=os.environ.get("POD_NAME") or socket.gethostname(),
    )


def run(
    *,
    context: str | None = None,
    port: int = 8080,
    log_level: str = "info",
    log_format: str = "text",
) -> None:
    """Run the operator until a signal ends it; ``log_format`` is ``text`` or ``json``."""
    kopf.configure(
        debug=log_level == "debug",
        quiet=log_level in ("warning", "error"),
        log_format=kopf.LogFormat.JSON if log_format == "json" else kopf.LogFormat.FULL,
    )
    # kopf reports each handler of each event; what is decided and done is ours to report.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    operator = Operator(context=context, port=port)
    # Without an identity kopf asks for our user's name, which a container's bare uid has not.
    identity: Any = _surroundings().instance
    kopf.run(registry=operator.registry, identity=identity, standalone=True, clusterwide=True)
