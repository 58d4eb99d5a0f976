"""``asetwin power-agent``: the process that switches the worker VMs for real."""

import asyncio
import logging
import os
import socket
import sys
import time
from typing import Annotated

import typer

from asetwin.cli import common


def command(
    context: common.Context = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The kind cluster whose workers to switch; in a pod it is found out.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(metavar="URL", envvar="DOCKER_HOST", help="Where the Docker engine listens."),
    ] = "unix:///var/run/docker.sock",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where /healthz, /readyz, /metrics are.")
    ] = 8080,
) -> int:
    """Run the power agent: it switches the worker VMs for real.

    It does what each PinnedWorker's status.power.desired says, and writes what
    it observes into status.power, whoever has done it. Only the workers of one
    kind cluster are touched. In a pod it takes the cluster from its Node
    (NODE_NAME); outside, for development, it has to be named.

    \b
    Examples:
      # The inner loop of development, with the one inside out of the way
      kubectl scale -n asetwin-power deployment/asetwin-power-agent --replicas=0
      asetwin power-agent --context kind-asetwin --cluster asetwin
      kubectl get pinnedworkers -o wide --watch
    """
    from kubernetes.aio.config import ConfigException

    from asetwin.power import drivers, serving

    control_plane = os.environ.get("NODE_NAME", "")
    if cluster is None and not control_plane:
        raise common.Problem("name the kind cluster whose workers to switch: --cluster NAME")
    settings = serving.Settings(
        context=context,
        cluster=cluster,
        control_plane=control_plane,
        holder=os.environ.get("POD_NAME") or socket.gethostname(),
        engine=engine,
        port=port,
    )
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        asyncio.run(serving.serve(settings, wall=time.time))
    except ConfigException as error:
        raise common.Problem(f"no cluster to talk to: {error}") from error
    except (drivers.CommandError, OSError, ValueError) as error:
        raise common.Problem(str(error)) from error
    return common.GOOD
