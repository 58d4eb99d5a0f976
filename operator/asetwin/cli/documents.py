"""Reading manifests: files, folders, kustomize folders and stdin, each field with its line."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from asetwin.cli.common import Problem
from asetwin.model.checks.manifests import Document, Fault
from asetwin.model.checks.schemas import Path as FieldPath

SUFFIXES = (".yaml", ".yml", ".json")
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
KUSTOMIZE_SECONDS = 60.0
DEEPEST = 100
"""Levels of nesting; an alias that contains itself has no end."""

# The parser in C is ten times as fast; PyYAML's wheels have it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(names: Iterable[str], *, recursive: bool = False) -> tuple[list[Document], list[Fault]]:
    """The documents of all files, and what cannot be read of them.

    Raises :class:`asetwin.cli.common.Problem` where there is no such file.
    """
    documents: list[Document] = []
    faults: list[Fault] = []
    for name in names:
        for title, text in _texts(name, recursive):
            parse(text, title, documents, faults)
    return documents, faults


def _texts(name: str, recursive: bool) -> Iterator[tuple[str, str]]:
    """Titles and contents."""
    if name == "-":
        yield "<stdin>", sys.stdin.read()
        return
    path = Path(name)
    if not path.exists():
        raise Problem(f"{name}: there is no such file or folder (-f takes a path, or - for stdin)")
    if path.is_dir():
        yield from _folder(path, recursive)
    else:
        yield str(path), _content(path)


def _folder(path: Path, recursive: bool) -> Iterator[tuple[str, str]]:
    recipe = next((path / one for one in KUSTOMIZATIONS if (path / one).is_file()), None)
    if recipe is not None:
        yield str(recipe), _kustomize(path)
        return
    found = 0
    for one in sorted(path.rglob("*") if recursive else path.iterdir()):
        if one.is_file() and one.suffix in SUFFIXES:
            found += 1
            yield str(one), _content(one)
    if not found:
        words = ", ".join(SUFFIXES)
        raise Problem(f"{path}: no manifests ({words}) in this folder; -R looks in those below too")


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Problem(f"{path}: is not text in UTF-8") from error
    except OSError as error:
        raise Problem(f"{path}: cannot be read: {error.strerror}") from error


def _kustomize(path: Path) -> str:
    program = shutil.which("kubectl")
    if program is None:
        raise Problem(
            f"{path}: is a kustomize folder, which needs kubectl on the PATH; or build it "
            "elsewhere and check the result with -f -"
        )
    command = [program, "kustomize", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=KUSTOMIZE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Problem(
            f"{path}: kubectl kustomize took longer than {error.timeout:.0f} s"
        ) from error
    if done.returncode != 0:
        raise Problem(f"{path}: kubectl kustomize: {' '.join(done.stderr.split())}")
    return done.stdout


def parse(text: str, title: str, documents: list[Document], faults: list[Fault]) -> None:
    """Add the documents of one stream to the list, or the fault that ends it."""
    try:
        loader = _Loader(text)
        try:
            while loader.check_node():
                _add(loader.get_node(), title, documents, faults)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ", ".join(one for one in (error.problem, error.context) if one)
        faults.append(Fault(title, mark.line + 1 if mark else 1, "", f"is not YAML: {told}"))
    except (yaml.YAMLError, RecursionError) as error:
        faults.append(Fault(title, 1, "", f"is not YAML: {' '.join(str(error).split())}"))


def _add(root: Any, title: str, documents: list[Document], faults: list[Fault]) -> None:
    body = _build(root, {}, 0)
    if body is None:
        return
    if not isinstance(body, dict):
        line = root.start_mark.line + 1
        faults.append(Fault(title, line, "", "must be an object with kind and metadata"))
        return
    items = body.get("items")
    if isinstance(items, list) and str(body.get("kind", "")).endswith("List"):
        for number, item in enumerate(items):
            lines = _Lines(root, ("items", number))
            if isinstance(item, dict):
                documents.append(Document(item, title, lines))
            else:
                faults.append(Fault(title, lines(()), f"items[{number}]", "must be an object"))
        return
    documents.append(Document(body, title, _Lines(root, ())))


class _Lines:
    """Where the fields of a document are, found in its tree when somebody asks."""

    def __init__(self, root: Any, prefix: FieldPath) -> None:
        self._root, self._prefix = root, prefix

    def __call__(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest one above it that is there."""
        node, line = self._root, self._root.start_mark.line
        for part in (*self._prefix, *path):
            if isinstance(node, yaml.MappingNode):
                pair = next((one for one in node.value if one[0].value == part), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


# --- YAML as kubectl reads it ---------------------------------------------------------------------

_MAP, _SEQ = yaml.MappingNode, yaml.SequenceNode
_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"yes", "true", "on"})


def _build(node: Any, seen: dict[int, Any], depth: int) -> Any:
    """What JSON would have; an alias is the same object as its anchor."""
    kind = type(node)
    if kind is yaml.ScalarNode:
        return _scalar(node)
    known = seen.get(id(node))
    if known is not None:
        return known
    if depth > DEEPEST:
        raise yaml.MarkedYAMLError(
            problem=f"more than {DEEPEST} levels deep", problem_mark=node.start_mark
        )
    result: Any
    if kind is _SEQ:
        result = [_build(one, seen, depth + 1) for one in node.value]
    else:
        result = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                parents = value.value if type(value) is _SEQ else [value]
                for parent in reversed(parents):
                    merged = _build(parent, seen, depth + 1)
                    if isinstance(merged, dict):
                        result = {**merged, **result}
            else:
                result[str(key.value)] = _build(value, seen, depth + 1)
    seen[id(node)] = result
    return result


def _scalar(node: Any) -> Any:
    tag, text = node.tag, node.value
    if tag == f"{_TAG}str":
        return text
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool":
        return text.lower() in _TRUE
    try:
        if tag == f"{_TAG}int" and ":" not in text:
            plain = text.replace("_", "")
            is_octal = plain.lstrip("+-").startswith("0") and plain.lstrip("+-").isdecimal()
            return int(plain, 8) if is_octal and plain.strip("+-0") else int(plain, 0)
        if tag == f"{_TAG}float" and ":" not in text:
            return float(text.replace("_", ""))
    except ValueError:
        return text
    # A date or a time of day is a string to kubectl.
    return text
