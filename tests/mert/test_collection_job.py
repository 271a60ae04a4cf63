"""The stage that embeds a file, its executors, and which outputs a second run keeps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from harness.forks import FORKS
from harness.sounds import all_close, music, tiny_embedder

import mert
from mert import Features
from mert.collection import executors as jobs
from mert.collection.executors import run
from mert.collection.extraction import extract
from mert.collection.job import EmbedStage, FileExtraction, JobOptions
from mert.collection.plan import Job
from mert.embedding import batching
from mert.embedding.npz import FrameWriter, write_npz

NAMES = ["a.wav", "b.wav", "bad.wav", "sub/c.wav"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mert.save_pretrained(tiny_embedder(), tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def options(model: str) -> JobOptions:
    return JobOptions(model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def stage(options: JobOptions) -> EmbedStage:
    return EmbedStage(options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings and one file that is none."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "sub").mkdir()
    for i, name in enumerate(NAMES):
        soundfile.write(folder / name, music(1.3 + 0.5 * i, seed=i), 24_000)
    (folder / "bad.wav").write_bytes(b"no audio" * 100)
    return folder


@pytest.fixture
def job(corpus: Path, tmp_path: Path) -> Job:
    return Job(str(corpus / "b.wav"), str(tmp_path / "deep" / "b.wav.npz"))


def jobs_to(out: Path, corpus: Path) -> list[Job]:
    return [Job(str(corpus / name), str(out / f"{name}.npz")) for name in NAMES]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, temporary ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def agree(got: Path, wanted: Path) -> bool:
    """Rule 3, for outputs of float32."""
    a, b = Features.load(got), Features.load(wanted)
    return a.layers == b.layers and np.array_equal(a.times, b.times) and all_close(a.values, b.values)


def row_of(stage: EmbedStage, job: Job) -> dict[str, Any]:
    return next(stage.rows([job]))


def again(options: JobOptions, job: Job, **changes: Any) -> dict[str, Any]:
    """What --skip-existing makes of a job, with other options."""
    return row_of(EmbedStage(dataclasses.replace(options, skip_existing=True, **changes)), job)


@pytest.fixture(scope="module")
def local(options: JobOptions, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of the local executor in float32, for the others to agree with."""
    out = tmp_path_factory.mktemp("local")
    list(run(jobs_to(out, corpus), dataclasses.replace(options, save_dtype="float32")))
    return out


def test_a_row_says_what_was_read_and_written(stage: EmbedStage, job: Job) -> None:
    row = row_of(stage, job)
    features = Features.load(job.output)
    assert (row["source"], row["output"], row["status"], row["error"]) == (job.source, job.output, "ok", None)
    assert row["seconds"] == pytest.approx(1.8) and row["frames"] == len(features.times) == features.values.shape[1]
    assert row["warnings"] == [] and row["elapsed_s"] > 0
    assert json.loads(json.dumps(row)) == row


def test_the_output_holds_what_embed_gives(stage: EmbedStage, job: Job) -> None:
    row_of(stage, job)
    got, wanted = Features.load(job.output), stage.embedder.embed(job.source, layers=[-1])
    assert got.values.dtype == np.float16 and got.layers == ("layer03",)
    assert np.array_equal(got.times, wanted.times) and got.times.dtype == np.float64
    assert np.abs(got.values - wanted.values).max() <= 2e-3 * np.abs(wanted.values).max()
    assert got.meta.items() >= wanted.meta.items()
    assert got.meta["source_sha256"] == hashlib.sha256(Path(job.source).read_bytes()).hexdigest()


@pytest.mark.parametrize("pool", ["mean", "meanstd"])
def test_pooled_outputs_are_those_of_embed(options: JobOptions, job: Job, pool: str) -> None:
    stage = EmbedStage(dataclasses.replace(options, pool=pool, layers="all", save_dtype="float32"))
    row = row_of(stage, job)
    got, wanted = Features.load(job.output), stage.embedder.embed(job.source, pool=pool)
    assert got.times is None and got.layers == wanted.layers and np.allclose(got.values, wanted.values, atol=1e-6)
    assert row["frames"] == 134 and row["status"] == "ok"
    assert again(options, job, pool=pool, layers="all", save_dtype="float32")["status"] == "skipped"


