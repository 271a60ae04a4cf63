"""Recording: decode, validate, mix to mono and resample, block by block, in memory that does not grow with length.

Shapes: N samples, C channels. Blocks are float32, mono, at the requested rate.
"""

import io
import math
import mmap
import numbers
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr

from mert.audio.contents import BLOCK_S, Block, Damage, Decoder, explained, missing_s
from mert.audio.decoders import decoder_of
from mert.errors import AudioError

MAX_CHANNELS = 64
ARRAY_CHANNELS = 8  # of an array whose axes must be told apart: more is a batch of clips
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 1_536_000
MAX_VALUE = 1e6  # float files may exceed 1, but not by this
LOUD_RANGE = 200.0  # peak to peak: 40 dB above full scale, as of integers that were not scaled
SILENT_RANGE = 1e-4  # peak to peak; a 16-bit step is 3e-5
CANCELLED = 0.1  # of the power that the mean of unrelated channels has
CANCELLING = "the channels cancel{}: their mean is almost silent; give one channel, or invert one"
AUDIBLE = 7  # steps of 3 dB below the mean power of a recording: what is softer does not count where channels cancel
QUALITY = "HQ"  # of soxr
RESAMPLER = f"soxr {QUALITY}"

Source = str | os.PathLike | bytes | bytearray | memoryview | mmap.mmap | BinaryIO


