"""A cluster as far as the command line sees it, and how tests call the program."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kubernetes.aio.config import ConfigException
from typer.testing import CliRunner, Result

from asetwin.cli.app import app
from asetwin.kube import errors
from asetwin.kube.client import Client
from asetwin.resources.devices import KINDS

GROUP = "/apis/asetwin.dev/v1alpha1"
EVENTS = "/api/v1/events"


class Cluster(Client):
    """The API server, as far as the command line sees it."""

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {f"{GROUP}/{plural}": [] for plural in KINDS}
        self.lists[EVENTS] = []
        self.broken: Exception | None = None
        self.contexts: list[str | None] = []
        self.selectors: list[dict[str, str]] = []

    def add(self, plural: str, name: str, **parts: Any) -> None:
        body = {"metadata": {"name": name, "uid": f"uid-{name}"}, **parts}
        self.lists[f"{GROUP}/{plural}"].append(body)

    def names(self, plural: str) -> list[str]:
        return [body["metadata"]["name"] for body in self.lists[f"{GROUP}/{plural}"]]

    @asynccontextmanager
    async def connect(self, *, context: str | None = None) -> AsyncIterator["Cluster"]:
        self.contexts.append(context)
        if isinstance(self.broken, ConfigException):
            raise self.broken
        yield self

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        if self.broken:
            raise self.broken
        self.selectors.append(params)
        return {"items": list(self.lists[path])}

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["metadata"]["name"] in [one["metadata"]["name"] for one in self.lists[path]]:
            raise errors.AlreadyExists("exists", status=409)
        self.lists[path].append(body)
        return body

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> dict[str, Any]:
        collection, _, name = path.rpartition("/")
        found = [one for one in self.lists[collection] if one["metadata"]["name"] == name]
        if not found:
            raise errors.NotFound("not found", status=404)
        assert uid in (None, found[0]["metadata"]["uid"])
        self.lists[collection].remove(found[0])
        return {}


AT = "2026-11-25T08:00:00.000Z"


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, list(argv), prog_name="asetwin")


def run_json(*argv: str) -> Any:
    result = run(*argv, "-o", "json")
    assert result.stderr == ""
    return json.loads(result.stdout)
