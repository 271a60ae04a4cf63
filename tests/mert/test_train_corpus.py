"""Music to train on: folders, manifests and prepared stores give the same clips, and say what is wrong by name."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from harness import faulty
from harness.commands import run_mert
from harness.sounds import music

pytest.importorskip("pyarrow")
pytest.importorskip("datasets")

from mert.errors import AudioError, UsageError
from mert.train.corpus import recordings as files
from mert.train.corpus import store as stores
from mert.train.corpus.base import CorpusError
from mert.train.corpus.opening import Mixture, open_corpus
from mert.train.corpus.recordings import FileCorpus
from mert.train.corpus.store import StoreCorpus

RATE = 24_000


def open_at(data: Path | str, **options: Any) -> Any:
    return open_corpus(str(data), RATE, RATE // 2, {}, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of several rates, formats and lengths, one of them longer than a block of a store."""
    made = tmp_path_factory.mktemp("music")
    (made / "sub").mkdir()
    for name, seconds, rate_hz in [("a.wav", 1.3, 24_000), ("b.flac", 2.1, 44_100), ("sub/c.mp3", 1.7, 48_000),
                                   ("sub/d.ogg", 0.9, 22_050), ("e.flac", 12.4, 32_000)]:  # fmt: skip
        soundfile.write(made / name, 0.9 * music(seconds, rate_hz, seed=len(name)), rate_hz)
    return made


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "store"
    done = run_mert("prepare", folder, "-o", out)
    assert done.code == 0, done.err
    assert "5 recordings, 0.01 h" in done.out
    return out


@pytest.fixture
def copied(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "store"))


def test_a_store_gives_the_clips_of_its_folder_bit_for_bit(folder: Path, store: Path) -> None:
    lying, prepared = open_at(folder), open_at(store)
    assert isinstance(lying, FileCorpus) and isinstance(prepared, StoreCorpus)
    assert lying.fingerprint == prepared.fingerprint and len(prepared) == 5
    random = np.random.default_rng(0)
    for index in range(5):
        assert lying.name(index) == prepared.name(index)
        length = int(prepared.lengths[index])
        assert lying.lengths[index] == length
        whole_N = prepared.read(index, 0, length)
        np.testing.assert_array_equal(lying.read(index, 0, length), whole_N)
        assert whole_N.dtype == np.float32 and 0.05 < np.abs(whole_N).max() <= 1
        for start in [*random.integers(0, length - 8_000, 3).tolist(), length - 8_000]:
            for corpus in (lying, prepared):
                np.testing.assert_array_equal(corpus.read(index, start, 8_000), whole_N[start : start + 8_000])


