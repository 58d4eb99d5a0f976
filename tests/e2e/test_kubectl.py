"""What people see: columns, explain, describe, in a terminal of 100 columns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from e2e.twin import DEVICE, NODE_A, OURS, ROOT, Twin


def test_get_shows_the_device_at_a_glance(twin: Twin) -> None:
    table = twin.kubectl("get", "ased,asen,pw")
    heads = [line.split() for line in table.splitlines() if line.startswith("NAME")]
    assert heads[0][1:] == ["STATE", "MASTER", "VOTES", "RESERVE", "FAILOVER", "AGE"]
    assert heads[1][1:] == ["DEVICE", "SLOT", "STATE", "NODE", "FAILED", "AGE"]
    assert heads[2][1:] == ["ASENODE", "NODE", "POWER", "ACCEPTED", "AGE"]
    assert "Online" in table
    assert "3/3" in table
    assert max(map(len, table.splitlines())) <= 100


def test_get_shows_a_failure_at_a_glance(twin: Twin) -> None:
    twin.fail(NODE_A, "PSU1")
    twin.wait("it to be active", lambda: "Active" in twin.kubectl("get", "hwf"))
    twin.wait("the device to say so", lambda: twin.status()["state"] == "NeedsAttention")
    table = twin.kubectl("get", "hwf,asen")
    assert "PSU1" in table
    assert max(map(len, table.splitlines())) <= 100
    assert twin.status("AseNode", NODE_A)["state"] == "Up"


@pytest.mark.parametrize(
    "path",
    [
        "ased.spec.witness",
        "ased.spec.reserve.percent",
        "ased.spec.timing.masterBootSeconds",
        "ased.status.failover.workloads",
        "asen.spec.hardware.powerSupplies",
        "pw.spec.nodeName",
        "pw.status.power.observed",
        "hwf.spec.component",
        "hwf.status.proof",
    ],
)
def test_explain_tells_what_a_field_is(twin: Twin, path: str) -> None:
    text = twin.kubectl("explain", path)
    description = text.split("DESCRIPTION:", 1)[1].split("FIELDS:", 1)[0]
    assert len(description.split()) >= 4


def test_describe_tells_the_story(twin: Twin) -> None:
    # The reason alone would not do: earlier tests have left Events of the same reason.
    words = "Port1 failed: management network affected"
    twin.fail(NODE_A, "Port1")

    def told() -> list[list[str]]:
        lines = map(str.strip, twin.kubectl("describe", "asen", NODE_A).splitlines())
        said = [line.split()[:2] for line in lines if line.endswith(words)]
        # Both: kubectl reads the object first and its Events afterwards.
        return said if {"Summary:", "Warning"} <= {first for first, _ in said} else []

    said = twin.wait("describe to tell of Port1, in the status and as an Event", told)
    assert ["Warning", "ComponentFailed"] in said
    assert ["Summary:", "Port1"] in said


def test_the_category_lists_all_kinds(twin: Twin) -> None:
    text = twin.kubectl("get", "asetwin", "-o", "name")
    assert f"asedevice.asetwin.dev/{DEVICE}" in text
    assert "pinnedworker.asetwin.dev/worker-a" in text


def test_an_overlay_that_replaces_the_image_replaces_the_masters_too(
    twin: Twin, tmp_path: Path
) -> None:
    overlay = {
        "resources": [os.path.relpath(ROOT / "manifests" / "overlays" / "kind", tmp_path)],
        "images": [
            {"name": "asetwin.local/operator", "newName": "example.test/twin", "newTag": "7"}
        ],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    bodies = list(yaml.safe_load_all(twin.kubectl("kustomize", str(tmp_path))))
    (deployment,) = (body for body in bodies if body["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "example.test/twin:7"
    assert container["env"][0] == {"name": "ASETWIN_IMAGE", "value": "example.test/twin:7"}
    kinds = {
        body["spec"]["names"]["kind"]
        for body in bodies
        if body["kind"] == "CustomResourceDefinition"
    }
    assert kinds == set(OURS)


def test_the_demo_passes_and_writes_what_it_saw(twin: Twin, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    tools = os.pathsep.join(
        [str(twin.kind.kubectl_path.parent), str(twin.kind.kind_path.parent), os.environ["PATH"]]
    )
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "hack" / "demo.py"),
            "--cluster",
            twin.kind.name,
            "--json",
            str(file),
        ],
        env={**os.environ, "KUBECONFIG": str(twin.kind.kubeconfig_path), "PATH": tools},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    twin.delete("Namespace", "shop")
    # The demo has applied the sample as it is; these tests need its quarantine to be milder.
    twin.apply_sample("device.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    assert result["verdict"] == "PASS"
    assert result["restored"] is True
    assert result["failover"]["displaced"] == result["failover"]["recovered"] > 0
    times = [row["t"] for row in result["timeline"]]
    assert times == sorted(times)
    print(done.stdout)
