"""The power agent's loop against a fake engine and a fake API server, in virtual time."""

import asyncio
import logging

import pytest

from asetwin.kube import errors
from asetwin.model.power import STOPPED_BY_US
from asetwin.power import agent as agents
from asetwin.power.agent import CHECK_SECONDS, NODES, RESYNC_SECONDS, WORKERS
from asetwin.power.drivers import Command, Machine, Network, Reading
from unit.power_stage import SOON, WALL, Json, Stage, merge, play

# --- What is desired happens --------------------------------------------------------------------


def test_every_accepted_worker_is_looked_at_once_the_agent_is_there() -> None:
    async def scenario(stage: Stage) -> None:
        for name in ("wa", "wb"):
            assert stage.power(name)["observed"] == "On"
            assert stage.power(name)["method"] == "Fake"
        assert stage.agent.is_well()
        assert stage.engine.commands == []

    play(scenario)


def test_off_is_announced_then_done_then_reported() -> None:
    async def scenario(stage: Stage) -> None:
        stage.api.patches.clear()
        stage.desire("Off")
        await asyncio.sleep(SOON)
        assert stage.engine.commands == [("na", Command.KILL)]
        announced, done = (patch["status"]["power"] for _, patch in stage.api.patches)
        assert (announced["observed"], announced["proof"]) == ("On", f"runs, to be {STOPPED_BY_US}")
        assert (done["observed"], done["proof"]) == ("Off", f"{STOPPED_BY_US}: stopped")
        assert stage.power("wb")["observed"] == "On"

    play(scenario)


def test_a_machine_is_not_killed_for_what_was_desired_before_the_watch_broke() -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire("Off")
        # Nobody tells the agent, which has not turned yet, of this one.
        stage.api.is_mute = True
        stage.desire("On")
        await asyncio.sleep(SOON)
        assert stage.engine.commands == []
        assert stage.power()["observed"] == "On"
        assert stage.power()["proof"] == "runs"

    play(scenario)


@pytest.mark.parametrize(
    ("states", "commands", "observed"),
    [
        pytest.param(["Off", "On"], ["kill", "start"], "On", id="off-and-on"),
        pytest.param(["Isolated"], ["cut"], "Isolated", id="isolated"),
        pytest.param(["Isolated", "On"], ["cut", "restore"], "On", id="isolated-and-on"),
        pytest.param(["Isolated", "Off"], ["cut", "kill"], "Off", id="isolated-and-fenced"),
        pytest.param(
            ["Off", "Isolated"], ["kill", "start", "cut"], "Isolated", id="off-and-isolated"
        ),
        pytest.param(["Unknown"], [], "On", id="nobody-desires-unknown"),
    ],
)
def test_desired_power_is_carried_out(
    states: list[str], commands: list[str], observed: str
) -> None:
    async def scenario(stage: Stage) -> None:
        for state in states:
            stage.desire(state)
            await asyncio.sleep(SOON)
        assert [command.value for _, command in stage.engine.commands] == commands
        assert stage.power()["observed"] == observed
        assert stage.power()["desired"] == states[-1]

    play(scenario)


def test_a_machine_that_is_slow_to_die_holds_up_no_other() -> None:
    async def scenario(stage: Stage) -> None:
        async def wait() -> None:
            if stage.engine.commands[-1][0] == "na":
                await asyncio.sleep(20)

        stage.engine.before_command = wait
        stage.desire("Off", "wa")
        stage.desire("Off", "wb")
        await asyncio.sleep(SOON)
        assert (stage.power("wa")["observed"], stage.power("wb")["observed"]) == ("On", "Off")
        await asyncio.sleep(21)
        assert stage.power("wa")["observed"] == "Off"

    play(scenario)


def test_a_command_that_has_no_effect_yet_is_repeated_in_good_time() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.stop = lambda name: None  # type: ignore[method-assign]
        stage.desire("Off")
        await asyncio.sleep(1)
        assert 3 <= len(stage.engine.commands) <= 7

    play(scenario)


def test_a_refused_command_is_part_of_the_proof_and_tried_again() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.refuses = "device busy"
        stage.desire("Off")
        await asyncio.sleep(3)
        assert stage.power()["observed"] == "On"
        assert stage.power()["proof"].endswith("; could not kill it: device busy")
        stage.engine.refuses = ""
        await asyncio.sleep(1.5)
        assert stage.power()["proof"] == f"{STOPPED_BY_US}: stopped"

    play(scenario)


