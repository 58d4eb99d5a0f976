"""Random bad hours: a share of the seeds, the same in every process, and short findings."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from asetwin.cli import fuzz
from asetwin.sim import files, fuzzing, plays
from asetwin.sim.fuzzing import Profile
from sim import mutants


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("start", range(0, 40, 10))
def test_a_bad_hour_leaves_nothing_behind(profile: Profile, start: int) -> None:
    for seed in range(start, start + 10):
        outcome = fuzzing.run(seed, profile, shrinks=False)
        assert outcome.finding is None, outcome.finding
        assert outcome.device_seconds >= fuzzing.LENGTH_SECONDS
        assert outcome.failures >= 3


def test_what_may_happen_does_happen() -> None:
    verbs = Counter[str]()
    for profile in Profile:
        for seed in range(60):
            for event in fuzzing.generate(seed, profile)["events"]:
                verbs.update(set(event) - {"at"})
    drawn = {
        "fail",
        "repair",
        "reboot",
        "update",
        "witness",
        "operator",
        "faults",
        "watch",
        "clock",
        "agent",
    }
    drawn |= {"stop", "start", "pause", "silence", "restart", "patch", "deletePods", "scale"}
    assert set(verbs) == drawn | {"apply", "delete", "forgive", "heal"}


def test_people_delete_workloads_and_limit_what_may_be_created() -> None:
    met = Counter[str]()
    for seed in range(60):
        for event in fuzzing.generate(seed, Profile.PEOPLE)["events"]:
            for verb in ("apply", "delete"):
                for body in event.get(verb, ()):
                    met[f"{verb} {body['kind']} {body['metadata']['name']}"] += 1
    assert met["delete Deployment web"]
    assert met["delete StatefulSet db"]
    assert met[f"apply ResourceQuota {plays.FOREIGN_QUOTA}"]


def test_the_quiet_profile_does_what_it_says() -> None:
    for seed in range(40):
        events = fuzzing.generate(seed, Profile.HARDWARE)["events"]
        verbs = {verb for one in events for verb in one if verb != "at"}
        assert verbs <= {"fail", "repair", "reboot", "witness", "heal"}


@pytest.mark.parametrize("seed", [3, 15])
def test_another_process_does_the_same(seed: int) -> None:
    code = (
        "import hashlib; from asetwin.sim import fuzzing, files, plays; from pathlib import Path\n"
        f"s = files.parse(fuzzing.generate({seed}), Path('x'))\n"
        "r = plays.Play(s, is_refusal_wrong=False).run()\n"
        "print(len(r.rows), hashlib.sha256(repr((r.rows, r.outages)).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(found) == 1
    assert int(found.pop().split()[0]) > 50


def test_workers_give_the_same_outcomes_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "CHUNK", 3)
    alone = list(fuzz.run(0, 9, "hardware", workers=1))
    together = list(fuzz.run(0, 9, "hardware", workers=2))
    assert [one.seed for one in together] == list(range(9))
    assert alone == together


def test_a_finding_is_short_and_is_replayed_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.ALL["skips_the_fence"](monkeypatch)
    outcome = next(
        one
        for one in (fuzzing.run(seed, Profile.HARDWARE) for seed in range(50))
        if one.finding is not None
    )
    assert outcome.finding is not None
    path = fuzz.write(outcome.finding, "hardware", tmp_path)
    content = yaml.safe_load(path.read_text())
    assert len(content["events"]) <= 2
    assert plays.play(files.read(path)).violation == outcome.finding.what == "FencedPods"
    monkeypatch.undo()
    assert plays.play(files.read(path)).passed
