"""Label stores: the targets of a corpus, computed once by `mert tokenize`, mapped into memory where they are read.

`store.json` describes the teacher and the kind of its targets. Rows of `shard-00000.arrow` (Arrow IPC, not compressed)
hold the name of a recording, its samples at the teacher's rate, its targets, frame after frame, under the name of their
kind (int16 codes, float16 frames, or float32 numbers of the clip as a whole), and their xxh3_64. `index.arrow`, written
last, holds the shard and row of each name, sorted by name. `codebooks.safetensors` holds the codewords (keys "0", "1",
...; [C, D]). Stores of version 2 have codes only; those of version 1 have shards of parquet and no index, and are read
into memory.
Shapes: B crops, R recordings, N numbers, K codebooks, T frames, F bins, P numbers of a clip, W of K, F and P.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from teachers.base import FIELD, Crop, Targets, TargetSource, Teacher, TeacherError, require

VERSION = 3
TYPES = {"codes": np.int16, "frames": np.float16, "clips": np.float32}  # of each kind of targets
DESCRIPTION = "store.json"
INDEX = "index.arrow"
CODEBOOKS = "codebooks.safetensors"
RUN_AGAIN = "run the same mert tokenize again"
AGAIN = f"remove it, and {RUN_AGAIN}"
MAX_MAPPED = 4096  # shards of a store that a process keeps open: each takes some 35 KB and a mapping
MAX_CLASSES = 2**15  # codes are int16
MAX_PER_BYTE = 1000  # codes in parquet: more of them are one code repeated, and would fill the memory
AT_ONCE = 65_536  # recordings that are looked up together


def shard_name(number: int, version: int = VERSION) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.{'arrow' if version > 1 else 'parquet'}"


def describe(teacher: Teacher, corpus_fingerprint: str, n_shards: int) -> dict[str, Any]:
    """The contents of `store.json`."""
    return {
        "format": "mert-labels", "version": VERSION, "teacher": teacher.name, "fingerprint": teacher.fingerprint,
        "licence": teacher.licence, "sample_rate": teacher.sample_rate, "rate_hz": teacher.rate_hz,
        "kind": kind_of(teacher), "n_classes": list(teacher.n_classes), "n_bins": teacher.n_bins,
        "n_clip_values": teacher.n_clip_values, "corpus": corpus_fingerprint, "n_shards": n_shards,
    }  # fmt: skip


def kind_of(source: TargetSource) -> str:
    """The kind of a source's targets."""
    return "codes" if source.n_classes else "frames" if source.n_bins else "clips"


class Rows(NamedTuple):
    """The rows of a shard, as views of its mapped file; the targets of row r begin at `first_R[r]`."""

    names: Any  # of pyarrow, as in the index
    n_samples_R: np.ndarray
    hash_R: np.ndarray
    first_R: np.ndarray
    values_N: np.ndarray

    def values_of(self, row: int) -> np.ndarray:
        """All targets of a row, frame after frame."""
        return self.values_N[self.first_R[row] : self.first_R[row + 1]]

    def checked_values(self, row: int, hash_64: int, shard: Path) -> np.ndarray:
        """`values_of` a row; TeacherError if their hash is another."""
        values_N = self.values_of(row)
        if hash_of(values_N) != hash_64:
            reason = "its targets are not those that were written (xxh3_64)"
            raise TeacherError(f"{shard}: {self.names[row].as_py()}", reason, AGAIN)
        return values_N


class Index(NamedTuple):
    """Where each recording is; names ascend and occur once."""

    names: Any
    n_samples_R: np.ndarray
    hash_R: np.ndarray
    shard_R: np.ndarray
    row_R: np.ndarray