# --- What happens by itself is seen -------------------------------------------------------------


def test_a_machine_stopped_by_hand_is_reported_and_left_alone_until_it_is_started_by_hand() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.stop("na")
        await asyncio.sleep(SOON)
        assert (stage.power()["observed"], stage.power()["proof"]) == ("Off", "stopped")
        await asyncio.sleep(100)
        assert stage.engine.commands == []
        stage.engine.start("na")
        await asyncio.sleep(SOON)
        assert stage.power()["observed"] == "On"

    play(scenario)


def test_a_machine_stopped_by_hand_stays_off_after_its_hardware_failed_and_was_repaired() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.stop("na")
        for state in ("Off", "On"):
            stage.desire(state)
            await asyncio.sleep(5)
        assert stage.engine.commands == []
        assert stage.power()["observed"] == "Off"

    play(scenario)


def test_a_machine_started_by_hand_while_off_is_desired_is_killed_again() -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire("Off")
        await asyncio.sleep(1)
        stage.engine.start("na")
        await asyncio.sleep(SOON)
        assert [command for _, command in stage.engine.commands] == [Command.KILL, Command.KILL]
        assert stage.power()["observed"] == "Off"
        stage.desire("On")
        await asyncio.sleep(SOON)
        assert stage.power()["observed"] == "On"

    play(scenario)


@pytest.mark.parametrize("machine", [Machine.PAUSED, Machine.RESTARTING])
def test_a_machine_that_neither_runs_nor_rests_is_unknown(machine: Machine) -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.put("na", machine, Network.UNKNOWN)
        await asyncio.sleep(SOON)
        assert (stage.power()["observed"], stage.power()["proof"]) == ("Unknown", machine.lower())
        assert stage.engine.commands == []

    play(scenario)


def test_a_reboot_while_nobody_looked_shows_in_the_start_time() -> None:
    async def scenario(stage: Stage) -> None:
        before = stage.power()
        await asyncio.sleep(1)
        stage.engine.machines["na"] = Reading(
            Machine.RUNNING, "runs", Network.OPEN, WALL + 1, WALL + 0.5
        )
        await asyncio.sleep(CHECK_SECONDS)
        after = stage.power()
        assert (before["observed"], after["observed"]) == ("On", "On")
        assert after["startedAt"] > before["startedAt"]
        assert after["observedAt"] > before["observedAt"]

    play(scenario)


def test_a_restarted_machine_is_cut_off_again() -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire("Isolated")
        await asyncio.sleep(SOON)
        stage.engine.start("na")
        await asyncio.sleep(SOON)
        assert stage.engine.commands == [("na", Command.CUT), ("na", Command.CUT)]
        assert stage.power()["observed"] == "Isolated"

    play(scenario)


def test_an_event_that_is_lost_costs_seconds() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.tell = lambda name: None  # type: ignore[method-assign]
        stage.engine.stop("na")
        await asyncio.sleep(CHECK_SECONDS + SOON)
        assert stage.power()["observed"] == "Off"

    play(scenario)


def test_nothing_is_written_while_nothing_changes() -> None:
    async def scenario(stage: Stage) -> None:
        stage.api.patches.clear()
        await asyncio.sleep(10 * RESYNC_SECONDS)
        assert stage.api.patches == []
        assert stage.engine.looks > 100

    play(scenario)


def test_what_somebody_else_wrote_over_it_is_put_right() -> None:
    async def scenario(stage: Stage) -> None:
        key = f"{WORKERS}/wa"
        simulated = {"observed": "Off", "method": "Simulated"}
        stage.api.put(key, merge(stage.api.objects[key], {"status": {"power": simulated}}))
        await asyncio.sleep(SOON)
        assert (stage.power()["observed"], stage.power()["method"]) == ("On", "Fake")

    play(scenario)


# --- An agent that dies -------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("is_desired", ["On", "Off"])
def test_an_agent_killed_around_its_command_is_followed_by_one_that_knows(
    moment: str, is_desired: str
) -> None:
    """It dies right before or after the machine does; what is desired may change meanwhile."""

    async def scenario(stage: Stage) -> None:
        async def die() -> None:
            if moment == "after":
                stage.engine.stop("na")
            await asyncio.sleep(1000)

        stage.engine.before_command = die
        stage.desire("Off")
        await asyncio.sleep(SOON)
        await stage.kill()
        assert stage.power()["observed"] == "On"
        stage.engine.before_command = None
        stage.desire(is_desired)
        await stage.start()
        assert stage.power()["observed"] == is_desired
        stage.desire("On")
        await asyncio.sleep(SOON)
        assert stage.power()["observed"] == "On"
        assert stage.engine.machines["na"].machine is Machine.RUNNING

    play(scenario)


