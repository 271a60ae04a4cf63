"""Prepared stores: recordings at one rate in mapped Arrow files, which open at once and read a clip with one seek.

`audio-00000.arrow` holds blocks of 10 s (`name`, `block`, `samples` int16, `xxh3` of their bytes) and can be read by
`datasets` as it is; `recordings.parquet` the name, length and place of each recording and the columns of its manifest;
`store.json`, written last, rate, totals, and the size of each file.
Shapes: R recordings, N samples.
"""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import AudioError, CheckpointError, need
from mert.files import read_json, write_json, write_whole
from mert.train.corpus.base import LICENCE, CorpusError, fingerprint_of, from_16_bits

log = logging.getLogger("mert")
DESCRIPTION, TABLE = "store.json", "recordings.parquet"
LOCK = ".prepare.lock"  # there from the first moment on
FORMAT, VERSION = "mert-audio", 1
BLOCK_S = 10
IN_MEMORY = 64 * 2**20  # bytes of one recording that are held before it is written
AGAIN = "run the same mert prepare again"
OWN_COLUMNS = ("name", "n_samples", "shard", "first_block", "sha256")  # of the table; others come from the manifest


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"audio-{number:05d}.arrow"


class ShardWriter:
    """Writes recordings one after the other into an Arrow file; what is added to a recording is held until it ends.

    Use as a context manager, in the block of `write_whole`.
    """

    def __init__(self, path: Path, rate_hz: int, members: str) -> None:
        self._arrow = need("pyarrow", "train", "mert prepare")
        self._xxhash = need("xxhash", "train", "mert prepare")
        arrow = self._arrow
        fields = [("name", arrow.string()), ("block", arrow.int32()), ("samples", arrow.list_(arrow.int16())),
                  ("xxh3", arrow.uint64())]  # fmt: skip
        self._schema = arrow.schema(fields, {"rate_hz": str(rate_hz), "members": members})
        self._writer = arrow.ipc.new_file(path, self._schema)
        self.rate_hz, self.n_blocks = rate_hz, 0
        self._held = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(path.parent))  # noqa: SIM115
        self._n_held = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()
        self._writer.close()

    def add(self, samples_N: np.ndarray) -> None:
        """Hold int16 samples of the present recording."""
        self._held.write(samples_N.astype("<i2", copy=False).tobytes())
        self._n_held += len(samples_N)

    def drop(self) -> None:
        """Forget the present recording."""
        self._held.seek(0)
        self._held.truncate()
        self._n_held = 0

    def end(self, name: str) -> tuple[int, int]:
        """Write the present recording; returns its first block and its samples."""
        first, n_samples = self.n_blocks, self._n_held
        self._held.seek(0)
        for number in range(-(-n_samples // (BLOCK_S * self.rate_hz))):
            data = self._held.read(2 * BLOCK_S * self.rate_hz)
            samples_N = np.frombuffer(data, "<i2")
            arrow = self._arrow
            samples = arrow.ListArray.from_arrays(
                arrow.array([0, len(samples_N)], arrow.int32()), arrow.array(samples_N)
            )
            columns = [[name], [number], samples, arrow.array([self._xxhash.xxh3_64_intdigest(data)], arrow.uint64())]
            columns[:2] = [arrow.array(columns[0]), arrow.array(columns[1], arrow.int32())]
            self._writer.write_batch(arrow.record_batch(columns, schema=self._schema))
            self.n_blocks += 1
        self.drop()
        return first, n_samples


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Finish a store, whose shards are written: the table of its recordings, then its description."""
    arrow, parquet = need("pyarrow", "train", "mert prepare"), need("pyarrow.parquet", "train", "mert prepare")
    names = list(OWN_COLUMNS) + sorted({name for row in rows for name in row} - set(OWN_COLUMNS))
    table = arrow.table({name: column_of([row.get(name) for row in rows]) for name in names})
    with write_whole(folder / TABLE) as temporary:
        parquet.write_table(table, temporary)
    sizes = {path.name: path.stat().st_size for path in [folder / TABLE, *sorted(folder.glob("audio-*.arrow"))]}
    write_json(folder / DESCRIPTION, {"format": FORMAT, "version": VERSION, **about, "files": sizes})


def column_of(values: Sequence[Any]) -> Any:
    """A column of a table; values of several types, or that Arrow has no type for, become JSON, one by one."""
    arrow = need("pyarrow", "train", "mert prepare")
    try:
        column = arrow.array(values)
        if not _has_empty_struct(column.type):  # which Parquet cannot hold
            return column
    except (arrow.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    return arrow.array([None if value is None else json.dumps(value) for value in values], arrow.string())


def _has_empty_struct(kind: Any) -> bool:
    parts = [kind.field(i).type for i in range(kind.num_fields)]
    return str(kind) == "struct<>" or any(map(_has_empty_struct, parts))


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, finished or not."""
    marks = (folder / DESCRIPTION, folder / LOCK)
    return any(mark.is_file() for mark in marks) or next(folder.glob("audio-*.arrow"), None) is not None


class StoreCorpus:
    """The recordings of a finished store, without those that are shorter than `min_samples`.

    CorpusError if it is not finished, is of another rate, or a file is missing or cut short.
    """

    def __init__(self, folder: Path, rate_hz: int, min_samples: int) -> None:
        self.folder, self.rate_hz = folder, rate_hz
        self._check(folder, rate_hz)
        table = self._table()
        long = np.asarray(table["n_samples"]) >= min_samples
        if not long.all():
            log.warning("%s: dropped %d of %d recordings: shorter than %.2f s", folder, (~long).sum(), len(long),
                        min_samples / rate_hz)  # fmt: skip
        if not long.any():
            reason = f"none of {len(long)} recordings is as long as a clip of {min_samples / rate_hz:.2f} s"
            raise CorpusError(str(folder), reason, "give shorter clips, or other data")
        table = table.filter(long)
        self._names = table["name"].combine_chunks()
        self.lengths, self._shards, self._firsts = (
            np.asarray(table[name], np.int64) for name in ("n_samples", "shard", "first_block")
        )
        self.licences: tuple[str, ...] = ()
        for name in LICENCE:
            if name in table.column_names:
                held = {str(licence) for licence in table[name].to_pylist() if licence}
                self.licences = tuple(sorted({*self.licences, *held}))
        self._readers: dict[int, Any] = {}

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.rate_hz, self._names.to_pylist(), self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getstate__(self) -> dict[str, Any]:
        """Mapped files stay behind: another process maps them again."""
        return self.__dict__ | {"_readers": {}}

    def name(self, index: int) -> str:
        return str(self._names[index])

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        """Float32 [N] from sample `start`; CorpusError if a block is damaged."""
        n_block = BLOCK_S * self.rate_hz
        blocks = range(start // n_block, (start + n_samples - 1) // n_block + 1)
        parts = [self._block(index, number) for number in blocks]
        joined_N = parts[0] if len(parts) == 1 else np.concatenate(parts)
        first = start - blocks.start * n_block
        if len(joined_N) < first + n_samples:
            raise AudioError(self.name(index), f"has {self.lengths[index]} samples only", "ask for fewer")
        return from_16_bits(joined_N[first : first + n_samples])

    def _block(self, index: int, number: int) -> np.ndarray:
        """The int16 samples of a block, mapped."""
        shard, position = int(self._shards[index]), int(self._firsts[index]) + number
        try:
            samples, expected = self._reader(shard).get_batch(position).columns[2:4]
            samples_N = samples.values.to_numpy()
            if need("xxhash", "train", "a prepared store").xxh3_64_intdigest(samples_N) == expected[0].as_py():
                return np.asarray(samples_N)
            reason = "was changed"
        except (OSError, ValueError, IndexError) as error:
            reason = f"cannot be read ({error})"
        where = f"{self.folder / shard_name(shard)}: block {position} ({self.name(index)})"
        raise CorpusError(where, reason, f"remove the file and {AGAIN}")

    def _reader(self, shard: int) -> Any:
        if shard not in self._readers:
            arrow = need("pyarrow", "train", "a prepared store")
            path = self.folder / shard_name(shard)
            self._readers[shard] = arrow.ipc.open_file(arrow.memory_map(str(path)))
        return self._readers[shard]

    def _check(self, folder: Path, rate_hz: int) -> None:
        if not (folder / DESCRIPTION).is_file():
            raise CorpusError(str(folder), "is a store that is not finished", AGAIN)
        try:
            about = read_json(folder / DESCRIPTION)
            form, version, rate = about["format"], int(about["version"]), int(about["rate_hz"])
            sizes = {str(name): int(size) for name, size in about["files"].items()}
        except (CheckpointError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorpusError(str(folder / DESCRIPTION), f"is damaged ({error})", AGAIN) from None
        if form != FORMAT or version > VERSION:
            raise CorpusError(str(folder), f"is of format {form} {version}", "update the package")
        if rate != rate_hz:
            remedy = f"prepare it again with --rate {rate_hz}, or train at {rate} Hz"
            raise CorpusError(str(folder), f"holds music at {rate} Hz, and the model needs {rate_hz} Hz", remedy)
        for name, size in sizes.items():
            path = folder / name
            if not path.is_file():
                raise CorpusError(str(path), "is missing", AGAIN)
            if (there := path.stat().st_size) != size:
                raise CorpusError(str(path), f"has {there} bytes instead of {size}", f"remove it and {AGAIN}")

    def _table(self) -> Any:
        parquet = need("pyarrow.parquet", "train", "a prepared store")
        try:
            table = parquet.read_table(self.folder / TABLE)
            if missing := set(OWN_COLUMNS) - set(table.column_names):
                raise ValueError(f"it lacks {sorted(missing)}")
            return table
        except Exception as error:  # damaged files have no common type of error
            path = str(self.folder / TABLE)
            raise CorpusError(path, f"is damaged ({error})", f"remove it and {AGAIN}") from None
