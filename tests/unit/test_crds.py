"""The CRDs and the typed objects describe one API; here neither can move alone.

The comparer walks both sides field by field and returns what differs in plain
words. That it can fail is tested too, on copies that are broken on purpose.
"""

from collections.abc import Callable
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from asetwin.resources.devices import (
    KINDS,
    AseNode,
    AseNodeSpec,
    Resource,
)
from unit.crds import STRICTER_THAN_PYTHON, Schema, at, schema_of, with_defaults

# --- The comparer -------------------------------------------------------------------------------


def compare_model(model: type[BaseModel], schema: Schema, path: str = "") -> list[str]:
    """What differs between a class and a schema of type object."""
    fields = {
        field.alias or name: field
        for name, field in model.model_fields.items()
        if not (path == "" and name == "metadata")
    }
    properties = schema.get("properties", {})
    if schema.get("type") != "object":
        return [f"{path}: {schema.get('type')}, not object"]
    problems = []
    for name in sorted(fields.keys() | properties.keys()):
        here = f"{path}.{name}" if path else name
        if name not in properties:
            problems.append(f"{here}: only in {model.__name__}")
        elif name not in fields:
            problems.append(f"{here}: only in the schema")
        else:
            is_required = name in schema.get("required", [])
            problems += compare_presence(fields[name], properties[name], is_required, here)
            problems += compare_type(fields[name].annotation, properties[name], here)
    return problems


def compare_presence(field: FieldInfo, schema: Schema, is_required: bool, path: str) -> list[str]:
    """Required-ness and default.

    A status has no defaults in the schema: the operator writes it whole, and
    the API server must not add to what it wrote.
    """
    problems = []
    if is_required != field.is_required() and path not in STRICTER_THAN_PYTHON:
        problems.append(f"{path}: required on one side only")
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        assert value == type(value)(), f"{path}: a part's default is the part with its defaults"
        value = {}
    elif isinstance(value, StrEnum):
        value = value.value
    elif value in ((), {}):
        value = None
    if path.startswith("status"):
        value = None
    if schema.get("default") != value:
        problems.append(f"{path}: default {schema.get('default')!r}, in Python {value!r}")
    return problems


