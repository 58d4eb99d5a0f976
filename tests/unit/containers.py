"""Containers as the engine describes them."""

from typing import Any

from asetwin.power.docker import LABEL_CLUSTER, LABEL_ROLE

Json = dict[str, Any]

NAME = "twin-worker"
NEVER = "0001-01-01T00:00:00Z"
STARTED = "2026-11-25T08:00:00.123456789Z"
EVENT_NANOSECONDS = 1_795_597_200_625_000_000
ENDED = "2026-11-25T09:00:00.5Z"


def container(
    status: str = "running",
    *,
    name: str = NAME,
    cluster: str | None = "twin",
    role: str = "worker",
    started: str = STARTED,
    ended: str = NEVER,
    code: int = 0,
    networks: tuple[str, ...] = ("kind",),
) -> Json:
    labels = {} if cluster is None else {LABEL_CLUSTER: cluster, LABEL_ROLE: role}
    return {
        "Id": f"id-of-{name}",
        "Name": f"/{name}",
        "Config": {"Labels": labels},
        "State": {"Status": status, "StartedAt": started, "FinishedAt": ended, "ExitCode": code},
        "NetworkSettings": {"Networks": {it: {} for it in networks}},
    }
