"""`asetwin check`: manifests in, findings out; the golden cases are in ``tests/check``."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asetwin.cli import documents
from asetwin.cli.app import app
from asetwin.model.checks import manifests, scenes, verdicts
from asetwin.model.checks.findings import HINTS, MEANING
from unit.builders import ANY_SPEED

CASES = Path(__file__).parents[1] / "check"
NAMES = sorted(path.parent.name for path in CASES.glob("*/input.yaml"))


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    result = CliRunner().invoke(app, ["check", *arguments], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def check(text: str) -> Any:
    """The answer for a stream, as JSON."""
    status, out, err = run("-f", "-", "-o", "json", stdin=text)
    assert status in (0, 1), err
    return json.loads(out)


def arguments(case: str) -> list[str]:
    device = CASES / case / "device.yaml"
    more = ["--device", f"{case}/device.yaml"] if device.exists() else []
    return ["-f", f"{case}/input.yaml", *more]


@pytest.mark.parametrize("case", NAMES)
def test_a_case_gives_its_golden_answer(
    case: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CASES)
    status, out, err = run(*arguments(case), "-o", "json")
    assert err == ""
    expected = CASES / case / "expected.json"
    if pytestconfig.getoption("update_golden"):
        expected.write_text(out)
    assert out == expected.read_text(), "see tests/check/README.md"
    assert status == (0 if json.loads(out)["verdict"] == "pass" else 1)


def test_every_reason_is_in_a_golden_answer() -> None:
    found = {
        one["reason"]
        for path in CASES.glob("*/expected.json")
        for one in json.loads(path.read_text())["findings"]
    }
    assert found == {str(one) for one in MEANING} == {str(one) for one in HINTS}


# --- Input ----------------------------------------------------------------------------------------

WEB = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web
          resources:
            requests: {cpu: 100m, memory: 64Mi}
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param(
            "replicas: 2",
            "replicas: two",
            "<stdin>:6: spec.replicas: must be a whole number, 0 or more; it is 'two'",
            id="type",
        ),
        pytest.param(
            "cpu: 100m",
            "cpu: 100mm",
            "<stdin>:16: spec.template.spec.containers[0].resources.requests.cpu: must be a "
            "quantity such as 500m, 2 or 1.5Gi; it is '100mm'",
            id="quantity",
        ),
        pytest.param(
            "labels: {app: web}\n    spec",
            "labels: {app: 7}\n    spec",
            "<stdin>:11: spec.template.metadata.labels.app: must be a string",
            id="label",
        ),
        pytest.param(
            "        - name: web\n",
            "        - image: web\n",
            "<stdin>:14: spec.template.spec.containers[0].name: is missing",
            id="required",
        ),
        pytest.param("  name: web\n", "  nam: web\n", "metadata.name: is missing", id="no-name"),
        pytest.param(
            "kind: Deployment\n", "", "<stdin>:1: kind: is missing: every object has one", id="kind"
        ),
        pytest.param(
            "    matchLabels: {app: web}\n",
            "    matchLabels: {app: web\n",
            "<stdin>:9: is not YAML: did not find expected ',' or '}'",
            id="broken",
        ),
        pytest.param("  replicas: 2", "\treplicas: 2", "<stdin>:6: is not YAML: ", id="tab"),
        pytest.param(
            "      containers:",
            "      tolerations: [{effect: Never}]\n      containers:",
            "spec.template.spec.tolerations[0].effect: must be NoSchedule or PreferNoSchedule or "
            "NoExecute; it is 'Never'",
            id="word",
        ),
        pytest.param(
            "      containers:",
            "      affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
            "{nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Gt, values: [b]}]}]}}}\n"
            "      containers:",
            "matchExpressions[0].values: must be one whole number in quotes for Gt",
            id="greater-than-a-word",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_field(old: str, new: str, told: str) -> None:
    assert old in WEB
    status, out, err = run("-f", "-", stdin=WEB.replace(old, new))
    assert (status, out) == (2, "")
    assert err.startswith("error: <stdin>:")
    assert told in err


def test_every_fault_of_every_document_is_told_in_the_order_of_the_lines() -> None:
    text = WEB.replace("replicas: 2", "replicas: -1") + "---\n" + WEB.replace("100m", "x")
    _, _, err = run("-f", "-", stdin=text)
    assert [line.split(": ")[1] for line in err.splitlines()] == ["<stdin>:6", "<stdin>:33"]


def test_a_list_has_the_lines_of_its_items() -> None:
    text = "kind: List\nitems:\n- kind: Pod\n  metadata: {name: a}\n  spec:\n    containers: 7\n"
    _, _, err = run("-f", "-", stdin=text)
    assert err == "error: <stdin>:6: spec.containers: must be a list; it is 7\n"


def test_a_file_that_is_not_there_is_bad_input() -> None:
    status, _, err = run("-f", "nowhere.yaml")
    assert status == 2
    assert "nowhere.yaml: there is no such file or folder" in err


def test_a_folder_is_read_file_by_file_and_below_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "a.yaml").write_text(WEB)
    (tmp_path / "notes.txt").write_text("[")
    (tmp_path / "below" / "b.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}})
    )
    flat = json.loads(run("-f", str(tmp_path), "-o", "json")[1])
    deep = json.loads(run("-R", "-f", str(tmp_path), "-o", "json")[1])
    assert (flat["summary"]["documents"], deep["summary"]["documents"]) == (1, 2)


def test_an_empty_folder_names_the_way_out(tmp_path: Path) -> None:
    status, _, err = run("-f", str(tmp_path))
    assert status == 2
    assert "no manifests" in err
    assert "-R" in err


def test_a_kustomize_folder_without_kubectl_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run("-f", str(tmp_path))
    assert status == 2
    assert "needs kubectl on the PATH" in err


def fake_kubectl(folder: Path, script: str) -> None:
    program = folder / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    program.chmod(0o755)


def test_a_kustomize_folder_is_built_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    (tmp_path / "built").write_text(WEB)
    fake_kubectl(tmp_path, f'test "$1" = kustomize || exit 9\nexec cat "{tmp_path}/built"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    status, out, _ = run("-f", str(tmp_path))
    assert status == 0
    assert "1 workloads, 2 pods" in out


def test_a_kustomize_folder_that_does_not_build_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    fake_kubectl(tmp_path, 'echo "accumulating resources: gone.yaml" >&2\nexit 1')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    status, _, err = run("-f", str(tmp_path))
    assert status == 2
    assert "kubectl kustomize: accumulating resources: gone.yaml" in err


def test_a_device_without_nodes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "device.yaml"
    file.write_text("kind: AseDevice\nmetadata: {name: ase}\n")
    status, _, err = run("-f", "-", "--device", str(file), stdin=WEB)
    assert status == 2
    assert "no AseNode names the device ase; add one for each node" in err


def test_a_field_of_the_device_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "device.yaml"
    file.write_text("kind: AseDevice\nmetadata: {name: ase}\nspec:\n  reserve: {percent: much}\n")
    status, _, err = run("-f", "-", "--device", str(file), stdin=WEB)
    assert status == 2
    assert f"error: {file}:4: spec.reserve.percent: " in err


def test_two_devices_at_once_are_refused(tmp_path: Path) -> None:
    status, _, err = run("-f", "-", "--device", "x", "--from-cluster", stdin=WEB)
    assert status == 2
    assert "exclude each other" in err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("yes", True, id="yes"),
        pytest.param("off", False, id="off"),
        pytest.param("010", 8, id="octal"),
        pytest.param("0x10", 16, id="hexadecimal"),
        pytest.param("1_000", 1000, id="underscores"),
        pytest.param("12:30:45", "12:30:45", id="a-time-is-text"),
        pytest.param("2026-01-02", "2026-01-02", id="a-date-is-text"),
        pytest.param("~", None, id="null"),
        pytest.param("1.5", 1.5, id="float"),
        pytest.param('"7"', "7", id="quoted"),
    ],
)
def test_scalars_are_read_as_kubectl_reads_them(text: str, value: Any) -> None:
    found, faults = list[manifests.Document](), list[manifests.Fault]()
    documents.parse(f"a: {text}", "x", found, faults)
    assert not faults
    assert found[0].body == {"a": value}
    assert type(found[0].body["a"]) is type(value)


def test_anchors_and_merge_keys_are_resolved() -> None:
    found, faults = list[manifests.Document](), list[manifests.Fault]()
    text = "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\n"
    documents.parse(text, "x", found, faults)
    assert found[0].body["own"] == {"x": 1, "y": 3}


def test_an_alias_that_contains_itself_is_a_fault() -> None:
    _, _, err = run("-f", "-", stdin="kind: &a [*a]\n")
    assert err.startswith("error: <stdin>:1: ")


@ANY_SPEED
@given(st.text(max_size=60))
def test_no_text_whatever_ends_in_a_traceback(text: str) -> None:
    status, _, err = run("-f", "-", stdin=f"{text}\n")
    assert status in (0, 1, 2), err


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "web", "1Gi", "50%"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["name", "spec", "cpu"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = sorted({key for text in WEB.split() if (key := text.strip("{}-")).endswith(":")})


@ANY_SPEED
@given(st.sampled_from(FIELDS), JSON_VALUES, st.sampled_from(sorted(manifests.WORKLOADS)))
def test_no_wrong_type_ends_in_a_traceback(key: str, value: Any, kind: str) -> None:
    import yaml

    body = yaml.safe_load(WEB)
    body["kind"] = kind

    def mangle(node: Any) -> None:
        for name, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if name == key.rstrip(":"):
                node[name] = value
            elif isinstance(inner, dict | list):
                mangle(inner)

    mangle(body)
    status, _, err = run("-f", "-", stdin=yaml.safe_dump(body))
    assert status in (0, 1, 2), err


# --- Output ---------------------------------------------------------------------------------------


def test_the_text_fits_into_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    for case in NAMES:
        _, out, _ = run(*arguments(case))
        assert max(map(len, out.splitlines())) <= 100, case


def test_what_either_loss_would_do_is_told_once_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    status, out, _ = run("-f", "anti-affinity/input.yaml")
    assert status == 1
    assert out.count("PodAntiAffinity, if A or B is lost") == 1


def test_junit_has_a_case_for_each_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    _, out, _ = run("-f", "budgets/input.yaml", "-o", "junit")
    suite = ElementTree.fromstring(out)
    summary = json.loads((CASES / "budgets" / "expected.json").read_text())["summary"]
    assert int(suite.attrib["tests"]) == len(suite) == summary["workloads"]
    assert int(suite.attrib["failures"]) == sum(
        1 for one in suite if one.find("failure") is not None
    )


def test_sarif_points_to_file_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    _, out, _ = run("-f", "bare-pod/input.yaml", "-o", "sarif")
    (one,) = json.loads(out)["runs"]
    rules = [rule["id"] for rule in one["tool"]["driver"]["rules"]]
    (result,) = one["results"]
    assert rules[result["ruleIndex"]] == result["ruleId"] == "NoController"
    place = result["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "bare-pod/input.yaml"},
        "region": {"startLine": 1},
    }


def test_information_alone_passes() -> None:
    answer = check(WEB.replace("replicas: 2", "replicas: 1"))
    assert answer["verdict"] == "pass"
    assert [one["severity"] for one in answer["findings"]] == ["info"]


# --- Speed ----------------------------------------------------------------------------------------


def test_a_thousand_workloads_take_less_than_two_seconds_of_work() -> None:
    """Of processor time, so that a busy machine says nothing else."""
    text = "---\n".join(WEB.replace("web", f"web-{number}") for number in range(1000))
    before = time.process_time()
    found, faults = list[manifests.Document](), list[manifests.Fault]()
    documents.parse(text, "x", found, faults)
    verdict = verdicts.judge(manifests.read(found), scenes.standard())
    assert time.process_time() - before < 2.0
    assert verdict.summary["workloads"] == 1000


def test_what_the_check_does_not_need_is_not_imported() -> None:
    script = """
import sys
from asetwin.cli.app import app
try:
    app(["check", "-f", "/dev/null"])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"kopf", "kubernetes", "rich", "prometheus_client"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
