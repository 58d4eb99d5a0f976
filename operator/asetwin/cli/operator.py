"""``asetwin operator``: the operator's own process."""

from enum import StrEnum
from typing import Annotated

import typer

from asetwin.cli import common


class LogLevel(StrEnum):
    """How much to log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The form of a log line."""

    TEXT = "text"
    JSON = "json"


def command(
    context: common.Context = None,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Where /healthz, /readyz and /metrics are served."),
    ] = 8080,
    log_level: Annotated[LogLevel, typer.Option(help="The least important line to log.")] = (
        LogLevel.INFO
    ),
    log_format: Annotated[LogFormat, typer.Option(help="The form of the log lines.")] = (
        LogFormat.TEXT
    ),
) -> int:
    """Run the operator, inside or outside the cluster.

    In a pod it works with the pod's service account. Outside, for development,
    it works with a kubeconfig context. Two operators in one cluster would get
    in each other's way: stop the one inside first.

    \b
    Examples:
      # The inner loop of development: change a rule, start it again
      kubectl scale -n asetwin-system deployment/asetwin-operator --replicas=0
      asetwin operator --context kind-asetwin --log-level debug
      # Back to the one in the cluster
      kubectl scale -n asetwin-system deployment/asetwin-operator --replicas=1
    """
    from asetwin import operator

    operator.run(context=context, port=port, log_level=log_level.value, log_format=log_format.value)
    return common.GOOD
