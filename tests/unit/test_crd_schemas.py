"""Each CRD by itself: what a schema has to state, and the rules that one object can break."""

import itertools
import re
from typing import Any

import pytest
import yaml

from asetwin import constants
from asetwin.resources.devices import (
    KINDS,
    TIMING_DEFAULTS,
    AseDevice,
    PinnedWorker,
    Profile,
)
from unit.crds import (
    CRDS,
    at,
    load,
    schema_of,
    version_of,
    walk,
    with_defaults,
)

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
