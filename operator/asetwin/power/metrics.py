"""The power agent's own metrics; docs/metrics.md lists them beside the operator's."""

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest

from asetwin.power.drivers import Command

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """What one agent process tells; it has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._commands = Histogram(
            "asetwin_power_command_seconds",
            "How long the engine took for a command; outcome is done or failed.",
            ["command", "outcome"],
            buckets=BUCKETS,
            registry=self.registry,
        )

    def commanded(self, command: Command, outcome: str, seconds: float) -> None:
        """A command has been carried out, or has failed."""
        self._commands.labels(command.value, outcome).observe(seconds)

    def render(self) -> bytes:
        """All of them as text."""
        return generate_latest(self.registry)
