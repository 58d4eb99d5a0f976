"""Golden cases: a scenario in, every turn's plan and the cluster at the end out.

``golden/<case>.input.yaml`` is a scenario of :mod:`asetwin.sim.scenarios` over
the files in ``manifests/samples``. ``golden/<case>.output.yaml`` is what comes
of it, written by ``pytest tests/unit/test_golden.py --update-golden``; read
the difference before you commit it.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from asetwin.resources.conditions import Reason
from asetwin.sim import invariants, scenarios
from asetwin.sim.world import World

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
CASES = sorted(path.name.removesuffix(".input.yaml") for path in GOLDEN.glob("*.input.yaml"))

# In the list of reasons, but nothing gives them (yet).
UNUSED: set[Reason] = {Reason.FAILOVER_NOT_READY}


def render(world: World) -> str:
    content: dict[str, Any] = {
        "turns": [{f"{at:.2f} {device or 'unbound'}": steps} for at, device, steps in world.turns],
        "end": world.picture(),
    }
    return yaml.safe_dump(content, sort_keys=False, width=10_000, allow_unicode=True)


@pytest.mark.parametrize("case", CASES)
def test_a_scenario_gives_its_golden_output(case: str, pytestconfig: pytest.Config) -> None:
    scenario = scenarios.read(GOLDEN / f"{case}.input.yaml", SAMPLES)
    found = render(scenarios.play(scenario, prepare=invariants.watch))
    output = GOLDEN / f"{case}.output.yaml"
    if pytestconfig.getoption("update_golden"):
        output.write_text(found)
    assert found == output.read_text(), "see the docstring of this module"


def test_every_output_belongs_to_a_case() -> None:
    outputs = {path.name.removesuffix(".output.yaml") for path in GOLDEN.glob("*.output.yaml")}
    assert outputs == set(CASES)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_given_in_at_least_one_golden_output(reason: Reason) -> None:
    pattern = re.compile(rf"\b(True|False|Unknown)[/ ]{reason}\b")
    cases = [path for path in GOLDEN.glob("*.output.yaml") if pattern.search(path.read_text())]
    if reason in UNUSED:
        assert not cases, "take it off the list of unused ones"
    else:
        assert cases, f"add a case in which some condition has the reason {reason}"