def test_the_datasets_library_reads_a_store(store: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(
        "arrow", data_files=str(store / "audio-*.arrow"), split="train", cache_dir=store.parent / "cache"
    )
    blocks = [row for row in rows if row["name"] == "e.flac"]
    assert [row["block"] for row in blocks] == [0, 1] and len(blocks[0]["samples"]) == 10 * RATE
    corpus = open_at(store)
    index = [corpus.name(i) for i in range(5)].index("e.flac")
    joined = np.concatenate([row["samples"] for row in blocks])
    np.testing.assert_array_equal(corpus.read(index, 0, len(joined)), joined / np.float32(32_768))


def test_a_store_is_prepared_by_processes_as_by_one(store: Path, folder: Path, tmp_path: Path) -> None:
    done = run_mert("prepare", folder, "-o", tmp_path / "store", "--workers", "2")
    assert done.code == 0, done.err
    for name in ("audio-00000.arrow", "recordings.parquet", "store.json"):
        assert (tmp_path / "store" / name).read_bytes() == (store / name).read_bytes()


def test_a_second_start_writes_only_what_is_new(copied: Path, folder: Path, tmp_path: Path) -> None:
    before = (copied / "audio-00000.arrow").stat()
    assert run_mert("prepare", folder, "-o", copied).code == 0
    assert (copied / "audio-00000.arrow").stat() == before
    grown, out = shutil.copytree(folder, tmp_path / "grown"), tmp_path / "grown_store"
    for n in (5, 6):
        assert run_mert("prepare", grown, "-o", out).code == 0
        assert len(open_at(out)) == n
        soundfile.write(grown / "f.wav", music(1.0), RATE)


def test_a_job_that_was_stopped_leaves_no_store_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    from mert.train.corpus import prepare

    monkeypatch.setattr(prepare, "SHARD_BYTES", 100_000)  # a shard for each recording
    options = prepare.PrepareOptions(str(folder), str(tmp_path / "store"), RATE)
    plan = prepare.planned(options)
    assert len(plan.shards) == 5

    def stop(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(options, plan, on_shard=stop)
    with pytest.raises(CorpusError, match="not finished; run the same mert prepare again"):
        open_at(tmp_path / "store")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("audio-*.arrow")}
    assert len(times) == 3
    prepare.prepare(options, plan)
    assert all((tmp_path / "store" / name).stat().st_mtime_ns == time for name, time in times.items())
    made, whole = open_at(tmp_path / "store"), open_at(store)
    assert made.fingerprint == whole.fingerprint
    for index, length in enumerate(made.lengths):
        np.testing.assert_array_equal(made.read(index, 0, int(length)), whole.read(index, 0, int(length)))


def test_bad_files_and_copies_are_left_out_by_name(folder: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(folder, tmp_path / "mixed"))
    shutil.copy(mixed / "a.wav", mixed / "copy.wav")
    (mixed / "text.wav").write_bytes(b"no sound at all")
    soundfile.write(mixed / "loud.wav", np.full(RATE, 1.5, np.float32), RATE, subtype="FLOAT")
    done = run_mert("prepare", mixed, "-o", tmp_path / "store")
    assert done.code == 3 and "2 left out" in done.out
    report = [json.loads(line) for line in (tmp_path / "store/report.jsonl").read_text().splitlines()]
    by_name = {row["name"]: row for row in report}
    assert by_name["copy.wav"] == {"name": "copy.wav", "status": "duplicate", "of": "a.wav"}
    assert by_name["text.wav"]["status"] == "failed" and "text.wav" in by_name["text.wav"]["error"]
    assert by_name["loud.wav"]["clipped"] == RATE
    assert [open_at(tmp_path / "store").name(i) for i in range(6)] == [
        "a.wav", "b.flac", "e.flac", "loud.wav", "sub/c.mp3", "sub/d.ogg"
    ]  # fmt: skip


def test_columns_of_a_manifest_stay_with_the_recordings(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pyarrow import parquet

    manifest = tmp_path / "list.jsonl"
    lines = [{"path": str(folder / "a.wav"), "artist": "A", "licence": "CC BY-NC 4.0", "year": 1999},
             {"audio": {"path": str(folder / "b.flac")}, "artist": "B", "licence": "CC0"}]  # fmt: skip
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_mert("prepare", manifest, "-o", tmp_path / "store")
    assert done.code == 0, done.err
    assert "2 of 2 recordings lie outside its folder" in caplog.text
    table = parquet.read_table(tmp_path / "store/recordings.parquet").to_pylist()
    assert [(row["artist"], row["licence"], row["year"]) for row in table] == [
        ("A", "CC BY-NC 4.0", 1999), ("B", "CC0", None)
    ]  # fmt: skip
    assert open_at(tmp_path / "store").licences == open_at(manifest).licences == ("CC BY-NC 4.0", "CC0")
    manifest.write_text(2 * (json.dumps(lines[0]) + "\n"))
    with pytest.raises(UsageError, match=r"list\.jsonl:2: .*stands there twice"):
        open_at(manifest)


def test_a_licence_is_kept_however_it_is_spelled_and_whatever_other_columns_hold(folder: Path, tmp_path: Path) -> None:
    """The exported model is under it."""
    from pyarrow import parquet

    manifest = tmp_path / "list.jsonl"
    paths = [str(folder / name) for name in ("a.wav", "b.flac", "e.flac")]
    odd = [{"year": 1999, "n": 2**64, "more": {}}, {"year": "1999", "n": 1, "more": {}}, {"year": None}]
    known = [{"license": "CC BY 4.0"}, {"license": None}, {"licence": "CC0"}]
    lines = [{"path": path} | each | of for path, each, of in zip(paths, odd, known, strict=True)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    manifest.write_text(text, encoding="utf-8-sig")  # as Windows programs save it
    done = run_mert("prepare", manifest, "-o", tmp_path / "store")
    assert done.code == 0, done.err
    assert open_at(tmp_path / "store").licences == open_at(manifest).licences == ("CC BY 4.0", "CC0")
    table = parquet.read_table(tmp_path / "store/recordings.parquet").to_pylist()
    assert [(row["year"], row["n"], row["license"]) for row in table] == [
        ("1999", str(2**64), "CC BY 4.0"), ('"1999"', "1", None), (None, None, None)
    ]  # fmt: skip


def test_a_damaged_store_is_refused_by_the_name_of_its_file(copied: Path) -> None:
    shard = copied / "audio-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    corpus = open_at(copied)
    with pytest.raises(CorpusError, match=r"audio-00000\.arrow: block \d+ \(.*\): was changed; remove the file"):
        for index, length in enumerate(corpus.lengths):
            corpus.read(index, 0, int(length))
    shard.write_bytes(data[:-100])
    with pytest.raises(CorpusError, match=r"audio-00000\.arrow: has \d+ bytes instead of"):
        open_at(copied)
    shard.unlink()
    with pytest.raises(CorpusError, match=r"audio-00000\.arrow: is missing"):
        open_at(copied)
    (copied / "recordings.parquet").write_bytes(b"PAR1" + bytes(os.path.getsize(copied / "recordings.parquet") - 4))
    with pytest.raises(CorpusError, match="is missing"):
        open_at(copied)


def test_a_store_of_another_rate_is_refused(store: Path) -> None:
    with pytest.raises(CorpusError, match="24000 Hz, and the model needs 16000 Hz; prepare it again with --rate 16000"):
        open_corpus(str(store), 16_000, 8_000, {})


def test_two_commands_do_not_write_one_store_nor_into_a_folder_of_others(folder: Path, tmp_path: Path) -> None:
    from mert.train.corpus.prepare import PrepareOptions, preparing

    with preparing(PrepareOptions(str(folder), str(tmp_path / "store"), RATE)):
        done = run_mert("prepare", folder, "-o", tmp_path / "store")
        assert done.code == 2 and "another mert prepare writes it" in done.err
    done = run_mert("prepare", folder, "-o", folder)
    assert done.code == 2 and "is a folder that holds other files" in done.err
    assert not (folder / "store.json").exists()
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other" / "a.wav", np.sin(np.arange(RATE) / 9), RATE)
    for data, code in ((folder, 0), (tmp_path / "other", 2), (folder, 0)):
        done = run_mert("prepare", data, "-o", tmp_path / "store")
        assert done.code == code and ("is a store of other data" in done.err) == bool(code), done.err
    assert str(tmp_path) not in (tmp_path / "store" / "store.json").read_text()  # a store may be given away


def test_a_disk_without_room_is_said_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    done = run_mert("prepare", folder, "-o", tmp_path / "store")
    assert done.code == 2 and "0.00 GB are free" in done.err
    assert not list((tmp_path / "store").glob("audio-*"))


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_half_written(folder: Path, tmp_path: Path, store: Path) -> None:
    fault, words = [faulty.__file__, "bytes:200000", "0"], ["prepare", str(folder), "-o", str(tmp_path / "store")]
    done = subprocess.run([sys.executable, *fault, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"error: .*audio-00000\.arrow: cannot be written \(.*too large.*\); check", done.stderr, re.I)
    assert not [path for path in (tmp_path / "store").iterdir() if path.suffix == ".arrow" or "store" in path.name]
    with pytest.raises(CorpusError, match="not finished; run the same mert prepare again"):
        open_at(tmp_path / "store")
    assert run_mert("prepare", folder, "-o", tmp_path / "store").code == 0
    assert open_at(tmp_path / "store").fingerprint == open_at(store).fingerprint


def test_headers_are_read_once_and_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    music_folder = Path(shutil.copytree(folder, tmp_path / "music"))
    opened: list[str] = []
    honest = files.layout_of

    def layout_of(source: Any) -> Any:
        opened.append(Path(source).name)
        return honest(source)

    monkeypatch.setattr(files, "layout_of", layout_of)
    first = open_at(music_folder, folder=tmp_path / "run")
    assert sorted(opened) == ["a.wav", "b.flac", "c.mp3", "d.ogg", "e.flac"]
    opened.clear()
    second = open_at(music_folder, folder=tmp_path / "run")
    assert opened == [] and second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.read(1, 5_000, 20_000), first.read(1, 5_000, 20_000))
    soundfile.write(music_folder / "b.flac", music(1.0), RATE)
    (music_folder / "a.wav").unlink()
    assert len(open_at(music_folder, folder=tmp_path / "run")) == 4 and opened == ["b.flac"]
    (tmp_path / "run/corpus.parquet").write_bytes(b"PAR1 and no more")
    opened.clear()
    assert len(open_at(music_folder, folder=tmp_path / "run")) == 4 and len(opened) == 4


def test_a_file_that_changes_is_no_longer_read(folder: Path, tmp_path: Path) -> None:
    music_folder = Path(shutil.copytree(folder, tmp_path / "music"))
    corpus = open_at(music_folder)
    soundfile.write(music_folder / "a.wav", music(1.3, seed=9), RATE)
    with pytest.raises(AudioError, match=r"a\.wav: changed since the corpus was opened"):
        corpus.read(0, 0, 1000)
    (music_folder / "b.flac").unlink()
    with pytest.raises(AudioError, match=r"b\.flac: no such file any more"):
        corpus.read(1, 0, 1000)


def test_names_need_not_be_unicode(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/m/caf\xe9.wav"
    os.mkdir(os.fsencode(tmp_path) + b"/m")
    soundfile.write(tmp_path / "a.wav", music(1.0), RATE)
    os.rename(tmp_path / "a.wav", name)
    for _ in range(2):
        corpus = open_at(tmp_path / "m", folder=tmp_path / "run")
        assert corpus.name(0) == os.fsdecode(b"caf\xe9.wav") and len(corpus.read(0, 0, 1000)) == 1000
    done = run_mert("prepare", tmp_path / "m", "-o", tmp_path / "store")
    assert done.code == 1 and "none of 1 recordings could be decoded" in done.err
    assert "is not Unicode; rename it" in (tmp_path / "store/report.jsonl").read_text()


def test_corpora_travel_to_other_processes(folder: Path, store: Path) -> None:
    for corpus in (open_at(folder), open_at(store)):
        corpus.read(2, 0, 1000)
        copy = pickle.loads(pickle.dumps(corpus))
        assert copy.fingerprint == corpus.fingerprint
        np.testing.assert_array_equal(copy.read(2, 250_000, 30_000), corpus.read(2, 250_000, 30_000))


def test_a_mixture_holds_its_parts_and_refuses_one_name_twice(folder: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other/z.wav", music(2.0), RATE)
    mixture = open_at(f"{store},{tmp_path / 'other'}", weights=(1.0, 3.0))
    assert isinstance(mixture, Mixture) and len(mixture) == 6
    assert [mixture.name(i) for i in (0, 5)] == ["a.wav", "z.wav"]
    np.testing.assert_array_equal(mixture.read(5, 100, 20_000), open_at(tmp_path / "other").read(0, 100, 20_000))
    with pytest.raises(CorpusError, match=r"a\.wav: is the name of recordings in two of the corpora"):
        open_at(f"{store},{folder}", weights=(1.0, 1.0))
    with pytest.raises(UsageError, match="are 2 for 1 corpora"):
        open_at(folder, weights=(1.0, 1.0))


def test_a_block_is_looked_up_without_reading_the_others(store: Path) -> None:
    corpus = open_at(store)
    assert corpus.lengths[2] > stores.BLOCK_S * RATE
    corpus.read(2, 0, 1000)
    reader = corpus._reader(0)
    looked_up: list[int] = []

    class Counting:
        def get_batch(self, position: int) -> Any:
            looked_up.append(position)
            return reader.get_batch(position)

    corpus._readers[0] = Counting()
    corpus.read(2, stores.BLOCK_S * RATE - 500, 1000)
    assert len(looked_up) == 2 and looked_up[1] == looked_up[0] + 1
