"""One vector per recording, or per part of one: its extraction, and how a file is recognised.

Shapes: N samples, L layers, T frames, D model width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mert.audio.recording import Recording
from mert.collection.extraction import Extraction
from mert.embedding.batching import Settings
from mert.embedding.embedder import Embedder, EmbedOptions
from mert.embedding.features import Pooling
from mert.errors import AudioError
from mert.files import sha256_file

SETTLED_NS = 2_000_000_000  # clocks of file systems are coarse: a file changed twice within them looks unchanged


@dataclass(frozen=True)
class Stamp:
    """How a file is recognised: by size and time of change, and if these differ, by its bytes."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file as it is now; AudioError if it cannot be read."""
        try:
            status = path.stat()
            settled = time.time_ns() - status.st_mtime_ns > SETTLED_NS
            return cls(status.st_size, status.st_mtime_ns if settled else -1, sha256_file(path))
        except OSError as error:
            raise AudioError(path, f"cannot be read ({error.strerror})", "check the path and permissions") from None

    def fits(self, path: Path) -> bool:
        """Whether a file looks unchanged."""
        try:
            status = path.stat()
        except OSError:
            return False  # reading it raises the error
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


class Holder(Protocol):
    """What keeps vectors by the SHA-256 of their files: an index."""

    def knows(self, sha256: str) -> bool: ...
    def remember(self, sha256: str, vector_D: np.ndarray, seconds: float = float("nan")) -> None: ...
    def vector(self, sha256: str) -> np.ndarray: ...
    def hold(self, name: str, stamp: Stamp) -> None: ...


class VectorExtraction(Extraction):
    """The vector [D] of one file, from the index if that holds a file of the same bytes."""

    def __init__(self, path: str | Path, index: Holder, name: str | None = None) -> None:
        super().__init__(path)
        self.path, self.index_name = Path(path), name
        self._index, self._pooled = index, Pooling("mean")

    def is_needed(self) -> bool:
        """Whether no vector is known for the bytes of the file; AudioError if it cannot be read."""
        self.stamp = Stamp.of(self.path)
        return not self._index.knows(self.stamp.sha256)

    def add(self, values_LTD: np.ndarray) -> None:
        """Add frames to the mean."""
        self._pooled.add(values_LTD)

    def finish(self) -> None:
        """Hold the vector [D], and under its name (if it has one) the recording."""
        if self._pooled.count:
            self._index.remember(self.stamp.sha256, self._pooled.result()[0], self.seconds)
        self.vector = self._index.vector(self.stamp.sha256)
        if self.index_name is not None:
            self._index.hold(self.index_name, self.stamp)


class PartExtraction(VectorExtraction):
    """The vector [D] of a part of a recording, which no index keeps."""

    def __init__(self, path: str | Path, index: Holder, start_s: float, end_s: float) -> None:
        super().__init__(path, index)
        self.name = f"{self.name}@{start_s:g}-{end_s:g}"
        self._start_s, self._end_s = start_s, end_s

    def is_needed(self) -> bool:
        """Always; AudioError if the file cannot be read."""
        super().is_needed()
        return True

    def blocks(self, rate_hz: int, max_seconds: float | None = None) -> Iterator[np.ndarray]:
        """Mono blocks of the part alone; AudioError where the recording ends before it."""
        n, start, end = 0, round(self._start_s * rate_hz), round(self._end_s * rate_hz)
        for block_N in super().blocks(rate_hz, max_seconds):
            kept_N = block_N[max(0, start - n) : max(0, end - n)]
            n += len(block_N)
            if len(kept_N):
                yield kept_N
            if n >= end:
                return
        if n < end:
            reason = f"ends after {n / rate_hz:.2f} s, before the end of the part"
            raise AudioError(self.name, reason, "name a part within it")

    def finish(self) -> None:
        """Hold the vector [D]."""
        self.vector = self._pooled.result()[0]


def vector_options(layer: str | int, window: float | str | None, dtype: str = "auto") -> EmbedOptions:
    """How the vectors of an index are extracted: the mean over time of one layer."""
    return EmbedOptions(layers=[layer], pool="mean", window=window, dtype=dtype)


def index_facts(embedder: Embedder, settings: Settings) -> dict[str, Any]:
    """The facts of an index of such vectors."""
    (layer,) = embedder.names(settings)
    meta = embedder.meta(Recording(b""), settings) | {"layer": layer}
    return asdict(embedder.provenance(settings)) | {
        fact: meta[fact] for fact in ("layer", "model", "window", "hop", "version")
    }
