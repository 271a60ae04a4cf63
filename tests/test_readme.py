"""Every README: its code and commands run as they stand, in their order; its links and options are there.

The main README loads a published model, from a hub on localhost that serves random weights. The registry pins the
checksum of the real mert-v1-95m, which cannot be downloaded here: the pin is lifted for these runs, and only for them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import torch
import typer
from harness.hub_server import Hub
from harness.sounds import music, tiny_config

from mert.models.mert import Mert
from mert.weights.checkpoints import export_hubert

ROOT = Path(__file__).parents[1]
CARD = "mert/weights/bundled/mert-nano/README.md"
PACKAGES = [f"{name}/README.md" for name in ("mert", "teachers", "probes", "mir_benchmarks")]
ALL = ["README.md", *PACKAGES, CARD, "tests/bench/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(#[\w-]+)?\)")
PATH = re.compile(r"`((?:\w+/)+\w+\.(?:py|css))`")
TITLE = re.compile(r"^#+ (.+)$", re.MULTILINE)
RUN = """
import shlex, sys
from dataclasses import replace
import mert.weights.registry as registry
from mert.cli.main import main

name = "mert-v1-95m"
registry.REGISTRY[name] = replace(registry.REGISTRY[name], sha256=None, revision=None)

def run(line):
    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as end:
        assert not end.code, f"{line}: exit code {end.code}"
"""


class Block(NamedTuple):
    """A fenced block of a README: its language, and the number of the line before its first."""

    language: str
    line: int
    text: str


def blocks(name: str) -> Iterator[Block]:
    text = (ROOT / name).read_text()
    for match in BLOCK.finditer(text):
        yield Block(match[1], text.count("\n", 0, match.start(2)), match[2])


def commands(block: Block) -> list[str]:
    lines = [line.split(" #")[0].strip() for line in block.text.splitlines()] if block.language == "sh" else []
    return [line for line in lines if line.startswith("mert ")]


def program(names: list[str]) -> str:
    """Python that does all that the READMEs show, each in a namespace of its own; commands run in the same process."""
    parts = [RUN]
    for name in names:
        parts.append("space = {'__name__': '__main__'}")
        for block in blocks(name):
            if block.language == "python":
                code = "\n" * block.line + block.text
                parts.append(f"exec(compile({code!r}, {name!r}, 'exec'), space)")
            parts += [f"run({command!r})" for command in commands(block)]
    return "\n".join(parts)


def run_all(names: list[str], folder: Path, variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program(names)], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with some music and the variables that lead to the local hub."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_music" / "a").mkdir(parents=True)
    for name in ("song.mp3", "a.wav", "b.flac", "my_music/song.wav", "my_music/a/b.flac", "my_music/a/c.ogg"):
        soundfile.write(folder / name, music(4.0, 44_100, seed=len(name)), 44_100)
    rows = [f"{name}/{i:02}.wav" for name in ("flute", "harp") for i in range(6)]
    for i, row in enumerate(rows):
        (folder / "my_takes" / row).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "my_takes" / row, music(1.0, 24_000, seed=i), 24_000)
    (folder / "labels.csv").write_text("\n".join(["file,label", *(f"{row},{row.split('/')[0]}" for row in rows)]))
    torch.manual_seed(0)
    published = export_hubert(Mert(tiny_config(n_layers=12)), folder / "published")
    with Hub() as server:
        server.commit_folder("m-a-p/MERT-v1-95M", published)
        yield folder, os.environ | {
            "HF_ENDPOINT": server.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_local", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip


@pytest.mark.check
@pytest.mark.timeout(1_200)  # for busy machines
def test_the_readme_runs_from_top_to_bottom(environment: tuple[Path, dict[str, str]]) -> None:
    folder, variables = environment
    assert sum(len(commands(block)) for block in blocks("README.md")) >= 20
    run_all(["README.md"], folder, variables)
    assert (folder / "song.npz").exists()
    written = {str(path.relative_to(folder)) for path in (folder / "features").rglob("*") if path.is_file()}
    assert written == {f"features/{name}" for name in ("report.jsonl", "song.wav.npz", "a/b.flac.npz", "a/c.ogg.npz")}
    assert (folder / "song.png").stat().st_size > 10_000
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1 + 4
    assert (folder / "results/peaks/nsynth_pitch.json").exists()


@pytest.mark.check
@pytest.mark.timeout(1_200)  # for busy machines
def test_the_package_readmes_run_from_top_to_bottom(environment: tuple[Path, dict[str, str]]) -> None:
    run_all(PACKAGES, *environment)


@pytest.mark.parametrize("name", ALL)
def test_commands_and_options_exist(name: str) -> None:
    """Also of commands that take too long to run here: they are parsed, which refuses what is unknown."""
    from mert.cli.main import app

    for command in (line for block in blocks(name) for line in commands(block)):
        group, words = typer.main.get_command(app), shlex.split(command)[1:]
        while hasattr(group, "commands"):
            group, words = group.commands[words[0]], words[1:]
        group.make_context(command, words)


@pytest.mark.parametrize("name", ALL)
def test_links_lead_to_files_and_headings(name: str) -> None:
    text = (ROOT / name).read_text()
    for file, heading in LINK.findall(text.replace("](#", f"]({Path(name).name}#")):
        target = (ROOT / name).parent / file
        assert target.exists(), file
        titles = TITLE.findall(target.read_text()) if heading else []
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}  # GitHub's
        assert not heading or heading[1:] in slugs, heading


@pytest.mark.parametrize("name", ALL)
def test_paths_in_the_text_exist(name: str) -> None:
    """From the top of the repository, or from the README's own folder."""
    roots = (ROOT, (ROOT / name).parent)
    paths = PATH.findall((ROOT / name).read_text())
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_the_model_table_is_the_registry() -> None:
    from mert.weights.registry import REGISTRY

    text = (ROOT / "README.md").read_text()
    for name, model in REGISTRY.items():
        assert f"`{name}`" in text
        assert model.licence in text


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_readme_lists_every_room(package: str) -> None:
    folder, text = (ROOT / package).parent, (ROOT / package).read_text()
    beside = ("__init__.py", "__main__.py", "__pycache__", "README.md", "py.typed")
    rooms = [path for path in folder.iterdir() if path.name not in beside]
    missing = [path.name for path in rooms if f"`{path.name}{'/' if path.is_dir() else ''}`" not in text]
    assert missing == []


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", project["version"])
    assert citation["license"] == project["license"]
    assert len(citation["references"][0]["authors"]) == 20
