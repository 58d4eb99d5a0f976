"""The overlay of the power agent: as much as it needs, and no more."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from asetwin import constants
from asetwin.power import presence

POWER = Path(__file__).parents[2] / "manifests" / "overlays" / "power"
NAMESPACE = "asetwin-power"
AGENT = "asetwin-power-agent"

Body = dict[str, Any]


def documents() -> list[Body]:
    overlay = yaml.safe_load((POWER / "kustomization.yaml").read_text())
    files = [POWER / name for name in overlay["resources"] if name.endswith(".yaml")]
    assert {path.name for path in POWER.glob("*.yaml")} == {
        "kustomization.yaml",
        *(path.name for path in files),
    }
    return [body for path in files for body in yaml.safe_load_all(path.read_text())]


def one(kind: str) -> Body:
    (found,) = (body for body in documents() if body["kind"] == kind)
    return found


def pod() -> Body:
    found: Body = one("Deployment")["spec"]["template"]["spec"]
    return found


def test_the_agent_comes_on_top_of_the_operator() -> None:
    assert "../kind" in yaml.safe_load((POWER / "kustomization.yaml").read_text())["resources"]


def test_it_may_read_workers_and_nodes_and_write_what_it_observes() -> None:
    rules = one("ClusterRole")["rules"]
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {
        (constants.GROUP, "pinnedworkers"): {"get", "list", "watch"},
        (constants.GROUP, "pinnedworkers/status"): {"patch"},
        ("", "nodes"): {"get"},
    }


def test_it_may_hold_its_own_lease_and_no_other() -> None:
    role, lease = one("Role"), one("Lease")
    assert role["metadata"]["namespace"] == constants.SYSTEM_NAMESPACE
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [presence.NAME],
            "verbs": ["get", "patch"],
        }
    ]
    assert (lease["metadata"]["name"], lease["metadata"]["namespace"]) == (
        presence.NAME,
        constants.SYSTEM_NAMESPACE,
    )
    # Applied again while an agent holds it, it must not take the Lease away.
    assert "spec" not in lease


def test_bindings_join_its_account_and_its_roles() -> None:
    bindings = [body for body in documents() if body["kind"].endswith("Binding")]
    assert len(bindings) == 2
    for binding in bindings:
        assert binding["roleRef"]["name"] == AGENT
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": AGENT, "namespace": NAMESPACE}
        ]
    assert pod()["serviceAccountName"] == one("ServiceAccount")["metadata"]["name"] == AGENT


def test_its_namespace_is_apart_and_allows_what_the_system_namespace_forbids() -> None:
    namespace = one("Namespace")
    assert namespace["metadata"]["name"] == NAMESPACE
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    assert one("Deployment")["metadata"]["namespace"] == NAMESPACE


def test_it_is_root_with_a_socket_and_nothing_else() -> None:
    (container,) = pod()["containers"]
    assert pod()["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["volumes"] == [
        {"name": "engine", "hostPath": {"path": "/var/run/docker.sock", "type": "Socket"}}
    ]
    assert container["volumeMounts"] == [{"name": "engine", "mountPath": "/var/run/docker.sock"}]
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        assert field not in pod()


def test_there_is_one_of_it_on_the_node_that_never_fails() -> None:
    deployment = one("Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert pod()["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}
    (container,) = pod()["containers"]
    assert container["args"] == ["power-agent"]
    assert {it["name"] for it in container["env"]} == {"POD_NAME", "NODE_NAME"}


@pytest.mark.parametrize("body", documents(), ids=lambda body: body["kind"])
def test_everything_is_labelled_as_a_part_of_asetwin(body: Body) -> None:
    assert body["metadata"]["labels"]["app.kubernetes.io/part-of"] == "asetwin"
