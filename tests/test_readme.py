"""The README's snippets, run as they stand, against a hub on localhost that serves random weights.

The registry pins the checksum of the real mert-v1-95m, which cannot be downloaded here: the pin is lifted for these
runs, and only for them, by a sitecustomize module.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from harness.hub_server import Hub
from harness.sounds import music, tiny_config

from mert.models.mert import Mert
from mert.weights.checkpoints import export_hubert

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LIFT_THE_PIN = """
from dataclasses import replace
import mert.weights.registry as registry
name = "mert-v1-95m"
registry.REGISTRY[name] = replace(registry.REGISTRY[name], sha256=None, revision=None)
"""


def blocks(kind: str) -> list[str]:
    return [code for name, code in BLOCK.findall((ROOT / "README.md").read_text()) if name == kind]


def commands() -> list[str]:
    lines = [line.split(" #")[0].strip() for code in blocks("sh") for line in code.splitlines()]
    return [line for line in lines if line.startswith("mert ")]


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
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(LIFT_THE_PIN)
    with Hub() as server:
        server.commit_folder("m-a-p/MERT-v1-95M", published)
        yield folder, os.environ | {
            "HF_ENDPOINT": server.url, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_local",
            "PYTHONPATH": str(folder / "site"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip


def test_python_snippets_run(environment: tuple[Path, dict[str, str]]) -> None:
    folder, variables = environment
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "song.npz").exists()


def test_commands_run(environment: tuple[Path, dict[str, str]]) -> None:
    folder, variables = environment
    assert len(commands()) >= 12
    for command in commands():
        done = subprocess.run(command.split(), cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    made = {str(path.relative_to(folder)) for path in (folder / "features").rglob("*") if path.is_file()}
    assert made == {f"features/{name}" for name in ("report.jsonl", "song.wav.npz", "a/b.flac.npz", "a/c.ogg.npz")}
    assert (folder / "song.png").stat().st_size > 10_000
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1 + 4


def test_the_model_table_is_the_registry() -> None:
    from mert.weights.registry import REGISTRY

    text = (ROOT / "README.md").read_text()
    for name, model in REGISTRY.items():
        assert f"`{name}`" in text
        assert model.licence in text
