"""What people apply: the samples fit the API, and what is installed asks for no more than it needs.

Rendering is kustomize's work and needs kubectl; everything else here reads
the files as they are.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from asetwin import constants
from asetwin.kube import observe
from asetwin.resources.devices import KINDS, AseDevice, AseNode, HardwareFailure, PinnedWorker

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
BASE = MANIFESTS / "base"
FAILURES = MANIFESTS / "samples" / "failures"

CLASSES = {cls.__name__: cls for cls in KINDS.values()}
PLURALS = {cls.__name__: plural for plural, cls in KINDS.items()}

Body = dict[str, Any]


def documents(path: Path) -> list[Body]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def one(path: Path, kind: str, name: str | None = None) -> Body:
    (found,) = (
        body
        for body in documents(path)
        if body["kind"] == kind and name in (None, body["metadata"]["name"])
    )
    return found


SAMPLE_DEVICE = MANIFESTS / "samples" / "device.yaml"
SCENARIOS = MANIFESTS / "samples" / "scenarios"
"""No manifests: what happens in a simulation."""
SAMPLES = sorted(
    path for path in (MANIFESTS / "samples").rglob("*.yaml") if SCENARIOS not in path.parents
)
OWN_SAMPLES = [
    pytest.param(body, id=f"{relative(path)}:{body['metadata']['name']}")
    for path in SAMPLES
    for body in documents(path)
    if body["apiVersion"] == constants.API_VERSION
]


# --- Samples fit the API ------------------------------------------------------------------------


def violations(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    """Where a value breaks a structural schema; knows the keywords that our schemas use."""
    kinds: dict[str, tuple[type, ...]] = {
        "object": (dict,),
        "array": (list,),
        "string": (str,),
        "integer": (int,),
        "boolean": (bool,),
    }
    is_bool_for_int = isinstance(value, bool) and schema["type"] == "integer"
    if not isinstance(value, kinds[schema["type"]]) or is_bool_for_int:
        yield f"{path}: not of type {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    match value:
        case dict() if "properties" in schema:
            yield from (
                f"{path}.{name}: missing" for name in schema.get("required", []) - value.keys()
            )
            yield from (f"{path}.{name}: unknown" for name in value.keys() - schema["properties"])
            for name in value.keys() & schema["properties"].keys():
                yield from violations(schema["properties"][name], value[name], f"{path}.{name}")
        case list():
            if len(value) > schema["maxItems"]:
                yield f"{path}: more than {schema['maxItems']} items"
            for index, item in enumerate(value):
                yield from violations(schema["items"], item, f"{path}[{index}]")
        case str():
            if len(value) > schema.get("maxLength", len(value)):
                yield f"{path}: longer than {schema['maxLength']}"
            yield from broken_patterns(schema, value, path)
        case int() if schema["type"] == "integer":
            if not schema["minimum"] <= value <= schema.get("maximum", value):
                yield f"{path}: {value} is out of range"


def broken_patterns(schema: dict[str, Any], value: str, path: str) -> Iterator[str]:
    """The part of our CEL rules that is a regular expression."""
    for rule in schema.get("x-kubernetes-validations", []):
        for pattern in re.findall(r"matches\(\s*'([^']+)'\)", rule["rule"]):
            if not re.search(pattern, value):
                yield f"{path}: {rule['message']}"


def schema_for(kind: str) -> dict[str, Any]:
    crd = yaml.safe_load((ROOT / "crds" / f"{PLURALS[kind]}.yaml").read_text())
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize("body", OWN_SAMPLES)
def test_samples_are_valid_by_schema_and_by_class(body: Body) -> None:
    assert list(violations(schema_for(body["kind"]), body, body["kind"])) == []
    resource = CLASSES[body["kind"]].read(body)
    assert resource.name == body["metadata"]["name"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"component": "Fan1"}, "HardwareFailure.spec.component: no such component"),
        ({"component": 1}, "HardwareFailure.spec.component: not of type string"),
        ({"action": "Explode"}, "HardwareFailure.spec.action: 'Explode' is not one of"),
        ({"durationSeconds": 0}, "HardwareFailure.spec.durationSeconds: 0 is out of range"),
        ({"colour": "red"}, "HardwareFailure.spec.colour: unknown"),
        ({"node": "n" * 64}, "HardwareFailure.spec.node: longer than 63"),
    ],
)
def test_an_invalid_sample_would_be_noticed(change: Body, problem: str) -> None:
    body = one(FAILURES / "psu-one.yaml", "HardwareFailure")
    body["spec"] |= change
    (found,) = violations(schema_for("HardwareFailure"), body, "HardwareFailure")
    assert found.startswith(problem)


def test_a_sample_without_a_required_field_would_be_noticed() -> None:
    body = one(FAILURES / "psu-one.yaml", "HardwareFailure")
    del body["spec"]["node"]
    found = list(violations(schema_for("HardwareFailure"), body, "HardwareFailure"))
    assert found == ["HardwareFailure.spec.node: missing"]


def test_the_sample_device_is_whole() -> None:
    resources = [CLASSES[body["kind"]].read(body) for body in documents(SAMPLE_DEVICE)]
    (device,) = (it for it in resources if isinstance(it, AseDevice))
    nodes = [it for it in resources if isinstance(it, AseNode)]
    workers = [it for it in resources if isinstance(it, PinnedWorker)]
    assert device.spec.timing.profile == "Fast"
    assert [(node.spec.device, node.spec.slot) for node in nodes] == [
        (device.name, "A"),
        (device.name, "B"),
    ]
    # kind calls the workers of a cluster "asetwin" so.
    assert [(worker.spec.ase_node, worker.spec.node_name) for worker in workers] == [
        (nodes[0].name, "asetwin-worker"),
        (nodes[1].name, "asetwin-worker2"),
    ]


# --- Samples cover the failures -----------------------------------------------------------------


def failures_in(path: Path) -> list[HardwareFailure]:
    return [HardwareFailure.read(body) for body in documents(path)]


def break_down(failures: list[HardwareFailure]) -> list[tuple[str, str, str]]:
    return sorted((it.spec.node, it.spec.component, it.spec.action.value) for it in failures)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(["a PSU1"], id="one-psu"),
        pytest.param(["a PSU1", "a PSU2"], id="both-psus"),
        pytest.param(["a PSU1", "b PSU1"], id="one-psu-each"),
        pytest.param(["a Port1"], id="management-port"),
        pytest.param(["a Port5"], id="workload-port"),
        pytest.param(["a Port3"], id="storage-port"),
        pytest.param(["a Motherboard"], id="motherboard"),
        pytest.param(["a DIMM"], id="dimm"),
        pytest.param(["a OSDisk"], id="os-disk"),
        pytest.param(["a Node"], id="node"),
        pytest.param(["a Disk1"], id="data-disk"),
        pytest.param(["a Disk1", "b Disk1"], id="data-disk-on-each"),
        pytest.param(["a GPU1"], id="gpu"),
        pytest.param(["a Node", "b Node"], id="both-nodes"),
        pytest.param(["a Node Reboot"], id="reboot"),
    ],
)
def test_every_kind_of_failure_has_a_sample(broken: list[str]) -> None:
    wanted = sorted((f"node-{node}", *rest) for node, *rest in (it.split() for it in broken))
    wanted = [(*it, "Fail")[:3] for it in wanted]
    assert wanted in [break_down(failures_in(path)) for path in FAILURES.glob("*.yaml")]


@pytest.mark.parametrize("path", sorted(FAILURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_failure_sample_says_what_the_device_does(path: Path) -> None:
    comment = path.read_text().split("apiVersion")[0]
    assert comment.startswith("# ")
    assert re.search(r"\b(NeedsAttention|Down|Offline|failover|comes back)\b", comment)


def test_failure_samples_name_nodes_of_the_sample_device() -> None:
    names = {body["metadata"]["name"] for body in documents(SAMPLE_DEVICE)}
    for path in FAILURES.glob("*.yaml"):
        assert {it.spec.node for it in failures_in(path)} <= names, path.name


def test_failure_samples_of_one_name_are_the_same_object() -> None:
    """Applying two files in turn would otherwise ask for a change, which is refused."""
    seen: dict[str, HardwareFailure] = {}
    for path in FAILURES.glob("*.yaml"):
        for failure in failures_in(path):
            assert seen.setdefault(failure.name, failure) == failure, path.name


# --- What is installed --------------------------------------------------------------------------


def rules() -> list[Body]:
    return [
        rule
        for body in documents(BASE / "rbac.yaml")
        if body["kind"] in ("ClusterRole", "Role")
        for rule in body["rules"]
    ]


def granted(kind: str, name: str) -> dict[str, set[str]]:
    """``group/resource`` → verbs of one role."""
    verbs: dict[str, set[str]] = {}
    for rule in one(BASE / "rbac.yaml", kind, name)["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                verbs.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
    return verbs


def test_roles_have_no_wildcard() -> None:
    for rule in rules():
        for words in rule.values():
            assert not any("*" in word for word in words), rule


def test_roles_give_no_way_to_more_rights() -> None:
    for rule in rules():
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), rule
        assert not {"secrets", "serviceaccounts/token", "pods/exec"} & set(rule["resources"]), rule
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"], rule


def test_the_operator_may_do_what_it_does_and_no_more() -> None:
    read = {"get", "list", "watch"}
    own = {f"{constants.GROUP}/{plural}": read for plural in KINDS}
    status = {f"{it}/status": {"patch"} for it in own}
    own[f"{constants.GROUP}/asedevices"] = read | {"patch"}
    assert granted("ClusterRole", "asetwin-operator") == own | status | {
        "/nodes": read | {"patch"},
        "/nodes/status": {"patch"},
        "/pods": read | {"delete"},
        "/pods/eviction": {"create"},
        "policy/poddisruptionbudgets": read,
        "/namespaces": read,
        "/resourcequotas": read | {"create", "patch", "delete"},
        "/limitranges": read | {"create", "delete"},
        "/services": read,
        "/persistentvolumes": read | {"create", "patch", "delete"},
        "/persistentvolumeclaims": read,
        "/events": {"create"},
        "apps/deployments": read,
        "apps/replicasets": read,
        "apps/statefulsets": read,
        "apps/daemonsets": read,
        "batch/jobs": read,
        "coordination.k8s.io/leases": read,
        "apiextensions.k8s.io/customresourcedefinitions": read,
    }
    assert granted("Role", "asetwin-operator") == {
        "/pods": {"create", "patch"},
        "/services": {"create", "delete"},
        "/persistentvolumeclaims": {"create", "delete"},
        "coordination.k8s.io/leases": {"delete"},
    }


@pytest.mark.parametrize("kind", observe.KINDS.values(), ids=observe.KINDS)
def test_the_operator_may_watch_all_that_it_observes(kind: observe.Kind) -> None:
    """Across the cluster, even where only one namespace is of interest."""
    group = kind.group.rpartition("/")[0]
    verbs = granted("ClusterRole", "asetwin-operator")[f"{group}/{kind.plural}"]
    assert {"list", "watch"} <= verbs


def test_the_master_may_only_hold_its_lease() -> None:
    assert granted("Role", "asetwin-master") == {
        "coordination.k8s.io/leases": {"get", "create", "update"}
    }


def test_bindings_join_roles_and_accounts_that_exist() -> None:
    bodies = documents(BASE / "rbac.yaml")
    names = {(body["kind"], body["metadata"]["name"]) for body in bodies}
    bindings = [body for body in bodies if body["kind"].endswith("Binding")]
    assert len(bindings) == 3
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in names
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in names
            assert subject["namespace"] == constants.SYSTEM_NAMESPACE


def test_everything_namespaced_is_in_the_system_namespace() -> None:
    cluster_scoped = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    for name in yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]:
        for body in documents(BASE / name):
            namespace = body["metadata"].get("namespace")
            expected = None if body["kind"] in cluster_scoped else constants.SYSTEM_NAMESPACE
            assert namespace == expected, body["metadata"]["name"]


def test_the_system_namespace_demands_restricted_pods() -> None:
    body = one(BASE / "namespace.yaml", "Namespace")
    assert body["metadata"]["name"] == constants.SYSTEM_NAMESPACE
    assert body["metadata"]["labels"] == {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
    }


def restricted_violations(pod: Body) -> Iterator[str]:
    """The rules of the Pod Security level "restricted" that a pod spec breaks."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    volume_kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "secret"}
    volume_kinds |= {"persistentVolumeClaim", "projected", "name"}
    yield from (f"volume {it['name']}" for it in pod.get("volumes", []) if it.keys() - volume_kinds)
    shared = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        both = shared | own
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            yield "runAsNonRoot"
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccompProfile"
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if own.get("privileged"):
            yield "privileged"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield "capabilities"
        yield from ("hostPort" for port in container.get("ports", []) if "hostPort" in port)