class LabelStore(TargetSource):
    """A finished store, as a source of targets in its teacher's place; it can be pickled, and opens files when needed.

    TeacherError if it is not finished, or is damaged. The targets of a recording are checked (their hash, number and
    range) when a process first reads them. Nothing may change the files in place: they are mapped, so that memory does
    not grow with the store, and processes share it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
            self.version = int(about.get("version", 1))
            self.name, self.fingerprint, self.licence = about["teacher"], about["fingerprint"], about["licence"]
            self.sample_rate, self.rate_hz = int(about["sample_rate"]), float(about["rate_hz"])
            self.n_classes, self.n_shards = tuple(map(int, about["n_classes"])), int(about["n_shards"])
            self.n_bins, self.n_clip_values = int(about.get("n_bins", 0)), int(about.get("n_clip_values", 0))
            self.kind, self.width = kind_of(self), len(self.n_classes) + self.n_bins + self.n_clip_values
            if not 1 <= self.version <= VERSION:
                raise ValueError(f"version {self.version} is not known here")
            if min((*self.n_classes, self.width)) < 1 or about.get("kind", "codes") != self.kind:
                raise ValueError("n_classes, n_bins and n_clip_values name no targets")
            if not 0 < self.rate_hz <= self.sample_rate or not 0 <= self.n_shards < 100_000:
                raise ValueError("its rates, or its shards, are out of range")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TeacherError(folder, f"is no label store ({error})", "make one: mert tokenize") from None
        present = {path.name for path in self.folder.iterdir()}
        for number in range(self.n_shards):
            if (shard := shard_name(number, self.version)) not in present:
                raise TeacherError(self.folder / shard, "is missing", RUN_AGAIN)
        if self.version > 1 and INDEX not in present:
            raise TeacherError(self.folder, "is not finished", RUN_AGAIN)
        self.n_recordings = len(self._index.names)

    def __getstate__(self) -> dict[str, Any]:
        """The description alone: each process opens the files that it reads."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    @cached_property
    def _rows(self) -> Callable[[int], Rows]:
        """The rows of a shard by its number; they stay mapped, or in memory."""
        folder, version, kind = self.folder, self.version, self.kind
        return lru_cache(MAX_MAPPED if version > 1 else None)(
            lambda number: read_shard(folder / shard_name(number, version), kind)
        )

    @cached_property
    def _index(self) -> Index:
        path = self.folder / INDEX
        if self.version == 1:
            return index_of(sorted_rows(map(self._rows, range(self.n_shards)), self.folder))
        with damaged(path):
            index = index_of(read_mapped(path))
            if len(index.names) and not 0 <= index.shard_R.min() <= index.shard_R.max() < self.n_shards:
                raise ValueError("it names shards that do not exist")
        return index

    @cached_property
    def _checked(self) -> np.ndarray:
        return np.zeros(self.n_recordings, bool)

    def __len__(self) -> int:
        return self.n_recordings

    def crop_targets(self, wave_BN: Tensor, crops: Sequence[Crop], n_frames: int) -> Targets:
        """The stored targets of the crops; TeacherError for a part of a recording that is described as a whole."""
        if self.kind == "clips":
            rows = [self._of_whole(crop, wave_BN.shape[1])[0] for crop in crops]
        else:
            rows = [self.values(crop.recording, crop.n_samples, crop.frame, n_frames) for crop in crops]
        values = torch.from_numpy(np.stack(rows)).to(wave_BN.device)  # [B, T, W] or [B, P]
        parts: dict[str, Tensor | None] = {"codes": None, "frames": None, "clips": None}
        parts[self.kind] = values.transpose(1, 2).long() if self.kind == "codes" else values.float()
        return Targets(rate_hz=self.rate_hz, fingerprint=self.fingerprint, **parts)

    def _of_whole(self, crop: Crop, n_samples: int) -> np.ndarray:
        """The numbers [1, P] of a crop that is its whole recording."""
        if n_samples != crop.n_samples:
            reason = f"describes {crop.recording} as a whole, {crop.n_samples / self.sample_rate:g} s of it"
            remedy = "give clip_s as long as the recordings, or the teacher itself"
            raise TeacherError(self.folder, reason, remedy)
        return self.values(crop.recording, crop.n_samples, 0, 1)

    def check_recordings(self, recordings: Iterable[tuple[str, int]]) -> None:
        """TeacherError if one of these recordings (name, samples) has no codes, or had another length."""
        arrow, compute = require("pyarrow", self.folder, "train"), require("pyarrow.compute", self.folder, "train")
        names, n_samples_R = self._index.names, self._index.n_samples_R
        iterator = iter(recordings)
        while part := list(islice(iterator, AT_ONCE)):
            try:
                asked = arrow.array([name for name, _ in part], arrow.large_string())
            except UnicodeEncodeError:  # of a name that no store can hold
                suspects = part
            else:
                place_R = compute.index_in(asked, value_set=names).fill_null(-1).to_numpy(zero_copy_only=False)
                known_R = place_R >= 0
                known_R[known_R] = n_samples_R[place_R[known_R]] == np.array([n for _, n in part])[known_R]
                suspects = [part[i] for i in np.flatnonzero(~known_R)]
            for name, n_samples in suspects:
                self._place(name, n_samples)

    def codebooks(self) -> list[Tensor]:
        path = self.folder / CODEBOOKS
        try:
            codewords = load_file(path) if path.exists() else {}
        except (OSError, SafetensorError) as error:
            raise TeacherError(path, f"is damaged ({error})", RUN_AGAIN) from None
        return [codewords[str(k)] for k in range(len(codewords))]

    def counts(self) -> np.ndarray:
        """The number of occurrences of each code: int64 [K, C], C being the size of the largest codebook.

        TeacherError if the store holds other targets than codes.
        """
        if self.kind != "codes":
            raise TeacherError(self.folder, f"holds {self.kind}, not codes", "name a store of codes")
        counts_KC = np.zeros((len(self.n_classes), max(self.n_classes)), np.int64)
        for place in np.lexsort((self._index.row_R, self._index.shard_R)):
            add_counts(counts_KC, self._values(int(place)))
        return counts_KC

    def values(self, name: str, n_samples: int, first: int, n_frames: int) -> np.ndarray:
        """Targets [T, W] of a recording from frame `first` on, as a view of the mapped file.

        TeacherError if it is another recording, or its targets are damaged.
        """
        return self._values(self._place(name, n_samples))[first : first + n_frames]

    def _place(self, name: str, n_samples: int) -> int:
        """The place of a recording in the index."""
        names = self._index.names
        place = bisect_left(range(len(self)), name, key=lambda i: names[i].as_py())
        if place == len(self) or names[place].as_py() != name:
            raise TeacherError(self.folder, f"has no targets of {name}", "tokenize this corpus")
        if (stored := self._index.n_samples_R[place]) != n_samples:
            reason = f"{name} has {n_samples} samples, and had {stored} when its targets were made"
            raise TeacherError(self.folder, reason, "tokenize this corpus again")
        return place

    def _values(self, place: int) -> np.ndarray:
        """Targets [T, W] of the recording at a place in the index."""
        number, row = int(self._index.shard_R[place]), int(self._index.row_R[place])
        rows = self._rows(number)
        if not self._checked[place]:
            self._check(place, rows, row, self.folder / shard_name(number, self.version))
            self._checked[place] = True
        return rows.values_of(row).reshape(-1, self.width)

    def _check(self, place: int, rows: Rows, row: int, shard: Path) -> None:
        """TeacherError unless a row is that of the index, and has targets for all samples, in range."""
        name, n_samples = self._index.names[place].as_py(), int(self._index.n_samples_R[place])
        if not 0 <= row < len(rows.names) or rows.names[row].as_py() != name or rows.n_samples_R[row] != n_samples:
            raise TeacherError(shard, f"does not hold {name} in row {row}, where the index has it", AGAIN)
        values_N, source = rows.checked_values(row, self._index.hash_R[place], shard), f"{shard}: {name}"
        n_frames, over = divmod(len(values_N), self.width)
        least = 1 if self.kind == "clips" else (n_samples - FIELD) // round(self.sample_rate / self.rate_hz) + 1
        if over or n_frames < least:
            raise TeacherError(source, f"{len(values_N)} {self.kind} for {n_samples} samples", AGAIN)
        if self.kind != "codes" and not np.isfinite(values_N).all():
            raise TeacherError(source, "not all of its targets are finite", AGAIN)
        for k, n in enumerate(self.n_classes):
            codes_T = values_N[k :: self.width]
            if len(codes_T) and not 0 <= codes_T.min() <= codes_T.max() < n:
                worst = codes_T[(codes_T < 0) | (codes_T >= n)][0]
                raise TeacherError(source, f"code {worst} of codebook {k} is not below {n}", AGAIN)