def test_a_stop_by_hand_while_no_agent_was_there_is_not_taken_for_ours() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.kill()
        stage.engine.stop("na")
        stage.desire("Off")
        await stage.start()
        assert stage.power()["proof"] == "stopped"
        stage.desire("On")
        await asyncio.sleep(10)
        assert stage.power()["observed"] == "Off"
        assert stage.engine.commands == []

    play(scenario)


@pytest.mark.parametrize("state", ["Off", "Isolated"])
def test_a_new_agent_undoes_what_the_old_one_did(state: str) -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire(state)
        await asyncio.sleep(SOON)
        await stage.kill()
        stage.desire("On")
        await stage.start()
        assert stage.power()["observed"] == "On"

    play(scenario)


# --- An engine or an API server that is away ----------------------------------------------------


def test_everything_is_unknown_while_the_engine_is_away_and_looked_at_anew_when_it_is_back() -> (
    None
):
    async def scenario(stage: Stage) -> None:
        stage.desire("Off")
        await asyncio.sleep(1)
        stage.engine.leave()
        await asyncio.sleep(SOON)
        assert stage.power("wb")["observed"] == "Unknown"
        assert stage.power("wb")["proof"] == "engine unreachable: no connection"
        assert stage.power("wa")["observed"] == "Unknown"
        stage.desire("On")
        await asyncio.sleep(20)
        assert stage.agent.is_well()
        stage.engine.is_away = False
        await asyncio.sleep(1 + SOON)
        assert stage.power("wb")["observed"] == "On"
        # Also the one that we had stopped: that was not forgotten.
        assert stage.power("wa")["observed"] == "On"

    play(scenario)


def test_an_engine_that_is_away_is_complained_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.is_away = True
        with caplog.at_level(logging.WARNING):
            await stage.start()
            await asyncio.sleep(60)
        assert [it.message for it in caplog.records] == [
            "cannot follow the engine's events: no connection"
        ]

    play(scenario, is_started=False)


def test_an_api_server_that_is_away_is_waited_for() -> None:
    async def scenario(stage: Stage) -> None:
        stage.api.error = errors.Unavailable("away", status=0)
        stage.engine.stop("na")
        await asyncio.sleep(200)
        assert stage.agent.stuck() == []
        stage.api.error = None
        await asyncio.sleep(1 + SOON)
        assert stage.power()["observed"] == "Off"

    play(scenario)


def test_no_command_is_given_that_could_not_be_announced() -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire("Off")
        stage.api.patch = _unavailable  # type: ignore[method-assign]
        await asyncio.sleep(10)
        assert stage.engine.commands == []

    async def _unavailable(path: str, body: Json) -> Json:
        raise errors.Unavailable("away", status=0)

    play(scenario)


def test_a_keeper_that_hangs_is_not_well() -> None:
    async def scenario(stage: Stage) -> None:
        async def hang() -> None:
            await asyncio.sleep(10_000)

        stage.engine.before_command = hang
        stage.desire("Off")
        await asyncio.sleep(agents.STUCK_SECONDS + 3)
        assert stage.agent.stuck() == ["wa"]
        assert not stage.agent.is_well()

    play(scenario)


# --- Whose machines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "proof"),
    [
        pytest.param(
            "kind://docker/other/na",
            "refused: the Node's providerID is kind://docker/other/na, not kind://docker/c/na",
            id="another-cluster",
        ),
        pytest.param(
            "", "refused: the Node's providerID is empty, not kind://docker/c/na", id="not-of-kind"
        ),
        pytest.param(None, "refused: the cluster has no Node na", id="no-node"),
    ],
)
def test_a_machine_that_is_not_the_nodes_is_refused(provider: str | None, proof: str) -> None:
    async def scenario(stage: Stage) -> None:
        if provider is None:
            del stage.api.objects[f"{NODES}/na"]
        else:
            stage.node("na", provider)
        stage.desire("Off")
        await stage.start()
        await asyncio.sleep(10)
        assert stage.engine.commands == []
        assert (stage.power()["observed"], stage.power()["proof"]) == ("Unknown", proof)
        stage.node("na", "kind://docker/c/na")
        await asyncio.sleep(CHECK_SECONDS + SOON)
        assert stage.power()["observed"] == "Off"

    play(scenario, is_started=False)


