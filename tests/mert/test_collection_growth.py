"""An index that grows: what a kill leaves, who may write, which centre holds, what a query finds among many."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from harness.sounds import tiny_embedder

import mert
from mert import Index
from mert.collection import filters, neighbours
from mert.collection.columns import State
from mert.collection.exchange import export_parquet, import_parquet
from mert.collection.index import VERSION_FROM
from mert.collection.vectors import Stamp
from mert.errors import CheckpointError, OutputError, UsageError
from mert.weights.centres import write_centres
from mert.weights.onnx_export import export_folder

WIDTH = 16
FACTS = {
    "layer": "layer05", "model": "made", "version": "0", "window": 1.0, "hop": 1.0, "weights_sha256": "0" * 64,
    "window_frames": 74, "hop_frames": 74, "normalize": True, "dtype": "float32", "resampler": None, "sample_rate": 1,
}  # fmt: skip


def sha256(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


def name(i: int) -> str:
    return f"{'abc'[i % 3]}/{i:05d}.wav"


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """Float32 [n, 16] with a large common direction, as means of states have."""
    return (5 + np.random.default_rng(seed).normal(size=(n, WIDTH))).astype(np.float32)


def fill(index: Index, numbers: Iterable[int], values_ND: np.ndarray) -> None:
    for i, vector_D in zip(numbers, values_ND, strict=True):
        index.remember(sha256(i), vector_D, seconds=float(i))
        index.hold(name(i), Stamp(1, 1, sha256(i)))


def cosines(values_ND: np.ndarray, query_D: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """By hand, in float64."""
    offsets_ND, asked_D = values_ND.astype(np.float64) - centre_D, query_D.astype(np.float64) - centre_D
    return offsets_ND @ asked_D / np.linalg.norm(offsets_ND, axis=1) / np.linalg.norm(asked_D)


# ---------------------------------------------------------------------------------------------- growing on the disk


def test_an_index_that_grew_in_steps_holds_what_one_made_at_once_holds(tmp_path: Path) -> None:
    values_ND, grown, whole = vectors(2500), Index(FACTS), Index(FACTS)
    with grown.kept_in(tmp_path / "grown"):
        for start in range(0, 2500, 500):
            fill(grown, range(start, start + 500), values_ND[start : start + 500])
            grown.commit()
            assert len(Index.load(tmp_path / "grown")) == start + 500
        grown.finish()
    fill(whole, range(2500), values_ND)
    whole.save(tmp_path / "whole")
    one, other = (Index.load(tmp_path / name) for name in ("grown", "whole"))
    assert one.names == other.names == [name(i) for i in range(2500)] and one.stamps == other.stamps
    np.testing.assert_allclose(one.vectors, values_ND, atol=5e-3)
    np.testing.assert_allclose(other.vectors, values_ND, atol=5e-3)


def test_changed_and_dropped_recordings_are_gone_and_the_others_stay(tmp_path: Path) -> None:
    values_ND, index = vectors(1200), Index(FACTS)
    fill(index, range(1200), values_ND)
    index.save(tmp_path / "index")
    held = Index.load(tmp_path / "index")
    with held.kept_in(tmp_path / "index"):
        held.drop(name(7))
        held.remember(sha256(5000), values_ND[3])
        held.hold(name(8), Stamp(2, 2, sha256(5000)))
        assert len(held) == 1199  # before it is written as after it
        held.commit()
    held = Index.load(tmp_path / "index")
    assert len(held) == 1199 and name(7) not in held.names and held.stamps[name(8)].sha256 == sha256(5000)
    found = held.query(values_ND[3], k=2)
    assert {match.name for match in found} == {name(3), name(8)} and found[0].similarity > 0.999
    assert held.query(values_ND[7], k=1)[0].similarity < 0.99 and held.knows(sha256(7))


def test_an_index_whose_rows_are_mostly_gone_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mert.collection.index.COMPACTED", 100)
    index = Index(FACTS)
    fill(index, range(1200), vectors(1200))
    index.save(tmp_path / "index")
    before = {path.name for path in (tmp_path / "index").glob("*.bin")}
    with index.kept_in(tmp_path / "index"):
        for i in range(100, 1200):
            index.drop(name(i))
        index.finish()
    assert State.read(tmp_path / "index").n_rows == len(Index.load(tmp_path / "index")) == 100
    assert not before & {path.name for path in (tmp_path / "index").glob("*.bin")}


GROWING = """
import sys; sys.path[:0] = sys.argv[2:]
import test_collection_growth as t
index, values_ND = t.Index(t.FACTS), t.vectors(20_000)
with index.kept_in(sys.argv[1]):
    for i in range(0, 20_000, 40):
        t.fill(index, range(i, i + 40), values_ND[i : i + 40])
        index.commit()
        print(i + 40, flush=True)