def write_shard(path: Path, rows: Sequence[tuple[str, int, np.ndarray]], kind: str = "codes") -> None:
    """Write rows of name, samples and targets [T, W]; TeacherError for a name that is not UTF-8."""
    arrow = require("pyarrow", path, "train")
    values = [values_TW.astype(TYPES[kind]).ravel() for _, _, values_TW in rows]
    try:
        names = arrow.array([name for name, *_ in rows], arrow.large_string())
    except UnicodeEncodeError as error:
        raise TeacherError(repr(error.object), "is a name that is not UTF-8", "rename the recording") from None
    columns = {
        "name": names,
        "n_samples": arrow.array([n_samples for _, n_samples, _ in rows], arrow.int64()),
        "xxh3_64": arrow.array(map(hash_of, values), arrow.uint64()),
        kind: arrow.LargeListArray.from_arrays(np.cumsum([0, *map(len, values)]), np.concatenate(values)),
    }
    write_mapped(path, arrow.table(columns))


def write_index(path: Path, folder: Path, n_shards: int, kind: str = "codes") -> None:
    """Write the index of all shards in a folder; TeacherError if one name has two recordings."""
    write_mapped(path, sorted_rows((read_shard(folder / shard_name(i), kind) for i in range(n_shards)), folder))


def read_shard(path: Path, kind: str = "codes") -> Rows:
    """The rows of a shard; TeacherError if it is missing or damaged. Its targets are not read here, if it is mapped."""
    with damaged(path):
        if path.suffix == ".parquet":
            with require("pyarrow.parquet", path, "train").ParquetFile(path) as file:
                groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
                n_values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
                if n_values > MAX_PER_BYTE * path.stat().st_size:
                    raise ValueError(f"{n_values} values are more than its size can hold")
                table = file.read(columns=["name", "n_samples", "codes"], use_threads=False).combine_chunks()
        else:
            table = read_mapped(path)
        lists = only_chunk(table, kind)
        first_R, values_N = lists.offsets.to_numpy(), lists.values.to_numpy()
        if values_N.dtype.kind not in ("iu" if kind == "codes" else "f"):
            raise ValueError(f"its {kind} are no numbers of their kind")
        if path.suffix == ".parquet":
            hash_R = np.array([hash_of(values_N[a:b]) for a, b in pairwise(first_R)], np.uint64)
        else:
            hash_R = numbers(table, "xxh3_64")
        return Rows(texts(table, "name"), numbers(table, "n_samples"), hash_R, first_R, values_N)


