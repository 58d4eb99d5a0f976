"""Our placement against the real kube-scheduler, pod by pod, with the same class of reason.

More cases: ``./hack/bench oracle --cases N --seed S``.
"""

import asyncio
import os

import pytest

from asetwin.kube import client
from e2e import oracle, oracle_cases
from e2e.twin import Twin

CASES = 320
BATCH = 80
SEED = int(os.environ.get("ASETWIN_SEED", "1"))


async def ask(seed: int, count: int) -> tuple[oracle.Runner, list[oracle.Disagreement]]:
    async with client.connect() as api:
        runner = oracle.Runner(api)
        await runner.prepare()
        try:
            found = list[oracle.Disagreement]()
            for start in range(0, count, BATCH):
                numbers = range(start, min(count, start + BATCH))
                found += await runner.run(
                    oracle_cases.Maker(seed, number).make() for number in numbers
                )
            if found:
                found = [await oracle.shrink(runner, found[0]), *found[1:]]
        finally:
            await runner.end()
    return runner, found


@pytest.mark.timeout(900)
def test_the_scheduler_decides_as_placement_does(cluster: Twin) -> None:
    runner, found = asyncio.run(ask(SEED, CASES))
    rate = f"{len(found)} of {runner.pods} pods of {CASES} cases, seed {SEED}"
    if found:
        pytest.fail(f"{rate}; the smallest: {found[0]}\n{found[0].case.as_yaml()}")
    # Cases that are all alike would prove little.
    assert runner.pods >= CASES
    words = {"Capacity", "GPU", "HostPort", "NodeAffinity", "NodeLocalVolume", "PodAffinity"}
    words |= {"PodAntiAffinity", "PodSlots", "Taint", "TopologySpread", "fits", "preempts"}
    assert words <= set(runner.kinds), runner.kinds
