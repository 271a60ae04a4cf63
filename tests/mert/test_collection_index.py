"""`mert similar` and the index: what is nearest, what is embedded again, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from harness.commands import Run, run_mert
from harness.sounds import music, tiny_embedder

import mert
from mert import Features, Index, similarity
from mert.audio.find import audio_under
from mert.collection.vectors import Stamp, VectorExtraction
from mert.embedding.embedder import Embedder
from mert.embedding.npz import read_npz, write_npz
from mert.errors import AudioError, MertError, OutputError, UsageError

SECONDS = 4.0
NAMES = ("a/雨.wav", "a/two\nlines.wav", "[bold]:smile:.flac", "-o.wav", os.fsdecode(b"caf\xe9.wav"), "b.wav")


BANDS_HZ = ((200, 400), (400, 800), (800, 1600), (1600, 3200), (3200, 6400), (100, 8000))


def piece(seconds: float, seed: int) -> np.ndarray:
    """Music in a band of its own: what a model of random weights can tell apart."""
    wave = music(seconds, seed=seed)
    low_hz, high_hz = BANDS_HZ[seed % len(BANDS_HZ)]
    spectrum, hz = np.fft.rfft(wave), np.fft.rfftfreq(len(wave), 1 / 24_000)
    kept = np.fft.irfft(spectrum * ((hz > low_hz) & (hz < high_hz)), len(wave))
    return (0.3 * kept / np.abs(kept).max()).astype(np.float32)


def put(path: Path, wave: np.ndarray, age_s: float = 60.0) -> Path:
    """A recording that was written some time ago: younger ones are looked at twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, wave, 24_000, format=path.suffix[1:].upper())
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mert.save_pretrained(tiny_embedder(), tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six recordings with odd names, and a file that is none."""
    for seed, name in enumerate(NAMES):
        put(tmp_path / "music" / name, piece(SECONDS, seed))
    (tmp_path / "music" / "notes.txt").write_text("not audio")
    return tmp_path / "music"


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that were embedded, as it happens."""
    names: list[str] = []
    finish = VectorExtraction.finish

    def counted(self: VectorExtraction) -> None:
        if self.seconds:  # it was decoded
            names.append(self.path.name)
        finish(self)

    monkeypatch.setattr(VectorExtraction, "finish", counted)
    yield names


@pytest.fixture
def similar(model: str) -> Callable[..., Run]:
    """similar(query, ..., folder, options) runs `mert similar` in this process."""

    def call(*words: object) -> Run:
        return run_mert("similar", "-d", "cpu", *([] if "-m" in words else ["-m", model]), *words)

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an index."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def paths(run: Run) -> list[str]:
    """What the command ranks for its first query."""
    return [match["path"] for match in json.loads(run.out)["queries"][0]["matches"]]


# --------------------------------------------------------------------------------------------------------- the index


@pytest.mark.parametrize("change", ["an excerpt", "softer", "louder", "another rate", "stereo"])
def test_what_comes_of_a_recording_is_nearest_to_it(tiny: Embedder, folder: Path, change: str) -> None:
    index = Index.build(tiny, [folder / name for name in NAMES], folder)
    for seed, name in enumerate(NAMES):
        wave, rate = piece(SECONDS, seed), 24_000
        if change == "an excerpt":
            wave = wave[rate : round(3.7 * rate)]
        elif change in ("softer", "louder"):
            wave = wave * (0.05 if change == "softer" else 2.0)
        elif change == "another rate":
            wave, rate = soxr.resample(wave, 24_000, 44_100), 44_100
        else:
            wave = np.stack((wave, wave))
        matches = index.query(tiny.embed(wave, sr=rate))
        assert matches[0].name == name and matches[0].similarity > 0.5, matches
        assert [match.similarity for match in matches] == sorted((m.similarity for m in matches), reverse=True)
        assert len(matches) == len(NAMES) and len(index.query(tiny.embed(wave, sr=rate), k=2)) == 2


def test_the_ranking_is_that_of_cosines_by_hand(tiny: Embedder, folder: Path) -> None:
    index = Index.build(tiny, [folder / name for name in NAMES], folder, layer="layer02")
    means = np.stack([tiny.embed(folder / name).layer("layer02").mean(axis=0, dtype=np.float64) for name in NAMES])
    query = tiny.embed(music(3.0, seed=9), sr=24_000)
    seen, asked = means - means.mean(axis=0), query.layer("layer02").mean(axis=0) - means.mean(axis=0)
    wanted = seen @ asked / np.linalg.norm(seen, axis=1) / np.linalg.norm(asked)
    got = {match.name: match.similarity for match in index.query(query)}
    np.testing.assert_allclose([got[name] for name in NAMES], wanted, atol=1e-5)
    for name, value in zip(NAMES, wanted, strict=True):
        one = similarity(query, tiny.embed(folder / name), layer="layer02", centre=index.centre)
        assert one == pytest.approx(value, abs=1e-5)


def test_a_common_direction_does_not_decide() -> None:
    """Hand-typed: from zero all three are alike, from their mean the query's side is plain."""
    index = Index({"layer": "layer03"})
    vectors = {"left": [100.0, -2.0], "right": [100.0, 1.0], "right too": [101.0, 1.0]}
    for i, (name, vector_D) in enumerate(vectors.items()):
        index.remember(f"{i:064x}", np.array(vector_D))
        index.hold(name, Stamp(0, 0, f"{i:064x}"))
    query = np.array([100.0, 3.0])
    assert [match.name for match in index.query(query)] == ["right", "right too", "left"]
    assert index.query(query)[-1].similarity < -0.9 < 0.99 < similarity(query, np.array([100.0, -2.0]))
    assert [match.name for match in index.query(query, without={f"{2:064x}"})] == ["right", "left"]


def test_one_recording_alone_is_compared_from_zero(tiny: Embedder, folder: Path) -> None:
    (only,) = Index.build(tiny, [folder / "b.wav"], folder).query(tiny.embed(folder / "b.wav"))
    assert only.name == "b.wav" and only.similarity == pytest.approx(1.0)


def test_similarity_is_symmetric_one_for_itself_and_takes_frames_or_vectors(tiny: Embedder) -> None:
    a, b = (tiny.embed(music(2.0, seed=seed), sr=24_000) for seed in (1, 2))
    assert similarity(a, a) == pytest.approx(1.0) and similarity(a, b) == similarity(b, a) < 1.0
    assert similarity(a, b) == pytest.approx(similarity(a.layer("layer03"), b.pool("mean").layer("layer03")))
    assert similarity(np.array([1.0, 0.0]), np.array([0.0, 3.0])) == 0.0
    assert similarity(np.zeros(2), np.ones(2)) == 0.0


def test_features_of_other_models_or_layers_are_not_compared(tiny: Embedder, folder: Path) -> None:
    wave = music(2.0)
    other = tiny_embedder(seed=1)
    with pytest.raises(ValueError, match="nothing in common"):
        similarity(tiny.embed(wave, sr=24_000), other.embed(wave, sr=24_000))
    with pytest.raises(ValueError, match="layer01 and layer03"):
        similarity(tiny.embed(wave, sr=24_000, layers=[1]), tiny.embed(wave, sr=24_000))
    index = Index.build(tiny, [folder / "b.wav"], folder)
    for features, reason in (
        (other.embed(wave, sr=24_000), "model tiny"),
        (tiny.embed(wave, sr=24_000, layers=[1]), "layer03, not layer01"),
        (tiny.embed(wave, sr=24_000, window=0.5), "window 0.99.*, not window 0.49"),
    ):
        with pytest.raises(UsageError, match=reason):
            index.query(features)
    with pytest.raises(ValueError, match="width 5"):
        index.query(np.ones(5))
    with pytest.raises(ValueError, match="shape"):
        index.query(np.ones((1, 2, 32)))


def test_build_raises_what_it_cannot_read(tiny: Embedder, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for name in ("bad.wav", "missing.wav"):
        with pytest.raises(AudioError, match=name):
            Index.build(tiny, [tmp_path / name], tmp_path)


def test_an_index_reloaded_is_the_same(tiny: Embedder, folder: Path, tmp_path: Path) -> None:
    index = Index.build(tiny, [folder / name for name in NAMES], folder, layer=1)
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert (again.names, again.stamps, again.facts) == (list(NAMES), index.stamps, index.facts)
    query = tiny.embed(music(1.5, seed=4), sr=24_000)
    assert again.query(query) == index.query(query)
    assert again.facts["layer"] == "layer01" and isinstance(query, Features)


def write_old(index: Index, path: Path, **other: np.ndarray) -> Path:
    """The index as older versions wrote it."""
    stamps = list(index.stamps.values())
    arrays = {
        "names": np.array(index.names, dtype=str), "sizes": np.array([stamp.size for stamp in stamps], np.int64),
        "mtimes_ns": np.array([stamp.mtime_ns for stamp in stamps], np.int64),
        "sha256": np.array([stamp.sha256 for stamp in stamps], dtype=str), "vectors": index.vectors,
        "meta": np.array(json.dumps({"format": "mert-index", "schema": 1} | index.facts)),
    }  # fmt: skip
    write_npz(path, arrays | other)
    return path


@pytest.mark.parametrize("damage", ["cut off", "a bit", "no vectors", "other format", "nan", "too few", "no facts"])
def test_a_damaged_index_of_older_versions_says_so(tiny: Embedder, folder: Path, tmp_path: Path, damage: str) -> None:
    index = Index.build(tiny, [folder / name for name in NAMES], folder)
    path = write_old(index, tmp_path / "index.npz")
    data = path.read_bytes()
    arrays = read_npz(path, ())
    meta = json.loads(str(arrays["meta"]))
    if damage in ("cut off", "a bit"):
        middle = len(data) // 2
        path.write_bytes(
            data[:middle] + (b"" if damage == "cut off" else bytes([data[middle] ^ 1]) + data[middle + 1 :])
        )
    elif damage == "no vectors":
        write_npz(path, {name: array for name, array in arrays.items() if name != "vectors"})
    elif damage == "nan":
        write_npz(path, arrays | {"vectors": arrays["vectors"] * np.nan})
    elif damage == "too few":
        write_npz(path, arrays | {"vectors": arrays["vectors"][:-1]})
    else:
        meta.pop("format" if damage == "other format" else "layer")
        write_npz(path, arrays | {"meta": np.array(json.dumps(meta))})
    with pytest.raises(OutputError, match=r"index\.npz: is no index, or damaged"):
        Index.load(path)


def test_an_index_of_older_versions_is_carried_over(
    similar: Callable[..., Run], tiny: Embedder, folder: Path, tmp_path: Path, listened: list[str]
) -> None:
    query = put(tmp_path / "query.wav", music(2.0, seed=20))
    similar(query, folder, "--json")
    held = Index.load(folder / ".mert-index")
    wanted = paths(similar(query, folder, "--json"))
    write_old(held, folder / ".mert-index.npz")
    shutil.rmtree(folder / ".mert-index")
    listened.clear()
    run = similar(query, folder, "--json")
    assert paths(run) == wanted and listened == ["query.wav"] and "0 embedded, 6 kept" in run.err
    assert (folder / ".mert-index.npz").exists() and Index.load(folder / ".mert-index").names == held.names
    by_length = similar(query, folder, "--json", "--longer-than", 1)
    assert by_length.code == 0 and paths(by_length) == [] and "6 recordings of unknown length" in by_length.err


# ------------------------------------------------------------------------------------------------------- the command


def test_an_excerpt_finds_its_recording_and_odd_names_are_printed_whole(
    similar: Callable[..., Run], folder: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(NAMES):
        query = put(tmp_path / "query.wav", piece(SECONDS, seed)[24_000:])
        run = similar(query, folder, "--json", "-k", 3)
        assert run.code == 0 and paths(run)[0] == str(folder / name) and len(paths(run)) == 3, run
        first = json.loads(run.out)["queries"][0]["matches"][0]
        assert first["rank"] == 1 and 0.5 < first["similarity"] <= 1
    table = similar(query, folder).out
    assert "most like" in table and r"two\nlines.wav" in table and "[bold]:smile:.flac" in table
    assert r"caf\udce9.wav" in table and len([line for line in table.splitlines() if line]) >= 2 + len(NAMES)


def test_only_new_and_changed_files_are_embedded(
    similar: Callable[..., Run], folder: Path, tmp_path: Path, listened: list[str]
) -> None:
    query = put(tmp_path / "query.wav", music(2.0, seed=20))
    first = similar(query, folder, "--json")
    assert len(listened) == 7 and "6 embedded, 0 kept, 0 gone, 0 failed" in first.err
    listened.clear()
    again = similar(query, folder, "--json")
    assert listened == ["query.wav"] and again.out == first.out and "0 embedded, 6 kept" in again.err
    passed_over: Counter[str] = Counter()
    assert len(list(audio_under(folder, passed_over))) == 6 and ".bin" not in passed_over  # the index is ours

    listened.clear()
    os.utime(folder / "-o.wav")  # touched, not changed
    (folder / "b.wav").rename(folder / "renamed.wav")
    put(folder / "new.wav", music(2.0, seed=21))
    (folder / "a/雨.wav").unlink()
    stamp = (folder / "[bold]:smile:.flac").stat()
    put(folder / "[bold]:smile:.flac", music(2.0, seed=22))
    run = similar(query, folder, "--json")
    assert sorted(listened) == ["[bold]:smile:.flac", "new.wav", "query.wav"]
    assert "2 embedded, 4 kept, 2 gone, 0 failed" in run.err and stamp.st_size
    assert set(paths(run)) == {str(path) for path in folder.rglob("*") if path.suffix in (".wav", ".flac")}

    similar(query, folder, "--index", tmp_path / "anew")
    held, anew = (Index.load(index) for index in (folder / ".mert-index", tmp_path / "anew"))
    for vector_D in anew.vectors:  # nothing of the old vectors is left; the centre alone is that of before
        anew_names = [match.name for match in anew.query(vector_D, k=1)]
        assert anew_names == [match.name for match in held.query(vector_D, k=1)]
    before, after = (dict(zip(each.names, each.vectors, strict=True)) for each in (held, anew))
    assert before.keys() == after.keys()
    for name, vector_D in before.items():  # in another batch, whose sums some CPUs round otherwise
        np.testing.assert_allclose(after[name], vector_D, rtol=0, atol=1e-5 * max(1.0, np.sqrt((vector_D**2).mean())))


def test_a_file_changed_within_the_clock_of_the_disk_is_noticed(
    similar: Callable[..., Run], folder: Path, tmp_path: Path, listened: list[str]
) -> None:
    query = put(tmp_path / "query.wav", music(2.0, seed=20))
    now = time.time()
    fresh = put(folder / "fresh.wav", music(2.0, seed=21), age_s=0)
    os.utime(fresh, (now, now))
    similar(query, folder)
    put(fresh, music(2.0, seed=22), age_s=0)  # same size, same time
    os.utime(fresh, (now, now))
    listened.clear()
    similar(query, folder)
    assert "fresh.wav" in listened


def test_the_query_and_copies_of_it_are_left_out(
    similar: Callable[..., Run], folder: Path, tmp_path: Path, listened: list[str]
) -> None:
    run = similar(folder / "b.wav", folder, "--json")
    assert len(paths(run)) == 5 and str(folder / "b.wav") not in paths(run)
    assert listened.count("b.wav") == 1 and "6 embedded" in run.err
    shutil.copy(folder / "b.wav", tmp_path / "copy.wav")
    assert paths(similar(tmp_path / "copy.wav", folder, "--json")) == paths(run)


def test_several_queries_are_ranked_each_for_itself(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    queries = [put(tmp_path / f"{seed}.wav", piece(3.0, seed)) for seed in (0, 5)]
    ranked = json.loads(similar(*queries, folder, "--json", "-k", 1).out)["queries"]
    assert [entry["query"] for entry in ranked] == [str(query) for query in queries]
    assert [entry["matches"][0]["path"] for entry in ranked] == [str(folder / NAMES[0]), str(folder / NAMES[5])]


def test_a_moved_folder_takes_its_index_along(
    similar: Callable[..., Run], folder: Path, tmp_path: Path, listened: list[str]
) -> None:
    query = put(tmp_path / "query.wav", music(2.0, seed=20))
    before = [Path(path).name for path in paths(similar(query, folder, "--json"))]
    moved = shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile)  # times change, too
    shutil.rmtree(folder)
    listened.clear()
    after = paths(similar(query, moved, "--json"))
    assert listened == ["query.wav"] and [Path(path).name for path in after] == before
    assert all(path.startswith(str(moved)) for path in after)


def test_unreadable_recordings_are_listed_and_3(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    (folder / "corrupt.wav").write_bytes(b"RIFF....WAVEfmt ")
    put(folder / "short.wav", music(0.01))
    query = put(tmp_path / "query.wav", music(2.0, seed=20))
    for _ in range(2):
        run = similar(query, folder, "--json")
        failed = json.loads(run.out)["failed"]
        assert run.code == 3 and len(paths(run)) == 6 and "2 failed" in run.err and "Traceback" not in run.err
        assert [entry["path"] for entry in failed] == [str(folder / "corrupt.wav"), str(folder / "short.wav")]
        assert all(entry["error"] in run.err for entry in failed)
    (folder / "b.wav").write_bytes(b"RIFF")
    assert str(folder / "b.wav") not in paths(similar(query, folder, "--json"))  # its old vector is gone


def test_a_query_that_cannot_be_read(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    alone = similar(tmp_path / "missing.wav", folder)
    assert alone.code == 1 and "missing.wav" in alone.err and len(alone.err.splitlines()) == 1
    assert not (folder / ".mert-index").exists()
    with_others = similar(tmp_path / "missing.wav", folder / "b.wav", folder, "--json")
    assert with_others.code == 3 and len(json.loads(with_others.out)["queries"]) == 1


def test_the_index_of_another_model_layer_or_window_is_refused_unless_it_is_to_be_replaced(
    similar: Callable[..., Run], folder: Path, tmp_path: Path
) -> None:
    other = mert.save_pretrained(tiny_embedder(seed=1), tmp_path / "other")
    assert similar(folder / "b.wav", folder).code == 0
    index = folder / ".mert-index"
    before = contents(index)
    for options, reason in (
        (("-m", other), "made with model tiny"), (("--layer", 1), "made with layer03, not layer01"),
        (("--window", 0.5), "made with window 0.99"), (("--window", "whole"), "not window whole"),
    ):  # fmt: skip
        run = similar(folder / "b.wav", folder, *options)
        assert run.code == 2 and reason in run.err and "--index FOLDER" in run.err and str(index) in run.err, run
        assert len(run.err.splitlines()) == 1 and contents(index) == before
    assert similar(folder / "b.wav", folder, "--layer", 1, "--index", tmp_path / "one").code == 0
    assert contents(index) == before
    assert similar(folder / "b.wav", folder, "--layer", 1, "--rebuild").code == 0
    assert Index.load(index).facts["layer"] == Index.load(tmp_path / "one").facts["layer"] == "layer01"


@pytest.mark.parametrize("name", [".mert-index.npz", ".mert-index/index.json"])
def test_a_damaged_index_is_1_and_can_be_made_anew(similar: Callable[..., Run], folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"PK nonsense")
    run = similar(folder / "b.wav", folder)
    assert run.code == 1 and ": is no index, or damaged" in run.err and "--rebuild" in run.err
    assert (folder / name).read_bytes() == b"PK nonsense"
    assert similar(folder / "b.wav", folder, "--rebuild").code == 0 and similar(folder / "b.wav", folder).code == 0


def test_where_the_index_cannot_be_written_the_ranking_is_given_all_the_same(
    similar: Callable[..., Run], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    run = similar(folder / "b.wav", folder, "--json", "--index", tmp_path / "file" / "index")
    assert run.code == 0 and len(paths(run)) == 5
    assert run.err.startswith("the index will not be kept") and run.err.count("will not be kept") == 1


def test_a_stopped_command_goes_on_where_it_was(
    similar: Callable[..., Run], folder: Path, listened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = VectorExtraction.finish

    def stopped(self: VectorExtraction) -> None:
        if len(listened) == 4:
            raise KeyboardInterrupt
        finish(self)

    monkeypatch.setattr(VectorExtraction, "finish", stopped)
    run = similar(folder / "b.wav", folder)
    assert run.code == 130 and "stopped; run the same command again to go on" in run.err
    monkeypatch.setattr(VectorExtraction, "finish", finish)
    listened.clear()
    assert similar(folder / "b.wav", folder).code == 0 and len(listened) == len(NAMES) - 4


def test_a_part_of_a_song_is_compared_and_files_named_like_parts_still_work(
    similar: Callable[..., Run], folder: Path, tmp_path: Path
) -> None:
    song = put(tmp_path / "song.wav", np.concatenate([piece(SECONDS, seed) for seed in (0, 1, 2)]))
    for seed in (0, 1, 2):
        run = similar(f"{song}@{seed * SECONDS:g}-{(seed + 1) * SECONDS:g}", folder, "--json", "-k", 1)
        assert run.code == 0 and paths(run) == [str(folder / NAMES[seed])], run
    put(tmp_path / "other.wav", piece(SECONDS, 5)[12_000:]).rename(f"{song}@4-8")
    run = similar(f"{song}@4-8", folder, "--json", "-k", 1)
    assert paths(run) == [str(folder / NAMES[5])]
    put(tmp_path / "you@home.wav", piece(SECONDS, 5)[12_000:])
    assert paths(similar(tmp_path / "you@home.wav", folder, "--json", "-k", 1)) == [str(folder / NAMES[5])]


@pytest.mark.parametrize(
    ("part", "code", "reason"),
    [
        ("@3-2", 2, "is no part"), ("@2-2", 2, "is no part"), ("@1-", 2, "is no part"), ("@-1-2", 2, "is no part"),
        ("@end", 2, "is no part"), ("@nan-2", 2, "is no part"), ("@3-9", 1, "ends after 4.00 s"),
        ("@100-109", 1, "ends after 4.00 s"),
    ],
)  # fmt: skip
def test_parts_that_are_none_are_refused(
    similar: Callable[..., Run], folder: Path, part: str, code: int, reason: str
) -> None:
    run = similar(f"{folder / 'b.wav'}{part}", folder)
    assert run.code == code and reason in run.err and "Traceback" not in run.err, run
    missing = similar(f"{folder / 'missing.wav'}@1-2", folder)
    assert missing.code == 1 and "missing.wav" in missing.err


def test_filters_of_the_command(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    query = put(tmp_path / "query.wav", music(2.0, seed=20))
    put(folder / "a" / "long.wav", music(7.0, seed=21))
    below = {str(folder / "a" / name) for name in ("long.wav", "雨.wav", "two\nlines.wav")}
    for under in ("a", folder / "a"):
        assert set(paths(similar(query, folder, "--json", "--under", under))) == below
    (folder / "linked").symlink_to(put(tmp_path / "elsewhere" / "c.wav", music(2.0, seed=22)).parent)
    linked = similar(query, folder, "--json", "--under", "linked")
    assert paths(linked) == [str(folder / "linked" / "c.wav")]  # by its name in the index
    (folder / "linked").unlink()
    assert paths(similar(query, folder, "--json", "--longer-than", 5)) == [str(folder / "a/long.wav")]
    assert len(paths(similar(query, folder, "--json", "--shorter-than", 5))) == 6
    assert len(paths(similar(query, folder, "--json", "--shorter-than", 5, "--under", "a"))) == 2
    for options, reason in (
        (("--under", "nowhere"), "is no folder below"), (("--under", tmp_path), "is no folder below"),
        (("--longer-than", 5, "--shorter-than", 4), "no length is from 5 to 4 s"),
    ):  # fmt: skip
        run = similar(query, folder, *options)
        assert run.code == 2 and reason in run.err
    run = similar(query, folder, "--json", "--longer-than", 60)
    assert run.code == 0 and paths(run) == [] and f"no recording of {folder} passes the filters" in run.err


def test_a_silent_query_is_named(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    query = put(tmp_path / "quiet.wav", np.zeros(48_000, np.float32))
    run = similar(query, folder)
    assert run.code == 0 and f"warning: {query}: silent: the samples hold one constant value" in run.err, run


def test_versions_are_named_and_left_out_on_request(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    query = put(tmp_path / "query.wav", 0.5 * piece(SECONDS, 5))
    found = json.loads(similar(query, folder, "--json").out)["queries"][0]["matches"]
    assert [match["path"] for match in found if match["version"]] == [str(folder / "b.wav")]
    assert "version" in similar(query, folder).out
    others = paths(similar(query, folder, "--json", "--not-versions"))
    assert len(others) == 5 and str(folder / "b.wav") not in others


def test_without_a_query_the_index_is_brought_up_to_date(
    similar: Callable[..., Run], folder: Path, listened: list[str]
) -> None:
    run = similar(folder, "--json")
    assert run.code == 0 and json.loads(run.out)["queries"] == [] and "6 embedded" in run.err and len(listened) == 6
    listened.clear()
    assert "0 embedded, 6 kept" in similar(folder).err and not listened


def test_vectors_go_to_another_machine_as_parquet(
    similar: Callable[..., Run], folder: Path, tmp_path: Path, listened: list[str]
) -> None:
    pytest.importorskip("pyarrow")
    similar(folder, "--export", tmp_path / "vectors.parquet")
    wanted = Index.load(folder / ".mert-index")
    shutil.rmtree(folder / ".mert-index")
    listened.clear()
    run = similar(folder, "--import", tmp_path / "vectors.parquet")
    assert run.code == 0 and "0 embedded, 6 kept" in run.err and not listened
    np.testing.assert_array_equal(Index.load(folder / ".mert-index").vectors, wanted.vectors)


def test_a_second_command_that_would_write_is_refused(similar: Callable[..., Run], folder: Path) -> None:
    similar(folder)
    with Index.load(folder / ".mert-index").kept_in(folder / ".mert-index"):
        assert similar(folder / "b.wav", folder).code == 0  # nothing to write
        put(folder / "new.wav", piece(SECONDS, 1))
        run = similar(folder / "b.wav", folder)
        assert run.code == 2 and "another process writes this index" in run.err and len(run.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--layer", "1,2"], 2, "not one layer"),
        (["--layer", "all"], 2, "not one layer"),
        (["--layer", "layer99"], 2, "no layer 'layer99'"),
        (["--window", "soon"], 2, "window is a number"),
        (["--device", "abacus"], 2, "--device abacus"),
        (["-k", "0"], 2, "-k"),
        (["-m", "mert-v1-96m"], 1, "try mert-v1-95m"),
    ],
)
def test_wrong_usage_ends_before_anything_is_written(
    similar: Callable[..., Run], folder: Path, options: list[str], code: int, reason: str
) -> None:
    run = similar(folder / "b.wav", folder, *options)
    assert run.code == code and reason in run.err and "Traceback" not in run.err
    assert not (folder / ".mert-index").exists()


def test_the_folder_must_be_one_and_hold_recordings(similar: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    turned = similar(folder, folder / "b.wav")
    assert turned.code == 2 and "is not a folder" in turned.err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    empty = similar(folder / "b.wav", tmp_path / "empty")
    assert empty.code == 2 and "no recordings among its 1 files" in empty.err
    (tmp_path / "empty" / "bad.wav").write_bytes(b"RIFF")
    bad = similar(folder / "b.wav", tmp_path / "empty")
    assert bad.code == 1 and "none of its 1 recordings can be read" in bad.err and "bad.wav" in bad.err
    assert issubclass(UsageError, MertError)