def test_a_worker_that_is_not_accepted_is_neither_switched_nor_reported() -> None:
    async def scenario(stage: Stage) -> None:
        stage.worker("wa", "na", accepted="False")
        stage.desire("Off")
        await stage.start()
        await asyncio.sleep(100)
        assert stage.engine.commands == []
        assert stage.power() == {"desired": "Off"}
        stage.worker("wa", "na")
        stage.desire("Off")
        await asyncio.sleep(SOON)
        assert stage.power()["observed"] == "Off"

    play(scenario, is_started=False)


@pytest.mark.parametrize("silently", [False, True], ids=["seen", "missed"])
@pytest.mark.parametrize("state", ["Off", "Isolated"])
def test_the_machine_of_a_deleted_worker_gets_back_what_we_took(state: str, silently: bool) -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire(state)
        await asyncio.sleep(SOON)
        stage.api.remove(f"{WORKERS}/wa", silently=silently)
        await asyncio.sleep(RESYNC_SECONDS + SOON)
        reading = stage.engine.machines["na"]
        assert (reading.machine, reading.network) == (Machine.RUNNING, Network.OPEN)
        stage.engine.commands.clear()
        await asyncio.sleep(100)
        assert stage.engine.commands == []

    play(scenario)


def test_the_machine_of_a_deleted_worker_stays_off_if_somebody_else_has_stopped_it() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.stop("na")
        await asyncio.sleep(SOON)
        stage.api.remove(f"{WORKERS}/wa")
        await asyncio.sleep(10)
        assert stage.engine.commands == []

    play(scenario)


def test_a_worker_made_anew_under_the_same_name_is_another_one() -> None:
    async def scenario(stage: Stage) -> None:
        stage.worker("wa", "nb", uid="2")
        stage.api.remove(f"{WORKERS}/wb")
        await asyncio.sleep(SOON)
        stage.desire("Off")
        await asyncio.sleep(SOON)
        assert stage.engine.commands == [("nb", Command.KILL)]

    play(scenario)


def test_a_worker_that_cannot_be_read_keeps_the_power_that_it_has() -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire("Off")
        await asyncio.sleep(SOON)
        key = f"{WORKERS}/wa"
        stage.api.put(key, merge(stage.api.objects[key], {"status": {"power": {"desired": "?"}}}))
        await asyncio.sleep(2 * RESYNC_SECONDS)
        assert stage.engine.machines["na"].machine is Machine.STOPPED

    play(scenario)


# --- Kubelets ------------------------------------------------------------------------------------


def ask_restart(stage: Stage, token: str) -> None:
    key = f"{WORKERS}/wa"
    stage.api.put(key, merge(stage.api.objects[key], {"status": {"kubelet": {"asked": token}}}))


def test_a_kubelet_is_restarted_once_for_each_time_that_it_is_asked() -> None:
    async def scenario(stage: Stage) -> None:
        for token in ("u/a", "v/a"):
            stage.engine.commands.clear()
            ask_restart(stage, token)
            await asyncio.sleep(3 * CHECK_SECONDS)
            assert stage.engine.commands == [("na", Command.RESTART_KUBELET)]
            found = stage.api.objects[f"{WORKERS}/wa"]["status"]["kubelet"]
            assert found["done"] == token
            assert found["doneAt"]

    play(scenario)


def test_a_kubelet_that_could_not_be_restarted_is_tried_again() -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.refuses = "no such unit"
        ask_restart(stage, "u/a")
        await asyncio.sleep(3.5)
        assert len(stage.engine.commands) > 2
        assert "done" not in stage.api.objects[f"{WORKERS}/wa"]["status"]["kubelet"]
        stage.engine.refuses = ""
        await asyncio.sleep(2)
        assert stage.api.objects[f"{WORKERS}/wa"]["status"]["kubelet"]["done"] == "u/a"

    play(scenario)


def test_the_kubelet_of_a_machine_that_is_off_is_left_alone() -> None:
    async def scenario(stage: Stage) -> None:
        stage.desire("Off")
        await asyncio.sleep(SOON)
        ask_restart(stage, "u/a")
        await asyncio.sleep(2 * CHECK_SECONDS)
        assert stage.engine.commands == [("na", Command.KILL)]

    play(scenario)
