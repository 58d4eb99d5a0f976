"""The agent's Lease: how the operator tells real power from simulated.

Somebody holds ``asetwin-power-agent`` and renews it: power is real. Nobody
does: there is no agent. It says so and locks nothing: two agents would want
the same of the same machines and report the same facts.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from asetwin.constants import SYSTEM_NAMESPACE
from asetwin.kube import errors, paths
from asetwin.model.power import AGENT_LEASE

log = logging.getLogger("asetwin.power")

NAME = AGENT_LEASE
GROUP = "coordination.k8s.io/v1"
DURATION_SECONDS = 6
RENEW_SECONDS = 2.0
RETRY_SECONDS = 0.5
LEAVE_SECONDS = 2.0
"""How long the end of the process may wait for the Lease to be given up."""

COLLECTION = paths.collection(GROUP, "leases", SYSTEM_NAMESPACE)
PATH = f"{COLLECTION}/{NAME}"

Json = dict[str, Any]


class LeaseClient(Protocol):
    """The part of :class:`asetwin.kube.client.Client` that is used here."""

    async def get(self, path: str) -> Json: ...
    async def create(self, path: str, body: Json) -> Json: ...
    async def patch(self, path: str, body: Json) -> Json: ...


class Presence:
    """Holds the Lease while :meth:`run` runs."""

    def __init__(self, api: LeaseClient, holder: str, *, wall: Callable[[], float]) -> None:
        self._api = api
        self._holder = holder
        self._wall = wall
        self._lease: Json | None = None
        self._complaint = ""

    async def run(self, is_well: Callable[[], bool]) -> None:
        """Renew for as long as the agent is well; never ends."""
        while True:
            is_held = is_well() and await self._try()
            await asyncio.sleep(RENEW_SECONDS if is_held else RETRY_SECONDS)

    async def _try(self) -> bool:
        try:
            await self._renew()
        except errors.KubeError as error:
            # Whatever it was, the Lease may be another one by now: read it anew.
            self._lease = None
            if not isinstance(error, errors.Conflict):
                self._complain(str(error))
            return False
        self._complaint = ""
        return True

    async def leave(self) -> None:
        """Say that nobody is there any more; gives up after a moment."""
        with suppress(errors.KubeError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                while True:
                    # Read anew: a renewal of ours may have arrived although nobody waited for it.
                    lease = await self._api.get(PATH)
                    if lease.get("spec", {}).get("holderIdentity") != self._holder:
                        return
                    with suppress(errors.Conflict):
                        await self._write(lease, {"holderIdentity": ""})
                        return

    async def _renew(self) -> None:
        if self._lease is None:
            try:
                self._lease = await self._api.get(PATH)
            except errors.NotFound:
                self._lease = await self._create()
                return
        spec = self._lease.get("spec") or {}
        now = _moment(self._wall())
        change = {"renewTime": now, "leaseDurationSeconds": DURATION_SECONDS}
        holder = spec.get("holderIdentity")
        if holder != self._holder:
            if holder:
                log.warning("takes the Lease %s from %s", NAME, holder)
            transitions = (spec.get("leaseTransitions") or 0) + 1
            change |= {"acquireTime": now, "leaseTransitions": transitions}
            change |= {"holderIdentity": self._holder}
        self._lease = await self._write(self._lease, change)

    async def _create(self) -> Json:
        now = _moment(self._wall())
        spec = {"holderIdentity": self._holder, "leaseDurationSeconds": DURATION_SECONDS}
        spec |= {"acquireTime": now, "renewTime": now, "leaseTransitions": 0}
        body = {"apiVersion": GROUP, "kind": "Lease", "metadata": {"name": NAME}, "spec": spec}
        return await self._api.create(COLLECTION, body)

    async def _write(self, lease: Json, change: Json) -> Json:
        version = lease["metadata"]["resourceVersion"]
        return await self._api.patch(
            PATH, {"metadata": {"resourceVersion": version}, "spec": change}
        )

    def _complain(self, text: str) -> None:
        # Once per cause: an API server that is away would fill the log.
        if text != self._complaint:
            log.warning("cannot hold the Lease %s: %s", NAME, text)
        self._complaint = text


def _moment(seconds: float) -> str:
    """A ``MicroTime``: the API server wants exactly six digits."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
