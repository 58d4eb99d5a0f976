"""Compile the rules and the simulation below the current directory, in place, with mypyc.

usage: python compile.py   (in a copy of operator/)
"""

import os
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

PACKAGES = ("model", "resources", "kube", "sim")
"""The source of everything that a random scenario runs through."""
INTERPRETED = {
    # pydantic makes its classes when they are imported.
    *("resources/conditions.py", "resources/devices.py", "resources/updates.py"),
    *("resources/wire.py", "sim/files.py", "sim/samples.py"),
    # mypyc knows no asynchronous generators.
    "kube/client.py",
}
MYPY = """\
[mypy]
strict = True
plugins = pydantic.mypy
mypy_path = .
explicit_package_bases = True
[mypy-kubernetes.*]
ignore_missing_imports = True
follow_imports = skip
"""


def modules() -> list[str]:
    """The modules that are compiled, as paths."""
    top = Path("asetwin")
    found = [path for package in PACKAGES for path in sorted((top / package).rglob("*.py"))]
    wanted = [one for one in found if one.name != "__init__.py"]
    return [str(one) for one in wanted if str(one.relative_to(top)) not in INTERPRETED]


def build(scratch: str) -> None:
    """Compile; what lies between source and modules goes to a folder that is thrown away."""
    config = Path(scratch, "mypy.ini")
    config.write_text(MYPY, encoding="utf-8")
    built = mypycify(
        ["--config-file", str(config), *modules()],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        target_dir=os.path.join(scratch, "c"),
    )
    setup(
        name="asetwin-compiled",
        packages=[],
        ext_modules=built,
        script_args=["-q", "build_ext", "--inplace", "--build-temp", os.path.join(scratch, "o")],
    )


def main() -> None:
    """Compile; says nothing where all went well."""
    with tempfile.TemporaryDirectory() as scratch:
        build(scratch)


if __name__ == "__main__":
    main()
