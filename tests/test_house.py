"""The house rules: budgets of size, who imports whom, what may not appear in the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mert", "teachers", "probes", "mir_benchmarks")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TEXTS = [*SOURCES, *ROOT.glob("*.md"), *(ROOT / "notebooks").rglob("*.ipynb")]


def functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(f"{path.name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1) for node in found]


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > 500} == {}


def test_no_example_is_passed_over() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    ignored = [option.removeprefix("--ignore=") for option in options if option.startswith("--ignore=")]
    assert ignored and not any(">>>" in (ROOT / name).read_text() for name in ignored)


def test_functions_are_short() -> None:
    lengths = dict(function for path in SOURCES for function in functions(path))
    assert {name: n for name, n in lengths.items() if n > 65} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_at_most_twelve_rooms(package: str) -> None:
    beside = {"__init__.py", "__main__.py", "__pycache__", "README.md", "py.typed"}
    rooms = sorted(path.name for path in (ROOT / package).iterdir() if path.name not in beside)
    assert len(rooms) <= 12, rooms


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def dangers(code: str) -> list[int]:
    """Lines that load pickles or remote code, which ruff's S rules do not find."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Attribute(value=ast.Name("torch"), attr="load") | ast.keyword(arg="trust_remote_code"):
                lines.append(node.lineno)
            case ast.keyword(arg="allow_pickle", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                lines.append(node.lineno)
            case ast.Import(names=names) if {name.name for name in names} & {"pickle", "cloudpickle", "dill"}:
                lines.append(node.lineno)
            case ast.ImportFrom(module="pickle" | "cloudpickle" | "dill"):
                lines.append(node.lineno)
            case ast.ImportFrom(module="torch", names=names) if "load" in {name.name for name in names}:
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "code",
    ["x = torch.load(path)", "from torch import load", "import pickle", "from pickle import loads", "import os, dill",
     "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=how)", "load(name, trust_remote_code=True)"],
)  # fmt: skip
def test_code_that_runs_data_is_found(code: str) -> None:
    assert dangers(f'"""torch.load, import pickle."""\n{code}') == [2]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_the_source_runs_data(path: Path) -> None:
    lines = path.read_text().splitlines()
    allowed = {"import pickle"} if path.name == "pickles.py" else set()  # the restricted reader
    assert {lines[number - 1] for number in dangers(path.read_text())} <= allowed


def test_nobody_is_sent_to_the_strangers_package() -> None:
    for path in TEXTS:
        assert not re.search(r"pip install mert(\[| |$)", path.read_text(), re.MULTILINE), path


def test_no_machine_of_ours_is_named() -> None:
    for path in [*TEXTS, *(ROOT / "tests").rglob("*.py"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        assert not re.search(r"/(work|root|home)/[a-z]", path.read_text()), path


def test_import_contract() -> None:
    pytest.importorskip("importlinter")
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_mert_knows_teachers_only_where_it_trains() -> None:
    ours = re.compile(r"^\s*(?:from|import) (teachers|probes|mir_benchmarks)\b", re.MULTILINE)
    for path in (ROOT / "mert").rglob("*.py"):
        found = set(ours.findall(path.read_text()))
        room = path.relative_to(ROOT / "mert").parts[0]
        assert found <= ({"teachers"} if room in ("train", "cli") else set()), path


def test_using_a_model_needs_the_light_packages_only() -> None:
    heavy = ["transformers", "torchaudio", "nnAudio", "sklearn", "datasets", "fairseq2", "matplotlib", "av", "ray"]
    code = "import sys, numpy, mert; mert.random_model().embed(numpy.ones(9000), sr=24000);"
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