@pytest.mark.parametrize("layers, names", [("all", ("embed", "layer01", "layer02", "layer03")), ([2, "embed"], None)])
def test_layers_come_in_the_order_asked_for(options: JobOptions, job: Job, layers: Any, names: Any) -> None:
    assert row_of(EmbedStage(dataclasses.replace(options, layers=layers)), job)["status"] == "ok"
    assert Features.load(job.output).layers == (names or ("layer02", "embed"))


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "pickle", "one sample", "nan", "null", "long"])
def test_a_bad_file_is_a_row_that_names_it_and_leaves_nothing(stage: EmbedStage, tmp_path: Path, kind: str) -> None:
    source = tmp_path / {"null": "a\0b.wav", "long": "x" * 300 + ".wav"}.get(kind, "bad.wav")
    if kind == "folder":
        source.mkdir()
    elif kind in ("one sample", "nan"):
        soundfile.write(source, [0.5] if kind == "one sample" else [0.1, np.nan] * 9000, 24_000, subtype="FLOAT")
    elif kind in ("empty", "text", "pickle"):
        source.write_bytes({"empty": b"", "text": b"hello\n" * 999, "pickle": b"\x80\x04K\x01." * 99}[kind])
    row = row_of(stage, Job(str(source), str(tmp_path / "out" / "x.npz")))
    assert row["status"] == "failed" and row["frames"] == 0
    assert row["error"].startswith(str(source)) and len(row["error"].splitlines()) == 1
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # seeks that a decoder tried
def test_damaged_audio_never_stops_the_stage(stage: EmbedStage, corpus: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for suffix, kind in [("wav", "WAV"), ("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3"), ("aiff", "AIFF")]:
        whole = tmp_path / f"whole.{suffix}"
        soundfile.write(whole, music(1.0), 24_000, format=kind)
        for _ in range(12):
            data = bytearray(whole.read_bytes())
            for _ in range(chance.randint(1, 20)):
                data[chance.randrange(min(len(data), chance.choice([64, len(data)])))] = chance.randrange(256)
            damaged = tmp_path / f"damaged.{suffix}"
            damaged.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
            row = row_of(stage, Job(str(damaged), str(tmp_path / "out.npz")))
            assert row["status"] in ("ok", "damaged", "failed")
            assert (row["error"] is None) == (row["status"] != "failed")


def test_a_recording_over_max_seconds_is_refused(options: JobOptions, job: Job) -> None:
    row = row_of(EmbedStage(dataclasses.replace(options, max_seconds=1.0)), job)
    assert row["status"] == "failed" and "max_seconds=1" in row["error"] and not Path(job.output).exists()


@pytest.mark.parametrize("pool", [None, "mean"])
def test_values_too_large_for_float16_are_refused_not_stored_as_infinity(
    pool: Any, tmp_path: Path, corpus: Path
) -> None:
    embedder = tiny_embedder()
    with torch.no_grad():
        embedder.model.encoder.blocks[2].ffn_norm.weight.mul_(1e7)  # type: ignore[union-attr,operator]
    model = str(mert.save_pretrained(embedder, tmp_path / "huge"))
    job = Job(str(corpus / "a.wav"), str(tmp_path / "a.npz"))
    long = JobOptions(model, device="cpu", pool=pool, save_dtype="float32")
    assert row_of(EmbedStage(long), job)["status"] == "ok" and np.abs(Features.load(job.output).values).max() > 65504
    os.unlink(job.output)
    row = row_of(EmbedStage(dataclasses.replace(long, save_dtype="float16")), job)
    assert row["status"] == "failed" and "does not fit float16" in row["error"] and not os.path.exists(job.output)


def test_an_output_made_the_same_way_is_kept(options: JobOptions, stage: EmbedStage, job: Job) -> None:
    def written() -> tuple[int, int, int]:  # not the time of the last reading, which the skip itself may move
        stat = os.stat(job.output)
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    row_of(stage, job)
    before = written()
    row = again(options, job)
    assert row["status"] == "skipped" and row["warnings"] == [] and written() == before


def test_batch_size_does_not_make_an_output_anew(options: JobOptions, stage: EmbedStage, job: Job) -> None:
    row_of(stage, job)
    assert again(options, job, batch_size=1)["status"] == "skipped"


@pytest.mark.parametrize(
    "changes, facts",
    [
        ({"layers": [1]}, "layers"),
        ({"layers": "all"}, "layers"),
        ({"window": 0.5}, "window_frames, hop_frames"),
        ({"window": "whole"}, "window_frames, hop_frames"),
        ({"hop": 0.5}, "hop_frames"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"save_dtype": "float32"}, "save_dtype"),
        ({"pool": "mean"}, "pool"),
    ],
)
def test_an_output_made_another_way_is_made_again_with_a_warning(
    options: JobOptions, stage: EmbedStage, job: Job, changes: dict[str, Any], facts: str
) -> None:
    row_of(stage, job)
    before = Path(job.output).read_bytes()
    row = again(options, job, **changes)
    assert row["status"] == "ok" and row["warnings"] == [f"made again: the existing output differs in {facts}"]
    assert Path(job.output).read_bytes() != before
    assert again(options, job, **changes)["status"] == "skipped"


