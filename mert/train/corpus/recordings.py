"""Recordings as they lie: lengths from headers, clips by seeking, and an index that makes the second start instant.

Shapes: R recordings, P places where decoding can start, N samples.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mert.audio.clips import Layout, layout_of, n_samples_at, read_clip
from mert.errors import MertError, OutputError, need
from mert.files import write_whole, writing
from mert.train.corpus.base import LICENCE, CorpusError, fingerprint_of, from_16_bits, to_16_bits
from mert.train.corpus.sources import Listed

log = logging.getLogger("mert")
INDEX = "corpus.parquet"
VERSION = b"1"  # of the index; another one is made anew
COLUMNS = ("name", "size", "time", "rate_hz", "n_samples", "kind", "samples", "bytes", "problem")
Track = Callable[[Sequence[Listed]], Iterable[Listed]]  # shows the progress of an iteration


@dataclass
class Layouts:
    """Layouts of many recordings as arrays, since Python's tuples take ten times their memory."""

    rate_hz: np.ndarray  # [R]
    n_samples: np.ndarray  # [R]
    kinds: list[str]  # of R
    first: np.ndarray  # [R + 1]: places of recording r are rows first[r] to first[r + 1]
    places: np.ndarray  # [P, 2]: sample and byte

    @classmethod
    def of(cls, layouts: Sequence[Layout]) -> "Layouts":
        """The arrays of a list."""
        counts = [len(layout.points) for layout in layouts]
        places = np.array([point for layout in layouts for point in layout.points], np.int64).reshape(-1, 2)
        return cls(
            np.array([layout.rate_hz for layout in layouts], np.int64),
            np.array([layout.n_samples for layout in layouts], np.int64),
            [layout.kind for layout in layouts], np.cumsum([0, *counts]), places,
        )  # fmt: skip

    def __getitem__(self, index: int) -> Layout:
        points = tuple((int(a), int(b)) for a, b in self.places[self.first[index] : self.first[index + 1]])
        return Layout(int(self.rate_hz[index]), int(self.n_samples[index]), self.kinds[index], points)


class FileCorpus:
    """Recordings of a list, without those that cannot be opened or are shorter than `min_samples` at `rate_hz`.

    Nothing is decoded until a clip is read. Lengths are what headers announce, and a recording that turns out shorter
    is an error when it is read. Clips have 16 bits, as those of a prepared store. With a `folder`, what was found in
    each file is kept there in an index, by size and time. `dropped` maps names to reasons; CorpusError if no recording
    is left.
    """

    def __init__(
        self, recordings: Sequence[Listed], rate_hz: int, min_samples: int, folder: Path | None = None,
        track: Track = lambda listed: listed,
    ) -> None:  # fmt: skip
        self.rate_hz = rate_hz
        found = scanned(recordings, folder, track)
        self.dropped: dict[str, str] = {}
        kept: list[tuple[Listed, Layout]] = []
        for listed in recordings:
            layout = found[listed.name]
            if isinstance(layout, str):
                self.dropped[listed.name] = layout
            elif (length := n_samples_at(layout, rate_hz)) < min_samples:
                clip_s = min_samples / rate_hz
                self.dropped[listed.name] = f"{length / rate_hz:.2f} s are shorter than a clip of {clip_s:.2f} s"
            else:
                kept.append((listed, layout))
        for name, reason in self.dropped.items():
            log.warning("dropped %s: %s", name, reason)
        if self.dropped:
            log.warning("dropped %d of %d recordings", len(self.dropped), len(recordings))
        if not kept:
            reason, remedy = "none can be used", "see the warnings, or give other data"
            raise CorpusError(f"{len(recordings)} recordings", reason, remedy)
        self._listed = [listed for listed, _ in kept]
        self._layouts = Layouts.of([layout for _, layout in kept])
        self.lengths = np.array([n_samples_at(layout, rate_hz) for _, layout in kept], np.int64)
        held = {str(row.columns[name]) for row in self._listed for name in LICENCE if row.columns.get(name)}
        self.licences = tuple(sorted(held))
        self.fingerprint = fingerprint_of(rate_hz, [listed.name for listed in self._listed], self.lengths)

    def __len__(self) -> int:
        return len(self._listed)

    def name(self, index: int) -> str:
        return self._listed[index].name

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        """Float32 [N] from sample `start`; AudioError if the recording changed, or ends before its header says."""
        listed = self._listed[index]
        with listed.named():
            wave_N = read_clip(listed.bytes(), self._layouts[index], self.rate_hz, start, n_samples)
        return from_16_bits(to_16_bits(wave_N))


