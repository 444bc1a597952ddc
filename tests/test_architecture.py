"""The shape of the package: where imports point, who imports what, what is exported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import durable_tracker

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(durable_tracker.__file__).parent
ROOT = PACKAGE.parent
TESTS = Path(__file__).parent

PROGRAM_LINES_MAX = 4
"""A longer program that a test runs is a file in tests/programs/, where it is linted and type-checked."""

SOLE_IMPORTERS = {
    "requests": {"delivery.http_transport", "delivery.bounded_connection"},
    "urllib3": {"delivery.http_transport", "delivery.bounded_connection"},
    "tenacity": {"delivery.retry"},
    "sqlite3": {"engines.sqlite.connection"},
    "sqlitedict": {"engines.sqlite.tables"},
    "platformdirs": {"engines.sqlite.slots"},
    "tqdm": {"commands.progress"},
    "shtab": {"commands.completion"},
    "fastjsonschema": {"collector.registry"},
    "pytest": {"testing"},
}
"""Each third-party package, and sqlite3, has one home."""

OFFICIAL = {
    "_version", "constants", "contracts", "emitter_configuration", "emitters", "event_store", "events", "payload",
    "self_describing_json", "snowplow", "subject", "tracker", "tracker_configuration", "typing",
}  # fmt: skip
"""Modules of the official tracker: a project that imports from them moves by changing the package's name."""

PROMISED = {"__init__", "__main__", "compat", "drain", "errors", "log", "testing"}
"""Paths that the documentation promises."""

DOCUMENTS = {"MOVING.md", "py.typed"}
"""What else stands at the package's root, for whoever opens it: documents, and the mark of a typed package."""

WINGS = {
    "protocol": {"protocol"},
    "settings": {"settings", "protocol"},
    "engines": {"engines", "settings", "protocol"},
    "delivery": {"delivery", "engines.queue", "settings", "protocol"},
    "control": {"control", "engines.queue"},
    "runtime": {"runtime", "control", "delivery", "engines", "settings", "protocol"},
    "commands": {"commands", "collector", "control", "runtime", "delivery", "engines", "settings", "protocol"},
    "collector": {"collector", "protocol"},
}
"""What is ours lives in a wing, and from these the modules of a wing may import. The official modules use them all."""

FACE = {"protocol": {"self_describing_json"}, "runtime": {"events", "self_describing_json", "subject"}}
"""The official modules that a wing deals in."""

EXPORTED = {
    "AsyncEmitter",
    "CeleryEmitter",
    "ConfigurationError",
    "DamagedQueueError",
    "DurableTrackerError",
    "Emitter",
    "EmitterConfiguration",
    "EmitterStats",
    "Engine",
    "Event",
    "EventStore",
    "InvalidEventError",
    "InMemoryEventStore",
    "Ledger",
    "PagePing",
    "PageView",
    "Payload",
    "Queue",
    "QueueClosedError",
    "QueueError",
    "QueueFullError",
    "RedisEmitter",
    "RedisWorker",
    "Reply",
    "Row",
    "ScreenView",
    "SelfDescribing",
    "SelfDescribingJson",
    "SlotBusyError",
    "Snowplow",
    "StorageError",
    "StructuredEvent",
    "Subject",
    "Tracker",
    "TrackerConfiguration",
    "Transport",
    "UnknownFormatError",
    "__version__",
    "disable_contracts",
    "enable_contracts",
    "logger",
}