def test_an_output_of_another_model_is_made_again(stage: EmbedStage, job: Job, tmp_path: Path) -> None:
    row_of(stage, job)
    other = str(mert.save_pretrained(tiny_embedder(seed=1), tmp_path / "other"))
    row = row_of(EmbedStage(JobOptions(other, device="cpu", skip_existing=True)), job)
    assert row["status"] == "ok" and row["warnings"] == ["made again: the existing output differs in weights_sha256"]


def test_an_output_is_made_again_when_its_source_changed_size(options: JobOptions, job: Job, tmp_path: Path) -> None:
    source = tmp_path / "song.wav"
    job = Job(str(source), job.output)
    soundfile.write(source, music(1.0), 24_000)
    assert again(options, job)["status"] == "ok"
    soundfile.write(source, music(1.1), 24_000)
    row = again(options, job)
    assert row["status"] == "ok" and row["warnings"] == ["made again: the existing output differs in source_sha256"]
    assert Features.load(job.output).meta["seconds"] == pytest.approx(1.1)


def test_an_output_whose_source_is_gone_is_a_failure_and_stays(
    options: JobOptions, stage: EmbedStage, job: Job
) -> None:
    row_of(stage, job)
    before = Path(job.output).read_bytes()
    row = again(options, Job(job.source + ".gone", job.output))
    assert row["status"] == "failed" and row["error"].startswith(job.source + ".gone")
    assert Path(job.output).read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_output_is_made_again(options: JobOptions, stage: EmbedStage, job: Job, share: float) -> None:
    row_of(stage, job)
    whole = Path(job.output).read_bytes()
    Path(job.output).write_bytes(whole[: int(len(whole) * share)])
    row = again(options, job)
    assert row["status"] == "ok" and row["warnings"][0].startswith("made again: not a features file")
    assert Path(job.output).read_bytes() == whole


