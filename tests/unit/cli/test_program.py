"""The command line as a whole: help, bad usage, no cluster, processes, how it starts."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.config import ConfigException

import asetwin
from asetwin.cli import main
from asetwin.kube import errors
from unit.cli.shell import Cluster, run, run_json

# --- All verbs ------------------------------------------------------------------------------------


def test_help_lists_every_verb_whole() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for verb in ("status", "fail", "repair", "update", "timeline", "operator", "master", "version"):
        assert f"\n  {verb} " in result.stdout
    verbs = result.stdout.partition("Commands:")[2]
    assert "..." not in verbs, "a verb's first sentence is too long for the list"
    assert "Exit status: 0 good, 1 findings, 2 bad input or no cluster." in result.stdout


@pytest.mark.parametrize("verb", ["status", "fail", "repair", "timeline", "update"])
def test_help_of_a_verb_shows_examples_and_exit_status(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"\n    asetwin {verb}" in result.stdout
    assert "Exit status: 0" in result.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["explode"], "error: no such command 'explode'"),
        (["status", "--colour"], "error: no such option: --colour"),
        (["fail"], "error: missing argument 'NODE'"),
        (["status", "-o", "yaml"], "error: invalid value for '--output' / '-o'"),
        (["operator", "--port", "70000"], "error: invalid value for '--port'"),
    ],
)
def test_bad_usage_is_one_line_and_a_hint(argv: list[str], message: str) -> None:
    result = run(*argv)
    assert (result.exit_code, result.stdout) == (2, "")
    first, hint = result.stderr.splitlines()
    assert first.startswith(message)
    assert hint.startswith("see 'asetwin")
    assert hint.endswith("--help'")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            ConfigException("no current\n context"),
            "no cluster to talk to: no current context (set KUBECONFIG, or choose with --context)",
        ),
        (
            errors.Unavailable("GET /: connection refused", status=0),
            "the cluster does not answer: GET /: connection refused",
        ),
        (
            errors.NotFound("GET /: not found", status=404),
            "the cluster does not know asetwin's resources, apply crds/ first: GET /: not found",
        ),
        (errors.Forbidden("GET /: no", status=403), "the cluster refused: GET /: no"),
    ],
    ids=["no-config", "away", "no-crds", "forbidden"],
)
@pytest.mark.parametrize(
    "argv",
    [["status"], ["fail", "node-a", "PSU1"], ["repair", "--all"], ["timeline"], ["timeline", "-f"]],
    ids=" ".join,
)
def test_a_cluster_that_is_not_there_is_one_line(
    cluster: Cluster, argv: list[str], broken: Exception, message: str
) -> None:
    cluster.broken = broken
    result = run(*argv)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {message}\n"


def test_context_reaches_the_cluster(device: Cluster) -> None:
    run("status", "--context", "kind-other")
    run("repair", "--all")
    assert device.contexts == ["kind-other", None]


def test_version() -> None:
    assert run("version").stdout == f"asetwin {asetwin.__version__}\n"
    assert run_json("version") == {"version": asetwin.__version__}


# --- Processes ------------------------------------------------------------------------------------


def test_operator_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from asetwin import operator

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(operator, "run", lambda **options: seen.append(options))
    assert run("operator").exit_code == 0
    argv = ["--context", "kind-x", "--port", "0", "--log-level", "debug", "--log-format", "json"]
    assert run("operator", *argv).exit_code == 0
    assert seen == [
        {"context": None, "port": 8080, "log_level": "info", "log_format": "text"},
        {"context": "kind-x", "port": 0, "log_level": "debug", "log_format": "json"},
    ]


@pytest.fixture
def restored_signals() -> Iterator[None]:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("restored_signals")
def test_master_ends_with_the_status_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from asetwin.standin import master

    monkeypatch.setattr(master, "main", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["asetwin", "master"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert run("master").exit_code == 2


def test_plugin_speaks_of_itself_as_kubectl_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-ase", "--help"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    assert "Usage: kubectl ase " in capsys.readouterr().out


def test_light_starts_import_nothing_heavy() -> None:
    """Half a second for a help text is too much, and so is Typer for a failover's master."""
    script = """
import sys
sys.argv = ["asetwin", "--help"]
from asetwin.cli import main
try:
    main.main()
except SystemExit:
    pass
heavy = {"kopf", "kubernetes", "aiohttp", "pydantic", "yaml"} & set(sys.modules)
assert not heavy, heavy
for name in [name for name in sys.modules if name.partition(".")[0] in ("typer", "rich")]:
    del sys.modules[name]
from asetwin.standin import master
heavy = {"kopf", "rich", "typer", "prometheus_client"} & set(sys.modules)
assert not heavy, heavy
"""
    package = Path(asetwin.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
