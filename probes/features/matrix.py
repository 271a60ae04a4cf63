"""Features extracted once: a memory-mapped fp16 matrix [rows, L, P] with a parquet index, resumable and checked.

A folder holds the features of one encoder and one way of cutting clips. `values.f16` only grows; a clip is complete
when its index entry, with a checksum of its values, is on the disk: during a run as a line of `journal.jsonl`, from
its end on in `index.parquet`.

Shapes: L layers, P width of a row, T frames; a row is a pooled window, or a frame.
"""

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import AudioError, MertError, OutputError
from mert.files import append_lines, lines_of, read_json, write_json, write_whole
from mert.files import stamp as file_stamp
from probes.encoders import Encoder
from probes.features.clips import Clip, trimmed, wave_digest
from probes.features.cutting import ClipWindows
from probes.features.stores import FrameStore, PooledStore, rows_of_spans

VERSION = 1
BATCH_CLIPS = 8  # written at a time


@dataclass(frozen=True)
class Entry:
    """A clip's rows [first, first + count) with their checksum, and the identity of its audio.

    `warnings` are those of its decoder; None in what older versions wrote.
    """

    id: str
    content: str
    size: int
    mtime_ns: int
    wave: str
    seconds: float
    first: int
    count: int
    crc32: int
    warnings: str | None = None


