"""The table of an index: columns on disk that grow by appending, count once committed, and are mapped into memory.

Shapes: N rows, D model width.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mert.errors import CheckpointError, OutputError
from mert.files import read_json, write_json, writing

SCHEMA = 2
STATE = "index.json"
COLUMNS = {
    "name_end": "<i8", "name_key": "<u8", "size": "<i8", "mtime_ns": "<i8", "seconds": "<f4", "norm": "<f4",
    "replaces": "<i8", "sha256": "V32",
}  # fmt: skip
BLOCK = 16_384  # rows that are in memory at once where all are read
REMEDY = "check the path, or build it again (mert similar --rebuild)"


class Row(NamedTuple):
    """A recording to add; without a name it counts for its vector alone, and without a vector it only removes a row.

    `replaces` is the row that ends with it, or -1. `seconds` is NaN where the length is not known.
    """

    name: str
    size: int = 0
    mtime_ns: int = 0
    sha256: bytes = bytes(32)
    seconds: float = float("nan")
    vector_D: np.ndarray | None = None
    replaces: int = -1


@dataclass(frozen=True, kw_only=True)
class State:
    """What `index.json` holds: it is written last, so that a row counts only once all of it is on the disk.

    `centre` is the origin of similarities, measured over `n_centred` recordings (None: it came with the model).
    Vectors are kept as they are in float32, or in float16 as directions from the centre, with their length in `norm`.
    """

    facts: dict[str, Any]
    generation: str = ""
    dtype: str = "float32"
    width: int = 0
    n_rows: int = 0
    n_name_bytes: int = 0
    centre: list[float] | None = None
    n_centred: int | None = 0

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state of a folder; ValueError or CheckpointError if it is no index of this schema."""
        values = read_json(folder / STATE)
        if (values.pop("format", None), values.pop("schema", None)) != ("mert-index", SCHEMA):
            raise ValueError(f"not of format mert-index, schema {SCHEMA}")
        state = cls(**values)
        counts = (state.width, state.n_rows, state.n_name_bytes)
        if not all(type(n) is int and 0 <= n < 2**48 for n in counts) or state.dtype not in ("float32", "float16"):
            raise ValueError("its counts or its dtype are none")
        if not isinstance(state.facts, dict) or not state.generation.isalnum():
            raise ValueError("it has no facts or no generation")
        if state.centre is not None and not (
            len(state.centre) == state.width and np.isfinite(np.asarray(state.centre, np.float64)).all()
        ):
            raise ValueError(f"its centre is not {state.width} finite numbers")
        if state.dtype == "float16" and state.centre is None:
            raise ValueError("its vectors are directions, and it has no centre")
        return state

    def write(self, folder: Path) -> None:
        """Commit."""
        write_json(folder / STATE, {"format": "mert-index", "schema": SCHEMA} | asdict(self))


