"""What the API server lists and tells of, for tests of the view of the cluster."""

from typing import Any

from asetwin.kube.observe import KINDS
from unit.builders import FakeApi

Json = dict[str, Any]


def body(
    name: str = "p", version: int = 1, *, uid: str | None = None, namespace: str | None = "default"
) -> Json:
    """A minimal object; pods are told apart by their label."""
    meta: Json = {"name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    if namespace is not None:
        meta["namespace"] = namespace
    return {"metadata": {**meta, "labels": {"version": str(version)}}}


def lists(version: int, **items: list[Json]) -> FakeApi:
    """An API server whose lists of the named kinds hold these items."""
    answer = {"metadata": {"resourceVersion": str(version)}}
    return FakeApi(
        {
            ("get", kind.path): answer | {"items": items.get(plural, [])}
            for plural, kind in KINDS.items()
        }
    )
