"""House rules that no linter knows, and the direction of imports.

Each check is a function over a text or a module, and each is shown to find
what it looks for.
"""

import ast
import functools
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "operator" / "asetwin"

LONGEST_FUNCTION = 70
LONGEST_MODULE = 600


def tracked() -> list[Path]:
    """The files that are in the repository or are about to be."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(git, capture_output=True, check=True, text=True).stdout.split("\0")
    return sorted(ROOT / name for name in set(names) if name and (ROOT / name).is_file())


FILES = tracked()
PYTHON = [one for one in FILES if one.suffix == ".py"]
MODULES = [one for one in PYTHON if one.is_relative_to(PACKAGE)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parse(text: str) -> ast.Module:
    """The syntax tree of a module; several checks walk it."""
    return ast.parse(text)


def findings(files: list[Path], check: Callable[[str, Path], list[str]]) -> dict[str, list[str]]:
    """What a check finds, by file."""
    found = {}
    for path in files:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if problems := check(text, path):
            found[name_of(path)] = problems
    return found


def test_there_is_something_to_check() -> None:
    assert {"operator/asetwin/loop.py", "README.md"} <= set(map(name_of, FILES))
    assert len(MODULES) > 20


# --- Sizes ----------------------------------------------------------------------------------------


def long_functions(text: str, limit: int = LONGEST_FUNCTION) -> list[str]:
    """Names of the functions that do not fit a screen."""
    return [
        node.name
        for node in ast.walk(parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > limit
    ]


def test_finds_long_functions() -> None:
    text = "class A:\n    async def f(self):\n" + "        x = 1\n" * 5
    assert long_functions(text, limit=6) == []
    assert long_functions(text, limit=5) == ["f"]


def test_a_function_fits_a_screen() -> None:
    assert findings(PYTHON, lambda text, _: long_functions(text)) == {}


def test_a_module_is_read_in_one_go() -> None:
    def check(text: str, _: Path) -> list[str]:
        lines = text.splitlines()
        return [f"{len(lines)} lines"] if len(lines) > LONGEST_MODULE else []

    assert findings(MODULES, check) == {}


# --- Docstrings -----------------------------------------------------------------------------------


def test_every_module_says_what_it_is() -> None:
    def check(text: str, _: Path) -> list[str]:
        return [] if ast.get_docstring(parse(text)) else ["no module docstring"]

    assert findings(PYTHON, check) == {}


def docstrings(text: str) -> Iterator[str]:
    """All docstrings of a module, those under attributes included."""
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value = node.value.value
            if isinstance(value, str):
                yield value


ROLE = re.compile(r":(?P<role>mod|class|func|meth|attr|data|exc):`~?(?P<name>[^`]+)`")
CODE = re.compile(r"``([^`\s]+)``")
TOP = {one.relative_to(ROOT).parts[0] for one in FILES if len(one.relative_to(ROOT).parts) > 1}


def has(owner: object, name: str) -> bool:
    """Whether a module or class has a member, be it only annotated."""
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", {})


def resolves(name: str, home: str) -> bool:
    """Whether a dotted name is a module, or something in one; ``home`` is where it is written."""
    parts = name.removesuffix("()").split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:size]))
        except ImportError:
            continue
        for part in parts[size:]:
            if not has(found, part):
                return False
            found = getattr(found, part, None)
        return True
    module = importlib.import_module(home)
    if has(module, parts[0]):
        found = getattr(module, parts[0], None)
        return len(parts) == 1 or has(found, parts[1])
    classes = [one for one in vars(module).values() if isinstance(one, type)]
    return len(parts) == 1 and any(has(one, parts[0]) for one in classes)


def dead_references(text: str, home: str) -> list[str]:
    """Modules, names and paths in docstrings that are not there (any more)."""
    dead = []
    for words in docstrings(text):
        for match in ROLE.finditer(words):
            if not resolves(match["name"], home):
                dead.append(match[0])
        for path in CODE.findall(words):
            first, slash, _ = path.partition("/")
            is_pattern = any(sign in path for sign in "*{}<>$…")
            if slash and first in TOP and not is_pattern and not (ROOT / path).exists():
                dead.append(path)
    return dead


@pytest.mark.parametrize(
    ("words", "dead"),
    [
        pytest.param(":mod:`asetwin.loop` in ``crds/``", [], id="alive"),
        pytest.param(":mod:`~asetwin.gone`", [":mod:`~asetwin.gone`"], id="module"),
        pytest.param(":class:`asetwin.loop.Loop` :func:`Loop.wake`", [], id="names"),
        pytest.param(":func:`asetwin.loop.gone`", [":func:`asetwin.loop.gone`"], id="name"),
        pytest.param(":meth:`wake` :meth:`Loop.gone`", [":meth:`Loop.gone`"], id="method"),
        pytest.param("``tests/unit/gone.py`` ``a/b``", ["tests/unit/gone.py"], id="path"),
    ],
)
def test_finds_dead_references(words: str, dead: list[str]) -> None:
    assert dead_references(f'"""{words}"""', "asetwin.loop") == dead


def test_what_docstrings_refer_to_is_there() -> None:
    def check(text: str, path: Path) -> list[str]:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        home = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return dead_references(text, home)

    assert findings(MODULES, check) == {}


# --- Names of hosts and places --------------------------------------------------------------------

# Put together from pieces, so that this file does not say them itself. Debian's package docker.io
# and the prefix of that name, which the container engine gives to every image, are no hosts.
REGISTRIES = re.compile(
    r"(?<![\w.-])(?:"
    + "|".join(
        re.escape(host + "." + domain)
        for host, domain in (
            ("registry-1.docker", "io"),
            ("index.docker", "io"),
            ("registry.k8s", "io"),
            ("dl.k8s", "io"),
            ("gcr", "io"),
            ("k8s.gcr", "io"),
            ("ghcr", "io"),
            ("quay", "io"),
            ("mcr.microsoft", "com"),
            ("public.ecr", "aws"),
            ("proxy.golang", "org"),
            ("sum.golang", "org"),
            ("pypi", "org"),
            ("files.pythonhosted", "org"),
            ("registry.npmjs", "org"),
            ("deb.debian", "org"),
            ("dl.google", "com"),
            ("storage.googleapis", "com"),
        )
    )
    + r")(?![\w-])"
)
# A path under somebody's home or work tree; "$scratch"/root is a place in a tree of our own.
MACHINES = re.compile(
    r"(?<![\w}.])(?<![\w}]\")/(?:" + "|".join(("ro" + "ot", "wo" + "rk", "ho" + r"me/\w+")) + r")/"
)


def places(text: str) -> list[str]:
    return [match[0] for pattern in (REGISTRIES, MACHINES) for match in pattern.finditer(text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param("image: qu" + "ay.io/a/b", 1, id="registry"),
        pytest.param("https://py" + "pi.org/simple", 1, id="index"),
        pytest.param('cd "/ro' + 'ot/go"', 1, id="home"),
        pytest.param("cp /wo" + "rk/main .", 1, id="work"),
        pytest.param("/ho" + "me/ann/x", 1, id="somebodys-home"),
        pytest.param('rm "$scratch"/ro' + "ot/var ${dir}/ro" + "ot/x", 0, id="our-own-tree"),
        pytest.param("apt-get install docker.io", 0, id="debian-package"),
        pytest.param("kindest/node:v1.37.2 and the net" + "work/x", 0, id="plain"),
    ],
)
def test_finds_hosts_and_places(text: str, count: int) -> None:
    assert len(places(text)) == count


def test_no_file_names_a_registry_or_a_place_on_somebodys_machine() -> None:
    assert findings(FILES, lambda text, _: places(text)) == {}


# --- kopf -----------------------------------------------------------------------------------------

HARMLESS = {"event", "startup", "cleanup", "login", "probe"}


def harmful_handlers(text: str) -> list[str]:
    """kopf's decorators that put finalizers or annotations on objects (case C28)."""
    found = []
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("kopf", "kopf.on"):
            is_handler = ast.unparse(node.value) == "kopf.on" and node.attr not in HARMLESS
            if is_handler or node.attr in ("timer", "daemon"):
                found.append(ast.unparse(node))
    return sorted(found)