@dataclass
class Table:
    """The committed rows of an index."""

    state: State
    columns: dict[str, np.ndarray]
    name_bytes: np.ndarray
    vectors_ND: np.ndarray  # as stored
    _orders: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def empty(cls, facts: dict[str, Any], centre_D: np.ndarray | None = None) -> Table:
        """No rows; a centre that is given is that of the model, and stays."""
        state = State(facts=facts)
        if centre_D is not None:
            state = replace(state, width=len(centre_D), centre=centre_D.tolist(), n_centred=None, dtype="float16")
        return cls(
            state, {n: np.zeros(0, t) for n, t in COLUMNS.items()}, np.zeros(0, "u1"), np.zeros((0, state.width))
        )

    @classmethod
    def open(cls, folder: Path) -> Table:
        """Map the committed rows of a folder; OutputError for one that is damaged or holds no index."""
        for attempt in (1, 2, 3):
            try:
                state = State.read(folder)
                table = cls(state, {name: _mapped(folder, state, name) for name in COLUMNS},
                            _mapped(folder, state, "names"), _mapped(folder, state, "vectors"))  # fmt: skip
                table._check()
                return table
            except FileNotFoundError as error:  # unless a writer has just replaced it
                if attempt == 3:
                    raise damaged(folder, f"has no {Path(error.filename).name}") from None
            except CheckpointError as error:
                raise damaged(folder, error.reason) from None
            except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
                raise damaged(folder, f"{type(error).__name__}: {error}") from None
        raise AssertionError

    @classmethod
    def of(cls, facts: dict[str, Any], rows: Iterable[Row], like: Table | None = None) -> Table:
        """Rows in memory; in the format, and around the centre, of a table that they are `like`."""
        state = replace(like.state if like else State(facts=facts), n_rows=0, n_name_bytes=0, facts=facts)
        files = {name: io.BytesIO() for name in (*COLUMNS, "names", "vectors")}
        rows = iter(rows)
        while block := list(islice(rows, BLOCK)):
            state = _append_block(files, state, block)
        arrays = {n: np.frombuffer(file.getbuffer(), _layout(state, n)[0]) for n, file in files.items()}
        vectors_ND = arrays.pop("vectors").reshape(_layout(state, "vectors")[1])
        return cls(state, {name: arrays[name] for name in COLUMNS}, arrays["names"], vectors_ND)

    def _check(self) -> None:
        ends_N = self.columns["name_end"]
        if len(ends_N) and (ends_N[0] < 0 or (np.diff(ends_N) < 0).any() or ends_N[-1] != len(self.name_bytes)):
            raise ValueError("its names do not follow each other")
        replaces_N = self.columns["replaces"]
        if len(replaces_N) and (replaces_N.min() < -1 or (replaces_N >= np.arange(len(replaces_N))).any()):
            raise ValueError("a row replaces one that is not before it")
        if not (np.isfinite(self.columns["norm"]).all() and (self.columns["norm"] >= 0).all()):
            raise ValueError("the lengths of its vectors are not finite numbers")
        if self.state.dtype == "float32" and not np.isfinite(self.vectors_ND).all():  # they are few
            raise ValueError("its vectors are not finite numbers")

    def __len__(self) -> int:
        return self.state.n_rows

    @cached_property
    def is_live(self) -> np.ndarray:
        """Which rows are recordings that the index holds, bool [N]."""
        live_N = self.name_lengths > 0
        replaces_N = self.columns["replaces"]
        live_N[replaces_N[replaces_N >= 0]] = False
        return live_N

    @property
    def name_lengths(self) -> np.ndarray:
        """Bytes of each name."""
        return np.diff(self.columns["name_end"], prepend=0)

    def name(self, row: int) -> str:
        """The name of a row."""
        start = int(self.columns["name_end"][row - 1]) if row else 0
        return os.fsdecode(self.name_bytes[start : int(self.columns["name_end"][row])].tobytes())

    def names(self) -> Iterator[tuple[int, str]]:
        """Rows that are held, and their names."""
        for row in np.flatnonzero(self.is_live).tolist():
            yield row, self.name(row)

    def row_of_name(self, name: str) -> int | None:
        """The row that holds a recording."""
        found = self._find("name_key", name_key(name))
        return next((row for row in found if self.is_live[row] and self.name(row) == name), None)

    def _find(self, column: str, key: int) -> list[int]:
        if column not in self._orders:
            keys_N = self.columns[column]
            if column == "sha256":
                keys_N = keys_N.view("<u8").reshape(-1, 4)[:, 0]
            order_N = np.argsort(keys_N, kind="stable")
            self._orders[column] = order_N, keys_N[order_N]
        order_N, keys_N = self._orders[column]
        wanted = np.uint64(key)
        return order_N[slice(*(int(np.searchsorted(keys_N, wanted, side)) for side in ("left", "right")))].tolist()

    def rows_of_sha256(self, sha256: bytes) -> list[int]:
        """All rows of a file's bytes."""
        found = self._find("sha256", int.from_bytes(sha256[:8], "little"))
        return [row for row in found if self.columns["sha256"][row].tobytes() == sha256]

    def row_of_sha256(self, sha256: bytes) -> int | None:
        """A row with the vector of these bytes, whether it is held or not."""
        return next((row for row in self.rows_of_sha256(sha256) if self.columns["norm"][row] > 0), None)

    def directions(self, rows: Any, centre_D: np.ndarray) -> np.ndarray:
        """Unit vectors [N, D] in float64 from the centre to some rows; that of the table, if it holds directions."""
        if self.state.dtype == "float16":
            return directions(self.vectors_ND[rows].astype(np.float64), np.zeros(self.state.width))
        return directions(self.vectors(rows).astype(np.float64), centre_D)

    def vectors(self, rows: np.ndarray | slice) -> np.ndarray:
        """Float32 vectors [N, D] of some rows, not centred."""
        stored_ND = np.asarray(self.vectors_ND[rows], np.float32)
        if self.state.dtype == "float32":
            return stored_ND
        return stored_ND * self.columns["norm"][rows, None] + np.asarray(self.state.centre, np.float32)

    def rows(self, numbers: np.ndarray, replaced: bool) -> Iterator[Row]:
        """Rows to write elsewhere; their `replaces` only where all rows before them go with them."""
        for start in range(0, len(numbers), BLOCK):
            some = numbers[start : start + BLOCK]
            columns = {name: column[some] for name, column in self.columns.items()}
            for i, (number, vector_D) in enumerate(zip(some.tolist(), self.vectors(some), strict=True)):
                yield Row(
                    self.name(number), int(columns["size"][i]), int(columns["mtime_ns"][i]),
                    columns["sha256"][i].tobytes(), float(columns["seconds"][i]),
                    vector_D if columns["norm"][i] > 0 else None, int(columns["replaces"][i]) if replaced else -1,
                )  # fmt: skip