def scanned(recordings: Sequence[Listed], folder: Path | None, track: Track) -> dict[str, Layout | str]:
    """The layout of each recording by its name, or why it has none; known ones are taken from the index in `folder`.

    Processes that start together wait for the first of them, and read what it wrote.
    """
    if folder is None:
        return {listed.name: _layout(listed) for listed in track(recordings)}
    with _alone(folder):
        known = _read_index(folder / INDEX)
        found: dict[str, Layout | str] = {}
        unknown: list[Listed] = []
        for listed in recordings:
            state, layout = known.get(listed.name, ((0, 0), ""))
            if state == listed.state and listed.state != (0, 0):
                found[listed.name] = layout
            else:
                unknown.append(listed)
        found |= {listed.name: _layout(listed) for listed in track(unknown)} if unknown else {}
        if unknown or len(known) != len(recordings):
            try:
                _write_index(folder / INDEX, recordings, found)
            except OutputError as error:  # the next start reads the headers again
                log.warning("the index of the corpus is not kept: %s", error)
    return found


def _layout(listed: Listed) -> Layout | str:
    try:
        with listed.named():
            return layout_of(listed.bytes())
    except MertError as error:
        return str(error)
    except Exception as error:  # of what fetches a recording: one of them ends no run
        return f"{type(error).__name__}: {error}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the disk has locks."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f".{INDEX}.lock", "w")  # noqa: SIM115
    with lock:
        with suppress(OSError):  # some network disks have none: then each process reads the headers
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_index(path: Path) -> dict[str, tuple[tuple[int, int], Layout | str]]:
    """What an index holds by name: the state of the file, and its layout; nothing if it cannot be read."""
    parquet = need("pyarrow.parquet", "train", "training")
    try:
        table = parquet.read_table(path)
        if (table.schema.metadata or {}).get(b"version") != VERSION:
            return {}
        rows = zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)
        return {
            os.fsdecode(name): (
                (size, time),
                problem or Layout(rate_hz, n_samples, kind, tuple(zip(samples, places, strict=True))),
            )
            for name, size, time, rate_hz, n_samples, kind, samples, places, problem in rows
        }
    except FileNotFoundError:
        return {}
    except Exception as error:  # damaged files have no common type of error
        log.warning("%s cannot be read (%s): it is made anew", path, error)
        return {}


def _write_index(path: Path, recordings: Sequence[Listed], found: dict[str, Layout | str]) -> None:
    pyarrow, parquet = need("pyarrow", "train", "training"), need("pyarrow.parquet", "train", "training")
    nothing = Layout(0, 0, "", ())
    rows: list[tuple[Any, ...]] = []
    for listed in recordings:
        layout = found[listed.name]
        problem, layout = (layout, nothing) if isinstance(layout, str) else ("", layout)
        samples, places = [point[0] for point in layout.points], [point[1] for point in layout.points]
        facts = (layout.rate_hz, layout.n_samples, layout.kind, samples, places, problem)
        rows.append((os.fsencode(listed.name), *listed.state, *facts))  # names need not be Unicode
    numbers = pyarrow.list_(pyarrow.int64())
    text, number = pyarrow.string(), pyarrow.int64()
    types = (pyarrow.binary(), *[number] * 4, text, numbers, numbers, text)
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pyarrow.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
    table = pyarrow.Table.from_arrays(arrays, names=list(COLUMNS)).replace_schema_metadata({"version": VERSION})
    with write_whole(path) as temporary:
        parquet.write_table(table, temporary)
