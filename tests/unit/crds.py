"""The CRDs as they are written, and ways through their schemas."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).parents[2] / "crds"

Schema = dict[str, Any]

# metav1.Condition demands a message, which may be empty; the class fills it in.
STRICTER_THAN_PYTHON = {"status.conditions[].message"}


def load(plural: str) -> dict[str, Any]:
    crd: dict[str, Any] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return crd


def version_of(plural: str) -> dict[str, Any]:
    version: dict[str, Any]
    (version,) = load(plural)["spec"]["versions"]
    return version


def schema_of(plural: str) -> Schema:
    """The root schema without what every Kubernetes object has."""
    schema: Schema = copy.deepcopy(version_of(plural)["schema"]["openAPIV3Schema"])
    for common in ("apiVersion", "kind", "metadata"):
        del schema["properties"][common]
    return schema


def at(schema: Schema, path: str) -> Schema:
    """The schema of one field, named as the comparer names it: ``status.history[].id``."""
    for part in path.split("."):
        schema = schema["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            schema = schema["items"]
    return schema


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every field below a schema, items of lists included."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, field
        yield from walk(field, here)
    if "items" in schema:
        yield f"{path}[]", schema["items"]
        yield from walk(schema["items"], f"{path}[]")


def with_defaults(schema: Schema, value: Any) -> Any:
    """What the API server stores of a value: absent fields get their defaults, deepest last."""
    if schema["type"] == "array":
        return [with_defaults(schema["items"], item) for item in value]
    if schema["type"] != "object" or "properties" not in schema:
        return value
    filled = dict(value)
    for name, field in schema["properties"].items():
        if name not in filled and "default" in field:
            filled[name] = copy.deepcopy(field["default"])
        if name in filled:
            filled[name] = with_defaults(field, filled[name])
    return filled
