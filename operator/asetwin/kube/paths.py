"""Where the API server keeps things; apart from the client, which takes long to import."""

from typing import Any

Json = dict[str, Any]


def collection(group: str, plural: str, namespace: str | None = None) -> str:
    """The path of a collection; ``group`` is ``v1`` or ``apps/v1`` and so on."""
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
