"""``asetwin simulate`` through its command line: output, exit status, quick start."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from asetwin.cli.app import app

SCENARIOS = Path(__file__).parents[2] / "manifests" / "samples" / "scenarios"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, args)])


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    path = tmp_path / "failing.yaml"
    path.write_text(
        "name: Not so\ntiming: Fast\nend: 60s\nevents: [{at: 5s, fail: node-a/Node}]\n"
        "expect: [{device: Online}]\n"
    )
    return path


def test_one_scenario_is_told_in_lines_of_a_hundred_columns() -> None:
    result = run(SCENARIOS / "a-fails.yaml")
    assert result.exit_code == 0
    assert "PASS" in result.stdout
    assert "Node fails" in result.stdout
    assert "longest outage of master" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_an_expectation_that_does_not_hold_is_a_finding(failing: Path) -> None:
    result = run(failing)
    assert result.exit_code == 1
    assert "FAIL\n" in result.stdout
    assert "expect[0]: the device is NeedsAttention, not Online" in result.stdout


def test_a_folder_is_a_table_with_the_objections_after_it(failing: Path) -> None:
    good = failing.parent / "good.yaml"
    good.write_text("timing: Fast\nend: 5s\n")
    result = run(failing.parent)
    assert result.exit_code == 1
    assert "1 of 2 scenarios passed" in result.stdout
    assert "node-a to node-b" not in result.stdout
    assert "shop/web" in run(failing.parent, "--timeline").stdout


def test_json_has_the_timeline_and_the_measures(failing: Path) -> None:
    result = run(failing, "-o", "json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["verdict"]) == (1, "FAIL")
    (scenario,) = answer["scenarios"]
    assert scenario["timeline"][0] == {"t": 5.0, "object": "node-a", "event": "Node fails"}
    assert scenario["failovers"][0]["recovered"] == 3
    assert scenario["outageSeconds"]["master"] > 0


def test_junit_has_a_case_per_scenario(failing: Path) -> None:
    suite = ElementTree.fromstring(
        run(failing, SCENARIOS / "a-degraded.yaml", "-o", "junit").stdout
    )
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [one.find("failure") is not None for one in suite.findall("testcase")] == [True, False]


def test_bad_input_is_told_before_anything_runs(failing: Path) -> None:
    bad = failing.parent / "bad.yaml"
    bad.write_text("evnts: []")
    result = subprocess.run(
        [sys.executable, "-m", "asetwin.cli.main", "simulate", str(failing.parent)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "operator")},
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: {bad}: evnts: there is no such field; see docs/simulation.md for those that "
        "there are\n"
    )


def test_it_starts_without_the_libraries_of_a_real_cluster() -> None:
    code = (
        "import sys; import asetwin.cli.app, asetwin.sim.plays; "
        "print(sorted({'kopf', 'kubernetes', 'aiohttp', 'aiodocker'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "operator")},
    )
    assert done.stdout.strip() == "[]"