def test_an_output_with_any_byte_changed_is_found_whole_or_made_again(
    options: JobOptions, stage: EmbedStage, job: Job
) -> None:
    row_of(stage, job)
    keeping = EmbedStage(dataclasses.replace(options, skip_existing=True))
    whole, wanted = Path(job.output).read_bytes(), Features.load(job.output).values
    chance = random.Random(1)
    from_values = whole.index(b"times.npy")
    for at in [chance.randrange(from_values, len(whole)) for _ in range(50)] + list(range(0, 160, 3)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        Path(job.output).write_bytes(damaged)
        assert row_of(keeping, job)["status"] in ("ok", "skipped"), at
        np.testing.assert_array_equal(Features.load(job.output).values, wanted)


def test_an_output_is_made_again_when_its_source_changed_but_not_in_size(
    options: JobOptions, stage: EmbedStage, job: Job
) -> None:
    row_of(stage, job)
    wave, rate_hz = soundfile.read(job.source)
    size = os.path.getsize(job.source)
    soundfile.write(job.source, wave[::-1], rate_hz)
    assert os.path.getsize(job.source) == size
    row = row_of(EmbedStage(dataclasses.replace(options, skip_existing=True)), job)
    assert (row["status"], row["warnings"]) == ("ok", ["made again: the existing output differs in source_sha256"])


def rename_over(path: Path) -> None:
    other = path.with_name("other.wav")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


@pytest.mark.parametrize("change", [rename_over, Path.unlink, lambda path: os.truncate(path, 20_000),
                                    lambda path: path.write_bytes(path.read_bytes()[:-4] + b"abcd")])  # fmt: skip
def test_a_source_that_changes_while_it_is_read_fails_and_is_embedded_when_it_is_whole(
    options: JobOptions, stage: EmbedStage, job: Job, change: Callable[[Path], object]
) -> None:
    class Disturbed(FileExtraction):
        def add(self, values_LTD: np.ndarray) -> None:
            change(Path(job.source))
            super().add(values_LTD)

    whole = Path(job.source).read_bytes()
    rows = [file.row() for file in extract(stage.embedder, stage.settings, [Disturbed(job, stage)])]
    assert [row["status"] for row in rows] == ["failed"] and not Path(job.output).exists()
    Path(job.source).write_bytes(whole)
    assert again(options, job)["status"] == "ok"


@pytest.mark.parametrize("meta", ["not json", "[1, 2]", "null", "{}"])
def test_a_file_of_other_software_is_made_again(options: JobOptions, stage: EmbedStage, job: Job, meta: str) -> None:
    write_npz(job.output, {"values": np.zeros(3), "layers": np.array(["a"]), "meta": np.array(meta)})
    row = again(options, job)
    assert row["status"] == "ok" and len(row["warnings"]) == 1
    assert Features.load(job.output).layers == ("layer03",)


def test_a_compressed_archive_is_not_inflated(options: JobOptions, job: Job) -> None:
    Path(job.output).parent.mkdir()
    with zipfile.ZipFile(job.output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("values", "layers", "meta"):
            archive.writestr(f"{name}.npy", bytes(10_000_000))
    assert "compressed" in again(options, job)["warnings"][0]


def test_a_folder_in_the_place_of_an_output_is_a_failure_and_not_removed(options: JobOptions, job: Job) -> None:
    (Path(job.output) / "kept").mkdir(parents=True)
    row = again(options, job)
    assert row["status"] == "failed" and job.output in row["error"] and (Path(job.output) / "kept").is_dir()
    assert os.listdir(Path(job.output).parent) == [Path(job.output).name]


def test_an_output_name_too_long_for_the_disk_is_a_row(stage: EmbedStage, corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / ("x" * 250 + ".wav")  # fits, but not with .npz
    source.write_bytes((corpus / "a.wav").read_bytes())
    row = row_of(stage, Job(str(source), str(tmp_path / "out" / (source.name + ".npz"))))
    assert row["status"] == "failed" and "cannot be written (File name too long)" in row["error"]
    assert not list((tmp_path / "out").iterdir())


SKIPPED = 2


def embed_one(options: JobOptions, job: Job) -> None:
    torch.set_num_threads(1)
    (row,) = EmbedStage(options).rows([job])
    sys.exit({"ok": 0, "skipped": SKIPPED}.get(row["status"], 1))


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(
    options: JobOptions, stage: EmbedStage, job: Job
) -> None:
    """Whether the output is kept or made anew: a process may die between its rename and its tidying."""
    folder = Path(job.output).parent
    ghost = subprocess.Popen([sys.executable, "-c", ""])
    ghost.wait()
    for skip in (False, True):
        with FrameWriter(job.output, "float16"):
            (mine,) = folder.glob(".*.tmp")
            others = [mine.name.replace(f".{os.getpid()}.", f".{pid}.") for pid in (ghost.pid, os.getppid())]
            for name in others:
                (folder / name).mkdir(exist_ok=True)
                (folder / name / "0.raw").write_bytes(b"half")
            other = FORKS.Process(target=embed_one, args=(dataclasses.replace(options, skip_existing=skip), job))
            other.start()
            other.join(60)
            assert other.exitcode == (SKIPPED if skip else 0)
            assert sorted(path.name for path in folder.glob(".*.tmp")) == sorted([mine.name, others[1]])
            shutil.rmtree(folder / others[1])


def test_a_writer_killed_at_any_moment_leaves_the_old_output_or_the_new(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from mert.embedding.npz import FrameWriter
print(flush=True)
while True:
    with FrameWriter(sys.argv[1], "float32") as writer:
        for _ in range(20):
            writer.add(np.full((2, 500, 64), 7, np.float32))
        writer.finish(layers=np.array(["a", "b"]), meta=np.array("{}"))
"""
    output = tmp_path / "x.npz"
    chance = random.Random(2)
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(chance.random() * 0.08)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        if output.exists():
            assert (Features.load(output).values == 7).all()
    with FrameWriter(output, "float16") as writer:
        writer.add(np.ones((1, 2, 3), np.float32))
        writer.finish(layers=np.array(["a"]), meta=np.array("{}"))
    assert os.listdir(tmp_path) == ["x.npz"]


def test_the_local_executor_gives_a_row_a_job_in_order(options: JobOptions, corpus: Path, tmp_path: Path) -> None:
    wanted = jobs_to(tmp_path, corpus)
    rows = list(run(wanted, options))
    assert [Job(row["source"], row["output"]) for row in rows] == wanted
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok"]
    assert set(contents(tmp_path)) == {"a.wav.npz", "b.wav.npz", "sub/c.wav.npz"}


def test_processes_survive_the_death_of_a_worker_and_agree_with_local(
    options: JobOptions, corpus: Path, local: Path, tmp_path: Path
) -> None:
    rows = []
    for row in run(jobs_to(tmp_path, corpus), dataclasses.replace(options, save_dtype="float32"), workers=2):
        if not rows:
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)
        rows.append(row)
    assert sorted(row["source"] for row in rows) == sorted(job.source for job in jobs_to(tmp_path, corpus))
    assert {row["source"]: row["status"] for row in rows}[str(corpus / "bad.wav")] == "failed"
    assert [row["status"] for row in rows].count("ok") == 3
    assert set(contents(tmp_path)) == set(contents(local))
    assert all(agree(tmp_path / name, local / name) for name in contents(local))


def test_short_files_share_batches_and_give_what_they_give_alone(
    options: JobOptions, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that fails among them costs its neighbours nothing; rows come in order."""
    names = ["a.wav", "b.wav", "bad.wav", "sub/c.wav", "none.wav", "a.wav"]
    wanted = [Job(str(corpus / name), str(tmp_path / f"{i}.npz")) for i, name in enumerate(names)]
    exact = dataclasses.replace(options, save_dtype="float32", batch_size=8, skip_existing=True)
    stage = EmbedStage(exact)
    sizes: list[int] = []
    compute = stage.embedder.runner.states
    monkeypatch.setattr(stage.embedder.runner, "states", lambda w, *s: (sizes.append(len(w)), compute(w, *s))[1])
    rows = list(stage.rows(iter(wanted)))
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok", "failed", "ok"]
    assert [row["output"] for row in rows] == [job.output for job in wanted]
    assert max(sizes) > 2  # windows of a.wav and b.wav together
    for row in rows:
        if row["status"] == "ok":
            alone = stage.embedder.embed(row["source"], layers=[-1], dtype="float32")
            assert all_close(Features.load(row["output"]).values, alone.values)
    assert sorted(contents(tmp_path)) == ["0.npz", "1.npz", "3.npz", "5.npz"]
    again = list(stage.rows(iter(wanted)))
    assert [row["status"] for row in again] == ["skipped", "skipped", "failed", "skipped", "failed", "skipped"]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_batch_that_fails_loses_no_file(
    ahead: bool, options: JobOptions, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads ahead stops then, and what it had read is heard again; also of jobs that can be drawn only once."""
    wanted = [Job(str(corpus / "a.wav"), str(tmp_path / f"{i}.npz")) for i in range(12)]
    stage = EmbedStage(dataclasses.replace(options, batch_size=4))
    windows, compute, calls = batching.windows, stage.embedder.runner.states, iter(range(1000))

    def slow(*given: Any) -> Iterator[Any]:
        for piece in windows(*given):
            time.sleep(0.02)
            yield piece

    def failing(*given: Any) -> Iterator[np.ndarray]:
        if next(calls) in (0, 2):
            raise RuntimeError("out of memory")
        yield from compute(*given)

    monkeypatch.setattr(batching, "has_spare_core", lambda device: ahead)
    monkeypatch.setattr(batching, "windows", slow)
    monkeypatch.setattr(stage.embedder.runner, "states", failing)
    rows = list(stage.rows(job for job in wanted))
    assert [row["output"] for row in rows] == [job.output for job in wanted]
    assert [row["status"] for row in rows].count("failed") == 2
    assert {row["output"] for row in rows if row["status"] == "ok"} == set(map(str, tmp_path.iterdir()))


def test_rows_of_skipped_files_come_at_once_and_ctrl_c_ends_them(
    options: JobOptions, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [Job(str(corpus / "a.wav"), str(tmp_path / f"{i}.npz")) for i in range(6)]
    list(EmbedStage(options).rows(outputs))
    drawn: list[Job] = []
    stage = EmbedStage(dataclasses.replace(options, skip_existing=True, batch_size=4))
    monkeypatch.setattr(batching, "has_spare_core", lambda device: False)
    rows = stage.rows(job for job in outputs if not drawn.append(job))  # type: ignore[func-returns-value]
    for i in range(1, 4):
        assert next(rows)["status"] == "skipped" and len(drawn) == i
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        next(rows)


def test_a_disk_that_refuses_one_output_spoils_no_other_of_its_batch(
    options: JobOptions, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "1.npz").mkdir()
    outputs = [Job(str(corpus / "a.wav"), str(tmp_path / f"{i}.npz")) for i in range(3)]
    rows = list(EmbedStage(dataclasses.replace(options, batch_size=16)).rows(outputs))
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"] and "1.npz" in rows[1]["error"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_a_stage_that_is_given_up_leaves_nothing_behind(options: JobOptions, corpus: Path, tmp_path: Path) -> None:
    stage = EmbedStage(dataclasses.replace(options, batch_size=1))
    rows = stage.rows([Job(str(corpus / "a.wav"), str(tmp_path / f"{i}.npz")) for i in range(3)])
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["0.npz"]


def test_bundles_hold_small_neighbours_and_leave_work_for_all(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}").write_bytes(bytes(10_000_000 if i == 20 else 100))
    found = [Job(str(tmp_path / f"{i}"), "") for i in range(40)]
    made = jobs.bundles([*found, Job("missing", "")], workers=2)
    assert [job for bundle in made for job in bundle] == [*found, Job("missing", "")]
    assert [found[20]] in made and max(map(len, made)) == 5
    assert [len(bundle) for bundle in jobs.bundles(found[:4], workers=2)] == [1, 1, 1, 1]


def fatal(bundle: list[Job]) -> list[dict[str, Any]]:
    """What a decoder that crashes on one file does to its process."""
    if any("bad" in job.source for job in bundle):
        os.kill(os.getpid(), signal.SIGKILL)
    return list(jobs._stage.rows(bundle))


def killed_once(bundle: list[Job]) -> list[dict[str, Any]]:
    """A worker that the system kills once, for want of memory; each notes its process."""
    folder = Path(bundle[0].output).parent
    (folder / f"{os.getpid()}.pid").touch()
    try:
        (folder / "killed").touch(exist_ok=False)
    except FileExistsError:
        return list(jobs._stage.rows(bundle))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_the_death_of_a_worker_costs_one_more_worker_not_one_for_each_file(
    options: JobOptions, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_work", killed_once)
    wanted = [Job(str(corpus / "a.wav"), str(tmp_path / f"{i}.npz")) for i in range(24)]
    rows = list(run(wanted, options, workers=2))
    assert sorted((row["output"], row["status"]) for row in rows) == sorted((job.output, "ok") for job in wanted)
    assert len(list(tmp_path.glob("*.pid"))) <= 2 + 1 + 2  # the first two, one for the suspects, two for the rest


def test_files_that_kill_their_workers_fail_alone(
    options: JobOptions, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_work", fatal)
    bad = [Job(str(corpus / "bad.wav"), str(tmp_path / f"{i}.npz")) for i in range(2)]  # one for each worker
    wanted = [*bad, jobs_to(tmp_path, corpus)[0]]
    rows = list(run(wanted, options, workers=2))
    assert sorted((Path(row["source"]).name, row["status"]) for row in rows) == [
        ("a.wav", "ok"), ("bad.wav", "failed"), ("bad.wav", "failed")
    ]  # fmt: skip
    assert all("worker process died" in row["error"] for row in rows if row["status"] == "failed")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


@pytest.mark.check
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_agrees_with_local_whatever_the_names(
    options: JobOptions, corpus: Path, local: Path, tmp_path: Path, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an embedded Ray, with relative paths, a model in a relative folder, and a name that is not UTF-8."""
    odd = os.fsdecode(b"odd \xe9\n.wav")
    (tmp_path / odd).write_bytes((corpus / "a.wav").read_bytes())
    (tmp_path / "model").symlink_to(options.model)
    monkeypatch.chdir(tmp_path)
    wanted = [*jobs_to(Path("out"), corpus), Job(odd, f"out/{odd}.npz")]
    rows = list(run(wanted, dataclasses.replace(options, model="model", save_dtype="float32"), "ray", 2))
    assert {(row["source"], row["output"]) for row in rows} == {(job.source, job.output) for job in wanted}
    assert {row["source"] for row in rows if row["status"] == "failed"} == {str(corpus / "bad.wav")}
    assert set(contents(tmp_path / "out")) == {*contents(local), f"{odd}.npz"}
    assert all(agree(tmp_path / "out" / name, local / name) for name in contents(local))
    assert Features.load(f"out/{odd}.npz").meta["source"] == odd
