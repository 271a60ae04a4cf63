"""Exit codes of `mert`: 2 is wrong usage, 1 any other error, and a bug shows its traceback and asks for a report."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rich
import soundfile
from harness.sounds import tiny_embedder
from rich.console import Console

import mert
from mert.cli import main as cli
from mert.cli import terminal
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
    for words, name in ((["bench", "ls"], "probes"), (["fit-teacher", "kmeans", "synth", "-o", "x"], "teachers")):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "__init__.py").touch()
        done = subprocess.run([*command[:3], *words], cwd=tmp_path / name, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"{tmp_path / name / name}: hides the package {name}, which mert needs; rename it" in done.stderr


@pytest.mark.parametrize(
    ("module", "command", "said"),
    [
        ("scipy.stats", "bench", r"scikit-learn: is not installed; pip install -e \".\[probe\]\""),
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


@pytest.fixture
def as_before() -> Iterator[None]:
    """`--quiet` and `--verbose` concern the whole process; what comes after the test is to be as before."""
    yield
    rich.reconfigure(quiet=False)
    logging.getLogger("mert").setLevel(logging.NOTSET)
    terminal.settings.update(quiet=False, verbose=False)


def test_a_log_file_gets_lines_as_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "LINES_S", (0.001, 0.0, 0.05))
    with terminal.progress() as bar:
        task = bar.add_task("clips", total=20)
        for _ in range(19):
            bar.advance(task)
            time.sleep(0.02)
    lines = capsys.readouterr().err.splitlines()[:-1]  # the last one is the bar at the end
    assert all(re.fullmatch(r"clips: \d+/20 in \d+ s(, \d+ s left)?", line) for line in lines)
    assert len({line.split("/")[0] for line in lines}) >= 9  # one for each tenth at least


def test_a_terminal_gets_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "LINES_S", (0.001, 0.0, 0.01))
    console = Console(force_terminal=True, file=io.StringIO())
    with terminal.progress(console) as bar:
        task = bar.add_task("clips", total=20)
        bar.advance(task)
        time.sleep(0.1)
    assert " in 0 s" not in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("as_before")
def test_quiet_shows_results_and_errors_only(run: Callable[..., Run], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=24_000) / 10, 24_000)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    mert.save_pretrained(tiny_embedder(), tmp_path / "model")
    done = run("--quiet", "embed", tmp_path, "-m", tmp_path / "model", "-o", tmp_path / "out")
    assert done.code == 3 and "seconds of audio" not in done.out + done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["failed", "1 embedded, 0 kept, 1 failed"]


@pytest.mark.usefixtures("as_before")
def test_verbose_shows_where_an_error_comes_from(run: Callable[..., Run], tmp_path: Path) -> None:
    brief, long = (run(*words, "info", tmp_path / "none") for words in ((), ("-v",)))
    assert brief.code == long.code == 1 and "Traceback" not in brief.err
    assert "Traceback" in long.err and long.err.splitlines()[-1] == brief.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("embed -o OUT", "inputs: no recordings are named; give files, folders, or --list FILE"),
        ("embed EMPTY -o OUT", "no audio files among the inputs (1 .txt); name files to try them"),
        ("embed SONG -o OUT -d meta", "--device meta: it holds no values; give auto, cpu, cuda or cuda:1"),
        ("embed SONG -o OUT -d gpu", "--device gpu: torch knows no such device; give auto, cpu, cuda or cuda:1"),
        ("embed SONG -m MODEL -o FILE/sub", "not a directory; check the path, permissions and free space"),
        ("push NONE a/b", "no such folder; give a folder that mert convert or export wrote"),
        ("plot ssm SONG -o OUT.png", "give a file of mert embed, or embed again"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    arguments: str, message: str, run: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    soundfile.write(tmp_path / "song.wav", np.zeros(24_000), 24_000)
    mert.save_pretrained(tiny_embedder(), tmp_path / "model")
    names = {"EMPTY": "empty", "SONG": "song.wav", "OUT": "out", "OUT.png": "out.png", "NONE": "none", "MODEL": "model",
             "FILE/sub": "song.wav/sub"}  # fmt: skip
    done = run(*(tmp_path / names[word] if word in names else word for word in arguments.split()))
    assert done.code in (1, 2) and message in done.err and len(done.err.splitlines()) == 1, done


def test_a_device_that_is_absent_is_an_error_of_ours() -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UsageError, match=f"device {device}"):
            mert.load("mert-nano", device=device)


def test_a_name_that_an_output_cannot_show_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, shown in (("utf-8", b"caf\xe9"), ("ascii", b"caf\\udce9")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
        cli.show_any_name()
        sys.stdout.write("caf\udce9")
        sys.stdout.flush()
        assert raw.getvalue() == shown