class Recording:
    """One recording, to be read once: `blocks()` decodes it, and sets `seconds`, `silent`, `damaged` and `warnings`.

    It is damaged if sound is missing: `lost_s` are the seconds that are known to be, by a header or by their bytes.

    Reads paths, bytes and binary files of wav, flac, ogg, mp3, opus, aiff and more by soundfile, and m4a, aac and more
    by PyAV where it is installed. Raises AudioError (file, reason, remedy) for what cannot be used.

    >>> import io, numpy as np, soundfile
    >>> file = io.BytesIO(); soundfile.write(file, np.zeros((44_100, 2)), 44_100, format="WAV")
    >>> recording = Recording(file)
    >>> sum(len(block) for block in recording.blocks(24_000)), recording.silent
    (24000, True)
    """

    def __init__(self, source: Source) -> None:
        self.name = _name_of(source)
        self.warnings: list[str] = []
        self.seconds = 0.0
        self.lost_s, self.damaged = 0.0, False
        self.on_block: Callable[[np.ndarray], None] | None = None  # called with each block that `blocks` gives
        self.on_samples: Callable[[int, np.ndarray], None] | None = None  # with rate and [N, C], as they are decoded
        self._levels = Levels()
        self._source = source if _can_rewind(source) else _spooled(source, self)  # type: ignore[arg-type]

    @property
    def silent(self) -> bool:
        """Whether nothing but (almost) one constant value was decoded, in each channel."""
        return self._levels.range < SILENT_RANGE

    def seconds_by_decoding(self, max_seconds: float | None = None) -> float:
        """The true length; decodes the whole recording."""
        fresh = Recording(self._source)
        fresh.name = self.name
        for _ in fresh.blocks(MIN_RATE_HZ, max_seconds):
            pass
        return fresh.seconds

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes, as a file that can be read from any position."""
        with _opened(self._source, self.name) as file:
            yield file

    def claimed_seconds(self) -> float:
        """The length the header announces, which may be wrong; infinite where it announces none, or it is not known."""
        with self._decoder([], header_only=True) as decoder:
            return decoder.claimed_s

    def blocks(self, rate_hz: int, max_seconds: float | None = None) -> Iterator[np.ndarray]:
        """Mono float32 blocks at `rate_hz`; decoding more than `max_seconds` is an AudioError."""
        for from_hz, run in self.runs(max_seconds):
            for block_N in resampled(run, from_hz, rate_hz):
                if self.on_block:
                    self.on_block(block_N)
                yield block_N

    def runs(
        self, max_seconds: float | None = None, choose: Callable[..., Decoder] = decoder_of
    ) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
        """Stretches of one rate, which a stream may change: the rate in Hz, and its mono float32 blocks.

        `choose` opens the decoder, as `decoder_of` does.
        """
        with self._decoder(self.warnings, choose=choose) as decoder:
            self.check_format(decoder.rate_hz, decoder.channels)
            for from_hz, run in groupby(self._checked(decoder.read(), max_seconds), key=itemgetter(0)):
                yield from_hz, (mono_N for _, mono_N in run)
            self._conclude(decoder)

    @contextmanager
    def _decoder(
        self, warnings: list[str], header_only: bool = False, choose: Callable[..., Decoder] = decoder_of
    ) -> Iterator[Decoder]:
        with self.opened() as file:
            yield choose(file, self.name, warnings, header_only)

    def check_format(self, rate_hz: int, channels: int) -> None:
        """Refuse absurd numbers of channels and rates."""
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(self.name, f"{channels} channels", f"give 1 to {MAX_CHANNELS} channels")
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            remedy = f"give {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
            raise AudioError(self.name, f"a sample rate of {rate_hz} Hz", remedy)

    def _checked(self, blocks: Iterator[Block], max_seconds: float | None) -> Iterator[tuple[int, np.ndarray]]:
        """(rate in Hz, mono [N]) of blocks that are fit for use."""
        n, before_s = 0, 0.0
        known: tuple[int, int] | None = None
        for rate_hz, samples_NC in blocks:
            if known != (rate_hz, samples_NC.shape[1]):
                self.check_format(rate_hz, samples_NC.shape[1])
                if known and known[0] != rate_hz:
                    n, before_s = 0, self.seconds
                known = rate_hz, samples_NC.shape[1]
            check_samples(samples_NC, self.name, n + round(before_s * rate_hz), rate_hz)
            n += len(samples_NC)
            self.seconds = before_s + n / rate_hz
            if max_seconds is not None and self.seconds > max_seconds:
                raise AudioError(self.name, f"longer than max_seconds={max_seconds:g}", "raise max_seconds")
            if self.on_samples:
                self.on_samples(rate_hz, samples_NC)
            yield rate_hz, self._levels.mixed(samples_NC)

    def _conclude(self, decoder: Decoder) -> None:
        """Say what is wrong with a recording that has been read."""
        damage = decoder.damage
        if damage.places:
            self.warnings.append(str(damage))
        short_s = missing_s(decoder.claimed_s - damage.left_out_s, self.seconds)
        if short_s:
            lengths = f"the header announces {decoder.claimed_s:.2f} s, {self.seconds:.2f} s could be decoded"
            self.warnings.append(f"{lengths}: the file seems cut off")
        self.lost_s = damage.lost_s + short_s
        self.damaged = damage.is_cut or self.lost_s > 0
        if self.seconds and (reason := self._wrong_level()):
            self.warnings.append(reason)

    def _wrong_level(self) -> str:
        """What is wrong with the level of the samples, or nothing."""
        if self.silent:
            return "silent: the samples hold one constant value"
        if self._levels.range > LOUD_RANGE:
            peak = self._levels.range / 2
            return f"samples reach about {peak:.0f}, and full scale is 1: divide samples of 16 bits by 32768"
        share = self._levels.cancelled
        return CANCELLING.format(f" in {share:.0%} of the sound" if share < 1 else "") if share > 0.5 else ""


class ArrayRecording(Recording):
    """Samples in memory, [N], [C, N] or [N, C] (the shorter axis is channels): floats at -1 to 1, or integers."""

    def __init__(self, samples: Any, rate_hz: int, name: str = "array") -> None:
        super().__init__(b"")
        self.name, self.rate_hz = name, whole_rate(rate_hz, name)
        self.damage = Damage()
        self._samples_NC = as_float(samples, name)
        self.channels = self._samples_NC.shape[1]
        self.claimed_s = len(self._samples_NC) / self.rate_hz if self.rate_hz > 0 else 0.0

    def seconds_by_decoding(self, max_seconds: float | None = None) -> float:
        return self.claimed_s

    def read(self) -> Iterator[Block]:
        step = max(1, int(BLOCK_S * self.rate_hz))
        for start in range(0, len(self._samples_NC), step):
            yield Block(self.rate_hz, self._samples_NC[start : start + step])

    @contextmanager
    def _decoder(self, *_: Any, **__: Any) -> Iterator[Decoder]:
        yield self


class Levels:
    """What becomes of the level where channels are mixed, gathered block by block."""

    def __init__(self) -> None:
        self._low, self._high, self._widest = np.inf, -np.inf, 0.0
        self._mixed, self._unrelated = 0.0, 0.0
        self._counts: dict[int, list[int]] = {}  # samples of blocks by their power in steps of 3 dB; of them, cancelled

    def mixed(self, block_NC: np.ndarray) -> np.ndarray:
        """The mean over the channels of a block, float32 [N]."""
        mono_N = mixed(block_NC)
        self._low, self._high = min(self._low, mono_N.min()), max(self._high, mono_N.max())
        if block_NC.shape[1] > 1:
            if self._high - self._low < SILENT_RANGE:  # else it is no silence, whatever the channels are
                self._widest = max(self._widest, np.ptp(block_NC, axis=0).max())
            unrelated = sum(power(channel_N) for channel_N in block_NC.T) / block_NC.shape[1] ** 2
            self._note(len(mono_N), power(mono_N), unrelated)
        return mono_N

    def _note(self, n: int, mixed: float, unrelated: float) -> None:
        """Note a block of several channels."""
        self._mixed += mixed
        self._unrelated += unrelated
        if unrelated:
            counts = self._counts.setdefault(math.frexp(unrelated / n)[1], [0, 0])
            counts[0] += n
            counts[1] += n if mixed < CANCELLED * unrelated else 0

    @property
    def range(self) -> float:
        """Peak to peak, of the mean or of the widest channel."""
        return float(max(self._high - self._low, self._widest))

    @property
    def cancelled(self) -> float:
        """The share of the sound in which the mean of the channels is far below that of unrelated channels.

        It is 1 where that is so of the power of the whole.
        """
        if not self._counts or self.range < SILENT_RANGE:
            return 0.0
        if self._mixed < CANCELLED * self._unrelated:
            return 1.0
        mean = self._unrelated / sum(n for n, _ in self._counts.values())
        audible = [counts for step, counts in self._counts.items() if step >= math.frexp(mean)[1] - AUDIBLE]
        return sum(n for _, n in audible) / sum(n for n, _ in audible)


def check_samples(block_NC: np.ndarray, name: str, start: int, rate_hz: int) -> None:
    """Refuse NaN, infinity and absurd values, naming the first position."""
    usable_NC = np.abs(block_NC) <= MAX_VALUE
    if usable_NC.all():
        return
    at = int((~usable_NC.all(axis=1)).argmax())
    row_C = block_NC[at]
    value = row_C[~(np.abs(row_C) <= MAX_VALUE)][0]
    where = f"sample {start + at} ({(start + at) / rate_hz:.6f} s) is {value:g}"
    raise AudioError(name, where, "repair the recording: samples must be finite, at about -1 to 1")


def mixed(block_NC: np.ndarray) -> np.ndarray:
    """The mean over channels, float32 [N]; `numpy.mean` is many times slower over so short an axis.

    >>> mixed(np.array([[0.5, 1.0], [0.0, 0.5]], np.float32))
    array([0.75, 0.25], dtype=float32)
    """
    first_N, *others = block_NC.T
    if not others:
        return first_N
    total_N = first_N.astype(np.float32)
    for channel_N in others:
        total_N += channel_N
    return total_N / np.float32(len(others) + 1)


def power(wave_N: np.ndarray) -> float:
    """Sum of the squares around the mean; `numpy.var` is many times slower for the channels of a block.

    >>> power(np.array([1.0, 2.0, 3.0], np.float32))
    2.0
    """
    return max(0.0, float(np.dot(wave_N, wave_N)) - float(wave_N.sum()) ** 2 / len(wave_N))


def resampled(blocks: Iterator[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """The same mono signal at another rate; the result does not depend on how it was cut into blocks."""
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=QUALITY)
    for block_N in blocks:
        out_N = stream.resample_chunk(block_N)
        if len(out_N):
            yield out_N
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _can_rewind(source: Source) -> bool:
    """Whether a source can be read from its start, and again; TypeError for what is no source of bytes."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | mmap.mmap):
        return True
    if isinstance(source, io.TextIOBase) or not hasattr(source, "read"):
        raise TypeError(f"a recording is a path, bytes or a file opened in binary mode, not {type(source).__name__}")
    try:
        return bool(source.seekable())
    except AttributeError:  # also of a file that asks another one, such as a member of a tar stream
        return False


