"""`prepare --check`: every fault that is put into a good tree is found, named, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness.commands import Run, run_mert
from harness.planting import plant

from mir_benchmarks.datasets.dataset import Dataset, Item
from mir_benchmarks.datasets.splits import gtzan_splits
from mir_benchmarks.tasks.check import Report, check
from mir_benchmarks.tasks.registry import TASKS, TaskSpec

NAMES = ("blues.00029", "blues.00000", "blues.00012", "jazz.00054")  # train, valid, test, train


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(2_000), 8_000)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A GTZAN of four excerpts that calls itself complete."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / "gtzan" / "genres" / name.partition(".")[0] / f"{name}.wav", seed)
        plant(tmp_path / "gtzan", {f"beats/gtzan_{name.replace('.', '_')}.beats": "0.1\n"})
    counts = {"train": 2, "valid": 1, "test": 1}
    note = {"generator": "1", "seed": 0, "counts": {"gtzan_genre": counts, "gtzan_beats": counts}}
    plant(tmp_path / "gtzan", {"SYNTHETIC.json": json.dumps(note)})
    return tmp_path


def found(report: Report) -> list[tuple[str, str]]:
    return [(finding.kind, finding.about) for finding in report.findings]


def test_a_good_tree_is_ready(home: Path) -> None:
    report = check(home, ["gtzan_genre", "gtzan_beats"], decode=True, duplicates=True)
    assert report.ok and found(report) == []
    assert report.counts["gtzan_beats"] == {"train": 2, "valid": 1, "test": 1}


@pytest.mark.parametrize("suffix", [".au", ".flac", ".aiff"])
def test_recordings_count_in_whatever_format_they_are(suffix: str, home: Path) -> None:
    for path in (home / "gtzan" / "genres").rglob("*.wav"):
        soundfile.write(path.with_suffix(suffix), soundfile.read(path)[0], 8_000)
        path.unlink()
    report = check(home, ["gtzan_genre", "gtzan_beats"], decode=True)
    assert report.ok and found(report) == [] and report.counts["gtzan_genre"] == {"train": 2, "valid": 1, "test": 1}


def test_a_file_of_the_split_counts_with_any_suffix_that_is_read(home: Path) -> None:
    path = home / "gtzan" / "genres" / "blues" / "blues.00029.wav"
    path.with_suffix(".mp4").write_bytes(path.read_bytes())
    path.unlink()
    report = check(home, ["gtzan_genre"])
    assert found(report) == [] and report.counts["gtzan_genre"] == {"train": 2, "valid": 1, "test": 1}


def test_faults_are_named(home: Path) -> None:
    genres = home / "gtzan" / "genres"
    (genres / "blues" / "blues.00000.wav").write_bytes(b"")
    (genres / "jazz" / "jazz.00054.wav").write_bytes(b"RIFF, or so it says" * 20)
    write(genres / "blues" / "blues.00001.wav", 9).rename(genres / "blues" / "blues.99999.wav")
    write(home / "gtzan" / "notes" / "memo.wav", 8)
    report = check(home, ["gtzan_genre"])
    assert found(report) == [
        ("empty", "genres/blues/blues.00000.wav"), ("corrupt", "genres/jazz/jazz.00054.wav"),
        ("known", "genres/blues/blues.99999.wav"), ("extra", "notes/memo.wav"),
    ]  # fmt: skip
    assert not report.ok and "gtzan_jazz54=drop" in report.findings[1].detail
    (genres / "blues" / "blues.00000.wav").unlink()
    report = check(home, ["gtzan_genre"])
    assert found(report)[0] == ("counts", "gtzan_genre") and report.findings[0].detail == "2/0/1 items, not 2/1/1"


def test_all_that_is_missing_of_the_real_gtzan_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "any.wav", 0).read_bytes()
    for name in gtzan_splits():
        genre = tmp_path / "gtzan" / "genres" / name.partition(".")[0]
        genre.mkdir(parents=True, exist_ok=True)
        if name not in ("blues.00029", "rock.00012"):
            (genre / f"{name}.wav").write_bytes(data)
    report = check(tmp_path, ["gtzan_genre"])
    assert found(report) == [("counts", "gtzan_genre"), ("missing", "blues.00029"), ("missing", "rock.00012")]
    assert report.findings[0].detail == "442/197/289 items, not 443/197/290"


def test_only_decoding_finds_what_headers_hide(home: Path) -> None:
    path = home / "gtzan" / "genres" / "blues" / "blues.00012.wav"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert check(home, ["gtzan_genre"]).findings == ()
    (finding,) = check(home, ["gtzan_genre"], decode=True).findings
    assert finding.kind == "damaged" and finding.about.endswith("blues.00012.wav") and "cut off" in finding.detail


def test_the_same_file_in_two_splits(home: Path) -> None:
    blues = home / "gtzan" / "genres" / "blues"
    (blues / "blues.00012.wav").write_bytes((blues / "blues.00029.wav").read_bytes())
    assert check(home, ["gtzan_genre"]).findings == ()
    (finding,) = check(home, ["gtzan_genre"], duplicates=True).findings
    assert finding.kind == "duplicate" and {gtzan_splits()["blues.00012"], gtzan_splits()["blues.00029"]} == {
        "test",
        "train",
    }
    assert "blues.00012" in finding.about + finding.detail and "blues.00029" in finding.about + finding.detail


def test_excerpts_without_beats(home: Path) -> None:
    (home / "gtzan" / "beats" / "gtzan_blues_00012.beats").unlink()
    assert found(check(home, ["gtzan_beats"]))[:2] == [("counts", "gtzan_beats"), ("missing", "blues.00012")]
    assert check(home, ["gtzan_genre"]).ok


def test_known_files_of_other_corpora(tmp_path: Path) -> None:
    singer = tmp_path / "vocalset" / "FULL" / "female2" / "scales" / "vibrato"
    write(singer / "f2_scales_vibrato_a.wav", 0)
    write(singer / "f2_scales_vibrato_a(1).wav", 0)
    report = check(tmp_path, ["vocalset_technique", "emomusic"])
    assert found(report) == [
        ("dataset", str(tmp_path / "emomusic")), ("known", "FULL/female2/scales/vibrato/f2_scales_vibrato_a(1).wav")
    ]  # fmt: skip
    assert "clips_45sec.tar.gz" in report.findings[0].detail and "put it there" in report.findings[0].detail


def test_stems_of_a_song(tmp_path: Path) -> None:
    for part, name in (("train", "A - B"), ("test", "C - D")):
        for seed, stem in enumerate(("mixture", "drums", "bass", "other", "vocals")):
            write(tmp_path / "musdb18" / part / name / f"{stem}.wav", seed)
    (tmp_path / "musdb18" / "train" / "A - B" / "bass.wav").write_bytes(b"")
    report = check(tmp_path, ["musdb18"])
    assert found(report) == [("counts", "musdb18"), ("empty", "train/A - B/bass.wav")]


def test_the_command(home: Path) -> None:
    def run(*words: str) -> Run:
        return run_mert("bench", "prepare", *words, "--data-home", home)

    done = run("gtzan_genre,mtt")
    assert done.code == 0 and "mp3.zip.001" in done.out and str(home / "gtzan") in done.out
    done = run("gtzan_genre", "--check")
    assert done.code == 0 and done.out.splitlines()[-1] == "ready", done.err
    (home / "gtzan" / "genres" / "blues" / "blues.00012.wav").write_bytes(b"")
    done = run("gtzan_genre", "--check")
    assert done.code == 1 and "genres/blues/blues.00012.wav" in done.out and "not ready" in done.out


def test_the_same_file_in_two_splits_of_one_task_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VocalSet's techniques are split by singer, its singers by recording."""
    paths = [tmp_path / "vocalset" / name for name in ("a.wav", "b.wav")]
    for path in paths:
        write(path, 1)

    def read(task: TaskSpec, *_: object) -> Dataset:
        splits = ("train", "test") if task.name == "vocalset_technique" else ("train", "train")
        items = [Item(path.stem, path, split, 0) for path, split in zip(paths, splits, strict=True)]
        return Dataset(tuple(items), ("x",))

    monkeypatch.setattr("mir_benchmarks.tasks.check._read", read)
    for tasks in (["vocalset_technique", "vocalset_singer"], ["vocalset_singer", "vocalset_technique"]):
        assert ("duplicate", "b.wav") in found(check(tmp_path, tasks, duplicates=True))


def test_the_list_of_tasks_fits_80_columns_and_breaks_no_value() -> None:
    done = run_mert("bench", "ls")
    lines = done.out.splitlines()
    assert done.code == 0 and max(map(len, lines)) <= 80
    for task in TASKS.values():
        (row,) = (line for line in lines if line.split()[0] == task.name)
        assert f"{task.corpus}/" in row
        assert all(f"    --set {name}={'|'.join(values)}" in lines for name, values in task.switches.items())
