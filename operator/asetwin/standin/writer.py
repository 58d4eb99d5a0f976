"""The sample writer: appends one line per second to a file, so that a failover can be read there.

Run as ``python3 -m asetwin.standin.writer FILE`` with the operator's image.
A line has the time, the pod and its node; ``HOSTNAME`` and ``NODE_NAME`` come
from the environment. Ends on SIGTERM, and with status 1 where FILE cannot be
written.
"""

import os
import signal
import sys
import time
from datetime import UTC, datetime

PERIOD_SECONDS = 1.0


def line(pod: str, node: str, now: float) -> str:
    """One line, with its end."""
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S.%fZ} pod={pod} node={node}\n"


def main() -> int:
    """Write until a signal ends it; returns the exit status."""
    if len(sys.argv) != 2:
        print("error: usage: python3 -m asetwin.standin.writer FILE", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pod, node = os.environ.get("HOSTNAME", "unknown"), os.environ.get("NODE_NAME", "unknown")
    while True:
        try:
            with open(sys.argv[1], "a") as file:
                file.write(line(pod, node, time.time()))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"error: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
            return 1
        time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
