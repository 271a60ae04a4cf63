"""libsndfile, and FFmpeg for what it cannot read: decoders of one open file, block by block."""

from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np
import soundfile

from mert.audio import chunks, flac, mp3, ogg
from mert.audio.contents import (
    BLOCK_S,
    Block,
    Contents,
    Decoder,
    FileDecoder,
    ForwardFile,
    Part,
    explained,
    silence,
    whole,
)
from mert.audio.ffmpeg import FfmpegDecoder
from mert.audio.views import View, peek, size_of, tag_length
from mert.errors import AudioError, install

JOINED = (b"OggS", b"fLaC")  # which must be read to their end to see whether they are several files in one


class SoundFileDecoder(FileDecoder):
    """libsndfile, read to the end of the file whatever its header announces."""

    def __init__(self, file: BinaryIO, name: str, warnings: list[str], header_only: bool = False) -> None:
        super().__init__(name, warnings)
        self._contents = whole(file) if header_only and peek(file, 0, 4) in JOINED else contents(file)
        formats, self.claimed_s = [], 0.0
        for part in self._contents.parts:
            with ForwardFile(part.whole) as probe:
                formats.append((probe.samplerate, probe.channels))
                n = part.announced or probe.frames
                self.claimed_s += n / probe.samplerate if n < 2**62 and probe.samplerate else np.inf
        self.rate_hz, self.channels = formats[0]
        self.claimed_s *= self._contents.announced

    def decoded(self) -> Iterator[Block]:
        seconds, held = 0.0, self._contents
        for part in held.parts:
            self._last = part
            for block in self._decoded(part, seconds):
                seconds += len(block.samples_NC) / block.rate_hz
                yield block
        for at_s, lost_s, is_silence in held.gaps:
            self.damage.add(at_s, lost_s, is_silence)
        if held.announces_less:
            self.warnings.append("the header announced less audio than the file holds: read to the end")
        if left_over := held.left_over + self._last.unread():
            self.warnings.append(f"{left_over} bytes behind the end of the audio were not decoded")
        if held.is_cut:
            self.damage.is_cut = True
            self.warnings.append("the last Ogg page is missing or cut: the file seems cut off")

    def _decoded(self, part: Part, start_s: float) -> Iterator[Block]:
        n, failure, rate_hz, channels = 0, "", self.rate_hz, self.channels
        while True:
            try:
                with ForwardFile(part.file) as sound:
                    rate_hz, channels = sound.samplerate, sound.channels
                    step = max(1, int(BLOCK_S * sound.samplerate))
                    while len(samples_NC := sound.read(step, dtype="float32", always_2d=True)):
                        n += len(samples_NC)
                        yield Block(rate_hz, samples_NC)
                failure = ""
            except soundfile.LibsndfileError as error:
                failure = str(error)
            if part.file.error:
                raise part.file.error
            if failure and n == part.announced:  # tags may follow a FLAC stream
                return
            following = part.following(n, bool(failure))
            at_s = start_s + n / rate_hz
            if not following:
                if failure:
                    self.damage.is_cut = True
                    self.warnings.append(f"decoding stopped at {at_s:.2f} s, the file is damaged there: {failure}")
                return
            lost, part = following
            self._last = part
            self.damage.add(at_s, lost / rate_hz, is_silence=True)
            yield from silence(lost / rate_hz, rate_hz, channels)
            n += lost


def contents(file: BinaryIO) -> Contents:
    """The parts of a file of any kind; a tag in front of it is none of its business."""
    file = behind_tag(file)
    found = (kind.contents(file) for kind in (chunks, ogg, flac, mp3))
    return next((held for held in found if held), None) or whole(file)


def behind_tag(file: BinaryIO) -> BinaryIO:
    """A file without the tag in front of it, where it is of a kind that has none."""
    at = tag_length(file, 0)
    if at and peek(file, at, 4) in (b"fLaC", b"OggS", *chunks.KINDS):
        return cast(BinaryIO, View(file, [range(at, size_of(file))]))
    return file


def decoder_of(file: BinaryIO, name: str, warnings: list[str], header_only: bool = False) -> Decoder:
    """The decoder that can read a file; AudioError if there is none. `header_only` is for one that will not decode."""
    with explained(name):
        if not peek(file, 0, 1):
            raise AudioError(name, "the file is empty", "record or copy it again")
        try:
            return SoundFileDecoder(file, name, warnings, header_only)
        except soundfile.LibsndfileError as error:
            reason = str(error).rsplit(": ", 1)[-1] or "unknown format"
        try:
            return FfmpegDecoder(file, name, warnings)
        except ImportError:
            remedy = f"for m4a, aac and more: {install('codecs')}"
            raise AudioError(name, f"libsndfile cannot read it ({reason})", remedy) from None
