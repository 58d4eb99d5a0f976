"""Each small wrong version of a rule is found by the fuzzer, and soon (design 5)."""

import gc

import pytest

from asetwin.sim import fuzzing
from asetwin.sim.fuzzing import Finding, Profile
from sim import mutants

MOST_SEEDS = 2000
PROFILES = (Profile.HARDWARE, Profile.FAULTS, Profile.PEOPLE, Profile.ALL)


def found_by() -> tuple[int, Finding]:
    """How many seeds it takes, all profiles in turn, and what was found."""
    for number in range(MOST_SEEDS):
        seed, profile = divmod(number, len(PROFILES))
        outcome = fuzzing.run(seed, PROFILES[profile], shrinks=False)
        if number % 50 == 0:
            gc.collect()
        if outcome.finding is not None:
            return number + 1, outcome.finding
    pytest.fail(f"not found within {MOST_SEEDS} seeds")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(mutants.ALL))
def test_a_mutant_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutants.ALL[name](monkeypatch)
    count, finding = found_by()
    print(f"{name}: {count} seeds: {finding.objections[0]}")
    # A mutant that no longer fits what it changes breaks down at once, and would prove nothing.
    assert "broke down" not in finding.objections[0], finding.objections
    # Without the mutant the same seed shows nothing: it is the mutant that was found.
    monkeypatch.undo()
    assert fuzzing.play(finding.content, name)[0].passed


def test_there_are_mutants_enough() -> None:
    assert len(mutants.ALL) >= 12
    assert all(one.__doc__ for one in mutants.ALL.values())
