"""The power agent's Lease: held while it is well, given up when it leaves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asetwin.kube import errors
from asetwin.power import agent as agents
from asetwin.power.presence import LEAVE_SECONDS, NAME, PATH, Presence
from unit.power_stage import WALL, Stage, play
from unit.virtual_time import now


@asynccontextmanager
async def present(stage: Stage, holder: str = "pod") -> AsyncGenerator[Presence, None]:
    presence = Presence(stage.api, holder, wall=lambda: WALL + now())
    await stage.start(presence)
    yield presence


def holder(stage: Stage) -> Any:
    return stage.api.objects[PATH]["spec"].get("holderIdentity")


@pytest.mark.parametrize("is_there", [False, True], ids=["no-lease-yet", "empty-lease"])
def test_the_lease_is_held_once_every_worker_has_been_looked_at(is_there: bool) -> None:
    async def scenario(stage: Stage) -> None:
        if is_there:
            stage.api.put(PATH, {"metadata": {"name": NAME}})
        async with present(stage) as presence:
            await asyncio.sleep(1)
            assert stage.power("wb")["observed"] == "On"
            assert holder(stage) == "pod"
            first = stage.api.objects[PATH]["spec"]
            await asyncio.sleep(2)
            second = stage.api.objects[PATH]["spec"]
            assert second["leaseDurationSeconds"] == 6
            assert second["renewTime"] > first["renewTime"]
            assert second["acquireTime"] == first["acquireTime"]
            await stage.kill()
            await presence.leave()
            assert holder(stage) == ""

    play(scenario, is_started=False)


def test_a_lease_of_a_dead_agent_is_taken_at_once() -> None:
    async def scenario(stage: Stage) -> None:
        spec = {"holderIdentity": "dead", "leaseTransitions": 4}
        stage.api.put(PATH, {"metadata": {"name": NAME}, "spec": spec})
        async with present(stage):
            await asyncio.sleep(1)
            assert holder(stage) == "pod"
            assert stage.api.objects[PATH]["spec"]["leaseTransitions"] == 5

    play(scenario, is_started=False)


def test_an_agent_that_leaves_does_not_empty_the_lease_of_the_next_one() -> None:
    async def scenario(stage: Stage) -> None:
        async with present(stage) as presence:
            await asyncio.sleep(1)
            await stage.kill()
            stage.api.objects[PATH]["spec"]["holderIdentity"] = "next"
            await presence.leave()
            assert holder(stage) == "next"

    play(scenario, is_started=False)


def test_the_lease_is_not_renewed_while_a_keeper_hangs() -> None:
    async def scenario(stage: Stage) -> None:
        async def hang() -> None:
            await asyncio.sleep(10_000)

        async with present(stage):
            await asyncio.sleep(1)
            stage.engine.before_command = hang
            stage.desire("Off")
            await asyncio.sleep(agents.STUCK_SECONDS + 5)
            before = stage.api.objects[PATH]["spec"]["renewTime"]
            await asyncio.sleep(10)
            assert stage.api.objects[PATH]["spec"]["renewTime"] == before

    play(scenario, is_started=False)


def test_a_lease_changed_by_somebody_else_is_read_anew() -> None:
    async def scenario(stage: Stage) -> None:
        async with present(stage):
            await asyncio.sleep(1)
            stage.api.put(PATH, stage.api.objects[PATH])
            await asyncio.sleep(3)
            before = stage.api.objects[PATH]["spec"]["renewTime"]
            await asyncio.sleep(2.5)
            assert stage.api.objects[PATH]["spec"]["renewTime"] > before

    play(scenario, is_started=False)


def test_leaving_gives_up_when_the_api_server_is_away() -> None:
    async def scenario(stage: Stage) -> None:
        async with present(stage) as presence:
            await asyncio.sleep(1)
            stage.api.error = errors.Unavailable("away", status=0)
            await stage.kill()
            began = now()
            await presence.leave()
            assert now() - began <= LEAVE_SECONDS
            # It is left to run out.
            assert holder(stage) == "pod"

    play(scenario, is_started=False)