"""


@pytest.mark.check
def test_a_kill_at_any_moment_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    values_ND = vectors(20_000)
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    for n_commits in (1, 25, 60):  # from 1,000 recordings on in another format
        folder = tmp_path / str(n_commits)
        command = [sys.executable, "-c", GROWING, str(folder), *places]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(n_commits):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = 40 * n_commits + 40 * len(process.communicate()[0].splitlines())
        held = Index.load(folder)
        assert len(held) in (said, said + 40) and held.names == [name(i) for i in range(len(held))]
        np.testing.assert_allclose(held.vectors, values_ND[: len(held)], atol=5e-3)
        with held.kept_in(folder):  # and it goes on from there
            fill(held, [30_000], vectors(1, seed=1))
            held.finish()
        assert Index.load(folder).names[-1] == name(30_000)


def test_rows_that_were_not_committed_are_overwritten(tmp_path: Path) -> None:
    index = Index(FACTS)
    fill(index, range(10), vectors(10))
    index.save(tmp_path / "index")
    for path in (tmp_path / "index").glob("*.bin"):  # what a kill leaves behind the last commit
        with open(path, "ab") as file:
            file.write(b"half")
    held = Index.load(tmp_path / "index")
    with held.kept_in(tmp_path / "index"):
        fill(held, [10], vectors(1, seed=1))
        held.finish()
    again = Index.load(tmp_path / "index")
    assert again.names == [name(i) for i in range(11)]
    np.testing.assert_array_equal(again.vectors, np.concatenate((vectors(10), vectors(1, seed=1))))


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    index = Index(FACTS)
    fill(index, range(10), vectors(10))
    index.save(tmp_path / "index")
    one, other = Index.load(tmp_path / "index"), Index.load(tmp_path / "index")
    with one.kept_in(tmp_path / "index"):
        with pytest.raises(UsageError, match="another process writes this index"), other.kept_in(tmp_path / "index"):
            pass
        fill(one, [10], vectors(1))
        one.finish()
        assert len(Index.load(tmp_path / "index")) == 11 and len(other) == 10
        assert other.query(vectors(1)[0], k=1)[0].name == name(0)
    with pytest.raises(UsageError, match="changed by another process"), other.kept_in(tmp_path / "index"):
        pass


def test_an_index_that_another_process_has_made_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    late, index = Index(FACTS), Index(FACTS)
    fill(index, range(10), vectors(10))
    index.save(tmp_path / "index")
    with pytest.raises(UsageError, match="changed by another process"), late.kept_in(tmp_path / "index", over=False):
        pass
    assert len(Index.load(tmp_path / "index")) == 10


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "song.wav").touch()
    with pytest.raises(OutputError, match="holds other files"):
        Index(FACTS).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


@pytest.mark.parametrize("damage", ["cut off", "missing", "names", "nan", "other format", "no facts", "a count"])
def test_a_damaged_index_says_so(tmp_path: Path, damage: str) -> None:
    index, folder = Index(FACTS), tmp_path / "index"
    fill(index, range(10), vectors(10))
    index.save(folder)
    file = {path.name.split("-")[0]: path for path in folder.glob("*.bin")}
    about = json.loads((folder / "index.json").read_text())
    if damage == "cut off":
        os.truncate(file["vectors"], 100)
    elif damage == "missing":
        file["sha256"].unlink()
    elif damage == "names":
        file["name_end"].write_bytes(file["name_end"].read_bytes()[::-1])
    elif damage == "nan":
        file["vectors"].write_bytes(np.full((10, WIDTH), np.nan, np.float32).tobytes())
    elif damage == "other format":
        about["format"] = "mert-labels"
    elif damage == "no facts":
        about["facts"].pop("layer")
    else:
        about["n_rows"] = 11
    (folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(OutputError, match=r"index: is no index, or damaged"):
        Index.load(folder)


# ------------------------------------------------------------------------------------------------------ the centre


def test_similarities_of_a_small_collection_stay_until_it_has_doubled_and_from_1000_on_for_good(tmp_path: Path) -> None:
    values_ND, index, centres = vectors(4000), Index(FACTS), {}
    with index.kept_in(tmp_path / "index"):
        before = 0
        for n in (100, 150, 220, 900, 1000, 2100, 4000):
            fill(index, range(before, n), values_ND[before:n])
            index.finish()
            centres[n], before = Index.load(tmp_path / "index").centre, n
    measured = {100: 100, 150: 100, 220: 220, 900: 900, 1000: 1000, 2100: 1000, 4000: 1000}
    for n, of in measured.items():
        np.testing.assert_allclose(centres[n], values_ND[:of].mean(axis=0, dtype=np.float64), atol=2e-3)
    np.testing.assert_array_equal(centres[1000], centres[4000])


def test_a_centre_that_comes_with_the_model_is_that_of_its_indexes_from_the_first_recording(tmp_path: Path) -> None:
    folder = mert.save_pretrained(tiny_embedder(), tmp_path / "tiny")
    assert mert.load(folder, device="cpu").centre("layer03") is None
    centre_D = np.linspace(-1, 1, 32)
    write_centres(folder, {"layer03": centre_D}, str(mert.load(folder, device="cpu").info.sha256))
    m = mert.load(folder, device="cpu")
    np.testing.assert_array_equal(m.centre("layer03"), centre_D)
    assert m.centre("layer01") is None
    index = Index.build(m, [])
    index.remember(sha256(0), np.arange(32.0))
    index.hold("a.wav", Stamp(1, 1, sha256(0)))
    index.save(tmp_path / "index")
    held = Index.load(tmp_path / "index")
    np.testing.assert_array_equal(held.centre, centre_D)
    query_D = np.cos(np.arange(32.0))
    wanted = cosines(np.arange(32.0)[None], query_D, centre_D)[0]
    assert held.query(query_D)[0].similarity == pytest.approx(wanted, abs=5e-4)


@pytest.mark.parametrize("form", ["half", "onnx"])
def test_a_centre_goes_along_with_a_copy(form: str, tmp_path: Path) -> None:
    folder, centre_D = mert.save_pretrained(tiny_embedder(), tmp_path / "tiny"), np.linspace(-1, 1, 32)
    write_centres(folder, {"layer03": centre_D}, mert.verify(folder).sha256)
    m, copy = mert.load(folder, device="cpu"), tmp_path / "copy"
    if form == "onnx":
        pytest.importorskip("onnx")
        export_folder(m, copy)
    else:
        mert.save_pretrained(m, copy, half=True)
    np.testing.assert_array_equal(mert.load(copy, device="cpu").centre("layer03"), centre_D)


def test_centres_of_other_weights_are_refused(tmp_path: Path) -> None:
    folder = mert.save_pretrained(tiny_embedder(), tmp_path / "tiny")
    write_centres(folder, {"layer03": np.zeros(32)}, "0" * 64)
    with pytest.raises(CheckpointError, match="belongs to weights"):
        mert.load(folder, device="cpu")
    write_centres(folder, {"layer03": np.zeros(31)}, mert.verify(folder).sha256)
    with pytest.raises(CheckpointError, match="not 32 finite numbers"):
        mert.load(folder, device="cpu")


# ---------------------------------------------------------------------------------------------------------- queries


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """5,000 recordings; some are very near each other."""
    values_ND, folder = vectors(5000), tmp_path_factory.mktemp("many") / "index"
    values_ND[4000:] = values_ND[:1000] + 0.02 * vectors(1000, seed=2)
    index = Index(FACTS)
    fill(index, range(5000), values_ND)
    index.save(folder)
    return Index.load(folder)


def test_the_search_in_blocks_finds_exactly_the_nearest(many: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 700)
    values_ND = many.vectors
    for query_D in vectors(20, seed=3):
        wanted_N = cosines(values_ND, query_D, many.centre)
        best = np.argsort(-wanted_N)[:10]
        found = many.query(query_D, k=10)
        np.testing.assert_allclose([match.similarity for match in found], wanted_N[best], atol=1e-3)
        assert {match.name for match in found[:5]} <= {name(i) for i in best}


def test_filters_pass_what_they_say_and_the_nearest_of_that_is_found(many: Index) -> None:
    query_D, values_ND = vectors(1, seed=4)[0], many.vectors
    passing = [i for i in range(5000) if i % 3 == 1 and 1000 <= i <= 3000]
    wanted = sorted(passing, key=lambda i: -cosines(values_ND[i : i + 1], query_D, many.centre)[0])[:5]
    found = many.query(query_D, k=5, where=[filters.under("b"), filters.within("seconds", 1000, 3000)])
    assert [match.name for match in found] == [name(i) for i in wanted]
    assert many.query(query_D, where=[filters.under("b/0")]) == []
    assert len(many.query(query_D, k=9999, where=[filters.under(".")])) == 5000


def test_versions_are_marked_and_can_be_left_out(many: Index) -> None:
    query_D = many.vectors[5]
    first, second, third = many.query(query_D, k=3)
    assert {first.name, second.name} == {name(5), name(4005)} and first.is_version and second.is_version
    assert third.similarity < VERSION_FROM and not third.is_version
    assert many.query(query_D, k=3, versions=False)[0] == third


def test_a_graph_is_made_kept_extended_and_made_again_where_it_belongs_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    monkeypatch.setattr(neighbours, "GRAPH_FROM", 1000)
    index, values_ND = Index(FACTS), vectors(3000)
    fill(index, range(2000), values_ND[:2000])
    index.save(tmp_path / "index")
    exact = Index.load(tmp_path / "index")
    exact._graph = None
    for held in (index, Index.load(tmp_path / "index")):
        assert held.is_finished and held._graph is not None and held._graph.n_rows == 2000
        for query_D in vectors(5, seed=5):
            (one,), (other,) = held.query(query_D, k=1), exact.query(query_D, k=1)
            assert one.name == other.name and one.similarity == pytest.approx(other.similarity)
            assert len(held.query(query_D, k=5, where=[filters.within("seconds", 0, 10)])) == 5  # by the exact search
    with index.kept_in(tmp_path / "index"):
        fill(index, range(2000, 3000), values_ND[2000:])
        index.finish()
    assert index.query(values_ND[2500], k=1)[0].name == name(2500)
    (graph,) = (tmp_path / "index").glob("*.usearch")
    graph.write_bytes(b"nonsense")
    held = Index.load(tmp_path / "index")
    assert not held.is_finished and held.query(values_ND[2500], k=1)[0].name == name(2500)
    with held.kept_in(tmp_path / "index"):
        held.finish()
    assert Index.load(tmp_path / "index").is_finished


# ---------------------------------------------------------------------------------------------------------- Parquet


def test_parquet_holds_the_recordings_and_gives_their_vectors_back(many: Index, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert export_parquet(many, tmp_path / "index.parquet") == 5000
    fresh = Index(FACTS)
    assert import_parquet(fresh, tmp_path / "index.parquet") == 5000
    assert len(fresh) == 0 and fresh.knows(sha256(17))  # known by their bytes, held when a recording has them
    fresh.save(tmp_path / "fresh")
    held = Index.load(tmp_path / "fresh")
    held.hold("renamed.wav", Stamp(1, 1, sha256(17)))
    assert held.names == ["renamed.wav"] and held.n_embedded == 0
    np.testing.assert_allclose(held.vectors[0], many.vectors[17], rtol=1e-6)


def test_parquet_is_read_by_datasets_and_duckdb(many: Index, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    export_parquet(many, tmp_path / "index.parquet")
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(str(tmp_path / "index.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table.column_names == ["file", "sha256", "encoder_sha256", "layer", "pool", "vector"]
    assert table[3]["file"] == name(3) and table[3]["sha256"] == sha256(3) and len(table) == 5000
    np.testing.assert_array_equal(table[3]["vector"], many.vectors[3])
    duckdb = pytest.importorskip("duckdb")
    query = f"select file, len(vector) from '{tmp_path / 'index.parquet'}' where sha256 = '{sha256(3)}'"
    assert duckdb.sql(query).fetchall() == [(name(3), WIDTH)]


def test_parquet_of_other_models_layers_or_shapes_is_refused(many: Index, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "index.parquet"
    export_parquet(many, path)
    for fact, value, reason in (("layer", "layer02", "layer"), ("weights_sha256", "1" * 64, "model made")):
        with pytest.raises(UsageError, match=reason):
            import_parquet(Index(FACTS | {fact: value}), path)
    table = parquet.read_table(path).replace_schema_metadata(None)  # of another program, without our facts
    parquet.write_table(table, path)
    assert import_parquet(Index(FACTS), path) == 5000
    with pytest.raises(UsageError, match="layer is layer05, that of the index is layer02"):
        import_parquet(Index(FACTS | {"layer": "layer02"}), path)
    parquet.write_table(table.drop_columns(["sha256"]), path)
    with pytest.raises(OutputError, match="no column sha256"):
        import_parquet(Index(FACTS), path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(OutputError, match="holds no vectors to import"):
        import_parquet(Index(FACTS), path)
