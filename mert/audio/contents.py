"""What decoders share: parts of a file, damage, and the one place where their exceptions become AudioErrors.

Shapes: N samples, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import soundfile

from mert.audio.views import View, size_of
from mert.errors import AudioError

BLOCK_S = 0.1  # also the most that is lost in front of the damage in a file
LEAST_S = 1e-3  # less is no loss
MAX_GAP_S = 3600.0  # no silence is longer, whatever the times in a file say


class Block(NamedTuple):
    """Samples [N, C] at a rate in Hz."""

    rate_hz: int
    samples_NC: np.ndarray


@dataclass
class Damage:
    """What could not be decoded: where it begins, in how many places, and how much of it is silence now."""

    first_s: float = 0.0
    places: int = 0
    lost_s: float = 0.0
    silent_s: float = 0.0
    is_cut: bool = False  # whether sound is missing at the end, even if nothing says how much
    _end_s: float = -1.0

    def add(self, at_s: float, lost_s: float, is_silence: bool) -> None:
        """Note a place where seconds are lost, and whether silence stands for them."""
        if lost_s < LEAST_S:
            return
        if not self.places:
            self.first_s = at_s
        self.places += at_s > self._end_s + LEAST_S
        self.lost_s += lost_s
        self.silent_s += lost_s if is_silence else 0.0
        self._end_s = at_s + lost_s if is_silence else at_s

    def join(self, other: "Damage", at_s: float) -> None:
        """Add that of a stretch of the file that begins at a time."""
        if other.places and not self.places:
            self.first_s = at_s + other.first_s
        self.places += other.places
        self.lost_s, self.silent_s = self.lost_s + other.lost_s, self.silent_s + other.silent_s
        self.is_cut |= other.is_cut

    @property
    def left_out_s(self) -> float:
        """Seconds that are lost without silence in their place."""
        return self.lost_s - self.silent_s

    def __str__(self) -> str:
        where = f"at {self.first_s:.2f} s" if self.places == 1 else f"in {self.places} places from {self.first_s:.2f} s"
        become = "are left out" if self.left_out_s > LEAST_S else "are silence"
        return f"the file is damaged {where}: {self.lost_s:.2f} s could not be decoded and {become}"


class Layout(NamedTuple):
    """What is needed to decode any clip of a recording, found once, without decoding where that is possible.

    `kind` is how decoding starts in its midst: libsndfile seeks ("samples"), at frames of an "mp3", at pages of an
    "ogg", at packets by "ffmpeg", or it cannot ("start": a file that is damaged or joined, or of another format).
    """

    rate_hz: int  # of the file
    n_samples: int  # at that rate; at most as many where the rate changes on the way
    kind: str
    points: tuple[tuple[int, int], ...] = ()  # (sample, byte) where decoding can start, the last where all ends


class Stretch(NamedTuple):
    """A part of a file that libsndfile decodes, and the sample of the recording at which it begins or ends; without
    either, libsndfile seeks in it."""

    file: View
    begins: int | None = None
    ends: int | None = None


class ForwardFile(soundfile.SoundFile):
    """A SoundFile read without seeking: by default a seek follows each block, and the header limits the length."""

    def __init__(self, file: View) -> None:
        file.seek(0)
        super().__init__(file)

    def seekable(self) -> bool:
        return False


class Decoder(Protocol):
    """A reader of one recording: the rate and channels it begins with, the length announced, samples block by block."""

    rate_hz: int
    channels: int
    claimed_s: float  # infinite where nothing is announced
    damage: Damage  # complete when all is read

    def read(self) -> Iterator[Block]: ...


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Whatever a decoder raises, as an AudioError with the name of the file."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.errno:
            raise AudioError(
                name, (error.strerror or str(error)).lower(), "check the path and its permissions"
            ) from None
        reason = f"not audio that can be decoded ({in_words(error)})"
        raise AudioError(name, reason, "check or convert the file") from error


def in_words(error: Exception) -> str:
    """What a decoder says, in one line, without its names for files."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


class FileDecoder:
    """A decoder of files; subclasses decode, and raise what they like."""

    def __init__(self, name: str, warnings: list[str]) -> None:
        self.name, self.warnings, self.damage = name, warnings, Damage()

    def decoded(self) -> Iterator[Block]:
        """The samples, once."""
        raise NotImplementedError

    def read(self) -> Iterator[Block]:
        """The samples, once; AudioError for whatever goes wrong."""
        with explained(self.name):
            yield from self.decoded()


def missing_s(announced_s: float, decoded_s: float) -> float:
    """Seconds by which a recording is shorter than announced; 0 for what may be rounding, or is not known."""
    short_s = announced_s - decoded_s
    return short_s if np.isfinite(short_s) and short_s > max(0.1, 0.001 * decoded_s) else 0.0


def silence(seconds: float, rate_hz: int, channels: int) -> Iterator[Block]:
    """Blocks of silence."""
    n, step = round(seconds * rate_hz), max(1, int(BLOCK_S * rate_hz))
    for start in range(0, n, step):
        yield Block(rate_hz, np.zeros((min(step, n - start), channels), np.float32))


class Part:
    """A stretch of a file that libsndfile decodes by itself."""

    def __init__(self, file: View, announced: int | None = None) -> None:
        self.file = file
        self.whole = file  # with what may follow
        self.raw = file  # as it lies in the file, with what is damaged
        self.announced = announced  # samples, where the header that libsndfile reads says nothing of them

    def following(self, n: int, failed: bool) -> "tuple[int, Part] | None":
        """How many samples behind the first `n` are lost, and what follows them; None if nothing does.

        It is asked for where decoding ends; `failed` says whether it ended with an error.
        """
        return None

    def unread(self) -> int:
        """Bytes that could be sound behind what was decoded, where that shows only after decoding."""
        return 0


@dataclass(frozen=True)
class Contents:
    """A file as libsndfile is to read it: its parts, each of one rate and channel count, and what is missing."""

    parts: tuple[Part, ...]
    announced: float = 1.0  # the announced length, as a multiple of what is there
    announces_less: bool = False  # whether the header announces less than there is
    left_over: int = 0  # bytes behind the sound that could be sound
    is_cut: bool = False  # whether the structure shows that the end is missing
    gaps: tuple[tuple[float, float, bool], ...] = ()  # at_s, lost_s, is_silence: damage that is known beforehand


def whole(file: BinaryIO) -> Contents:
    """A file as it is."""
    return Contents((Part(View(file, [range(size_of(file))])),))