DEPLOYMENTS = {
    "operator": BASE / "deployment.yaml",
    "workload": MANIFESTS / "samples" / "workload.yaml",
}
SHARES = MANIFESTS / "samples" / "shares.yaml"


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_the_sample_writers_satisfy_the_restricted_level_too(kind: str) -> None:
    pod = one(SHARES, kind)["spec"]["template"]["spec"]
    assert list(restricted_violations(pod)) == []
    assert pod["securityContext"]["runAsUser"] == 65532


def test_the_sample_writers_use_a_share_and_a_disk_of_one_node() -> None:
    device = AseDevice.read(one(SAMPLE_DEVICE, "AseDevice"))
    claim = one(SHARES, "PersistentVolumeClaim")["spec"]
    (share,) = (it for it in device.spec.shares if it.name == claim["volumeName"])
    assert claim["storageClassName"] == ""
    assert claim["resources"]["requests"]["storage"] == share.capacity
    (template,) = one(SHARES, "StatefulSet")["spec"]["volumeClaimTemplates"]
    storage = one(MANIFESTS / "overlays" / "kind" / "storageclass.yaml", "StorageClass")
    assert template["spec"]["storageClassName"] == storage["metadata"]["name"]
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"


@pytest.mark.parametrize("path", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_pods_satisfy_the_restricted_level_and_cannot_write_their_root(path: Path) -> None:
    template = one(path, "Deployment")["spec"]["template"]
    pod = template["spec"]
    assert list(restricted_violations(pod)) == []
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize("path", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_selectors_find_the_pods(path: Path) -> None:
    deployment = one(path, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    service = one(BASE / "service.yaml" if path.parent == BASE else path, "Service")["spec"]
    assert service["selector"].items() <= labels.items()
    (container,) = deployment["template"]["spec"]["containers"]
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= names


def test_a_pod_that_is_not_restricted_would_be_noticed() -> None:
    pod = {"hostNetwork": True, "containers": [{"name": "x", "ports": [{"hostPort": 1}]}]}
    assert set(restricted_violations(pod)) == {
        "hostNetwork",
        "hostPort",
        "runAsNonRoot",
        "seccompProfile",
        "allowPrivilegeEscalation",
        "capabilities",
    }


def test_the_operator_runs_alone_on_the_control_plane_and_says_how_it_is() -> None:
    deployment = one(BASE / "deployment.yaml", "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert {
        probe: (container[probe]["httpGet"]["path"], container[probe]["httpGet"]["port"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    } == {
        "startupProbe": ("/healthz", "http"),
        "livenessProbe": ("/healthz", "http"),
        "readinessProbe": ("/readyz", "http"),
    }
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]


def test_the_operator_knows_its_own_image() -> None:
    deployment = one(BASE / "deployment.yaml", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = {it["name"]: it.get("value") for it in container["env"]}
    assert env["ASETWIN_IMAGE"] == container["image"]
    assert env.keys() == {"ASETWIN_IMAGE", "POD_NAME", "POD_NAMESPACE", "NODE_NAME"}
    workload = one(DEPLOYMENTS["workload"], "Deployment")["spec"]["template"]["spec"]
    assert workload["containers"][0]["image"] == container["image"]


def test_the_sample_workload_is_spread_but_may_run_on_one_node() -> None:
    deployment = one(DEPLOYMENTS["workload"], "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (spread,) = pod["topologySpreadConstraints"]
    assert deployment["replicas"] == 6
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
    assert pod["containers"][0]["command"] == ["python3", "-m", "asetwin.standin.web"]


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "crds").glob("*.yaml")), *sorted(MANIFESTS.rglob("*.yaml"))],
    ids=relative,
)
def test_files_fit_into_100_columns(path: Path) -> None:
    too_long = [
        number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 100
    ]
    assert too_long == []
