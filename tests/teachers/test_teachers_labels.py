"""Label stores: mapped, checked as they are read, shared by processes, readable by the datasets library."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from teachers import TeacherError, load_teacher
from teachers.base import Crop
from teachers.labels import DESCRIPTION, INDEX, LabelStore, shard_name, write_index, write_shard

pytest.importorskip("pyarrow")
pytest.importorskip("xxhash")

N_CLASSES = (32, 20)
Row = tuple[str, int, np.ndarray]


def row(name: str, n_frames: int = 50, seed: int | None = None) -> Row:
    random = np.random.default_rng(len(name) if seed is None else seed)
    codes_TK = np.stack([random.integers(0, n, n_frames) for n in N_CLASSES], 1)
    return name, 320 * (n_frames - 1) + 400, codes_TK


def describe(folder: Path, shards: int, **changes: Any) -> None:
    about = {
        "format": "mert-labels", "version": 2, "teacher": "hand", "fingerprint": "f" * 64, "licence": "none",
        "corpus": "c", "sample_rate": 24_000, "rate_hz": 75.0, "n_classes": N_CLASSES, "n_shards": shards,
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(about | changes))


def write_store(folder: Path, shards: Sequence[Sequence[Row]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(shards):
        write_shard(folder / shard_name(number), rows)
    describe(folder, len(shards))
    write_index(folder / INDEX, folder, len(shards))
    return folder


def write_store_of_version_1(folder: Path, shards: Sequence[Sequence[Row]]) -> Path:
    """As the first version of this format was written."""
    from pyarrow import parquet, table

    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(shards):
        names, n_samples, codes = zip(*rows, strict=True)
        columns = {"name": names, "n_samples": n_samples, "codes": [codes_TK.ravel().tolist() for codes_TK in codes]}
        parquet.write_table(table(columns), folder / shard_name(number, version=1))
    describe(folder, len(shards), version=1)
    about = json.loads((folder / DESCRIPTION).read_text())
    del about["version"]
    (folder / DESCRIPTION).write_text(json.dumps(about))
    return folder


NAMES = ["b.wav", "a.wav", "z/é.wav", "Z.wav", "a/b.wav", "日本.flac", "0.wav"]
SHARDS = [[row(name, 40 + 7 * i, seed=i) for i, name in enumerate(NAMES)][first : first + 3] for first in (0, 3, 6)]
ROWS = [one for rows in SHARDS for one in rows]


@pytest.fixture(params=[1, 2])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LabelStore:
    write = write_store if request.param == 2 else write_store_of_version_1
    return LabelStore(write(tmp_path / "store", SHARDS))


def test_codes_come_back_whole_and_in_part(store: LabelStore) -> None:
    assert len(store) == len(NAMES) and store.n_classes == N_CLASSES
    for name, n_samples, codes_TK in ROWS:
        np.testing.assert_array_equal(store.values(name, n_samples, 0, 10**6), codes_TK)
        np.testing.assert_array_equal(store.values(name, n_samples, 11, 9), codes_TK[11:20])
    store.check_recordings((name, n_samples) for name, n_samples, _ in ROWS)
    crops = [Crop(name, n_samples, 5) for name, n_samples, _ in ROWS[:2]]
    codes_BKT = store.crop_targets(torch.zeros(2, 2_000), crops, 6).codes
    assert codes_BKT is not None and codes_BKT.dtype == torch.int64
    np.testing.assert_array_equal(codes_BKT, np.stack([codes_TK[5:11].T for *_, codes_TK in ROWS[:2]]))


def test_counts_are_those_of_all_codes(store: LabelStore) -> None:
    all_KN = np.concatenate([codes_TK for *_, codes_TK in ROWS]).T
    wanted_KC = np.stack([np.bincount(codes_N, minlength=32) for codes_N in all_KN])
    np.testing.assert_array_equal(store.counts(), wanted_KC)


def test_other_recordings_are_refused(store: LabelStore) -> None:
    name, n_samples, _ = ROWS[0]
    for wrong in ("", "a", "c.wav", "zz", "b.wav\0", "\udcff.wav", "日"):
        with pytest.raises(TeacherError, match=r"has no targets of .*; tokenize this corpus"):
            store.values(wrong, n_samples, 0, 10)
        with pytest.raises(TeacherError, match=r"has no targets of .*; tokenize this corpus"):
            store.check_recordings([(name, n_samples), (wrong, n_samples)])
    for ask in (lambda n: store.values(name, n, 0, 10), lambda n: store.check_recordings([(name, n)])):
        with pytest.raises(TeacherError, match=rf"b\.wav has {n_samples + 1} samples, and had {n_samples} when"):
            ask(n_samples + 1)


def test_a_store_travels_to_other_processes_without_its_codes(store: LabelStore) -> None:
    name, n_samples, codes_TK = ROWS[4]
    store.values(name, n_samples, 0, 10)
    packed = pickle.dumps(store)
    assert len(packed) < 1_000
    again = pickle.loads(packed)
    assert len(again) == len(store) and again.fingerprint == store.fingerprint
    np.testing.assert_array_equal(again.values(name, n_samples, 0, 10**6), codes_TK)


def test_mapped_codes_are_views_of_the_file(tmp_path: Path) -> None:
    store = LabelStore(write_store(tmp_path / "store", SHARDS))
    name, n_samples, _ = ROWS[0]
    first, second = (store.values(name, n_samples, 0, 30) for _ in range(2))
    assert np.shares_memory(first, second) and not first.flags.writeable
    with open("/proc/self/maps", encoding="utf-8") as maps:
        assert any(line.rstrip().endswith(str(tmp_path / "store" / shard_name(0))) for line in maps)


def test_a_store_opens_without_reading_its_codes(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store", SHARDS)
    for number in range(len(SHARDS)):
        (folder / shard_name(number)).write_bytes(b"")
    name, n_samples, _ = ROWS[0]
    store = LabelStore(folder)
    store.check_recordings([(name, n_samples)])
    with pytest.raises(TeacherError, match=r"shard-00000\.arrow: is damaged"):
        store.values(name, n_samples, 0, 10)


def test_the_datasets_library_reads_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    folder = write_store(tmp_path / "store", SHARDS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = sorted(map(str, folder.glob("shard-*.arrow")))
    rows = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["name"][:] == NAMES and rows["n_samples"][:] == [n for _, n, _ in ROWS]
    for read, (*_, codes_TK) in zip(rows["codes"], ROWS, strict=True):
        assert read == codes_TK.ravel().tolist()


def rewritten(folder: Path, number: int, rows: Sequence[Row], index: bool = True) -> LabelStore:
    """The store with other rows in a shard, and, if asked for, an index that fits them."""
    write_shard(folder / shard_name(number), rows)
    if index:
        write_index(folder / INDEX, folder, len(SHARDS))
    return LabelStore(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda codes_TK: np.where(np.arange(40)[:, None] == 7, 32, codes_TK), "code 32 of codebook 0 is not below 32"),
        (lambda codes_TK: np.where(np.arange(40)[:, None] == 7, -1, codes_TK), "code -1 of codebook 0 is not below 32"),
        (lambda codes_TK: codes_TK + np.array([0, 20]), r"code \d+ of codebook 1 is not below 20"),
        (lambda codes_TK: codes_TK[:-3], r"74 codes for 12880 samples"),
        (lambda codes_TK: codes_TK[:, :1], r"40 codes for 12880 samples"),
    ],
)
def test_codes_that_cannot_be_are_refused_when_they_are_read(tmp_path: Path, change: Any, reason: str) -> None:
    folder = write_store(tmp_path / "store", SHARDS)
    name, n_samples, codes_TK = ROWS[0]
    store = rewritten(folder, 0, [(name, n_samples, change(codes_TK)), *SHARDS[0][1:]])
    np.testing.assert_array_equal(store.values(*ROWS[1][:2], 0, 10**6), ROWS[1][2])
    with pytest.raises(TeacherError, match=rf"{shard_name(0)}: b\.wav: {reason}"):
        store.values(name, n_samples, 0, 1)
    with pytest.raises(TeacherError, match=reason):
        store.counts()


def test_a_changed_code_is_found_by_its_hash(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store", SHARDS)
    path, (name, n_samples, codes_TK) = folder / shard_name(0), ROWS[2]
    content = bytearray(path.read_bytes())
    content[content.rindex(codes_TK.astype(np.int16).tobytes()) + 100] ^= 1
    path.write_bytes(content)
    store = LabelStore(folder)
    with pytest.raises(TeacherError, match=r"shard-00000\.arrow: z/é\.wav: its targets are not those that were"):
        store.values(name, n_samples, 0, 3)
    np.testing.assert_array_equal(store.values(*ROWS[0][:2], 0, 10**6), ROWS[0][2])


def test_shards_and_an_index_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "store", SHARDS)
    store = rewritten(folder, 0, SHARDS[0][::-1], index=False)
    with pytest.raises(
        TeacherError, match=r"shard-00000\.arrow: does not hold b\.wav in row 0, where the index has it"
    ):
        store.values(*ROWS[0][:2], 0, 3)
    store = rewritten(folder, 0, SHARDS[0][:1], index=False)
    with pytest.raises(TeacherError, match=r"does not hold a\.wav in row 1"):
        store.values(*ROWS[1][:2], 0, 3)
    describe(folder, 2)
    with pytest.raises(TeacherError, match=r"index\.arrow: is damaged \(it names shards that do not exist\)"):
        LabelStore(folder)


def test_one_name_may_stand_twice_with_the_same_codes_only(store: LabelStore, tmp_path: Path) -> None:
    write = write_store if store.version == 2 else write_store_of_version_1
    twice = LabelStore(write(tmp_path / "twice", [SHARDS[0], SHARDS[0][1:]]))
    assert len(twice) == 3
    np.testing.assert_array_equal(twice.values(*ROWS[1][:2], 0, 10**6), ROWS[1][2])
    for other in (row("a.wav", 47, seed=99), row("a.wav", 48, seed=1)):
        with pytest.raises(TeacherError, match=r"a\.wav is the name of two recordings; give each a name"):
            LabelStore(write(tmp_path / "other", [SHARDS[0], [other]]))


def test_names_that_are_not_utf8_are_refused_when_they_are_written(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="is a name that is not UTF-8; rename the recording"):
        write_shard(tmp_path / shard_name(0), [row("\udcff.wav")])


def test_folders_that_are_no_store(tmp_path: Path, store: LabelStore) -> None:
    for about in ("{}", "[]", "nonsense"):
        (store.folder / DESCRIPTION).write_text(about)
        with pytest.raises(TeacherError, match=r"is no label store .*; make one: mert tokenize"):
            load_teacher(store.folder)
    for changes, reason in (
        ({"version": 4}, "version 4 is not known here"),
        ({"n_classes": []}, "name no targets"),
        ({"kind": "frames"}, "name no targets"),
        ({"n_classes": [8, 0]}, "name no targets"),
        ({"rate_hz": 0}, "out of range"),
        ({"n_shards": -1}, "out of range"),
    ):
        describe(store.folder, len(SHARDS), **changes)
        with pytest.raises(TeacherError, match=reason):
            LabelStore(store.folder)


def test_damaged_shards_of_version_1_are_refused(tmp_path: Path) -> None:
    from pyarrow import parquet, table

    folder = write_store_of_version_1(tmp_path / "store", SHARDS)
    path = folder / shard_name(1, version=1)
    whole = path.read_bytes()
    columns = parquet.read_table(path).to_pydict()
    path.write_bytes(whole[:-100])
    with pytest.raises(TeacherError, match=rf"{path.name}: is damaged \(.*\); remove it, and run"):
        LabelStore(folder)
    parquet.write_table(table(columns | {"codes": [None] * 3}), path)
    with pytest.raises(TeacherError, match=rf"{path.name}: is damaged"):
        LabelStore(folder)
    path.unlink()
    with pytest.raises(TeacherError, match=rf"{path.name}: is missing"):
        LabelStore(folder)


def test_a_small_shard_of_version_1_does_not_fill_the_memory(tmp_path: Path) -> None:
    """20 million equal codes are a kilobyte of parquet."""
    from pyarrow import ListArray, parquet, table

    folder = write_store_of_version_1(tmp_path / "store", SHARDS)
    codes = ListArray.from_arrays([0, 20_000_000], np.zeros(20_000_000, np.int16))
    path = folder / shard_name(1, version=1)
    parquet.write_table(table({"name": ["a"], "n_samples": [24_000], "codes": codes}), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(TeacherError, match=rf"{path.name}: is damaged \(20000002 values are more than its size"):
        LabelStore(folder)
