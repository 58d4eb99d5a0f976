"""A thin wire to the API server: JSON in, JSON out, errors of our own.

The official client does authentication, TLS and connection pooling; its
generated models are left aside, because they cost 30 MiB and the rules work
on typed objects of their own. Used by the operator, the master stand-in and
the command line.
"""

import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse

from asetwin.kube import errors
from asetwin.kube.paths import Json as Json
from asetwin.kube.paths import collection as collection

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
LEAST_SKEW_SECONDS = 2.0
"""What is less may be the way of the answer, and what a Date does not tell."""
WATCH_SLACK_SECONDS = 10.0
"""A watch that the API server has not ended by then, after its own time-out, is broken."""


class Client:
    """One connection pool to one API server; make it with :func:`connect`."""

    ahead: float = 0.0
    """By how many seconds our clock is ahead of the API server's, as its last answer told.

    To the second, because HTTP tells it so; 0 where it is less than two.
    """

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def get(self, path: str, **params: str) -> Json:
        """Read one object or one list."""
        return await self._call("GET", path, params=params)

    async def create(self, path: str, body: Json) -> Json:
        """POST to a collection, or to a subresource such as ``…/eviction``."""
        return await self._call("POST", path, body=body)

    async def replace(self, path: str, body: Json) -> Json:
        """PUT; with ``metadata.resourceVersion`` in the body it is a compare-and-set."""
        return await self._call("PUT", path, body=body)

    async def patch(self, path: str, body: Json, *, kind: str = MERGE_PATCH) -> Json:
        """PATCH; a ``metadata.resourceVersion`` in the body makes it conditional."""
        return await self._call("PATCH", path, body=body, content_type=kind)

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> Json:
        """DELETE, only if the object is still the one that was meant."""
        given = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in given.items() if value is not None}
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if preconditions:
            body["preconditions"] = preconditions
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        return await self._call("DELETE", path, body=body)

    async def watch(
        self, path: str, *, seconds: int = 60, **params: str
    ) -> AsyncGenerator[Json, None]:
        """Events ``{"type", "object"}`` of a collection, until the API server ends the watch.

        That is after ``seconds``. An ERROR event raises like a refused call: 410
        means that the ``resourceVersion`` is too old, and the collection has to
        be listed anew.
        """
        asked = f"WATCH {path}"
        limits = aiohttp.ClientTimeout(
            total=seconds + WATCH_SLACK_SECONDS, sock_connect=REQUEST_TIMEOUT.total
        )
        params |= {"watch": "true", "timeoutSeconds": str(seconds)}
        try:
            answer = await self._send("GET", path, params=params, limits=limits)
            if answer.status >= 400:
                raise errors.from_status(answer.status, _parse(await answer.read()), asked)
            async with answer.response as stream:
                async for line in stream.content:
                    event = _parse(line)
                    if event.get("type") == "ERROR":
                        status = event.get("object") or {}
                        raise errors.from_status(int(status.get("code", 500)), status, asked)
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(asked, error) from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        asked = f"{method} {path}"
        try:
            response = await self._send(
                method, path, params=params, body=body, content_type=content_type
            )
            # Now: the body of a long list takes its time.
            self.ahead = _ahead(response.headers.get("Date"), time.time())
            text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unavailable(asked, error) from error
        answer = _parse(text)
        if response.status >= 400:
            raise errors.from_status(response.status, answer, asked)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        limits: aiohttp.ClientTimeout = REQUEST_TIMEOUT,
    ) -> RESTResponse:
        _, url, headers, *_ = await self._api.param_serialize(
            method, path, auth_settings=["BearerToken"]
        )
        if params:
            url = f"{url}?{urlencode(params)}"
        headers |= {"Content-Type": content_type, "Accept": "application/json"}
        return await self._api.call_api(method, url, headers, body, _request_timeout=limits)


def _ahead(date: str | None, now: float) -> float:
    """How far ``now`` is ahead of an answer's Date, whose fraction of a second is not told."""
    try:
        told = parsedate_to_datetime(date or "").timestamp() + 0.5
    except ValueError:
        return 0.0
    return now - told if abs(now - told) > LEAST_SKEW_SECONDS else 0.0


def _unavailable(asked: str, error: Exception) -> errors.Unavailable:
    return errors.Unavailable(f"{asked}: {str(error) or type(error).__name__}", status=0)


def _parse(text: bytes) -> Json:
    try:
        answer = json.loads(text) if text else {}
    except ValueError:
        answer = {}
    # A proxy in between may answer in plain text; keep what it said for the message.
    return answer if isinstance(answer, dict) else {"message": text[:200].decode(errors="replace")}


def is_in_pod(context: str | None) -> bool:
    """Whether the service account of the pod that we run in is what to use."""
    has_account = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
    return has_account and context is None


async def load(*, context: str | None) -> Configuration:
    """Where the API server is and who we are: the pod's service account, else the kubeconfig."""
    configuration = Configuration()
    if is_in_pod(context):
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(context=context, client_configuration=configuration)
    # The library's own retries would hide a slow API server from the loop, which retries itself.
    configuration.retries = None
    return configuration


@asynccontextmanager
async def connect(*, context: str | None = None) -> AsyncIterator[Client]:
    """A client for the cluster we run in, else for the kubeconfig's context.

    Raises kubernetes' ``ConfigException`` when there is neither.
    """
    configuration = await load(context=context)
    async with ApiClient(configuration) as api:
        yield Client(api)