def test_finds_harmful_handlers() -> None:
    text = "kopf.on.event; kopf.on.create; kopf.daemon; kopf.on.delete; kopf.index; kopf.run()"
    assert harmful_handlers(text) == ["kopf.daemon", "kopf.on.create", "kopf.on.delete"]


def test_no_handler_makes_kopf_write_to_objects_that_are_not_ours() -> None:
    assert findings(MODULES, lambda text, _: harmful_handlers(text)) == {}


# --- The direction of imports ---------------------------------------------------------------------


def lint_imports(package_parent: Path) -> str:
    """What import-linter says of the package there, under the contracts of this repository."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports("
    code += f"config_filename={str(ROOT / 'pyproject.toml')!r}, no_cache=True, no_logo=True))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package_parent,
        env={"PYTHONPATH": str(package_parent), "NO_COLOR": "1"},
        capture_output=True,
        check=False,
        text=True,
    )
    return result.stdout + result.stderr


def test_imports_go_downwards_only() -> None:
    report = lint_imports(PACKAGE.parent)
    assert " 0 broken." in report, report


WRONG_IMPORTS = {
    "model/quorum.py": "import time\nfrom asetwin.kube import client\n",
    "resources/core.py": "import datetime\n",
    "loop.py": "import kubernetes\n",
    "kube/act.py": "import kopf\n",
}


def test_the_contracts_find_imports_that_go_the_wrong_way(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "asetwin", ignore=shutil.ignore_patterns("__pycache__"))
    for name, wrong in WRONG_IMPORTS.items():
        with (tmp_path / "asetwin" / name).open("a") as file:
            file.write(wrong)
    report = lint_imports(tmp_path)
    assert re.search(r"Contracts: 0 kept, \d+ broken", report), report
