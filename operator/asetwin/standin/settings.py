"""What the environment tells the master stand-in, and how often it tries.

Apart from :mod:`asetwin.standin.master`, because the simulated master reads
the same environment and must not wait for a web server to be imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from asetwin.model import epochs

RETRIES_PER_LEASE = 10
"""After a request that failed, the next one follows after this part of the lease's duration."""


class SettingsError(ValueError):
    """The environment does not describe a master; the message names the variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says."""

    device: str
    node: str
    me: epochs.Identity
    boot_seconds: float
    lease_seconds: int
    port: int
    journal: str = ""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings; raises SettingsError for what is missing or out of range."""
    return Settings(
        device=_text(environ, "ASETWIN_DEVICE"),
        node=environ.get("ASETWIN_NODE", ""),
        me=epochs.Identity(
            pod=_text(environ, "ASETWIN_POD"),
            uid=environ.get("ASETWIN_POD_UID", ""),
            epoch=int(_number(environ, "ASETWIN_EPOCH", None, 1, 2**31 - 1, whole=True)),
        ),
        boot_seconds=_number(environ, "ASETWIN_BOOT_SECONDS", 0, 0, 86400),
        lease_seconds=int(
            _number(
                environ, "ASETWIN_LEASE_SECONDS", epochs.DEFAULT_LEASE_SECONDS, 1, 3600, whole=True
            )
        ),
        port=int(_number(environ, "ASETWIN_PORT", 8080, 0, 65535, whole=True)),
        journal=environ.get("ASETWIN_JOURNAL", ""),
    )


def _text(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name, "")
    if not text:
        raise SettingsError(f"{name} is not set")
    return text


def _number(
    environ: Mapping[str, str],
    name: str,
    default: int | None,
    least: int,
    most: int,
    *,
    whole: bool = False,
) -> float:
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = None
    # Written so that NaN is out of range too.
    if number is None or not least <= number <= most:
        kind = "a whole number" if whole else "a number"
        raise SettingsError(f"{name} must be {kind} from {least} to {most}, is {text!r}")
    return number
