"""AAC and ALAC in MP4 files (m4a): decoded in segments of a few seconds, each by a decoder of its own.

What a decoder of AAC makes of a packet may depend on all packets before it, because it draws random numbers. So the
signal of such a file is defined by its segments: any of them is decoded alone, a little before its beginning, and
gives the same bits. The times of the packets, in samples, say where it is.

Shapes: N samples, C channels.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from mert.audio.contents import Block, Layout, explained
from mert.audio.ffmpeg import FfmpegDecoder
from mert.audio.views import peek
from mert.errors import AudioError

SEGMENT_S = 4
PREROLL_S = 0.5  # packets overlap with one before; bands that are replicated (HE-AAC) need more
CODECS = frozenset({"aac", "alac"})


def is_mp4(file: BinaryIO) -> bool:
    """Whether a file begins as MP4 files do."""
    return peek(file, 4, 4) == b"ftyp"


class SegmentDecoder(FfmpegDecoder):
    """A track in segments; what cannot be decoded is silence. Without a `layout` it is found, if there is one."""

    def __init__(self, file: BinaryIO, name: str, warnings: list[str], layout: Layout | None = None) -> None:
        super().__init__(file, name, warnings)
        with explained(name):
            self.layout = layout or self._layout()
        self.n_samples = self.layout.n_samples if self.layout else 0

    def _layout(self) -> Layout | None:
        """The layout of a track whose packets have times in samples; its length is that of its last segment."""
        stream = self._stream
        if stream.codec_context.name not in CODECS or not (stream.duration and stream.frames) or not stream.rate:
            return None
        if stream.time_base * stream.rate != 1:
            return None
        end, last = 0, (stream.duration - 1) // (SEGMENT_S * stream.rate)
        for at, samples_NC in self._frames(last):
            end = max(end, at + len(samples_NC))
        is_whole = abs(end - stream.duration) < PREROLL_S * stream.rate
        return Layout(stream.rate, end, "ffmpeg") if is_whole else None

    def decoded(self) -> Iterator[Block]:
        """All segments."""
        self.claimed_s = self.n_samples / self.rate_hz
        for k in range(-(-self.n_samples // (SEGMENT_S * self.rate_hz))):
            samples_NC = self._segment(k)
            lost_N = np.isnan(samples_NC[:, 0])
            if lost_N.any():
                at_s = k * SEGMENT_S + int(lost_N.argmax()) / self.rate_hz
                self.damage.add(at_s, int(lost_N.sum()) / self.rate_hz, is_silence=True)
            yield Block(self.rate_hz, _silent(samples_NC))

    def clip(self, wanted: range) -> Block:
        """A range of samples."""
        length = SEGMENT_S * self.rate_hz
        first = wanted.start // length
        samples_NC = np.concatenate([self._segment(k, wanted.stop) for k in range(first, -(-wanted.stop // length))])
        return Block(self.rate_hz, _silent(samples_NC)[wanted.start - first * length :])

    def _segment(self, k: int, stop: int | None = None) -> np.ndarray:
        """The samples [N, C] of a segment up to a sample of the track; NaN where there are none."""
        start = k * SEGMENT_S * self.rate_hz
        stop = min(start + SEGMENT_S * self.rate_hz, self.n_samples, stop or self.n_samples)
        segment_NC = np.full((stop - start, self.channels), np.nan, np.float32)
        for at, samples_NC in self._frames(k):
            if at >= stop:
                break
            skipped = max(0, start - at)
            if len(fits_NC := samples_NC[skipped : stop - at]):
                segment_NC[at + skipped - start :][: len(fits_NC)] = fits_NC
        return segment_NC

    def _frames(self, k: int) -> Iterator[tuple[int, np.ndarray]]:
        """(sample at which they begin, samples [N, C]) from a little before a segment to the end of the track."""
        stream, failures = self._stream, (self._av.error.FFmpegError, ValueError)
        origin = stream.start_time or 0
        start = k * SEGMENT_S * stream.rate - int(PREROLL_S * stream.rate)
        self._container.seek(origin + start, stream=stream)
        codec = self._av.CodecContext.create(stream.codec_context.name, "r")
        codec.extradata = stream.codec_context.extradata
        resampler: Any = self._av.AudioResampler(format="flt")
        for packet in self._container.demux(stream):
            try:
                frames = codec.decode(packet)
            except failures:
                continue
            for frame in frames:
                for packed in resampler.resample(frame):
                    samples_NC = packed.to_ndarray().reshape(-1, packed.layout.nb_channels)
                    if (packed.sample_rate, samples_NC.shape[1]) != (self.rate_hz, self.channels):
                        reason = f"changes to {packed.sample_rate} Hz, {samples_NC.shape[1]} channels"
                        raise AudioError(self.name, reason, "convert it to FLAC")
                    if frame.pts is not None:
                        yield frame.pts - origin, samples_NC


def _silent(samples_NC: np.ndarray) -> np.ndarray:
    """Samples with silence where there are none."""
    return np.where(np.isnan(samples_NC), np.float32(0), samples_NC)
