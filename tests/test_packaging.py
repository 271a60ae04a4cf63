"""The distribution: what a wheel and a source archive hold, and what a user of the wheel is told."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    words = ["-m", "hatchling", "build", "-d", str(out)]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    return out


def test_a_wheel_is_typed_and_holds_no_tests(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    for package in ("mert", "teachers", "probes", "mir_benchmarks"):
        assert f"{package}/py.typed" in names and f"{package}/__init__.py" in names
    assert not any(name.startswith("tests/") or name.endswith("conftest.py") for name in names)


def test_a_source_archive_holds_what_the_readme_names(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "CONTRIBUTING.md", "CITATION.cff", ".ci/run", "notebooks/01_embed_a_song.ipynb"} <= names


def test_the_wheel_tells_its_users_to_install_from_the_index(built: Path, tmp_path: Path) -> None:
    """Not from a checkout, which they do not have."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    code = "from mert.errors import install; from teachers.base import INSTALL; print(install('plots'), INSTALL)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout == 'pip install "mert-hub[plots]" pip install "mert-hub[{}]"\n', done.stderr


USED = """
import mert
import torch
from mert.train.engine import Engine
from mert.train.corpus.base import Corpus
from mert.train.parallel import World
from mert.train.recipe import Recipe
from teachers.basic_pitch import BasicPitchTeacher
from teachers.cqt import CqtTeacher, TonalityTeacher
from teachers.musicnn.teacher import MusicnnTeacher

m = mert.load("mert-nano")
pooled: "mert.Features" = m.embed("song.mp3", layers=["layer05"], pool="mean")
rate_hz: float = m.frame_rate
teachers = {"cqt": CqtTeacher(), "tonality": TonalityTeacher.at_rate()}
musicnn, notes = MusicnnTeacher.installed(), BasicPitchTeacher.installed()

def train(corpus: Corpus) -> Engine:
    return Engine(Recipe(teachers=("cqt", "tonality")), corpus, teachers, World(0, 1, torch.device("cpu")))
"""


@pytest.mark.check
def test_a_program_that_uses_the_packages_passes_a_type_checker(tmp_path: Path) -> None:
    """Teachers can be made, and a dictionary of them trained with: mypy on the packages alone does not tell."""
    pytest.importorskip("mypy")
    (tmp_path / "used.py").write_text(USED)
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "used.py"]
    done = subprocess.run(command, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