def modules() -> dict[str, Path]:
    return {str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path, *, with_types: bool) -> set[str]:
    """Return the full names of what a module imports, also within functions; with or without `if TYPE_CHECKING`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and not with_types and ast.unparse(node.test) == "TYPE_CHECKING":
            for one in node.orelse:
                visit(one)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def own_imports(name: str, path: Path, *, with_types: bool = False) -> set[str]:
    """Return the modules of the package that one of them imports."""
    known = modules()
    found = set()
    for target in imports(path, with_types=with_types):
        parts = target.split(".")
        if parts[0] != "durable_tracker":
            continue
        inner = ".".join(parts[1:])
        owner = inner if inner in known else ".".join(parts[1:-1])
        if owner and owner not in known:
            owner = f"{owner}.__init__"
        found.add(owner or "__init__")
    return found - {name}


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every string; an f-string has a name in the place of each value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            pieces = [str(piece.value) if isinstance(piece, ast.Constant) else "value" for piece in node.values]
            yield node.lineno, "".join(pieces)


def is_long_program(text: str) -> bool:
    """Return whether a text is Python that imports, defines or assigns, and has more lines than a string may have."""
    lines = [line for line in textwrap.dedent(text).splitlines() if line.strip()]
    if len(lines) <= PROGRAM_LINES_MAX:
        return False
    # A template of str.format is one, too, once its fields have names for values.
    try:
        tree = ast.parse(re.sub(r"{\w+(![ars])?}", "value", "\n".join(lines)))
    except (SyntaxError, ValueError):
        return False
    statements = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, statements) for node in ast.walk(tree))


def test_imports_point_one_way() -> None:
    """No module needs one that needs it, not even for its types."""
    graph = {name: own_imports(name, path, with_types=True) for name, path in modules().items() if name != "__init__"}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join((*way[way.index(name) :], name))
        if name in done or name not in graph:
            return
        for target in graph[name]:
            walk(target, (*way, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_the_root_holds_official_modules_and_promised_paths_alone() -> None:
    """Whoever opens the package sees what they know, and the wings."""
    root = {name.removesuffix(".__init__").split(".")[0] for name in modules()}
    assert root == OFFICIAL | PROMISED | set(WINGS)
    assert {path.name for path in PACKAGE.iterdir() if path.is_file() and path.suffix != ".py"} == DOCUMENTS


def test_wings_import_from_those_below_them() -> None:
    """The two seams, `Queue` and `Transport`, are where they meet."""
    for name, path in modules().items():
        wing = name.split(".")[0]
        if wing not in WINGS:
            continue
        below = WINGS[wing] | FACE.get(wing, set()) | {"errors", "log", "_version"}
        for target in own_imports(name, path, with_types=True):
            parents = {".".join(target.split(".")[: n + 1]) for n in range(3)}
            is_shell = wing in ("commands", "collector") and bool(parents & (OFFICIAL | PROMISED))
            assert parents & below or is_shell, f"{name} imports {target}"


def test_the_library_does_not_know_its_command_line() -> None:
    """Nor the development collector; those know the library."""
    shells = {name for name in modules() if name.startswith(("commands", "collector", "drain", "__main__"))}
    for name, path in modules().items():
        if name not in shells:
            assert own_imports(name, path, with_types=True) & shells == set(), name


def test_nobody_imports_from_the_packages_root() -> None:
    """It only re-exports."""
    for name, path in modules().items():
        assert "__init__" not in own_imports(name, path), name


def test_each_third_party_package_has_one_home() -> None:
    """So that its errors, its options and its successor are one module's business."""
    for name, path in modules().items():
        for target in imports(path, with_types=True):
            package = target.split(".")[0]
            if package in SOLE_IMPORTERS:
                assert name in SOLE_IMPORTERS[package], f"{name} imports {package}"
            else:
                known = {"durable_tracker", "_typeshed"} | sys.stdlib_module_names
                assert package in known, f"{name} imports {package}"


def test_the_exported_names_are_these() -> None:
    """A name that goes is a broken promise, and one that comes is a new one."""
    assert set(durable_tracker.__all__) == EXPORTED
    for name in EXPORTED:
        assert getattr(durable_tracker, name) is not None


def test_nothing_pickles() -> None:
    """A tampered file must never run code: no module of ours names the codec."""
    for name, path in modules().items():
        names = imports(path, with_types=True)
        assert not {one for one in names if one.split(".")[0] in {"pickle", "marshal", "shelve", "dill"}}, name


def test_importing_the_package_starts_nothing() -> None:
    """No thread, no file, no handler of log or signal, and neither the command line's packages nor the collector's."""
    program = TESTS / "programs" / "import_the_package.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_every_module_says_what_it_is_for_and_stays_small_enough_to_read() -> None:
    """One noun of the trade each."""
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), name
        assert len(text.splitlines()) <= 800, name


def test_the_top_level_is_the_agreed_one() -> None:
    """Whoever opens the repository sees what it is."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not in a git repository")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    required = {"durable_tracker", "tests", "benchmarks", "pyproject.toml", "Makefile", "README.md"}
    assert required <= top
    assert top - required <= {".ci", ".gitignore", "LICENSE"}


def test_programs_that_tests_run_are_files() -> None:
    """Those of a few lines may be strings: they are read at a glance."""
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, text in strings(ast.parse(path.read_text(encoding="utf-8")))
        if is_long_program(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("first", "prefix", "is_found"),
    [
        ("import os", "", True),
        ("t = make({settings!r})", "", True),
        ("t = make({settings!r})", "f", True),
        ("    def work(): pass", "", True),
        ("Whatever is said here is no program.", "", False),
        ("'a text'", "", False),
    ],
)
def test_a_program_in_a_string_is_found_and_prose_is_not(first: str, prefix: str, is_found: bool) -> None:
    """The test above can fail, and does not for a text of another kind, or a shorter one."""
    indent = first[: len(first) - len(first.lstrip())]
    for count in (PROGRAM_LINES_MAX - 1, PROGRAM_LINES_MAX):
        source = prefix + repr("\n".join([first, *[f"{indent}work()"] * count]))
        found = [is_long_program(text) for _, text in strings(ast.parse(source))]
        assert any(found) is (is_found and count == PROGRAM_LINES_MAX)
