"""The CRDs and the typed objects describe one API; here neither can move alone.

The comparer walks both sides field by field and returns what differs in plain
words. That it can fail is tested too, on copies that are broken on purpose.
"""

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from asetwin import constants
from asetwin.resources.devices import (
    KINDS,
    TIMING_DEFAULTS,
    AseDevice,
    AseNode,
    AseNodeSpec,
    PinnedWorker,
    Profile,
    Resource,
)

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


# --- Each schema by itself ----------------------------------------------------------------------


def test_kustomization_names_every_crd() -> None:
    resources = yaml.safe_load((CRDS / "kustomization.yaml").read_text())["resources"]
    assert sorted(resources) == sorted(f"{plural}.yaml" for plural in KINDS)
    assert {path.name for path in CRDS.glob("*.yaml")} == {*resources, "kustomization.yaml"}


@pytest.mark.parametrize(
    ("plural", "short"),
    [
        ("asedevices", "ased"),
        ("asenodes", "asen"),
        ("pinnedworkers", "pw"),
        ("hardwarefailures", "hwf"),
    ],
)
def test_kinds_are_named_as_the_constants_and_the_design_say(plural: str, short: str) -> None:
    crd = load(plural)
    kind = KINDS[plural].__name__
    assert crd["metadata"]["name"] == f"{plural}.{constants.GROUP}"
    assert crd["spec"]["group"] == constants.GROUP
    assert crd["spec"]["scope"] == "Cluster"
    assert crd["spec"]["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["asetwin"],
    }
    version = version_of(plural)
    assert version["name"] == constants.VERSION
    assert version["served"] is True
    assert version["storage"] is True
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("plural", KINDS)
def test_every_field_has_a_description(plural: str) -> None:
    schema = version_of(plural)["schema"]["openAPIV3Schema"]
    undescribed = [
        path
        for path, field in walk(schema)
        # Items are described by their list, and metadata by Kubernetes.
        if not path.endswith("[]") and not path.startswith("metadata")
        if not re.search(r"\S.*\.$", field.get("description", ""))
    ]
    assert undescribed == []
    assert schema["description"].startswith(f"{KINDS[plural].__name__} ")


@pytest.mark.parametrize("plural", KINDS)
def test_every_default_and_every_absence_is_explained(plural: str) -> None:
    schema = schema_of(plural)
    for path, field in walk(at(schema, "spec"), "spec"):
        parent, _, name = path.rpartition(".")
        default, text = field.get("default"), field.get("description", "")
        if path.endswith("[]") or name in at(schema, parent).get("required", []):
            continue
        if default in (None, {}):
            assert "Absent" in text, path
        else:
            word = str(default).lower() if isinstance(default, bool) else default
            assert re.search(rf"\b[Dd]efault {word}\b", text), path


@pytest.mark.parametrize("plural", KINDS)
def test_every_range_is_in_the_description(plural: str) -> None:
    for path, field in walk(at(schema_of(plural), "spec")):
        if field["type"] == "integer":
            assert f"{field['minimum']} to {field['maximum']}" in field["description"], path


@pytest.mark.parametrize("plural", KINDS)
def test_everything_is_bounded(plural: str) -> None:
    """Unbounded strings and lists make the API server refuse CEL rules as too costly."""
    for path, field in walk(schema_of(plural)):
        match field["type"]:
            case "string":
                is_closed = "enum" in field or field.get("format") == "date-time"
                assert is_closed or field["maxLength"] > 0, path
            case "array":
                assert field["maxItems"] > 0, path
                assert field["x-kubernetes-list-type"] in ("atomic", "map", "set"), path
            case "integer":
                assert field["format"] in ("int32", "int64"), path
                assert field["minimum"] >= 0, path
            case "object":
                assert "properties" in field or field["maxProperties"] > 0, path


@pytest.mark.parametrize("plural", KINDS)
def test_keys_of_map_lists_are_required(plural: str) -> None:
    for path, field in walk(schema_of(plural)):
        for key in field.get("x-kubernetes-list-map-keys", []):
            assert key in field["items"]["required"], path


def test_conditions_are_the_same_in_every_kind() -> None:
    items = [at(schema_of(plural), "status.conditions[]") for plural in KINDS]
    for one, other in itertools.pairwise(items):
        assert one == other


