"""Every sample scenario holds what it expects, and says nothing that is not in the design."""

from pathlib import Path

import pytest

from asetwin.sim import files, plays

SCENARIOS = Path(__file__).parents[2] / "manifests" / "samples" / "scenarios"
ALL = sorted(SCENARIOS.glob("*.yaml"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_sample_scenario_passes(path: Path) -> None:
    scenario = files.read(path)
    result = plays.play(scenario)
    assert result.objections == []
    # One that expects nothing would pass whatever happens.
    assert result.expectations == len(scenario.content.expect) >= 3


@pytest.mark.parametrize("name", ["a-fails", "stopped-by-hand", "both-fail", "b-reboots"])
def test_what_is_left_out_in_quiet_makes_no_difference(name: str) -> None:
    scenario = files.read(SCENARIOS / f"{name}.yaml")
    quiet, full = (plays.Play(scenario, is_quiet=one).run() for one in (True, False))
    assert [(row.object, row.text) for row in quiet.rows] == [
        (row.object, row.text) for row in full.rows
    ]
    moments = zip(quiet.rows, full.rows, strict=True)
    assert max(abs(one.t - other.t) for one, other in moments) < 0.1


def test_there_is_one_for_each_documented_response() -> None:
    documented = {
        *("a-both-psus", "a-storage-port", "a-core-part", "a-fails", "a-reboots", "a-degraded"),
        *("b-fails", "b-reboots", "gpu-fails", "data-disks", "shares", "both-fail"),
        "witness-then-a",
        *("update-device-software", "update-kubernetes", "update-then-a-fails"),
        *("update-held-by-budget", "update-queue"),
    }
    assert documented <= {path.stem for path in ALL}