def compare_type(annotation: Any, schema: Schema, path: str) -> list[str]:
    """The type, and for parts and lists what is in them."""
    annotation = unwrap(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        assert args[1:] == (...,), f"{path}: lists are tuple[X, ...]"
        if schema.get("type") != "array":
            return [f"{path}: {schema.get('type')}, not array"]
        return compare_type(args[0], schema["items"], f"{path}[]")
    if origin is dict:
        expected = {"type": "object", "additionalProperties": args[1]}
        found = {
            "type": schema.get("type"),
            "additionalProperties": {"string": str}.get(
                schema.get("additionalProperties", {}).get("type")
            ),
        }
        return [] if found == expected else [f"{path}: not a map of strings"]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return compare_model(annotation, schema, path)
    return [
        f"{path}: {key} {schema.get(key)!r}, in Python {wanted!r}"
        for key, wanted in scalar_schema(annotation).items()
        if schema.get(key) != wanted
    ]


def unwrap(annotation: Any) -> Any:
    """``X`` of ``X | None`` and of ``Annotated[X, ...]``."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def scalar_schema(annotation: Any) -> Schema:
    """The keywords that a scalar must have; None means that it must not have one."""
    if get_origin(annotation) is Literal:
        return {"type": "string", "enum": list(get_args(annotation))}
    if issubclass(annotation, StrEnum):
        return {"type": "string", "enum": [one.value for one in annotation]}
    keywords: dict[type, Schema] = {
        str: {"type": "string", "enum": None, "format": None},
        # The only floats are points in time.
        float: {"type": "string", "enum": None, "format": "date-time"},
        bool: {"type": "boolean"},
        int: {"type": "integer"},
    }
    return keywords[annotation]


# --- The two sides are one ----------------------------------------------------------------------


@pytest.mark.parametrize("plural", KINDS)
def test_schema_and_class_agree_field_by_field(plural: str) -> None:
    assert compare_model(KINDS[plural], schema_of(plural)) == []


def _delete(path: str) -> Callable[[Schema], None]:
    parent, _, name = path.rpartition(".")
    return lambda schema: at(schema, parent)["properties"].pop(name)


def _set(path: str, **keywords: Any) -> Callable[[Schema], None]:
    return lambda schema: at(schema, path).update(keywords)


def _add(path: str) -> Callable[[Schema], None]:
    return lambda schema: at(schema, path)["properties"].update(extra={"type": "string"})


@pytest.mark.parametrize(
    ("plural", "break_it", "problem"),
    [
        pytest.param(
            "pinnedworkers",
            _delete("status.power.method"),
            "status.power.method: only in Power",
            id="field-missing-in-schema",
        ),
        pytest.param(
            "asedevices",
            _delete("status.failover.workloads[].want"),
            "status.failover.workloads[].want: only in DisplacedWorkload",
            id="field-missing-in-list-items",
        ),
        pytest.param(
            "asenodes",
            _add("spec.hardware"),
            "spec.hardware.extra: only in the schema",
            id="field-missing-in-python",
        ),
        pytest.param(
            "asenodes",
            _set("spec.hardware.ports", type="string"),
            "spec.hardware.ports: type 'string', in Python 'integer'",
            id="other-type",
        ),
        pytest.param(
            "asedevices",
            _set("status.failover.fencedAt", format=None),
            "status.failover.fencedAt: format None, in Python 'date-time'",
            id="time-without-format",
        ),
        pytest.param(
            "asenodes",
            _set("spec.slot", enum=["A", "B", "C"]),
            "spec.slot: enum ['A', 'B', 'C'], in Python ['A', 'B']",
            id="other-literal",
        ),
        pytest.param(
            "hardwarefailures",
            _set("status.phase", enum=["Pending"]),
            "status.phase: enum ['Pending'], in Python "
            "['Pending', 'Active', 'Expired', 'Rejected']",
            id="other-enum",
        ),
        pytest.param(
            "asedevices",
            _set("spec.reserve.percent", default=60),
            "spec.reserve.percent: default 60, in Python 50",
            id="other-default",
        ),
        pytest.param(
            "asedevices",
            _set("spec.witness", default=None),
            "spec.witness: default None, in Python {}",
            id="part-without-default",
        ),
        pytest.param(
            "asedevices",
            _set("spec.timing.rebootSeconds", default=5),
            "spec.timing.rebootSeconds: default 5, in Python None",
            id="default-that-the-profile-decides",
        ),
        pytest.param(
            "pinnedworkers",
            _set("status.power.desired", default="On"),
            "status.power.desired: default 'On', in Python None",
            id="default-in-a-status",
        ),
        pytest.param(
            "pinnedworkers",
            _set("spec", required=["aseNode"]),
            "spec.nodeName: required on one side only",
            id="not-required",
        ),
        pytest.param(
            "pinnedworkers",
            _set("status", required=["power"]),
            "status.power: required on one side only",
            id="required-too-much",
        ),
        pytest.param(
            "asedevices",
            _set("spec.paused", type="string"),
            "spec.paused: string, not array",
            id="no-list",
        ),
        pytest.param(
            "asedevices",
            _set("spec.reserve.namespaceSelector.matchLabels", additionalProperties={}),
            "spec.reserve.namespaceSelector.matchLabels: not a map of strings",
            id="other-map",
        ),
    ],
)
def test_the_comparer_reports_what_is_broken(
    plural: str, break_it: Callable[[Schema], None], problem: str
) -> None:
    schema = schema_of(plural)
    break_it(schema)
    assert compare_model(KINDS[plural], schema) == [problem]


def test_the_comparer_reports_a_field_that_only_python_has() -> None:
    class GrownSpec(AseNodeSpec):
        rack: str = ""

    class GrownNode(AseNode):
        spec: GrownSpec

    problems = compare_model(GrownNode, schema_of("asenodes"))
    assert problems == ["spec.rack: only in GrownSpec"]


@pytest.mark.parametrize(
    ("plural", "spec"),
    [
        pytest.param("asedevices", None, id="device"),
        pytest.param("asedevices", {"shares": [{"name": "data"}]}, id="device-with-share"),
        pytest.param("asenodes", {"device": "ase", "slot": "A"}, id="node"),
        pytest.param("pinnedworkers", {"aseNode": "node-a", "nodeName": "worker"}, id="worker"),
        pytest.param("hardwarefailures", {"node": "node-a", "component": "DIMM"}, id="failure"),
    ],
)
def test_what_the_api_server_fills_in_reads_as_what_python_fills_in(
    plural: str, spec: dict[str, Any] | None
) -> None:
    body: dict[str, Any] = {"metadata": {"name": "x"}} | ({"spec": spec} if spec else {})
    stored = with_defaults(schema_of(plural), body)
    written = KINDS[plural].read(body)
    assert KINDS[plural].read(stored) == written
    assert {"spec": stored["spec"]} == only_what_the_schema_fills_in(written)


def only_what_the_schema_fills_in(resource: Resource) -> dict[str, Any]:
    """The spec as Python writes it, less the empty lists that stand for absence there."""

    def prune(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: prune(item) for key, item in value.items() if item != []}
        return [prune(item) for item in value] if isinstance(value, list) else value

    return {"spec": prune(resource.wire()["spec"])}
