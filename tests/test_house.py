"""The house rules of size and order. What may import what is checked by `.ci/imports`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pdepth", "kernels", "bench", "csrc", "tests")
SOURCES = (".py", ".pyi", ".cpp", ".h", ".hpp", ".inc")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SOURCES and "__pycache__" not in path.parts
)

MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_BODY = 80
MOST_PARAMETERS = 12
MOST_LOOSE_MODULES = 10
LOOSE_ANYWAY = {"__init__.py", "__main__.py"}

# One call with every option is what they are for.
PUBLIC_FAMILY = {
    "prediction_depth",
    "depth_from_embeddings",
    "probe_votes",
    "kneighbors",
    "plan",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def body_lines(function: Function) -> int:
    """Lines of the body without its docstring."""
    body = function.body
    if len(body) > 1 and ast.get_docstring(function) is not None:
        body = body[1:]
    last = function.end_lineno
    assert last is not None
    return last - body[0].lineno + 1


def parameters(function: Function) -> int:
    arguments = function.args
    return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])


def may_have_many_parameters(path: Path, function: Function) -> bool:
    """Whether it is a Triton kernel, a command of the command line or one of the public family."""
    if any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list):
        return True
    if named(path).startswith("pdepth/cli") and not function.name.startswith("_"):
        return True
    return named(path).startswith("pdepth/") and function.name in PUBLIC_FAMILY


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_are_short(folder: str) -> None:
    lengths = {
        named(path): len(path.read_text().splitlines())
        for path in FILES
        if path.is_relative_to(ROOT / folder)
    }
    assert lengths
    assert {n: lines for n, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_short(folder: str) -> None:
    bodies, signatures = {}, {}
    for path in FILES:
        if not path.is_relative_to(ROOT / folder) or path.suffix != ".py":
            continue
        for function in functions(path):
            name = f"{named(path)}:{function.lineno} {function.name}"
            if (lines := body_lines(function)) > MOST_LINES_OF_A_BODY:
                bodies[name] = lines
            count = parameters(function)
            if count > MOST_PARAMETERS and not may_have_many_parameters(path, function):
                signatures[name] = count
    assert bodies == {}
    assert signatures == {}


@pytest.mark.parametrize("folder", ["pdepth", "kernels"])
def test_tensors_name_their_device(folder: str) -> None:
    """A program may have called `torch.set_default_device`."""
    device = pytest.importorskip("torch.utils._device")
    makers = {maker.__name__ for maker in device._device_constructors()}
    silent = [
        f"{named(path)}:{call.lineno}: {ast.unparse(call)}"
        for path in FILES
        if path.is_relative_to(ROOT / folder) and path.suffix == ".py"
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "torch"
        and call.func.attr in makers
        and not {"device", None} & {keyword.arg for keyword in call.keywords}  # None is **options
    ]
    assert silent == []


def test_few_modules_stand_beside_the_rooms() -> None:
    loose = {path.name for path in (ROOT / "pdepth").glob("*.py")} - LOOSE_ANYWAY
    assert len(loose) <= MOST_LOOSE_MODULES, sorted(loose)


def test_every_room_is_installed() -> None:
    """Packages are listed by hand in pyproject.toml: one that is missing there is in no wheel."""
    installed = {"pdepth": "pdepth", "kernels": "pdepth.kernels", "bench": "pdepth.bench"}
    rooms = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for folder, package in installed.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    # tomllib is Python 3.11's.
    text = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools]")[1].split("]")[0]
    listed = {line.strip(' ",') for line in text.splitlines() if line.strip().startswith('"')}
    assert listed == rooms


def test_tests_mirror_the_rooms() -> None:
    rooms = {path.parent.name for path in (ROOT / "pdepth").glob("*/__init__.py")}
    beside = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))}
    assert beside - {"helpers", "bench", "kernels", "docs"} <= rooms