def test_bounded_lists_are_bounded_as_the_constants_say() -> None:
    device = schema_of("asedevices")
    for path, limit in {
        "status.failover.lostPods": constants.STATUS_LIST_LIMIT,
        "status.failover.unplaceable": constants.STATUS_LIST_LIMIT,
        "status.history": constants.HISTORY_LIMIT,
    }.items():
        assert at(device, path)["maxItems"] == limit, path
        assert str(limit) in at(device, path)["description"], path


@pytest.mark.parametrize(
    ("plural", "columns"),
    [
        (
            "asedevices",
            "State Master Votes Reserve Failover Age Epoch Summary",
        ),
        ("asenodes", "Device Slot State Node Failed Age Summary"),
        ("pinnedworkers", "AseNode Node Power Accepted Age GPUs Desired Summary"),
        ("hardwarefailures", "Node Component Action Phase Age Summary"),
    ],
)
def test_printer_columns_are_described_and_show_fields_that_exist(
    plural: str, columns: str
) -> None:
    schema = schema_of(plural)
    found = version_of(plural)["additionalPrinterColumns"]
    assert " ".join(column["name"] for column in found) == columns
    for column in found:
        assert column["description"].endswith(".")
        assert column.get("priority", 0) == (
            1 if column["name"] in ("Summary", "Desired", "GPUs", "Epoch") else 0
        )
        path = re.sub(r"\[\?\(.*?\)\]", "[]", column["jsonPath"].removeprefix("."))
        if column["name"] == "Age":
            assert column["type"] == "date"
            assert path == "metadata.creationTimestamp"
        else:
            # A list is printed as it is.
            field_type = at(schema, path)["type"].replace("array", "string")
            assert column["type"] == field_type, column["name"]


# --- Rules that one object can break ------------------------------------------------------------


def rules_at(plural: str, path: str) -> list[dict[str, Any]]:
    schema = schema_of(plural)
    rules: list[dict[str, Any]] = (at(schema, path) if path else schema).get(
        "x-kubernetes-validations", []
    )
    return rules


def patterns_at(plural: str, path: str) -> list[str]:
    """The regular expressions that CEL rules hold a field against."""
    return [
        pattern
        for rule in rules_at(plural, path)
        for pattern in re.findall(r"matches\(\s*'([^']+)'\)", rule["rule"])
    ]


@pytest.mark.parametrize(
    ("plural", "path"),
    [
        ("asenodes", "spec.device"),
        ("asenodes", "spec.slot"),
        ("pinnedworkers", "spec.aseNode"),
        ("pinnedworkers", "spec.nodeName"),
        ("hardwarefailures", "spec"),
    ],
)
def test_what_cannot_change_says_what_to_do_instead(plural: str, path: str) -> None:
    (rule,) = (one for one in rules_at(plural, path) if "oldSelf" in one["rule"])
    assert rule["rule"] == "self == oldSelf"
    assert rule["reason"] == "FieldValueForbidden"
    assert "delete" in rule["message"]
    # A rule on an absent field is not asked, so only required fields can be pinned this way.
    parent, _, name = path.rpartition(".")
    schema = schema_of(plural)
    assert name in (at(schema, parent) if parent else schema)["required"]


@pytest.mark.parametrize("plural", KINDS)
def test_every_rule_has_a_message_for_people(plural: str) -> None:
    for path, field in [("", schema_of(plural)), *walk(schema_of(plural))]:
        for rule in field.get("x-kubernetes-validations", []):
            assert len(rule["message"]) > 20, path
            assert "\n" not in rule["message"], path
            assert "self" not in rule["message"], path


@pytest.mark.parametrize(
    ("component", "is_a_component"),
    [
        *((name, True) for name in ("PSU1", "PSU2", "PSU3", "Motherboard", "DIMM", "OSDisk")),
        *((name, True) for name in ("Port1", "Port16", "Disk1", "Disk32", "GPU1", "GPU16", "Node")),
        *((name, False) for name in ("", "Fan1", "PSU", "PSU0", "psu1", "PSU12", "Port", "Port0")),
        *((name, False) for name in ("Disk01", "Disk100", "Node1", "DIMM1", " Node", "GPU")),
    ],
)
def test_components_are_words_that_some_node_could_have(
    component: str, is_a_component: bool
) -> None:
    (pattern,) = patterns_at("hardwarefailures", "spec.component")
    assert bool(re.search(pattern, component)) == is_a_component


