"""Clips to be embedded: audio files, or waves computed on demand, each with a fingerprint of its content.

Shapes: N samples, mono, float32.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mert.audio.recording import Recording
from mert.errors import AudioError
from mert.files import sha256_file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """AudioError, which names the file, where the disk refuses what the block reads."""
    try:
        yield
    except OSError as error:
        raise AudioError(path, (error.strerror or "cannot be read").lower(), "check the path") from None


@dataclass(frozen=True)
class Clip:
    """A recording: an audio file, or a function of the sample rate with the fingerprint of the wave it returns."""

    id: str
    audio: Path | None = None
    wave: Callable[[int], np.ndarray] | None = None
    fingerprint: str = ""

    def stamp(self) -> tuple[int, int]:
        """Size and modification time of the file, which change with its content; (0, 0) for computed waves."""
        if self.audio is None:
            return 0, 0
        with readable(self.audio):
            facts = self.audio.stat()
        return facts.st_size, facts.st_mtime_ns

    def content(self) -> str:
        """SHA-256 of the file, or the fingerprint given; AudioError if the file cannot be read."""
        if self.audio is None:
            return self.fingerprint
        with readable(self.audio):
            return sha256_file(self.audio)

    def read(self, rate_hz: int) -> np.ndarray:
        """The whole clip; AudioError if it cannot be used."""
        return self.decode(rate_hz)[0]

    def decode(self, rate_hz: int) -> tuple[np.ndarray, str]:
        """The whole clip, and what its decoder warns of: damage, silence; "" of an intact file."""
        if self.wave is not None:
            return self.wave(rate_hz), ""
        if self.audio is None:
            raise ValueError(f"clip {self.id} has neither a file nor a wave")
        recording = Recording(self.audio)
        wave_N = np.concatenate([np.zeros(0, np.float32), *recording.blocks(rate_hz)])
        return wave_N, "; ".join(recording.warnings)


def trimmed(wave_N: np.ndarray, rate_hz: int) -> np.ndarray:
    """The wave without the silence before the first 10 ms that reach -40 dB of the loudest 10 ms.

    >>> wave = np.concatenate([np.zeros(1000), np.ones(500)])
    >>> len(trimmed(wave, 1000))
    500
    """
    step = max(1, round(0.01 * rate_hz))
    blocks = wave_N[: len(wave_N) // step * step].reshape(-1, step).astype(np.float64)
    power = (blocks**2).mean(axis=1)
    if not len(power) or not power.max():
        return wave_N
    return wave_N[int((power >= power.max() * 10 ** (-40 / 10)).argmax()) * step :]


def wave_digest(wave_N: np.ndarray) -> str:
    """SHA-256 of decoded samples: equal for bit-exact duplicates in different containers."""
    return hashlib.sha256(np.ascontiguousarray(wave_N, np.float32).tobytes()).hexdigest()
