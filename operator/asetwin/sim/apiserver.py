"""The simulated API server: what it keeps, what it refuses, whom it tells.

Plain state with methods, no I/O and no delays; :mod:`~asetwin.sim.wire` is
the shell that gives it the shape of :class:`asetwin.kube.client.Client`. It
is as strict as the real one where the operator could trip: versions and
preconditions, subresources, finalizers, graceful deletion, admission.

Bodies are never changed in place, a write makes a new one. So readers and
watchers get the stored body itself and must treat it as a copy.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asetwin.kube import errors
from asetwin.resources import times
from asetwin.sim import admission, bodies
from asetwin.sim.bodies import Json, Key
from asetwin.sim.kinds import KINDS, Kind

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"
SYSTEM = "system"
"""The actor of everything that is not asked for over a wire."""

_SERVER_OWNED = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)
_WITHOUT_GENERATION = frozenset({"leases"})
_CREATED_BY_PUT = frozenset({"leases"})
DEFAULT_GRACE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Change:
    """One watch event, with what was there before and who wrote."""

    type: str
    plural: str
    body: Json
    before: Json | None
    actor: str


class ApiServer:
    """All objects of one simulated cluster."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.actor = SYSTEM
        self.version = 0
        self._kinds: dict[str, Kind] = dict(KINDS)
        self._store: dict[str, dict[Key, Json]] = {plural: {} for plural in KINDS}
        self._owned: dict[str, dict[tuple[str, Key], None]] = defaultdict(dict)
        self._on_node: dict[str, dict[Key, None]] = defaultdict(dict)
        self._watchers: list[Callable[[Change], None]] = []
        self._numbers = itertools.count(1)
        self._generated = Counter[str]()
        self.settle: Callable[[], None] = lambda: None
        """Called before a Lease is read or written, so that late renewals are made first."""

    # --- Reading ------------------------------------------------------------------------------

    def objects(self, plural: str) -> Mapping[Key, Json]:
        """All objects of one kind, in the order of their creation; a live view."""
        if plural == "leases":
            self.settle()
        return self._store[plural]

    def find(self, plural: str, name: str, namespace: str = "") -> Json | None:
        """One object, or None."""
        if plural == "leases":
            self.settle()
        return self._store[plural].get((namespace, name))

    def read(self, plural: str, name: str, namespace: str = "") -> Json:
        """One object; raises NotFound."""
        return self._require(self._kind(plural), (namespace, name), f"GET {plural}/{name}")

    def listed(self, plural: str, namespace: str = "") -> list[Json]:
        """The objects of one kind, of one namespace if given, by namespace and name."""
        self._kind(plural)
        if plural == "leases":
            self.settle()
        kept = self._store[plural]
        return [kept[key] for key in sorted(kept) if not namespace or key[0] == namespace]

    def owned(self, uid: str, plural: str = "") -> list[Json]:
        """What names this uid as an owner, of one kind if given."""
        return [
            self._store[kind][key]
            for kind, key in self._owned.get(uid, ())
            if not plural or kind == plural
        ]

    def pods_on(self, node: str) -> list[Json]:
        """The pods that are bound to a Node."""
        return [self._store["pods"][key] for key in self._on_node.get(node, ())]

    def watch(self, watcher: Callable[[Change], None]) -> None:
        """Tell ``watcher`` of every change, in order. It must not write from within."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[Change], None]) -> None:
        """Tell it no more; nothing happens to one that is not told."""
        self._watchers = [one for one in self._watchers if one != watcher]

    def uninstall(self, plural: str) -> None:
        """Serve a kind no longer, as if its CRD were not there."""
        self._kinds.pop(plural)

    def install(self, plural: str) -> None:
        """Serve a kind (again)."""
        self._kinds[plural] = KINDS[plural]

    # --- Writing ------------------------------------------------------------------------------

    def create(self, plural: str, body: Mapping[str, Any], namespace: str = "") -> Json:
        """POST to a collection; raises AlreadyExists, NotFound (namespace), Forbidden."""
        kind, new = self._kind(plural), bodies.wire_form(body)
        meta = new.pop("metadata", {})
        asked = f"POST {plural}"
        if meta.get("resourceVersion"):
            raise _error(400, "BadRequest", "resourceVersion should not be set on creation", asked)
        number = next(self._numbers)
        if not meta.get("name"):
            stem = meta["generateName"]
            self._generated[stem] += 1
            meta["name"] = f"{stem}{_suffix(self._generated[stem])}"
        if kind.is_namespaced:
            meta["namespace"] = namespace or meta.get("namespace") or "default"
            self._check_namespace(meta["namespace"], asked)
        else:
            meta.pop("namespace", None)
        key = (meta.get("namespace", ""), meta["name"])
        if key in self._store[plural]:
            raise _error(409, "AlreadyExists", f'{plural} "{meta["name"]}" already exists', asked)
        meta["uid"] = f"00000000-0000-4000-8000-{number:012d}"
        meta["creationTimestamp"] = bodies.stamp(self.clock())
        if _has_generation(kind):
            meta["generation"] = 1
        meta = {name: value for name, value in meta.items() if value not in ({}, [])}
        new = {"apiVersion": kind.group, "kind": kind.kind, "metadata": meta, **new}
        if kind.has_status and plural != "nodes":
            new.pop("status", None)
        new = admission.admit(self, plural, new)
        return self._keep(kind, key, new, None)

    def replace(
        self, plural: str, body: Mapping[str, Any], namespace: str = "", *, subresource: str = ""
    ) -> Json:
        """PUT; a compare-and-set where the body has a resourceVersion."""
        kind, new = self._kind(plural), bodies.wire_form(body)
        key = (namespace, new["metadata"]["name"])
        asked = f"PUT {plural}/{key[1]}"
        if key not in self._store[plural] and plural in _CREATED_BY_PUT:
            given = new["metadata"].pop("uid", None)
            if given:
                raise _error(409, "Conflict", f"uid {given} in precondition is not there", asked)
            new["metadata"].pop("resourceVersion", None)
            return self.create(plural, new, namespace)
        old = self._require(kind, key, asked)
        return self._update(kind, old, new, subresource, asked)

    def patch(
        self,
        plural: str,
        name: str,
        patch: Mapping[str, Any],
        namespace: str = "",
        *,
        subresource: str = "",
    ) -> Json:
        """A JSON merge patch; conditional where it has a ``metadata.resourceVersion``."""
        kind, asked = self._kind(plural), f"PATCH {plural}/{name}"
        old = self._require(kind, (namespace, name), asked)
        new = bodies.merged(old, bodies.wire_form(patch))
        return self._update(kind, old, new, subresource, asked)

    def delete(
        self,
        plural: str,
        name: str,
        namespace: str = "",
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
    ) -> Json:
        """DELETE: the object where it stays for a while, a Status where it is gone at once.

        A pod that is gone at once is returned as it was, as the real one does.
        """
        kind, asked = self._kind(plural), f"DELETE {plural}/{name}"
        old = self._require(kind, (namespace, name), asked)
        meta = old["metadata"]
        for field, given in (("uid", uid), ("resourceVersion", resource_version)):
            if given is not None and given != meta[field]:
                text = f"the {field} in the precondition ({given}) is not the one in the record"
                raise _error(409, "Conflict", f"{text} ({meta[field]})", asked)
        if plural == "namespaces":
            return self._begin_end(kind, old, 0, phase="Terminating")
        grace = self._grace(old, grace_seconds) if plural == "pods" else 0
        if grace or meta.get("finalizers"):
            return self._begin_end(kind, old, grace)
        self._drop(kind, old)
        if plural == "pods":
            return old
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def bind(self, pod: Json, node: str) -> Json:
        """The scheduler's binding."""
        now, status = self.clock(), pod.get("status") or {}
        conditions = bodies.with_condition(
            status.get("conditions") or (), "PodScheduled", "True", now
        )
        new = {
            **pod,
            "spec": {**pod["spec"], "nodeName": node},
            "status": {**status, "conditions": conditions},
        }
        return self._keep(self._kind("pods"), bodies.key(pod), new, pod)

    def remove(self, plural: str, name: str, namespace: str = "") -> None:
        """Take an object out whatever holds it; for what the server itself ends."""
        self._drop(self._kind(plural), self.read(plural, name, namespace))

    # --- How --------------------------------------------------------------------------------

    def _kind(self, plural: str) -> Kind:
        kind = self._kinds.get(plural)
        if plural == "leases":
            self.settle()
        if kind is None:
            text = "the server could not find the requested resource"
            raise _error(404, "NotFound", text, plural)
        return kind

    def _require(self, kind: Kind, key: Key, asked: str) -> Json:
        found = self._store[kind.plural].get(key)
        if found is None:
            raise _error(404, "NotFound", f'{kind.plural} "{key[1]}" not found', asked)
        return found

    def _check_namespace(self, name: str, asked: str) -> None:
        found = self.find("namespaces", name)
        if found is None:
            raise _error(404, "NotFound", f'namespaces "{name}" not found', asked)
        if bodies.is_deleting(found):
            text = (
                f"unable to create new content in namespace {name} because it is being terminated"
            )
            raise _error(403, "Forbidden", text, asked)

    def _update(self, kind: Kind, old: Json, new: Json, subresource: str, asked: str) -> Json:
        given, meta = new.get("metadata") or {}, old["metadata"]
        for field in ("uid", "resourceVersion"):
            if given.get(field) and given[field] != meta[field]:
                text = (
                    f'Operation cannot be fulfilled on {kind.plural} "{meta["name"]}": the object '
                    "has been modified; please apply your changes to the latest version and "
                    "try again"
                )
                raise _error(409, "Conflict", text, asked)
        body = _composed(kind, old, new, subresource)
        added = set(given.get("finalizers") or ()) - set(meta.get("finalizers") or ())
        if bodies.is_deleting(old) and added and not subresource:
            text = f"no new finalizers can be added if the object is being deleted: {sorted(added)}"
            raise _error(422, "Invalid", text, asked)
        if body == old:
            return old
        left = body["metadata"]
        is_held = left.get("finalizers") or left.get("deletionGracePeriodSeconds")
        if bodies.is_deleting(body) and not is_held and kind.plural != "namespaces":
            self._drop(kind, old)
            return body
        return self._keep(kind, bodies.key(old), body, old)

    def _grace(self, pod: Json, given: int | None) -> int:
        """How long a deleted pod may take; 0 where nobody runs it that could take any."""
        if not bodies.node_of(pod) or bodies.is_over(pod):
            return 0
        if given is None:
            stated = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
            given = int(stated)
        return given

    def _begin_end(self, kind: Kind, old: Json, grace: int, phase: str = "") -> Json:
        """Mark an object as being deleted; a later deletion can only shorten its grace."""
        meta = old["metadata"]
        held = meta.get("deletionGracePeriodSeconds")
        if meta.get("deletionTimestamp") and (held is None or grace >= held):
            return old
        until = bodies.stamp(self.clock() + grace)
        meta = {**meta, "deletionTimestamp": until, "deletionGracePeriodSeconds": grace}
        if "generation" in meta:
            meta["generation"] += 1
        body = {**old, "metadata": meta}
        if phase:
            body["status"] = {**(old.get("status") or {}), "phase": phase}
        return self._keep(kind, bodies.key(old), body, old)

    def _keep(self, kind: Kind, key: Key, body: Json, before: Json | None) -> Json:
        self.version += 1
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self._index(kind.plural, key, before, body)
        self._store[kind.plural][key] = body
        self._tell(Change(MODIFIED if before else ADDED, kind.plural, body, before, self.actor))
        return body

    def _drop(self, kind: Kind, old: Json) -> None:
        self.version += 1
        key = bodies.key(old)
        self._index(kind.plural, key, old, None)
        del self._store[kind.plural][key]
        body = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
        self._tell(Change(DELETED, kind.plural, body, old, self.actor))

    def _index(self, plural: str, key: Key, old: Json | None, new: Json | None) -> None:
        before = {one["uid"] for one in bodies.owners(old)} if old else set()
        after = {one["uid"] for one in bodies.owners(new)} if new else set()
        for uid in before - after:
            del self._owned[uid][plural, key]
        for uid in after - before:
            self._owned[uid][plural, key] = None
        if plural != "pods":
            return
        was_on = bodies.node_of(old) if old else ""
        is_on = bodies.node_of(new) if new else ""
        if was_on != is_on:
            if was_on:
                del self._on_node[was_on][key]
            if is_on:
                self._on_node[is_on][key] = None

    def _tell(self, change: Change) -> None:
        for watcher in self._watchers:
            watcher(change)