def test_components_cover_all_the_hardware_that_a_node_can_have() -> None:
    (pattern,) = patterns_at("hardwarefailures", "spec.component")
    hardware = at(schema_of("asenodes"), "spec.hardware")["properties"]
    words = {"powerSupplies": "PSU", "ports": "Port", "dataDisks": "Disk", "gpus": "GPU"}
    assert hardware.keys() == words.keys()
    for name, word in words.items():
        for number in range(1, hardware[name]["maximum"] + 1):
            assert re.search(pattern, f"{word}{number}")


@pytest.mark.parametrize(
    ("plural", "path"),
    [
        ("asenodes", "spec.device"),
        ("pinnedworkers", "spec.aseNode"),
        ("pinnedworkers", "spec.nodeName"),
        ("hardwarefailures", "spec.node"),
        ("asedevices", "spec.master.preferredNode"),
        ("asedevices", "spec.shares[].name"),
        ("asedevices", "spec.reserve.excludedNamespaces[]"),
    ],
)
def test_references_are_names_and_never_empty(plural: str, path: str) -> None:
    (pattern,) = patterns_at(plural, path)
    for name in ("a", "node-a", "asetwin-worker2"):
        assert re.search(pattern, name)
    for name in ("", "Node-A", "-a", "a-", "a_b", "a/b", "a b"):
        assert not re.search(pattern, name)
    has_dots = path == "spec.nodeName"
    assert bool(re.search(pattern, "ip-10.example")) == has_dots
    assert not re.search(pattern, "a..b")


def test_device_names_leave_room_for_the_names_made_from_them() -> None:
    """A Service's name starts with a letter and has at most 63 characters."""
    (rule,) = (one for one in rules_at("asedevices", "") if one["fieldPath"] == ".metadata.name")
    (limit,) = re.findall(r"size\(self\.metadata\.name\) <= (\d+)", rule["rule"])
    longest = f"{'a' * int(limit)}-master-{10**15 - 1}"
    assert len(longest) <= 63
    (pattern,) = patterns_at("asedevices", "")
    assert re.search(pattern, "ase-1")
    for name in ("1ase", "ase.lab", "ase-"):
        assert not re.search(pattern, name)
    # A reference takes what a name may be, no less and no more.
    assert patterns_at("asenodes", "spec.device") == [pattern]
    assert at(schema_of("asenodes"), "spec.device")["maxLength"] == int(limit)
    for plural, path in (("pinnedworkers", "spec.aseNode"), ("hardwarefailures", "spec.node")):
        assert patterns_at(plural, path) == patterns_at("asenodes", "")
        assert at(schema_of(plural), path)["maxLength"] == 63


# --- Timing -------------------------------------------------------------------------------------


def test_timing_descriptions_promise_what_the_profiles_give() -> None:
    timing = at(schema_of("asedevices"), "spec.timing")["properties"]
    promised: dict[Profile, dict[str, int]] = {profile: {} for profile in Profile}
    for name, field in timing.items():
        if name == "profile":
            continue
        snake = re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", name)
        for profile, seconds in re.findall(
            r"\b(Fast|Realistic) (\d+)\b", re.sub(r"\s+", " ", field["description"])
        ):
            promised[Profile(profile)][snake.removesuffix("_seconds")] = int(seconds)
            assert field["minimum"] <= int(seconds) <= field["maximum"], name
    assert promised == TIMING_DEFAULTS


def test_timing_that_is_not_stated_comes_from_the_profile() -> None:
    device = AseDevice.read(
        with_defaults(
            schema_of("asedevices"),
            {
                "metadata": {"name": "ase"},
                "spec": {"timing": {"profile": "Fast", "stableSeconds": 0}},
            },
        )
    )
    assert device.spec.timing.seconds("stable") == 0
    assert device.spec.timing.seconds("reboot") == TIMING_DEFAULTS[Profile.FAST]["reboot"]


def test_unknown_fields_are_ignored_when_read() -> None:
    worker = PinnedWorker.read(
        {
            "metadata": {"name": "w", "labels": {"a": "b"}},
            "spec": {"aseNode": "node-a", "nodeName": "n", "later": 1},
        }
    )
    assert worker.spec.ase_node == "node-a"
