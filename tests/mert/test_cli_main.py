"""Exit codes of `mert`: 2 is wrong usage, 1 any other error, and a bug shows its traceback and asks for a report."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from harness.sounds import tiny_embedder

import mert
from mert.cli import main as cli
from mert.cli.terminal import usage_errors
from mert.errors import UsageError


class Run(NamedTuple):
    code: object
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """run(*arguments) runs `mert` in this process."""

    def call(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["mert", *map(str, arguments)])
        try:
            cli.main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return call


@pytest.mark.parametrize("bug", [ValueError("shapes (3,) (4,)"), KeyError("x"), RuntimeError("no"), TypeError("no")])
def test_a_bug_is_1_with_its_traceback_and_a_request_to_report_it(
    bug: Exception, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise bug

    monkeypatch.setattr("mert.weights.registry.info", broken)
    done = run("models", "*v0")
    assert done.code == 1
    assert "Traceback" in done.err and type(bug).__name__ in done.err and "in broken" in done.err
    assert "please report this with the command and your versions (mert --version)" in done.err.splitlines()[-1]


def test_the_versions_are_printed(run: Callable[..., Run]) -> None:
    done = run("--version")
    assert done.code == 0 and done.out.startswith(f"mert-hub {mert.__version__}, torch ")


def test_h_is_help_and_the_package_is_a_command(run: Callable[..., Run]) -> None:
    assert run("-h").out == run("--help").out != ""
    done = subprocess.run([sys.executable, "-m", "mert", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").out


def test_a_folder_that_hides_a_package_costs_its_commands_alone(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "__init__.py").touch()
    command = [sys.executable, "-m", "mert", "embed", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "mert embed" in done.stdout and "Traceback" not in done.stderr
    assert "warning: `mert probe` is not available: probes.cli:app cannot be imported" in done.stderr


@pytest.mark.parametrize(
    ("module", "command", "said"),
    [
        ("sklearn.metrics", "bench", r"scikit-learn: is not installed; pip install -e \".\[probe\]\""),
        ("yaml", "pretrain", r"pyyaml: is not installed; pip install -e \".\[train\]\""),
        ("tensorboard", "pretrain", r"tensorboard: is not installed; pip install -e \".\[train\]\""),
    ],
)
def test_a_missing_extra_is_one_line_wherever_it_is_imported(
    module: str, command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["mert", command])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert re.fullmatch(f"error: {said}\n", capsys.readouterr().err)


def test_only_errors_of_values_become_wrong_usage() -> None:
    with pytest.raises(UsageError, match="mert embed: no layer 9; see mert embed --help"), usage_errors("embed"):
        raise ValueError("no layer 9")
    with pytest.raises(KeyError), usage_errors("embed"):
        raise KeyError


@pytest.mark.parametrize(
    "arguments",
    [
        ["plot", "ssm", "FEATURES", "-o", "x.gif"],
        ["plot", "ssm", "FEATURES", "-o", "x.png", "--layer", "layer99"],
        ["plot", "ssm", "FEATURES", "-o", "x.png"],
        ["plot", "curves", "FOLDER", "-o", "x.png"],
        ["similar", "SONG", "FOLDER", "-m", "MODEL", "--layer", "99"],
        ["similar", "SONG", "FOLDER", "-m", "MODEL", "--layer", "all"],
        ["similar", "SONG", "FOLDER", "-m", "MODEL", "--window", "many"],
        ["similar", "SONG", "FOLDER", "-m", "MODEL", "--window", "0"],
        ["embed", "SONG", "-o", "OUT", "-m", "MODEL", "--dtype", "float32", "--window", "nan"],
        ["export", "MODEL", "OUT", "--check"],
    ],
    ids=" ".join,
)
def test_wrong_values_of_options_are_2_and_one_line(
    arguments: list[str], run: Callable[..., Run], tmp_path: Path
) -> None:
    embedder = tiny_embedder()
    model, song = mert.save_pretrained(embedder, tmp_path / "model"), tmp_path / "songs" / "a.wav"
    song.parent.mkdir()
    soundfile.write(song, np.zeros(24_000, np.float32) + 0.1, 24_000)
    (tmp_path / "songs" / "metrics.jsonl").write_text("{}\n")
    pooled = tmp_path / "pooled.npz"
    embedder.embed(np.ones(24_000, np.float32), sr=24_000, pool="mean").save(pooled)
    names = {"FEATURES": pooled, "FOLDER": song.parent, "SONG": song, "MODEL": model, "OUT": tmp_path / "out"}
    done = run(*(names.get(word, word) for word in arguments))
    assert done.code == 2 and done.err.startswith("error: ") and len(done.err.splitlines()) == 1, done
    assert not (tmp_path / "out").exists()