def _composed(kind: Kind, old: Json, new: Json, subresource: str) -> Json:
    """What a write through this subresource makes of an object."""
    meta = dict(new.get("metadata") or {})
    if subresource == "status" and kind.status_keeps_metadata:
        meta = dict(old["metadata"])
    for field in (*_SERVER_OWNED, "resourceVersion"):
        meta.pop(field, None)
        if field in old["metadata"]:
            meta[field] = old["metadata"][field]
    if subresource == "status":
        body = {**old, "status": new.get("status") or {}}
    else:
        body = {**new}
        if kind.has_status:
            body.pop("status", None)
            if "status" in old:
                body["status"] = old["status"]
        if _has_generation(kind) and _content(body) != _content(old):
            meta["generation"] = old["metadata"].get("generation", 0) + 1
    # An empty map or list and none at all are one thing once stored.
    body["metadata"] = {name: value for name, value in meta.items() if value not in ({}, [])}
    return body


def _content(body: Json) -> Json:
    return {name: value for name, value in body.items() if name not in ("metadata", "status")}


def _has_generation(kind: Kind) -> bool:
    return kind.group != "v1" and kind.plural not in _WITHOUT_GENERATION


def _suffix(number: int) -> str:
    """Five letters as generateName appends them, made of a number."""
    letters = "bcdfghjklmnpqrstvwxz2456789"
    text = ""
    for _ in range(5):
        number, rest = divmod(number, len(letters))
        text = letters[rest] + text
    return text


def _error(status: int, reason: str, message: str, asked: str) -> errors.KubeError:
    return errors.from_status(status, {"reason": reason, "message": message}, asked)


def events_about(server: ApiServer, name: str) -> Iterator[tuple[float, str, str]]:
    """The Events that regard an object: moment, reason, message."""
    for one in server.listed("events"):
        if one["involvedObject"]["name"] == name:
            yield times.parse(one["eventTime"]), one["reason"], one["message"]
