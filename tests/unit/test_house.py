"""The laws of the house: who may import what, how long things may be, which names are not used."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70
NAMELESS = ("utils", "util", "helpers", "helper", "common")

PURE = ("kago/core/*", "kago/agent/plan.py", "kago/agent/report.py", "kago/cli/tables.py")
PURE_STDLIB = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "decimal", "enum", "fractions", "functools", "hashlib", "heapq",
    "itertools", "math", "operator", "re", "string", "struct", "types", "typing",
}
"""All that pure code may import beside msgspec and the house itself; whatever has a clock, dice, threads or I/O is not among it."""

DOORS = {
    "pysyncobj": ("raft/*",),
    "docker": ("kago/agent/runtimes/docker*", "kago/agent/runtimes/images.py"),
    "yaml": ("kago/cli/manifest.py",),
    "_jsonnet": ("kago/cli/manifest.py",),
    "cryptography": ("kago/security/*",),
    "sanic": ("kago/server/*",),
    "httpx": ("kago/client/*",),
    "httptools": ("kago/client/wire.py",),
    "typer": ("kago/cli/*",),
    "rich": ("kago/cli/*",),
    "prometheus_client": ("kago/server/*",),
}
"""The only files that may import each library."""

BANNED = ("pickle", "unittest.mock")
SERVING_VERBS = ("serve", "agent", "demo", "snapshot", "recover")
"""Verbs of the command line that import their server when they are called, so that `kago get` need not load it."""


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SOURCES = sorted(path for part in ("kago", "raft") for path in (ROOT / part).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
every_source = pytest.mark.parametrize("path", SOURCES, ids=_relative)
every_file = pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=_relative)


@every_file
def test_lengths(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    for function in _functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{function.name} has {length} lines"


@every_file
def test_names(path: Path) -> None:
    assert path.stem not in NAMELESS and path.parent.name not in NAMELESS


@every_source
def test_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a module begins with a sentence on what lives in it"


@every_file
def test_imports_nothing_banned(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for name in _imported(tree):
        assert not _within(name, BANNED), name
        assert name != "typing.TYPE_CHECKING", "a module that needs this is on the wrong floor"


@every_source
def test_imports_at_the_top(path: Path) -> None:
    """Those of serving verbs in kago/cli aside; and under their full names, so that the other laws see them."""
    in_cli = _relative(path).startswith("kago/cli/")
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], "relative import"
    for function in _functions(tree):
        if not (in_cli and function.name.strip("_").startswith(SERVING_VERBS)):
            assert not [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)], f"{function.name} imports"


@every_source
def test_libraries_have_one_door(path: Path) -> None:
    for name in _imported(ast.parse(path.read_text())):
        allowed = DOORS.get(name.partition(".")[0])
        assert allowed is None or _matches(path, allowed), f"{name} is imported elsewhere only"


@every_source
def test_purity(path: Path) -> None:
    if not _matches(path, PURE):
        return
    tree = ast.parse(path.read_text())
    for name in _imported(tree):
        assert name.partition(".")[0] in PURE_STDLIB | {"msgspec", "kago"}, f"{name} is not pure"
    # open() and print() need no import; hash() of text and id() differ from process to process.
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "hash", "id", "eval", "exec", "__import__"}


@every_source
def test_floors(path: Path) -> None:
    """import-linter draws the floors finely; this is what must hold even where it was not run."""
    file = _relative(path)
    for name in _imported(ast.parse(path.read_text())):
        if file.startswith("raft/"):
            assert not _within(name, ("kago",)), name
        elif file.startswith("kago/core/"):
            above = ("kago.server", "kago.agent", "kago.client", "kago.cli", "kago.security", "kago.config", "kago.clock", "raft")
            assert not _within(name, above), name
        elif not file.startswith("kago/server/"):
            assert not _within(name, ("raft",)), name
        if file.startswith("kago/agent/"):
            assert not _within(name, ("kago.server", "kago.cli")), name


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _imported(tree: ast.AST) -> Iterator[str]:
    """Full names of everything imported anywhere in it, relative imports aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(_relative(path), pattern) for pattern in patterns)
