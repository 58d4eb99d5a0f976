"""A thin wire to the API server: JSON in, JSON out, errors of our own.

The official client does authentication, TLS and connection pooling; its
generated models are left aside, because they cost 30 MiB and the rules work
on typed objects of their own. Used by the operator, the master stand-in and
the command line.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from asetwin.kube import errors

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=10.0)

Json = dict[str, Any]


class Client:
    """One connection pool to one API server; make it with :func:`connect`."""

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
        _, url, headers, *_ = await self._api.param_serialize(
            method, path, auth_settings=["BearerToken"]
        )
        if params:
            url = f"{url}?{urlencode(params)}"
        headers |= {"Content-Type": content_type, "Accept": "application/json"}
        try:
            response = await self._api.call_api(
                method, url, headers, body, _request_timeout=REQUEST_TIMEOUT
            )
            text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise errors.Unavailable(f"{asked}: {why}", status=0) from error
        answer = _parse(text)
        if response.status >= 400:
            raise errors.from_status(response.status, answer, asked)
        return answer


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


def collection(group: str, plural: str, namespace: str | None = None) -> str:
    """The path of a collection; ``group`` is ``v1`` or ``apps/v1`` and so on."""
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