def sorted_rows(shards: Iterable[Rows], source: Path) -> Any:
    """All rows of shards but for their targets, as a pyarrow table in the order of their names, each name once.

    TeacherError if rows of one name differ.
    """
    arrow, compute = require("pyarrow", source, "train"), require("pyarrow.compute", source, "train")
    parts = []
    for number, rows in enumerate(shards):
        where = {"shard": np.full(len(rows.names), number, np.int32), "row": np.arange(len(rows.names), dtype=np.int32)}
        columns = {"name": rows.names, "n_samples": rows.n_samples_R, "xxh3_64": rows.hash_R} | where
        parts.append(arrow.table(columns))
    if not parts:
        raise TeacherError(source, "has no shards", RUN_AGAIN)
    table = arrow.concat_tables(parts).sort_by([(key, "ascending") for key in ("name", "shard", "row")])
    table = table.combine_chunks()
    names, again_R = table["name"].chunk(0), np.zeros(len(table), bool)
    again_R[1:] = compute.equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    for key in ("n_samples", "xxh3_64"):
        values_R = table[key].to_numpy()
        if (differs_R := again_R[1:] & (values_R[1:] != values_R[:-1])).any():
            name = names[int(differs_R.argmax()) + 1].as_py()
            reason = f"{name} is the name of two recordings"
            raise TeacherError(source, reason, f"give each a name of its own, and {AGAIN}")
    return table.filter(arrow.array(~again_R)).combine_chunks()


def index_of(table: Any) -> Index:
    """The columns of an index."""
    return Index(texts(table, "name"), *(numbers(table, key) for key in ("n_samples", "xxh3_64", "shard", "row")))


def write_mapped(path: Path, table: Any) -> None:
    """Write an Arrow IPC file of one batch, which can be mapped."""
    ipc = require("pyarrow.ipc", path, "train")
    with ipc.new_file(str(path), table.schema) as file:
        file.write_table(table.combine_chunks())


def read_mapped(path: Path) -> Any:
    """A pyarrow table in the pages of its file; the file itself is closed."""
    arrow, ipc = require("pyarrow", path, "train"), require("pyarrow.ipc", path, "train")
    with arrow.memory_map(str(path)) as file:
        return ipc.open_file(file).read_all()


def only_chunk(table: Any, name: str) -> Any:
    """A column, checked in full but for the values of numbers; ValueError if it has several chunks or nulls."""
    column = table.column(name)
    if column.num_chunks != 1 or column.null_count or (column.type.num_fields and column.chunk(0).values.null_count):
        raise ValueError(f"{name} has several parts, or lacks values")
    column.validate(full=True)
    return column.chunk(0)


def numbers(table: Any, name: str) -> np.ndarray:
    """A column of whole numbers, as a view."""
    numbers_R: np.ndarray = only_chunk(table, name).to_numpy()
    if numbers_R.dtype.kind not in "iu":
        raise ValueError(f"{name} are no whole numbers")
    return numbers_R


def texts(table: Any, name: str) -> Any:
    """A column of text, of pyarrow's type for long ones."""
    return only_chunk(table, name).cast("large_string")


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a file into a TeacherError that names it."""
    arrow = require("pyarrow", path, "train")
    try:
        yield
    except FileNotFoundError:
        raise TeacherError(path, "is missing", RUN_AGAIN) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, arrow.ArrowException) as error:
        raise TeacherError(path, f"is damaged ({error})", AGAIN) from None


def hash_of(values_N: np.ndarray) -> int:
    """xxh3_64 of the bytes of targets."""
    return int(require("xxhash", "label stores", "train").xxh3_64_intdigest(np.ascontiguousarray(values_N)))


def add_counts(counts_KC: np.ndarray, codes_TK: np.ndarray) -> None:
    """Add the number of occurrences of each code."""
    for counts_C, codes_T in zip(counts_KC, codes_TK.T, strict=True):
        counts_C += np.bincount(codes_T, minlength=len(counts_C))
