"""What every corpus is: recordings of known names and lengths, of which any clip can be read.

Shapes: R recordings, N samples.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from mert.errors import MertError

FULL_SCALE = 32_768  # of 16 bits
LICENCE = ("licence", "license")  # columns of a list of recordings


class Corpus(Protocol):
    """Recordings of known length at `rate_hz`, of which any clip can be read, in any process and thread.

    `lengths` [R] are in samples, int64. `fingerprint` is that of the rate, names and lengths: a folder and the store
    prepared from it have the same. `licences` are those that are known. `read` gives float32 [N], and raises a
    MertError if the recording cannot be read, was changed, or is shorter than its header announces.
    """

    rate_hz: int
    lengths: np.ndarray

    @property
    def licences(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def read(self, index: int, start: int, n_samples: int) -> np.ndarray: ...


class CorpusError(MertError):
    """A corpus, or a part of it, cannot be trained on."""


def fingerprint_of(rate_hz: int, names: Sequence[str], lengths: np.ndarray) -> str:
    """SHA-256 of a corpus: its rate, and the names and lengths of its recordings, in order."""
    digest = hashlib.sha256(str(rate_hz).encode())
    digest.update(json.dumps(list(names)).encode())
    digest.update(np.ascontiguousarray(lengths, dtype="<i8").tobytes())
    return digest.hexdigest()


def to_16_bits(wave_N: np.ndarray) -> np.ndarray:
    """Samples as int16; what exceeds the full scale is clipped.

    >>> to_16_bits(np.array([0.5, -1.0, 1.5], np.float32)).tolist()
    [16384, -32768, 32767]
    """
    return np.clip(np.rint(wave_N * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_16_bits(samples_N: np.ndarray) -> np.ndarray:
    """16-bit samples as float32 from -1 to 1."""
    return samples_N.astype(np.float32) / np.float32(FULL_SCALE)


class GeneratedCorpus:
    """Clips of a generator (`read(index)` gives [N], a pure function of its seed), cut like recordings.

    Names contain the fingerprint of the generator, so that a label store of another generator is refused. `licences`
    are the generator's, if it has any.
    """

    def __init__(self, generator: Any, rate_hz: int) -> None:
        self.rate_hz, self._generator = rate_hz, generator
        self.licences: Sequence[str] = getattr(generator, "licences", ())
        self.fingerprint = hashlib.sha256(repr(generator).encode()).hexdigest()
        self.lengths = np.full(len(generator), round(generator.seconds * rate_hz))

    def __len__(self) -> int:
        return len(self._generator)

    def name(self, index: int) -> str:
        return f"{self.fingerprint[:12]}/{index}"

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        return np.asarray(self._generator.read(index)[start : start + n_samples], dtype=np.float32)


class FirstRecordings:
    """The first few recordings of a corpus, to overfit on."""

    def __init__(self, corpus: Corpus, n: int) -> None:
        self._corpus, self.rate_hz, self.licences = corpus, corpus.rate_hz, corpus.licences
        self.lengths = corpus.lengths[:n]
        self.fingerprint = hashlib.sha256(f"{corpus.fingerprint}:{len(self)}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.lengths)

    def name(self, index: int) -> str:
        return self._corpus.name(index)

    def read(self, index: int, start: int, n_samples: int) -> np.ndarray:
        return self._corpus.read(index, start, n_samples)
