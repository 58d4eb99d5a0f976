"""``asetwin fuzz`` through its command line."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from asetwin.cli import fuzz
from asetwin.cli.app import app
from asetwin.sim.fuzzing import Finding, Outcome


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["fuzz", *map(str, args)])


def test_nothing_found_is_good_and_says_what_was_reached() -> None:
    result = run("--seeds", "2", "--workers", "1", "--profile", "hardware")
    assert result.exit_code == 0
    assert "nothing found" in result.stdout
    assert "node transitions" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_json_has_the_rate_and_the_coverage() -> None:
    result = run("--seeds", "1", "--workers", "1", "--from", "7", "-o", "json")
    answer = json.loads(result.stdout)
    assert (answer["seeds"], answer["findings"]) == (1, [])
    assert answer["seedsPerSecond"] > 0
    assert any(name.startswith("node ") for name in answer["coverage"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--profile", "everything"), "write one of all, hardware, faults, people"),
        (("--out", __file__), "File exists; name a folder"),
        (("--seeds", "0"), "'--seeds'"),
    ],
)
def test_bad_input_is_refused(args: tuple[str, ...], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_folder_for_findings_is_made_before_anything_is_played(tmp_path: Path) -> None:
    # It was found missing only when hack/soak had compiled for minutes.
    folder = tmp_path / "new" / "found"
    assert run("--seeds", "1", "--workers", "1", "--out", folder).exit_code == 0
    assert folder.is_dir()


def test_a_finding_ends_the_run_and_names_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(4, "OneMaster", ["two of them"], {"events": [], "timing": "Fast"})
    outcomes = [Outcome(3), Outcome(4, finding=finding), Outcome(5)]
    monkeypatch.setattr(fuzz, "run", lambda *args, **rest: iter(outcomes))
    result = run("--out", tmp_path)
    path = tmp_path / "fuzz-all-4.yaml"
    assert result.exit_code == 1
    assert f"0 events show it: asetwin simulate {path}" in result.stdout
    assert path.read_text() == "# two of them\nevents: []\ntiming: Fast\n"
    assert "2 seeds" in result.stdout
    assert "3 seeds" in run("--out", tmp_path, "--keep-going").stdout


def test_a_long_run_says_how_far_it_is_and_what_it_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(1, "OneMaster", ["two of them"], {"events": [], "timing": "Fast"})
    outcomes = [Outcome(0), Outcome(1, finding=finding), Outcome(2)]
    monkeypatch.setattr(fuzz, "run", lambda *args, **rest: iter(outcomes))
    monkeypatch.setattr(fuzz, "REPORT_SECONDS", 0.0)
    told = run("--out", tmp_path, "--keep-going", "--seeds", "3").stderr.splitlines()
    assert [line.split(",")[0] for line in told if " of 3 seeds" in line] == [
        f"{count} of 3 seeds" for count in (1, 2, 3)
    ]
    assert told[-1].endswith("found: 1")
    assert "seed 1: OneMaster" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_tells_what_it_has_done(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **rest: object) -> Iterator[Outcome]:
        yield Outcome(0)
        if number == signal.SIGINT:
            # Not sent: a process that a shell has started in the background ignores it.
            raise KeyboardInterrupt
        os.kill(os.getpid(), number)

    monkeypatch.setattr(fuzz, "run", stopped)
    result = run()
    assert result.exit_code == 128 + number
    assert "1 seeds" in result.stdout
