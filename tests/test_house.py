"""The house rules: how big files and functions may be, what is named how, what may import what."""

import ast
import asyncio
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("deliveryagent", "queue_schema")
FILE_LINES = 400
FUNCTION_LINES = 50
PARAMETERS = 5

# A name that says nothing about what is inside. (``resolver/hosts.py`` does, ``resolver/utils.py`` would not.)
EMPTY_NAMES = {
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "misc",
    "base",
    "core",
    "tools",
    "stuff",
}
ZOO = re.compile(r"(?<!Queue)Manager$|Handler$|Helper$|Util(s)?$|Factory$|Impl$")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.$}/])/(?:work|root|farm|home/\w+|Users/\w+)/\w")
DOCUMENTED_ELSEWHERE = {*dir(asyncio.Protocol), *dir(asyncio.DatagramProtocol), *dir(io.RawIOBase)}
"""Methods that the standard library calls and explains."""
MIRRORED = ("mail", "policy", "protocol")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """Every file of the program."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def everything() -> list[Path]:
    """Every Python file that is kept."""
    more = [path for room in ("tests", "benchmarks", "man") for path in (ROOT / room).rglob("*.py")]
    return [*sources(), *sorted(more)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """The program, parsed."""
    return {path: ast.parse(path.read_text("utf-8")) for path in everything()}


def functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Lines of a function without its docstring and decorators."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        lines -= (text.end_lineno or text.lineno) - text.lineno + 1
    return lines


def test_files_are_short_enough_to_be_read_at_once() -> None:
    sizes = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert not {name: size for name, size in sizes.items() if size > FILE_LINES}


def test_functions_are_short_enough_to_be_seen_at_once(trees: dict[Path, ast.Module]) -> None:
    long = {
        f"{name_of(path)}:{function.lineno} {function.name}": length(function)
        for path in sources()
        for function in functions(trees[path])
        if length(function) > FUNCTION_LINES
    }
    assert not long


def test_functions_take_few_parameters_by_place(trees: dict[Path, ast.Module]) -> None:
    many = {}
    for path in sources():
        for function in functions(trees[path]):
            places = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
            own = [place for place in places if place not in {"self", "cls"}]
            if len(own) > PARAMETERS:
                many[f"{name_of(path)}:{function.lineno} {function.name}"] = own
    assert not many


def test_every_module_begins_with_a_small_manual(trees: dict[Path, ast.Module]) -> None:
    assert not [name_of(path) for path, tree in trees.items() if not ast.get_docstring(tree)]


def test_whatever_is_public_says_what_it_is(trees: dict[Path, ast.Module]) -> None:
    silent = []
    for path in sources():
        bodies = [trees[path].body, *(owner.body for owner in _public_classes(trees[path]))]
        for body in bodies:
            for node in body:
                if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                    continue
                if node.name in DOCUMENTED_ELSEWHERE:
                    continue
                if ast.get_docstring(node) is None and not _is_overload(node):
                    silent.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not silent


def _public_classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]


def _is_overload(node: Function | ast.ClassDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def test_names_say_what_is_inside(trees: dict[Path, ast.Module]) -> None:
    assert not [name_of(p) for p in everything() if {p.stem, p.parent.name} & EMPTY_NAMES]
    zoo = [
        f"{name_of(path)} {node.name}"
        for path in sources()
        for node in ast.walk(trees[path])
        if isinstance(node, ast.ClassDef) and ZOO.search(node.name) and node.name != "Manager"
    ]
    assert not zoo


def test_nothing_is_left_unfinished() -> None:
    marks = [
        f"{name_of(path)}:{number}"
        for path in everything()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not marks


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    kept = [*everything(), *ROOT.glob("*.md"), *ROOT.glob("docs/*"), *ROOT.glob("systemd/**/*")]
    kept += [*ROOT.glob("man/*"), *ROOT.glob(".ci/*"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    found = [
        f"{name_of(path)}:{number}"
        for path in kept
        if path.is_file() and path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]
    assert not found


def test_every_pure_module_has_its_own_test() -> None:
    missing = [
        name_of(path)
        for room in MIRRORED
        for path in sorted((ROOT / "deliveryagent" / room).glob("*.py"))
        if path.stem != "__init__" and not (ROOT / "tests" / room / f"test_{path.stem}.py").exists()
    ]
    assert not missing


def test_imports_point_downward() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
