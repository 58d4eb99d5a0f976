"""The driver for kind's containers: what it reads, and how it cuts one off."""

import subprocess
from pathlib import Path

import pytest

from asetwin.power import docker
from asetwin.power.drivers import Command, Machine, Network
from unit.containers import ENDED, NAME, NEVER, Json, container

# --- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "machine", "detail"),
    [
        pytest.param(
            container(),
            Machine.RUNNING,
            "container twin-worker runs since 2026-11-25T08:00:00.123Z",
            id="running",
        ),
        pytest.param(
            container("exited", ended=ENDED, code=137),
            Machine.STOPPED,
            "container twin-worker exited at 2026-11-25T09:00:00.500Z, exit code 137",
            id="exited",
        ),
        pytest.param(
            container("dead", ended=ENDED),
            Machine.STOPPED,
            "container twin-worker exited at 2026-11-25T09:00:00.500Z, exit code 0",
            id="dead",
        ),
        pytest.param(
            container("created", started=NEVER),
            Machine.STOPPED,
            "container twin-worker was never started",
            id="created",
        ),
        pytest.param(
            container("paused"), Machine.PAUSED, "container twin-worker is paused", id="paused"
        ),
        pytest.param(
            container("restarting"),
            Machine.RESTARTING,
            "container twin-worker is restarting",
            id="restarting",
        ),
        pytest.param(
            container("removing"),
            Machine.MISSING,
            "container twin-worker is being removed",
            id="removing",
        ),
    ],
)
def test_every_state_of_a_container_is_read(body: Json, machine: Machine, detail: str) -> None:
    reading = docker.read(NAME, body, Network.OPEN)
    assert (reading.machine, reading.detail) == (machine, detail)


def test_the_engines_never_is_no_time() -> None:
    reading = docker.read(NAME, container("created", started=NEVER), Network.UNKNOWN)
    assert (reading.started_at, reading.finished_at) == (None, None)


def test_a_restarted_container_shows_its_last_end() -> None:
    reading = docker.read(NAME, container(ended="2026-11-25T07:59:58Z"), Network.OPEN)
    assert reading.started_at is not None
    assert reading.finished_at == pytest.approx(reading.started_at - 2.123, abs=0.001)


@pytest.mark.parametrize("network", Network)
def test_the_words_about_a_running_container_say_how_its_network_is(network: Network) -> None:
    detail = docker.read(NAME, container(), network).detail
    plain = "container twin-worker runs since 2026-11-25T08:00:00.123Z"
    assert (detail == plain) == (network is Network.OPEN)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (container(), ""),
        (container(cluster=None), "was not made by kind"),
        (container(cluster="other"), "belongs to the kind cluster other, not to twin"),
        (container(role="control-plane"), "is the cluster's control-plane, not a worker"),
        (
            container(role="external-load-balancer"),
            "is the cluster's external-load-balancer, not a worker",
        ),
        ({"Config": {}}, "was not made by kind"),
    ],
)
def test_only_workers_of_this_kind_cluster_are_ours(body: Json, why: str) -> None:
    assert docker.refuse(body, "twin") == why


# --- The packet filter --------------------------------------------------------------------------

IPTABLES = """\
#!/bin/sh
# Keeps its rules in a file; knows the four commands that are used.
rules=$0.rules
touch "$rules"
[ "$1 $2 $3 $4" = "-w 5 -t mangle" ] || exit 9
verb=$5
shift 5
case $verb in
-S) echo "-P PREROUTING ACCEPT"; cat "$rules" ;;
-C) grep -qxF -e "-A $*" "$rules" ;;
-I) echo "-A $*" >>"$rules" ;;
-D) grep -qxF -e "-A $*" "$rules" || exit 1
    grep -vxF -e "-A $*" "$rules" >"$rules.new"; mv "$rules.new" "$rules" ;;
*) exit 9 ;;
esac
"""
BROKEN = "#!/bin/sh\necho 'no such module' >&2\nexit 3\n"
FOREIGN = "-A PREROUTING -i eth+ -m comment --comment mine -j DROP\n"


class Tools:
    """A directory of packet filter tools for one shell script."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.put("iptables", IPTABLES)
        self.put("ip6tables", IPTABLES)
        (path / "iptables.rules").write_text(FOREIGN)

    def put(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def rules(self, name: str = "iptables") -> list[str]:
        return (self.path / f"{name}.rules").read_text().splitlines()

    def run(self, command: Command | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", docker._script(command)],
            env={"PATH": f"{self.path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def network(self, command: Command | None) -> Network:
        done = self.run(command)
        assert done.returncode == 0, done.stderr
        return docker.read_filter(done.stdout)


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)


def test_a_cut_is_read_back_and_undone_without_touching_what_is_not_ours(tools: Tools) -> None:
    assert tools.network(None) is Network.OPEN
    assert tools.network(Command.CUT) is Network.CUT
    assert tools.network(Command.CUT) is Network.CUT
    assert len(tools.rules()) == 3
    assert tools.network(None) is Network.CUT
    assert tools.network(Command.RESTORE) is Network.OPEN
    assert tools.network(Command.RESTORE) is Network.OPEN
    assert tools.rules() == [FOREIGN.strip()]


def test_a_cut_that_was_interrupted_is_neither_and_can_be_finished_or_undone(tools: Tools) -> None:
    for finish, end in ((Command.CUT, Network.CUT), (Command.RESTORE, Network.OPEN)):
        tools.run(Command.CUT)
        (tools.path / "ip6tables.rules").write_text("")
        assert tools.network(None) is Network.PARTLY_CUT
        assert tools.network(finish) is end


def test_rules_that_are_there_twice_are_all_removed(tools: Tools) -> None:
    tools.run(Command.CUT)
    rules = tools.path / "iptables.rules"
    rules.write_text(rules.read_text() * 2)
    assert tools.network(Command.RESTORE) is Network.OPEN


def test_a_node_without_ipv6_is_cut_all_the_same(tools: Tools) -> None:
    tools.put("ip6tables", BROKEN)
    assert tools.network(Command.CUT) is Network.CUT
    assert tools.network(Command.RESTORE) is Network.OPEN


@pytest.mark.parametrize("command", [None, Command.CUT, Command.RESTORE])
def test_a_packet_filter_that_does_not_work_is_an_error(
    tools: Tools, command: Command | None
) -> None:
    tools.put("iptables", BROKEN)
    done = tools.run(command)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "no such module")


def test_silence_says_nothing_about_the_network() -> None:
    assert docker.read_filter("") is Network.UNKNOWN