class FeatureMatrix(PooledStore, FrameStore):
    """The features of many clips: `extract` adds what is missing, `rows`, `windows` and `frames` read them."""

    def __init__(self, root: Path, encoder: Encoder, clip_windows: ClipWindows) -> None:
        facts = encoder.identify()
        self.encoder, self.clip_windows = encoder, clip_windows
        self.key = {"version": VERSION, "encoder": facts.as_dict(), "windowing": asdict(clip_windows)}
        self.digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.folder = Path(root) / f"{facts.name.replace('/', '-')}-{self.digest[:12]}"
        self.layers, self.width = facts.layer_names, facts.width if clip_windows.pooled else facts.dim
        self.entries: dict[str, Entry] = {}
        self._values: np.ndarray | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return 2 * len(self.layers) * self.width

    def bytes_for(self, seconds: float) -> float:
        """Bytes on the disk for clips of so many seconds in total."""
        if not self.clip_windows.pooled:
            return seconds * self.encoder.facts.frame_rate * self.row_bytes
        return seconds / (self.clip_windows.seconds or seconds or 1) * self.row_bytes

    def extract(self, clips: Sequence[Clip], on_clip: Callable[[bool], None] = lambda extracted: None) -> None:
        """Extract the features of every clip that has none; `on_clip` is called per clip: was it extracted?

        AudioError, after all others were extracted, if clips cannot be read: nothing is left out silently.
        """
        with self._locked():
            self._open()
            missing = []
            for clip in clips:
                try:
                    is_known = self._known(clip)
                except AudioError:  # again when it is read, after all others
                    is_known = False
                if is_known:
                    on_clip(False)
                else:
                    missing.append(clip)
            failures: list[MertError] = []
            for first in range(0, len(missing), BATCH_CLIPS):
                failures += self._append(missing[first : first + BATCH_CLIPS], on_clip)
            self._write_index()
        if failures:
            more = f" (and {len(failures) - 1} more like it)" if len(failures) > 1 else ""
            raise AudioError(failures[0].source, failures[0].reason + more, failures[0].remedy)

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        entries = [self.entries[name] for name in ids]
        return rows_of_spans([(entry.first, entry.first + entry.count) for entry in entries])

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        """float32 [n, P] of one layer, or fp16 [n, L, P] of several."""
        values = self._opened()[:, layer][rows]
        return values.astype(np.float32) if values.ndim == 2 else values

    def frames(self, clip_id: str, layer: int | slice) -> np.ndarray:
        entry = self.entries[clip_id]
        values = self._opened()[entry.first : entry.first + entry.count, layer].astype(np.float32)
        return values if values.ndim == 2 else values.transpose(1, 0, 2)

    def times(self, clip_id: str) -> np.ndarray:
        return self.encoder.times(self.entries[clip_id].count)

    def _opened(self) -> np.ndarray:
        if self._values is None:
            path = self.folder / "values.f16"
            shape = (path.stat().st_size // self.row_bytes, len(self.layers), self.width)
            self._values = np.memmap(path, np.float16, "r", shape=shape)
        return self._values

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; others wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._values = None
            yield
            self._values = None

    def _open(self) -> None:
        """Read index and journal, drop damaged entries, and truncate rows without an entry."""
        note = self.folder / "key.json"
        if not note.exists():
            write_json(note, self.key)
        elif read_json(note) != json.loads(json.dumps(self.key)):
            raise OutputError(note, "belongs to other features", "remove its folder")
        entries = [*read_index(self.folder / "index.parquet"), *read_journal(self.folder / "journal.jsonl")]
        path = self.folder / "values.f16"
        path.touch()
        size = path.stat().st_size
        entries = [entry for entry in entries if (entry.first + entry.count) * self.row_bytes <= size]
        end = max((entry.first + entry.count for entry in entries), default=0) * self.row_bytes
        with open(path, "rb+") as file:
            file.truncate(end)
            self.entries = {entry.id: entry for entry in entries if self._intact(file, entry)}

    def _intact(self, file: Any, entry: Entry) -> bool:
        file.seek(entry.first * self.row_bytes)
        return zlib.crc32(file.read(entry.count * self.row_bytes)) == entry.crc32

    def _known(self, clip: Clip) -> bool:
        entry = self.entries.get(clip.id)
        if entry is None:
            return False
        stamp = clip.stamp()
        if clip.audio is not None and stamp == (entry.size, entry.mtime_ns):
            return True
        if clip.content() != entry.content:
            return False
        self.entries[clip.id] = replace(entry, size=stamp[0], mtime_ns=stamp[1])
        return True

    def _append(self, clips: Sequence[Clip], on_clip: Callable[[bool], None] | None) -> list[MertError]:
        """Extract some clips, write their values, then their journal lines."""
        failures: list[MertError] = []
        extracted: list[tuple[Entry, np.ndarray]] = []
        for clip in clips:
            try:
                extracted.append(self._extracted(clip))
            except MertError as error:
                failures.append(error)
            if on_clip:
                on_clip(True)
        path, lines = self.folder / "values.f16", list[dict[str, Any]]()
        try:
            with open(path, "ab") as file:
                for entry, values in extracted:
                    placed = replace(entry, first=file.tell() // self.row_bytes, crc32=zlib.crc32(values.tobytes()))
                    file.write(values.tobytes())
                    lines.append(asdict(placed))
                    self.entries[entry.id] = placed
                file.flush()
                os.fsync(file.fileno())
            append_lines(self.folder / "journal.jsonl", lines)
        except OSError as error:
            reason = f"cannot be written ({error.strerror or error})"
            raise OutputError(path, reason, "free space, then run again: extracted features are kept") from error
        return failures

    def _extracted(self, clip: Clip) -> tuple[Entry, np.ndarray]:
        """An entry that is not placed yet, and its values, fp16 [rows, L, P]; MertError for values of no use."""
        rate_hz, cut = self.encoder.facts.sample_rate, self.clip_windows
        stamp, before, (whole_N, warnings) = clip.stamp(), file_stamp(clip.audio or ""), clip.decode(rate_hz)
        wave_N = trimmed(whole_N, rate_hz) if cut.trim else whole_N
        if cut.pooled:
            values = list(self.encoder.pooled([wave_N[slice(*span)] for span in cut.spans(len(wave_N), rate_hz)]))
            values_RLP = np.stack(values) if values else np.zeros((0, len(self.layers), self.width), np.float32)
        else:
            values_RLP = self.encoder.frames(wave_N, cut.seconds).transpose(1, 0, 2)
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(values_RLP, np.float16)
        source, shape = clip.audio or clip.id, (len(self.layers), self.width)
        if not len(half):
            raise AudioError(source, "too short for a single window", "leave it out of the dataset")
        if half.shape[1:] != shape:
            raise MertError(clip.id, f"the encoder gave {half.shape[1:]}, not layers x width {shape}",
                            "correct the encoder's facts")  # fmt: skip
        if not np.isfinite(half).all():
            raise MertError(source, "features are NaN, infinite or beyond fp16", "check encoder and audio")
        digest, seconds = wave_digest(whole_N), len(whole_N) / rate_hz
        entry = Entry(clip.id, clip.content(), *stamp, digest, seconds, 0, len(half), 0, warnings)
        if file_stamp(clip.audio or "") != before:  # after the hash of its content
            raise AudioError(source, "it changed while it was read", "run again when it is complete")
        return entry, half

    def _write_index(self) -> None:
        import pyarrow.parquet

        entries = sorted(self.entries.values(), key=lambda entry: entry.first)
        columns = {name: [getattr(entry, name) for entry in entries] for name in Entry.__dataclass_fields__}
        with write_whole(self.folder / "index.parquet") as temporary:
            pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
        (self.folder / "journal.jsonl").unlink(missing_ok=True)


def read_journal(path: Path) -> list[Entry]:
    """Entries of an unfinished run; clips whose line was cut off are extracted again."""
    entries = []
    for line in lines_of(path, "replace") if path.exists() else ():
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return entries


def read_index(path: Path) -> list[Entry]:
    """Entries of a finished run; of a damaged index there are none, and the features are extracted again."""
    import pyarrow.parquet

    if not path.exists():
        return []
    try:
        return [Entry(**row) for row in pyarrow.parquet.read_table(path).to_pylist()]
    except (pyarrow.ArrowException, OSError, TypeError):
        return []
