"""The port that :mod:`asetwin.kube` talks through, onto the simulated API server.

The same methods as :class:`asetwin.kube.client.Client`, with the same errors.
What a wire adds to the server is what lies between a process and it: who is
asking, and that a process which has been killed gets no answer any more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from asetwin.kube import errors
from asetwin.sim import evictions, kinds
from asetwin.sim.apiserver import SYSTEM, ApiServer
from asetwin.sim.bodies import Json, labels

MERGE_PATCH = "application/merge-patch+json"


class Crashed(BaseException):
    """The process at this end of the wire has been killed; it must not handle this."""


class Trouble(Enum):
    """What may happen to a request on its way, with the HTTP status that the asker gets."""

    CONFLICT = 409
    THROTTLED = 429
    REFUSED = 500
    LOST = 504
    """It is carried out, but the answer does not come back."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as an observer sees it before it is carried out."""

    verb: str
    target: kinds.Target
    body: Mapping[str, Any] | None = None
    grace_seconds: int | None = None

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.verb != "GET"


class Wire:
    """One process's way to the API server."""

    def __init__(
        self,
        server: ApiServer,
        actor: str,
        *,
        watch: Callable[[Call], None] | None = None,
        skew: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._server = server
        self._actor = actor
        self._watch = watch
        self._skew = skew
        self.writes = 0
        self.crash_after: int | None = None
        """After so many writes the process is dead: that write is done, its answer is lost."""
        self.is_cut = False
        self.trouble: Callable[[Call], Trouble | None] = lambda call: None

    @property
    def ahead(self) -> float:
        """By how many seconds the process's clock is ahead of the API server's."""
        return self._skew()

    async def get(self, path: str, **params: str) -> Json:
        """Read one object or one list."""
        where = _target(path)
        return self._do(Call("GET", where), lambda: self._get(where, params))

    async def create(self, path: str, body: Json) -> Json:
        """POST to a collection, or to a pod's eviction."""
        where = _target(path)
        call = Call("POST", where, body)
        if where.subresource == "eviction":
            return self._do(
                call, lambda: evictions.evict(self._server, where.namespace, where.name, body)
            )
        return self._do(call, lambda: self._server.create(where.plural, body, where.namespace))

    async def replace(self, path: str, body: Json) -> Json:
        """PUT."""
        where = _target(path)

        def put() -> Json:
            return self._server.replace(
                where.plural, body, where.namespace, subresource=where.subresource
            )

        return self._do(Call("PUT", where, body), put)

    async def patch(self, path: str, body: Json, *, kind: str = MERGE_PATCH) -> Json:
        """PATCH; merge patches only."""
        where = _target(path)

        def merge() -> Json:
            if kind != MERGE_PATCH:
                text = f"PATCH {path}: only {MERGE_PATCH} is simulated"
                raise errors.from_status(415, {"message": text}, path)
            return self._server.patch(
                where.plural, where.name, body, where.namespace, subresource=where.subresource
            )

        return self._do(Call("PATCH", where, body), merge)

    async def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> Json:
        """DELETE, only if the object is still the one that was meant."""
        where = _target(path)

        def remove() -> Json:
            return self._server.delete(
                where.plural,
                where.name,
                where.namespace,
                uid=uid,
                resource_version=resource_version,
                grace_seconds=grace_seconds,
            )

        return self._do(Call("DELETE", where, grace_seconds=grace_seconds), remove)

    def _do(self, call: Call, action: Callable[[], Json]) -> Json:
        if self.is_cut:
            raise Crashed(self._actor)
        if self._watch is not None:
            self._watch(call)
        trouble = self.trouble(call)
        if trouble is not None and trouble is not Trouble.LOST:
            raise _error(trouble, call)
        self._server.actor = self._actor
        try:
            answer = action()
        finally:
            self._server.actor = SYSTEM
            if call.is_write:
                self.writes += 1
                self.is_cut = self.writes == self.crash_after
            if self.is_cut:
                raise Crashed(self._actor)
        if trouble is not None:
            raise _error(trouble, call)
        return answer

    def _get(self, where: kinds.Target, params: Mapping[str, str]) -> Json:
        if where.name:
            return self._server.read(where.plural, where.name, where.namespace)
        items = [
            one
            for one in self._server.listed(where.plural, where.namespace)
            if _is_selected(one, params)
        ]
        return {
            "apiVersion": where.group,
            "kind": f"{kinds.KINDS[where.plural].kind}List",
            "metadata": {"resourceVersion": str(self._server.version)},
            "items": items,
        }


def _error(trouble: Trouble, call: Call) -> errors.KubeError:
    asked = f"{call.verb} {call.target.plural}/{call.target.name}"
    return errors.from_status(trouble.value, {"message": f"simulated: {trouble.name}"}, asked)


def _target(path: str) -> kinds.Target:
    try:
        return kinds.target(path)
    except ValueError as error:
        raise errors.from_status(404, {"message": str(error)}, path) from error


def _is_selected(body: Json, params: Mapping[str, str]) -> bool:
    """Equality selectors of labels and of the few fields that the real one knows."""
    given = {
        "metadata.name": body["metadata"]["name"],
        "metadata.namespace": body["metadata"].get("namespace", ""),
        "spec.nodeName": (body.get("spec") or {}).get("nodeName", ""),
        "status.phase": (body.get("status") or {}).get("phase", ""),
    }
    for param, values in (("labelSelector", labels(body)), ("fieldSelector", given)):
        for one in filter(None, params.get(param, "").split(",")):
            name, _, value = one.replace("==", "=").partition("=")
            if values.get(name) != value:
                return False
    return True
