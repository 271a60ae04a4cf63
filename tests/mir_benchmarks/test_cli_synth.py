"""`mert bench synth` as users run it: exit codes, what it prints, and what lies on the disk afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import soundfile
from harness.commands import Run, mert_command, run_mert

from mir_benchmarks.synth.corpus import SynthCorpus

HOURS = str(3 * 0.5 / 3600)


def synth(*words: object) -> Run:
    return run_mert("bench", "synth", *words)


def test_synth_writes_music_and_scores_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "music"
    done = synth(HOURS, "-o", out, "--seconds", 0.5, "--seed", 7, "--format", "wav")
    assert done.code == 0, done.err
    assert "3/3" in done.out and "3 written, 0 kept" in done.out and str(out / "scores.jsonl") in done.out
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and rows[2]["key"] == SynthCorpus(7, 3, 0.5).score(2).key
    wave, rate_hz = soundfile.read(out / rows[2]["path"])
    assert rate_hz == 24_000 and len(wave) == 12_000
    more = synth(2 * float(HOURS), "-o", out, "--seconds", 0.5, "--seed", 7, "--format", "wav", "--workers", 2)
    assert more.code == 0 and "6 clips" in more.out and "3 written, 3 kept" in more.out


def test_synth_leaves_folders_of_others_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused = synth(HOURS, "-o", tmp_path, "--seconds", 0.5)
    assert refused.code == 2 and refused.err.splitlines() == [
        f"error: {tmp_path}: is not empty, and holds no music of this kind; choose another folder"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert synth(HOURS, "-o", tmp_path / "new", "--seconds", 0.5).code == 0
    other = synth(HOURS, "-o", tmp_path / "new", "--seconds", 0.5, "--seed", 1)
    assert other.code == 2 and "choose another folder" in other.err


@pytest.mark.parametrize(
    "words",
    [["nan"], ["-1"], [HOURS, "--workers", "0"], [HOURS, "--format", "mp3"], [HOURS, "--kinds", "notes"], []],
)
def test_synth_refuses_nonsense(words: list[str], tmp_path: Path) -> None:
    done = synth(*words, "-o", tmp_path / "out")
    assert done.code == 2 and "Traceback" not in done.err and not (tmp_path / "out").exists()


def test_synth_that_was_stopped_goes_on(tmp_path: Path) -> None:
    words = ["1", "-o", str(tmp_path), "--seconds", "1"]
    command = mert_command("bench", "synth", *words)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.flac"))) < 2:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and said.decode().splitlines() == ["stopped; run the same command again to go on"]
    n_files = len(list(tmp_path.rglob("*.flac")))
    done = synth(str((n_files + 1) / 3600), "-o", tmp_path, "--seconds", "1")
    assert done.code == 0 and f"1 written, {n_files} kept" in done.out
    assert not list(tmp_path.rglob("*.partial"))
