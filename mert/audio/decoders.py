"""Decoders read one open file block by block: libsndfile, and FFmpeg (by PyAV) for formats that libsndfile lacks.

Shapes: N samples, C channels.
"""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from mert.audio.headers import PatchedFile, is_wav, ogg_is_cut, share_present, with_true_length
from mert.errors import AudioError, install

BLOCK_S = 0.1  # also the most that is lost where a damaged file stops the decoder
TAIL_BYTES = 4096  # bytes a decoder may leave unread (tags) without a warning


class Decoder(Protocol):
    """A reader of one file: its facts, and its samples [N, C] block by block."""

    rate_hz: int
    channels: int
    claimed_s: float

    def read(self) -> Iterator[np.ndarray]: ...


class _ForwardFile(soundfile.SoundFile):
    """A SoundFile read without seeking: by default a seek follows each block, and the header limits the length."""

    def seekable(self) -> bool:
        return False


class SoundFileDecoder:
    """libsndfile, read to the end of the file whatever its header announces."""

    def __init__(self, file: BinaryIO, warnings: list[str]) -> None:
        self._raw, self._warnings = file, warnings
        self._file, self._announced = with_true_length(file)
        self._file.seek(0)
        with _ForwardFile(self._file) as probe:
            self.rate_hz, self.channels = probe.samplerate, probe.channels
            n = self._announced or probe.frames
            self.claimed_s = n / probe.samplerate if n < 2**62 and probe.samplerate else np.inf
        if isinstance(self._file, PatchedFile) and self._file.announces_less:
            self._warn_of_more()
        elif present := share_present(file):
            self.claimed_s /= present

    def read(self) -> Iterator[np.ndarray]:
        n = 0
        self._file.seek(0)
        with _ForwardFile(self._file) as sound:
            step = max(1, int(BLOCK_S * sound.samplerate))
            try:
                while len(block_NC := sound.read(step, dtype="float32", always_2d=True)):
                    n += len(block_NC)
                    yield block_NC
            except soundfile.LibsndfileError as error:
                if n != self._announced:  # tags may follow a FLAC stream
                    at_s = n / self.rate_hz
                    self._warnings.append(f"decoding stopped at {at_s:.2f} s, the file is damaged there: {error}")
        if self._announced and n > self._announced:
            self._warn_of_more()
        stopped_at = self._file.tell()
        left = self._file.seek(0, io.SEEK_END) - stopped_at
        if left > TAIL_BYTES and not is_wav(self._raw):
            self._warnings.append(f"{left} bytes behind the end of the audio were not decoded")
        if ogg_is_cut(self._raw):
            self._warnings.append("the last Ogg page is missing or cut: the file seems cut off")

    def _warn_of_more(self) -> None:
        self._warnings.append("the header announced less audio than the file holds: read to the end")


class PyAvDecoder:
    """FFmpeg by PyAV: m4a, aac and whatever else libsndfile cannot read."""

    def __init__(self, file: BinaryIO, name: str, warnings: list[str]) -> None:
        import av

        self._error, self._name, self._warnings = av.error.FFmpegError, name, warnings
        try:
            file.seek(0)
            self._container: Any = av.open(file)
            stream: Any = self._container.streams.audio[0]
            self.rate_hz, self.channels = stream.rate, stream.channels
        except (self._error, IndexError, ValueError, AttributeError) as error:  # the last for unknown codecs
            raise AudioError(name, f"not audio that can be decoded ({error})", "check or convert the file") from None
        self.claimed_s = float(stream.duration * stream.time_base) if stream.duration else np.inf
        self._packed = av.AudioResampler(format="flt")  # planar frames of many channels crash PyAV 18

    def read(self) -> Iterator[np.ndarray]:
        n = 0
        try:
            for frame in self._container.decode(audio=0):
                for packed in self._packed.resample(frame):
                    n += packed.samples
                    yield packed.to_ndarray().reshape(-1, packed.layout.nb_channels).copy()
        except self._error as error:
            if not n:
                raise AudioError(self._name, f"nothing could be decoded ({error})", "check the file") from None
            self._warnings.append(f"decoding stopped at {n / self.rate_hz:.2f} s, the file is damaged there: {error}")


def decoder_of(file: BinaryIO, name: str, warnings: list[str]) -> Decoder:
    """The decoder that can read a file; AudioError if there is none."""
    if file.seek(0, io.SEEK_END) == 0:
        raise AudioError(name, "the file is empty", "record or copy it again")
    file.seek(0)
    try:
        return SoundFileDecoder(file, warnings)
    except soundfile.LibsndfileError as error:
        reason = str(error).rsplit(": ", 1)[-1] or "unknown format"
    try:
        return PyAvDecoder(file, name, warnings)
    except ImportError:
        remedy = f"for m4a and aac: {install('codecs')}"
        raise AudioError(name, f"libsndfile cannot read it ({reason})", remedy) from None
