"""The sample workload: a web server that says which pod on which node answers.

Run as ``python3 -m asetwin.standin.web`` with the image of the operator; the
standard library is all it needs, so that six of them start together quickly.
``PORT`` (8080), ``HOSTNAME`` and ``NODE_NAME`` come from the environment.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

DEFAULT_PORT = 8080


class Server(ThreadingHTTPServer):
    """One thread per connection; none of them keeps the process alive."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, *, pod: str, node: str) -> None:
        super().__init__(("", port), Handler)
        self.pod = pod
        self.node = node
        self.started_at = time.monotonic()

    def describe(self) -> str:
        """The answer to ``GET /``, one line."""
        uptime = time.monotonic() - self.started_at
        return f"pod={self.pod} node={self.node} uptime={uptime:.1f}s\n"


class Handler(BaseHTTPRequestHandler):
    """Answers ``/`` and ``/healthz``."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    """An idle connection ends after so many seconds, or its thread would stay for good."""
    server: Server

    def do_GET(self) -> None:
        """A line of text; 404 for any path that is not ours."""
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, self.server.describe())
        elif path == "/healthz":
            self._answer(200, "ok\n")
        else:
            self._answer(404, f"no such page: {path}\n")

    do_HEAD = do_GET

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: probes ask every second."""


def make_server(environ: Mapping[str, str]) -> Server:
    """A server as the environment describes it; ValueError for a port that is none."""
    return Server(
        int(environ.get("PORT", DEFAULT_PORT)),
        pod=environ.get("HOSTNAME", "unknown"),
        node=environ.get("NODE_NAME", "unknown"),
    )


def _end(_signal: int, _frame: FrameType | None) -> None:
    # Raised in the main thread, out of serve_forever; Server.shutdown() would wait for itself.
    sys.exit(0)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    # As process 1 of a container it would not be ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    with make_server(os.environ) as server:
        print(f"serving on port {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
