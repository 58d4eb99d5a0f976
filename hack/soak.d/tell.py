"""Print what some seeds did, to compare the compiled rules with the interpreted ones.

usage: python tell.py FIRST COUNT
"""

import logging
import sys

from asetwin.sim import fuzzing


def main() -> None:
    """One line a seed."""
    logging.disable(logging.CRITICAL)
    first, count = (int(one) for one in sys.argv[1:])
    for seed in range(first, first + count):
        done = fuzzing.run(seed, shrinks=False)
        finding = done.finding and done.finding.objections
        print(seed, done.failures, done.device_seconds, sorted(done.coverage.items()), finding)


if __name__ == "__main__":
    main()
