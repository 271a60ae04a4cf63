"""Clips from anywhere in a recording, without decoding from its beginning; the bits are those of the whole recording.

Shapes: N samples, C channels.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from mert.audio import chunks, clips_mp3, clips_ogg, flac, mp3
from mert.audio.clips_ffmpeg import SegmentDecoder, is_mp4
from mert.audio.contents import Block, Decoder, ForwardFile, Layout, Stretch, explained, whole
from mert.audio.decoders import behind_tag, decoder_of
from mert.audio.pieces import clip, in_pieces, needed
from mert.audio.recording import MIN_RATE_HZ, Recording, Source, check_samples, mixed
from mert.audio.views import View, peek
from mert.errors import AudioError

SEEKABLE = frozenset(  # subtypes of libsndfile whose samples do not depend on those before them
    {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
)
END = 4096  # samples


def layout_of(source: Source | Recording) -> Layout:
    """The layout of a recording that can be read again; AudioError for what cannot be used."""
    recording = source if isinstance(source, Recording) else Recording(source)
    with recording.opened() as file, explained(recording.name):
        layout = _found(file, recording)
    layout = layout or _by_decoding(recording)
    recording.check_format(layout.rate_hz, 1)
    return layout


def n_samples_at(layout: Layout, rate_hz: int) -> int:
    """The length of a recording at another rate.

    >>> n_samples_at(Layout(44_100, 88_201, "samples"), 24_000)
    48000
    """
    return layout.n_samples * rate_hz // layout.rate_hz


def signal(recording: Recording, rate_hz: int) -> Iterator[np.ndarray]:
    """The whole recording from its beginning: mono float32 blocks at `rate_hz`, in constant memory.

    They are resampled in pieces (see mert.audio.pieces), which start anew where the rate of the recording changes.
    """
    for from_hz, run in recording.runs(choose=_decoder):
        yield from in_pieces(run, from_hz, rate_hz)


def read_clip(source: Source | Recording, layout: Layout, rate_hz: int, start: int, n_samples: int) -> np.ndarray:
    """Float32 [N], mono: samples `start` to `start + n_samples` of the `signal` of a recording, bit for bit.

    AudioError where the recording ends before, or is not as long as its layout has it.
    """
    recording = source if isinstance(source, Recording) else Recording(source)
    stop = start + n_samples
    if layout.kind == "start" or stop > n_samples_at(layout, rate_hz):
        return _from_start(recording, rate_hz, start, stop)
    wanted = needed(start, stop, layout.rate_hz, rate_hz)
    wanted = range(wanted.start, min(wanted.stop, layout.n_samples))
    try:
        with recording.opened() as file, explained(recording.name):
            block = _decoded(file, layout, wanted, recording.name)
    except AudioError:  # it is damaged there
        block = None
    if block is None:
        return _from_start(recording, rate_hz, start, stop)
    recording.check_format(block.rate_hz, block.samples_NC.shape[1])
    if block.rate_hz != layout.rate_hz or len(block.samples_NC) < len(wanted):
        end_s = (wanted.start + len(block.samples_NC)) / block.rate_hz
        ends = f"ends {'after' if len(block.samples_NC) else 'before'} {end_s:.2f} s"
        reason = f"{ends}, and its header announces {layout.n_samples / layout.rate_hz:.2f} s"
        raise AudioError(recording.name, reason, "repair the recording, or convert it to FLAC")
    check_samples(block.samples_NC, recording.name, wanted.start, block.rate_hz)
    return clip(mixed(block.samples_NC), wanted.start, start, stop, block.rate_hz, rate_hz)


def _found(file: BinaryIO, recording: Recording) -> Layout | None:
    """The layout of a file in whose midst decoding can start; None for others."""
    file = behind_tag(file)
    magic = peek(file, 0, 4)
    try:
        if magic == b"OggS":
            return _confirmed(file, clips_ogg.layout(file), recording)
        if magic == flac.MAGIC and not flac.is_alone(file):
            return None
        if magic not in (flac.MAGIC, *chunks.KINDS) and mp3.Scan(file).is_mp3():
            return _confirmed(file, clips_mp3.layout(file), recording)
        with ForwardFile(_seekable(file)) as sound:
            recording.check_format(sound.samplerate, sound.channels)
            return Layout(sound.samplerate, sound.frames, "samples") if sound.subtype in SEEKABLE else None
    except soundfile.LibsndfileError:
        segments = _segments(file, recording.name, [])
        return segments.layout if segments else None


def _confirmed(file: BinaryIO, layout: Layout | None, recording: Recording) -> Layout | None:
    """A layout whose length is where decoding ends: encoders may announce some samples more than they write."""
    end = range(max(0, layout.n_samples - END), layout.n_samples) if layout else range(0)
    block = _decoded(file, layout, end, recording.name) if layout else None
    if not layout or not block or not len(block.samples_NC):
        return None
    recording.check_format(block.rate_hz, block.samples_NC.shape[1])
    return layout._replace(n_samples=end.start + len(block.samples_NC))


def _segments(file: BinaryIO, name: str, warnings: list[str]) -> SegmentDecoder | None:
    """The decoder in segments of a file that can be decoded so; None for others."""
    try:
        decoder = SegmentDecoder(file, name, warnings) if is_mp4(file) else None
    except (ImportError, AudioError):  # which the decoder of all others explains
        return None
    return decoder if decoder and decoder.layout else None


def _decoder(file: BinaryIO, name: str, warnings: list[str], header_only: bool) -> Decoder:
    """The decoder of a whole recording: in segments where it can be."""
    return _segments(file, name, warnings) or decoder_of(file, name, warnings, header_only)


def _seekable(file: BinaryIO) -> View:
    """A file as libsndfile is to read it where it seeks by itself."""
    return flac.seekable(file) or (chunks.contents(file) or whole(file)).parts[0].file


def _decoded(file: BinaryIO, layout: Layout, wanted: range, name: str) -> Block | None:
    """A range of samples, or as many of them as there are; None where it must be decoded from the beginning."""
    if layout.kind == "ffmpeg":
        return SegmentDecoder(file, name, [], layout).clip(wanted)
    if not (stretch := _stretch(behind_tag(file), layout, wanted)):
        return None
    with ForwardFile(stretch.file) as sound:
        begins = stretch.begins if stretch.ends is None else stretch.ends - sound.frames
        if begins is None:
            begins = sound.seek(min(wanted.start, sound.frames))
        if begins > wanted.start:
            return None
        skipped = wanted.start - begins
        samples_NC = sound.read(skipped + len(wanted), dtype="float32", always_2d=True)[skipped:]
        if stretch.file.error:
            raise stretch.file.error
        return Block(sound.samplerate, samples_NC)


def _stretch(file: BinaryIO, layout: Layout, wanted: range) -> Stretch | None:
    match layout.kind:
        case "mp3":
            return clips_mp3.stretch(file, layout, wanted)
        case "ogg":
            return clips_ogg.stretch(file, layout, wanted)
        case _:
            return Stretch(_seekable(file))


def _by_decoding(recording: Recording) -> Layout:
    """The layout of a recording that must be decoded to know its length, and to read any of it."""
    lengths = [(rate_hz, sum(map(len, run))) for rate_hz, run in recording.runs()]
    first_hz = lengths[0][0] if lengths else 1
    if len(lengths) < 2:
        return Layout(first_hz, sum(n for _, n in lengths), "start")
    seconds = sum(n / rate_hz for rate_hz, n in lengths) - len(lengths) / MIN_RATE_HZ
    return Layout(first_hz, max(0, int(seconds * first_hz)), "start")


def _from_start(recording: Recording, rate_hz: int, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) of the signal, decoded from its beginning."""
    blocks, end = [], 0
    for block_N in signal(recording, rate_hz):
        blocks.append(block_N[max(0, start - end) :])
        end += len(block_N)
        if end >= stop:
            return np.concatenate(blocks)[: stop - start]
    reason = f"ends after {end / rate_hz:.2f} s, before a clip up to {stop / rate_hz:.2f} s"
    raise AudioError(recording.name, reason, "leave recordings alone while they are read")