def damaged(path: str | Path, reason: str) -> OutputError:
    """The error of an index that cannot be read."""
    return OutputError(path, f"is no index, or damaged ({reason})", REMEDY)


def directions(vectors_ND: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """Unit vectors [N, D] from the centre to each vector; zero where a vector is the centre."""
    offsets_ND = vectors_ND - centre_D
    return offsets_ND / np.maximum(np.linalg.norm(offsets_ND, axis=1, keepdims=True), 1e-12)


def name_key(name: str) -> int:
    """64 bits by which a name is found."""
    return int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def append(folder: Path, state: State, rows: Iterable[Row]) -> State:
    """Add rows behind those of `state` and commit; what a kill left behind them is cut off first.

    The caller holds the lock of the folder. OutputError where the disk refuses: then nothing has been added.
    """
    with writing(folder), ExitStack() as stack:
        files = {}
        for name in (*COLUMNS, "names", "vectors"):
            path = path_of(folder, state, name)
            path.touch()
            files[name] = stack.enter_context(open(path, "r+b", 0))  # unbuffered, so that a full disk is noticed here
            files[name].truncate(_n_bytes(state, name))
            files[name].seek(0, os.SEEK_END)
        rows = iter(rows)
        while block := list(islice(rows, BLOCK)):
            state = _append_block(files, state, block)
        for file in files.values():
            os.fsync(file.fileno())
        state.write(folder)
    return state


def rewrite(folder: Path, state: State, rows: Iterable[Row]) -> State:
    """Put rows in the place of all that a folder holds: in new files, which count from the commit on."""
    fresh = replace(state, generation=os.urandom(6).hex(), n_rows=0, n_name_bytes=0)
    try:
        return append(folder, fresh, rows)
    finally:
        kept = None
        with suppress(CheckpointError, ValueError, TypeError, AttributeError):
            kept = State.read(folder).generation
        for path in folder.iterdir() if kept is not None else ():
            if path.suffix in (".bin", ".usearch", ".graph") and str(kept) not in path.name:
                path.unlink(missing_ok=True)


def path_of(folder: Path, state: State, name: str) -> Path:
    """The file of a column."""
    return folder / f"{name}-{state.generation}.bin"


def _append_block(files: dict[str, Any], state: State, block: list[Row]) -> State:
    names = [os.fsencode(row.name) for row in block]
    width = state.width or next((len(row.vector_D) for row in block if row.vector_D is not None), 0)
    vectors_ND = np.zeros((len(block), width))
    for i, row in enumerate(block):
        if row.vector_D is not None:
            vectors_ND[i] = row.vector_D
    has_vector_N = np.array([row.vector_D is not None for row in block])
    norm_N = has_vector_N.astype(np.float64)
    if state.dtype == "float16":
        offsets_ND = vectors_ND - np.asarray(state.centre)
        norm_N = np.where(has_vector_N, np.maximum(np.linalg.norm(offsets_ND, axis=1), 1e-12), 0)
        vectors_ND = np.where(has_vector_N[:, None], offsets_ND, 0) / np.where(has_vector_N, norm_N, 1)[:, None]
    columns: dict[str, Any] = {
        "name_end": state.n_name_bytes + np.cumsum([len(name) for name in names]),
        "name_key": [name_key(row.name) for row in block], "norm": norm_N, "sha256": [row.sha256 for row in block],
        **{name: [getattr(row, name) for row in block] for name in ("size", "mtime_ns", "seconds", "replaces")},
    }  # fmt: skip
    parts = {name: np.array(values, COLUMNS[name]).tobytes() for name, values in columns.items()}
    parts |= {"names": b"".join(names), "vectors": vectors_ND.astype(state.dtype).tobytes()}
    for name, part in parts.items():
        view = memoryview(part)
        while view:  # an unbuffered file may write less than it is given
            view = view[files[name].write(view) :]
    n_rows, n_name_bytes = state.n_rows + len(block), state.n_name_bytes + len(parts["names"])
    return replace(state, width=width, n_rows=n_rows, n_name_bytes=n_name_bytes)


def _layout(state: State, name: str) -> tuple[np.dtype, tuple[int, ...]]:
    if name == "names":
        return np.dtype("u1"), (state.n_name_bytes,)
    if name == "vectors":
        return np.dtype(state.dtype), (state.n_rows, state.width)
    return np.dtype(COLUMNS[name]), (state.n_rows,)


def _n_bytes(state: State, name: str) -> int:
    dtype, shape = _layout(state, name)
    return dtype.itemsize * int(np.prod(shape, dtype=object))


def _mapped(folder: Path, state: State, name: str) -> np.ndarray:
    dtype, shape = _layout(state, name)
    path, n_bytes = path_of(folder, state, name), _n_bytes(state, name)
    if path.stat().st_size < n_bytes:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes of {n_bytes}")
    if not n_bytes:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "c", shape=shape).view(np.ndarray)  # torch takes no array that is read-only
