"""The processes of asetwin.standin at their edges: settings, signals, probes."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from kubernetes.aio.config import ConfigException

import asetwin
from asetwin.kube import client
from asetwin.model import epochs
from asetwin.standin import master as masters
from asetwin.standin.master import Master
from asetwin.standin.settings import Settings, SettingsError, read_settings
from unit.leases import WALL, Leases

# --- The process ----------------------------------------------------------------------------------

ENVIRON = {"ASETWIN_DEVICE": "ase", "ASETWIN_EPOCH": "4", "ASETWIN_POD": "ase-master-4"}


def test_settings_have_the_promised_defaults() -> None:
    me = epochs.Identity("ase-master-4", 4, uid="")
    assert read_settings(ENVIRON) == Settings("ase", "", me, 0.0, 3, 8080)


def test_settings_are_read() -> None:
    more = {
        "ASETWIN_NODE": "node-b",
        "ASETWIN_POD_UID": "abc",
        "ASETWIN_BOOT_SECONDS": "180",
        "ASETWIN_LEASE_SECONDS": "5",
        "ASETWIN_PORT": "9090",
        "ASETWIN_JOURNAL": "/journal/ase.log",
    }
    me = epochs.Identity("ase-master-4", 4, uid="abc")
    assert read_settings(ENVIRON | more) == Settings(
        "ase", "node-b", me, 180.0, 5, 9090, "/journal/ase.log"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ASETWIN_DEVICE", "", "ASETWIN_DEVICE is not set"),
        ("ASETWIN_POD", "", "ASETWIN_POD is not set"),
        ("ASETWIN_EPOCH", "", "a whole number from 1 to 2147483647, is ''"),
        ("ASETWIN_EPOCH", "0", "is '0'"),
        ("ASETWIN_EPOCH", "1.5", "is '1.5'"),
        ("ASETWIN_BOOT_SECONDS", "nan", "a number from 0 to 86400, is 'nan'"),
        ("ASETWIN_LEASE_SECONDS", "0", "a whole number from 1 to 3600, is '0'"),
        ("ASETWIN_PORT", "http", "ASETWIN_PORT must be"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        read_settings(ENVIRON | {name: text})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("KUBERNETES_SERVICE_HOST", *(key for key in os.environ if "ASETWIN" in key)):
        monkeypatch.delenv(name, raising=False)
    for name, text in (ENVIRON | {"ASETWIN_PORT": "0"}).items():
        monkeypatch.setenv(name, text)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield monkeypatch
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_bad_environment_ends_the_process(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("ASETWIN_EPOCH", "x")
    assert masters.main() == 2
    assert "error: ASETWIN_EPOCH must be" in capsys.readouterr().err


def test_a_missing_cluster_ends_the_process(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Leases]:
        raise ConfigException("no current context")
        yield

    # Never by way of the environment: the library has read KUBECONFIG when it was imported, so
    # that the test would find the cluster of whoever runs it.
    environment.setattr(client, "connect", connect)
    assert masters.main() == 2
    assert capsys.readouterr().err == "error: no current context\n"


def test_sigterm_releases_the_lease_and_ends_the_process(environment: pytest.MonkeyPatch) -> None:
    class Ending(Leases):
        async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            # The first claim, however long it takes to come on a busy machine.
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
            return await super().create(path, body)

    leases = Ending()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Leases]:
        yield leases

    environment.setattr(client, "connect", connect)
    assert masters.main() == 0
    assert (leases.calls, leases.holder) == (["GET", "POST", "PUT"], "")


async def test_probes_tell_serving_from_alive() -> None:
    now = [0.0]
    me = epochs.Identity("ase-master-2", 2)
    leases = Leases()
    master = Master(
        Settings("ase", "node-b", me, 0, 3, 0),
        leases,
        started_at=0.0,
        clock=lambda: now[0],
        wall=lambda: WALL,
    )

    async with TestClient(TestServer(masters.application(master))) as http:

        async def ask(path: str) -> tuple[int, str]:
            response = await http.get(path)
            return response.status, await response.text()

        assert await ask("/readyz") == (503, "has not read the Lease yet\n")
        assert await ask("/healthz") == (200, "ok\n")
        lease = epochs.Lease(me.pod, 2, 3)
        terms = epochs.Terms(started_at=0.0)
        master.memory = master.memory.saw(me, lease, at=0.0).wrote(
            me, terms, lease, sent_at=0.0, answered_at=0.0
        )
        assert await ask("/readyz") == (200, "serves under epoch 2\n")
        about = await (await http.get("/")).json()
        assert about == {
            "device": "ase",
            "node": "node-b",
            "pod": "ase-master-2",
            "epoch": 2,
            "serving": True,
            "since": "2026-11-25T08:00:00.000000Z",
            "reason": "serves under epoch 2",
        }
        # Nobody had to tell it: probes look at the clock, not at what the loop last thought.
        now[0] = 3.0
        status, reason = await ask("/readyz")
        assert (status, reason) == (503, "could not renew the Lease for 3.0 s\n")
        now[0] = 20.0
        assert (await ask("/healthz"))[0] == 500


# --- The sample workload --------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator["subprocess.Popen[str]"]:
    package = Path(asetwin.__file__).parent.parent
    environ = {"PYTHONPATH": str(package), "PORT": "0", "HOSTNAME": "web-1", "NODE_NAME": "n1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "asetwin.standin.web"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_web_says_where_it_runs_and_ends_on_sigterm(web: "subprocess.Popen[str]") -> None:
    assert web.stdout is not None
    port = web.stdout.readline().split()[-1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/?x=1", timeout=5) as answer:
        assert answer.version == 11
        assert answer.read().decode().startswith("pod=web-1 node=n1 uptime=")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        assert answer.read() == b"ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/other", timeout=5)
    web.send_signal(signal.SIGTERM)
    assert web.wait(timeout=5) == 0
    assert web.stdout.read() == "", "probes ask every second: nothing is logged"
