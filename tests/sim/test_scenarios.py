"""Scenario files: what is read, what is refused, what they make happen."""

from pathlib import Path

import pytest
import yaml

from asetwin.sim import scenarios
from asetwin.sim.scenarios import ScenarioError

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"


def read(tmp_path: Path, text: str) -> scenarios.Scenario:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return scenarios.read(path, SAMPLES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("- a", "is not a mapping", id="list"),
        pytest.param("{end: 1, strat: []}", "unknown fields: strat", id="field"),
        pytest.param(
            "{end: 1, events: [{at: 1, fial: []}]}", "one of addNode, agent, apply", id="verb"
        ),
        pytest.param(
            "{end: 1, events: [{at: 1, fail: [a/PSU1], repair: [a/PSU1]}]}", "one of", id="two"
        ),
        pytest.param(
            "{end: 9, events: [{at: 5, fail: []}, {at: 3, fail: []}]}", "the order", id="order"
        ),
    ],
)
def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "path", sorted((SAMPLES / "failures").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_failure_is_named_as_in_the_samples(path: Path) -> None:
    for sample in yaml.safe_load_all(path.read_text()):
        spec = sample["spec"]
        is_plain = set(spec) == {"node", "component"}
        made = scenarios.failure(f"{spec['node']}/{spec['component']}")
        assert not is_plain or made["metadata"]["name"] == sample["metadata"]["name"]


def test_a_scenario_plays_to_its_end(tmp_path: Path) -> None:
    text = "{start: [device.yaml], events: [{at: 8, fail: [node-a/PSU1]}], end: 9.5}"
    world = scenarios.play(read(tmp_path, text))
    assert world.now == 9.5
    assert world.device().status.state == "NeedsAttention"