def _spooled(source: BinaryIO, owner: Recording) -> BinaryIO:
    """A temporary copy of a pipe, or of another file that cannot be rewound; removed with its owner."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    weakref.finalize(owner, copy.close)
    with explained(owner.name):
        shutil.copyfileobj(source, copy)
    return copy


@contextmanager
def _opened(source: Source, name: str) -> Iterator[BinaryIO]:
    """A seekable binary file of any source; files of the caller stay open."""
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source.tobytes() if isinstance(source, memoryview) else source)  # it may have strides
    elif isinstance(source, str | os.PathLike):
        with explained(name):
            file = open(source, "rb")  # noqa: SIM115
        with file:
            yield file
    else:
        yield source  # type: ignore[misc] # a memory map reads and seeks like a file


def _name_of(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(Path(os.fsdecode(source)))
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{memoryview(source).nbytes} bytes"
    name = getattr(source, "name", "file object")
    return f"file object (descriptor {name})" if isinstance(name, int) else str(name)


def whole_rate(rate_hz: Any, name: str) -> int:
    """A sample rate as an integer; AudioError for one that is none, TypeError for what is no number."""
    if getattr(rate_hz, "ndim", None) == 0:  # an array or a tensor of one number
        rate_hz = rate_hz.item()
    if not isinstance(rate_hz, numbers.Real):
        raise TypeError(f"{name}: a sample rate is a number of Hz, not {rate_hz!r}")
    rate = float(rate_hz)
    if not rate.is_integer():
        raise AudioError(name, f"a sample rate of {rate} Hz", "give whole Hz, and resample to them if need be")
    return int(rate)


def as_float(samples: Any, name: str, channels_last: bool = False) -> np.ndarray:
    """Samples as float32 [N, C]; without `channels_last` the shorter axis of two is taken for the channels.

    AudioError for what is no single recording: more than 8 channels, or axes that could both be channels.
    """
    array = as_array(samples)
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
        raise TypeError(f"{name}: give numbers of shape [N], [C, N] or [N, C], not {array.dtype} {array.shape}")
    if array.dtype.kind in "iu":
        array = from_integers(array, name, in_blocks=channels_last)
    if array.ndim == 1:
        array = array[:, None]
    elif not channels_last:
        if min(array.shape) > 1 and not min(array.shape) <= ARRAY_CHANNELS < max(array.shape):
            reason = f"shape {array.shape} is not that of a recording of 1 to {ARRAY_CHANNELS} channels"
            raise AudioError(name, reason, "for a batch of clips there is embed_many([(clip, sr), ...])")
        array = array.T if array.shape[0] < array.shape[1] else array
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def as_array(samples: Any) -> np.ndarray:
    """Samples of any kind as an array of numpy."""
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples  # numpy has no bfloat16
    return np.asarray(samples)


def from_integers(array: np.ndarray, name: str, in_blocks: bool = False) -> np.ndarray:
    """Integer samples at -1 to 1. Those of 32 and 64 bits may hold samples of 16 or 24 bits, and are taken for that.

    Blocks of a stream cannot be judged one by one: 32 bits are full scale there, and 64 bits are refused.

    >>> from_integers(np.array([16_384]), "list"), from_integers(np.array([16_384], np.int32), "block", in_blocks=True)
    (array([0.5]), array([7.62939453e-06]))
    """
    bits = 8 * array.dtype.itemsize
    if in_blocks and bits == 64:
        remedy = "give int16, floats at -1 to 1, or int32 whose full scale is that of 32 bits"
        raise AudioError(name, "blocks of 64-bit integers have no known full scale", remedy)
    if bits >= 32 and not in_blocks:
        bits = bits_held(array)
    middle = 2.0 ** (bits - 1) if array.dtype.kind == "u" else 0.0
    return (array - middle) / 2.0 ** (bits - 1)


def bits_held(array: np.ndarray) -> int:
    """The bits of the samples that an array of wider integers may hold, by its largest value.

    Unsigned samples lie around the middle of their range, so that it shows even where they are soft.

    >>> bits_held(np.array([-40, 7])), bits_held(np.array([40_000])), bits_held(np.array([40_000], np.uint32))
    (16, 24, 16)
    """
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if array.dtype.kind == "u":
        return next((bits for bits in (8, 16, 24, 32) if high < 2**bits), 64)
    return next((bits for bits in (16, 24, 32) if max(-low - 1, high) < 2 ** (bits - 1)), 64)


def bits_of_block(block: Any) -> int:
    """`bits_held` of a block of a stream whose full scale could be mistaken; 0 for others, and for zeros."""
    array = as_array(block)
    is_wide = array.dtype.kind in "iu" and array.dtype.itemsize == 4
    return bits_held(array) if is_wide and array.any() else 0
