"""libsndfile, and FFmpeg for what it cannot read: decoders of one open file, block by block."""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np
import soundfile

from mert.audio import chunks, flac, headers, mp3, ogg
from mert.audio.contents import (
    BLOCK_S,
    Block,
    Contents,
    Decoder,
    FileDecoder,
    ForwardFile,
    Part,
    explained,
    missing_s,
    silence,
    whole,
)
from mert.audio.ffmpeg import FfmpegDecoder
from mert.audio.views import TAIL_BYTES, View, peek, size_of, tag_length
from mert.errors import AudioError, install

CUT = "the last Ogg page is missing or cut: the file seems cut off"
JOINED = (b"OggS", b"fLaC")  # which must be read to their end to see whether they are several files in one


class SoundFileDecoder(FileDecoder):
    """libsndfile, read to the end of the file whatever its header announces."""

    def __init__(self, held: Contents, name: str, warnings: list[str], start_s: float = 0.0) -> None:
        super().__init__(name, warnings)
        self._contents, self._start_s = held, start_s  # where it begins in the recording, for warnings
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
            for block in self._decoded(part, seconds, is_last=part is held.parts[-1]):
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
            self.warnings.append(CUT)

    def _decoded(self, part: Part, start_s: float, is_last: bool) -> Iterator[Block]:
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
                    if not (is_last and missing_s(self.claimed_s, at_s)):  # else the announced length says it
                        at_s += self._start_s
                        self.warnings.append(f"decoding stopped at {at_s:.2f} s, the file is damaged there: {failure}")
                return
            lost, part = following
            self._last = part
            self.damage.add(at_s, lost / rate_hz, is_silence=True)
            yield from silence(lost / rate_hz, rate_hz, channels)
            n += lost


class ChainDecoder(FileDecoder):
    """The links of an Ogg file that libsndfile cannot read as a whole, each by the decoder that can read it."""

    def __init__(self, held: Contents, name: str, warnings: list[str]) -> None:
        super().__init__(name, warnings)
        self._held, self.claimed_s = held, 0.0
        failures: list[AudioError] = []
        self._links: list[Part] = []
        for part in held.parts:
            try:
                decoder = self._decoder(part, [])
            except AudioError as error:
                failures.append(error)
                continue
            if not self._links:
                self.rate_hz, self.channels = decoder.rate_hz, decoder.channels
            self._links.append(part)
            self.claimed_s += decoder.claimed_s
        if not self._links:
            raise failures[0]
        if failures:
            self.damage.is_cut = True
            n, reason = len(held.parts), failures[0].reason
            warnings.append(f"{len(failures)} of {n} streams in a row could not be decoded: {reason}")

    def _decoder(self, part: Part, warnings: list[str], start_s: float = 0.0) -> Decoder:
        try:
            return SoundFileDecoder(Contents((part,)), self.name, warnings, start_s)
        except soundfile.LibsndfileError:
            return FfmpegDecoder(cast(BinaryIO, part.raw), self.name, warnings)

    def decoded(self) -> Iterator[Block]:
        seconds = 0.0
        for part in self._links:
            begin_s, decoder = seconds, self._decoder(part, self.warnings, seconds)
            for block in decoder.read():
                seconds += len(block.samples_NC) / block.rate_hz
                yield block
            self.damage.join(decoder.damage, begin_s)
        if left_over := self._held.left_over:
            self.warnings.append(f"{left_over} bytes behind the end of the audio were not decoded")
        if self._held.is_cut:
            self.damage.is_cut = True
            self.warnings.append(CUT)


def contents(file: BinaryIO) -> Contents:
    """The parts of a file of any kind; a tag in front of it is none of its business."""
    file = behind_tag(file)
    found = (kind.contents(file) for kind in (chunks, headers, ogg, flac, mp3))
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
        held = whole(file) if header_only and peek(file, 0, 4) in JOINED else contents(file)
        try:
            return SoundFileDecoder(held, name, warnings)
        except soundfile.LibsndfileError as error:
            reason = str(error).rsplit(": ", 1)[-1] or "unknown format"
        try:
            return _by_ffmpeg(file, held, name, warnings)
        except ImportError:
            remedy = f"for m4a, aac and more: {install('codecs')}"
            raise AudioError(name, f"libsndfile cannot read it ({reason})", remedy) from None


def _by_ffmpeg(file: BinaryIO, held: Contents, name: str, warnings: list[str]) -> Decoder:
    """The decoder of what libsndfile cannot read; it is told what the bytes show of the end."""
    if len(held.parts) > 1 and peek(behind_tag(file), 0, 4) == b"OggS":
        return ChainDecoder(held, name, warnings)
    try:
        decoder = FfmpegDecoder(file, name, warnings)
    except AudioError as error:
        if type(error.__cause__).__name__ != "InvalidDataError":
            raise
        reason = f"not audio that can be decoded ({_instead(file)})"
        raise AudioError(name, reason, error.remedy) from error.__cause__
    if held.is_cut:
        decoder.damage.is_cut = True
        warnings.append(CUT)
    elif held.announced > 1 and decoder.claimed_s == np.inf:  # else it finds out by itself
        decoder.damage.is_cut = True
        warnings.append("the header announces more than the file holds: the file seems cut off")
    return decoder


def _instead(file: BinaryIO) -> str:
    """What a file holds that is no sound of a kind that is known."""
    head = peek(file, 0, TAIL_BYTES)
    if not head.strip(b"\0"):
        return "it begins with zeros"
    try:
        text = getincrementaldecoder("utf-8")().decode(head)  # whose last character may be cut
    except UnicodeDecodeError:
        return "no known format begins as it does"
    is_text = all(letter.isprintable() or letter.isspace() for letter in text)
    return "it holds text" if is_text else "no known format begins as it does"
