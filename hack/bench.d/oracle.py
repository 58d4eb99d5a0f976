"""Many generated cases: does the real kube-scheduler decide as our placement does?

The cases are those of ``tests/e2e/oracle_cases.py``; a disagreement is shrunk and
printed as YAML that can be applied.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from asetwin.kube import client

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from e2e import oracle, oracle_cases


async def measure(cases: int, seed: int, batch: int, most: int) -> dict[str, object]:
    """Run the cases; the figures, with at most ``most`` disagreements."""
    async with client.connect() as api:
        runner = oracle.Runner(api)
        await runner.prepare()
        began, found, done = time.monotonic(), list[oracle.Disagreement](), 0
        try:
            while done < cases and len(found) < most:
                numbers = range(done, min(cases, done + batch))
                found += await runner.run(
                    oracle_cases.Maker(seed, number).make() for number in numbers
                )
                done = numbers.stop
                rate = done / (time.monotonic() - began)
                print(f"{done} cases, {len(found)} disagree, {rate:.1f} a second", flush=True)
            seconds = time.monotonic() - began
            for one in found[:1]:
                smallest = await oracle.shrink(runner, one)
                print(f"\n# case {one.case.number}: {smallest}\n{smallest.case.as_yaml()}")
            for one in found[1:]:
                print(f"case {one.case.number}: {one}")
        finally:
            await runner.end()
    agreed = 100 * (runner.pods - len(found)) / max(1, runner.pods)
    return {
        "seed": seed,
        "cases": done,
        "pods": runner.pods,
        "disagreements": len(found),
        "agreementPercent": round(agreed, 3),
        "casesPerSecond": round(done / seconds, 1),
        "kinds": dict(runner.kinds.most_common()),
    }


def main() -> int:
    """Measure and print; 1 where the scheduler disagrees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cluster", help="not used: the kubeconfig says which one")
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=80)
    parser.add_argument("--most", type=int, default=5, help="stop after so many disagreements")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = asyncio.run(measure(given.cases, given.seed, given.batch, given.most))
    print(
        f"seed {figures['seed']}: {figures['cases']} cases, {figures['pods']} pods, "
        f"{figures['agreementPercent']} % agree, {figures['casesPerSecond']} cases a second"
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["disagreements"] else 0


if __name__ == "__main__":
    sys.exit(main())
