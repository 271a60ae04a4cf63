"""Songs with their stems: readers for MUSDB18's two forms, and fixed pools of segments cut and remixed from them.

Shapes: C channels (2), N samples, J targets in the order of STEMS, S segments.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from mert.audio.contents import Decoder
from mert.audio.decoders import decoder_of
from mert.audio.ffmpeg import FfmpegDecoder
from mert.audio.recording import check_samples
from mert.errors import AudioError, need
from probes.metrics import STEMS

RATE_HZ = 24_000
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a .stem.mp4
UNEVEN_S = 0.1  # stems may differ in length by so much; encoders round up to whole blocks


@dataclass(frozen=True)
class Stems:
    """A mixture [C, N] and its targets [J, C, N], stereo, float32."""

    mixture_CN: np.ndarray
    targets_JCN: np.ndarray


def load_stems(path: Path, rate_hz: int = RATE_HZ) -> Stems:
    """A song from its folder of WAV files (or the mixture.wav in it), or from a .stem.mp4, resampled.

    AudioError where a stem is missing, cannot be read, has more than two channels or another length than the rest.
    """
    path = Path(path)
    if path.suffix == ".mp4":
        waves = {name: _decoded(path, i, rate_hz) for i, name in enumerate(STREAMS)}
    else:
        folder = path if path.is_dir() else path.parent
        waves = {name: _read(folder / f"{name}.wav", rate_hz) for name in STREAMS}
    shortest, longest = (extreme(wave_CN.shape[1] for wave_CN in waves.values()) for extreme in (min, max))
    if longest - shortest > UNEVEN_S * rate_hz:
        lengths = f"{shortest / rate_hz:.2f} to {longest / rate_hz:.2f} s"
        raise AudioError(path, f"its stems have lengths from {lengths}", "fetch the song again")
    return Stems(waves["mixture"][:, :shortest], np.stack([waves[name][:, :shortest] for name in STEMS]))


def _read(path: Path, rate_hz: int) -> np.ndarray:
    with _opened(path, "check the song's folder for all five WAV files") as file:
        return _stereo(path, decoder_of(file, str(path), []), rate_hz)


def _decoded(path: Path, stream: int, rate_hz: int) -> np.ndarray:
    need("av", "codecs", f"{path}, an MP4 file")
    with _opened(path, "fetch the file again") as file:
        decoder = FfmpegDecoder(file, str(path), [], track=stream)
        if decoder.n_tracks != len(STREAMS):
            reason = f"{decoder.n_tracks} audio streams, not {len(STREAMS)}"
            raise AudioError(path, reason, "give a MUSDB18 .stem.mp4")
        return _stereo(path, decoder, rate_hz)


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise AudioError(path, f"cannot be read ({error})", remedy) from None


def _stereo(path: Path, decoder: Decoder, to_hz: int) -> np.ndarray:
    """[C, N] at the rate asked for; mono becomes both channels."""
    blocks = list(decoder.read())
    formats = {(block.rate_hz, block.samples_NC.shape[1]) for block in blocks}
    if len(formats) != 1 or max(formats)[1] > 2:
        found = " and ".join(f"{channels} channels at {rate} Hz" for rate, channels in sorted(formats)) or "no samples"
        raise AudioError(path, found, "give mono or stereo stems of one rate")
    wave_NC, from_hz = np.concatenate([block.samples_NC for block in blocks]), blocks[0].rate_hz
    check_samples(wave_NC, str(path), 0, from_hz)
    if from_hz != to_hz:
        wave_NC = soxr.resample(wave_NC, from_hz, to_hz, quality="HQ")
    return np.ascontiguousarray(np.broadcast_to(wave_NC.T, (2, len(wave_NC))), dtype=np.float32)


@dataclass(frozen=True)
class Excerpt:
    """Source of one stem of a segment: a track, the position in it (0 to 1), its gain, and whether channels swap."""

    track: int
    where: float
    gain: float = 1.0
    swap: bool = False


def plan_segments(n_tracks: int, seed: int, per_track: int, remix: bool = True) -> list[tuple[Excerpt, ...]]:
    """The J excerpts of each segment. With `remix`, every second segment mixes stems of different tracks.

    >>> segments = plan_segments(n_tracks=5, seed=0, per_track=2)
    >>> len(segments), [len({excerpt.track for excerpt in excerpts}) for excerpts in segments[:4]]
    (10, [1, 4, 1, 4])
    """
    random = np.random.default_rng(seed)
    segments = []
    for track in range(n_tracks):
        for number in range(per_track):
            where = random.random(len(STEMS))
            others = random.choice(n_tracks, len(STEMS), replace=n_tracks < len(STEMS))
            gains = random.uniform(0.25, 1.25, len(STEMS))
            swaps = random.random(len(STEMS)) < 0.5
            if remix and number % 2:
                segments.append(tuple(map(Excerpt, *(drawn.tolist() for drawn in (others, where, gains, swaps)))))
            else:
                segments.append((Excerpt(track, float(where[0])),) * len(STEMS))
    return segments


def segments(
    tracks: Sequence[Callable[[], Stems]], seed: int, per_track: int = 64, seconds: float = 6.0,
    rate_hz: int = RATE_HZ, remix: bool = True, out: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """A pool [S, 1 + J, C, N] of segments: mixture, then targets. Each track is loaded once.

    Frozen features are computed once per mixture, so the pool is drawn once from `seed`: half of it are stretches of
    the songs as they are, half (none without `remix`) random mixes. MARBLE instead remixes anew in every epoch, and
    runs the encoder each time. `out` may be a memory map to fill, of fp16 too.

    >>> song = Stems(np.ones((2, 48_000), np.float32), np.full((4, 2, 48_000), 0.25, np.float32))
    >>> segments([lambda: song] * 4, seed=0, per_track=2, seconds=1.0).shape
    (8, 5, 2, 24000)
    """
    n_samples = round(seconds * rate_hz)
    planned = plan_segments(len(tracks), seed, per_track, remix)
    pool = np.zeros((len(planned), 1 + len(STEMS), 2, n_samples), np.float32) if out is None else out
    for number, load in enumerate(tracks):
        song = load()
        spare = song.mixture_CN.shape[1] - n_samples
        if spare < 0:
            raise AudioError(f"track {number}", f"shorter than a segment of {seconds} s", "cut shorter segments")
        for segment, excerpts in enumerate(planned):
            for j, excerpt in enumerate(excerpts):
                if excerpt.track == number:
                    stretch = slice(start := int(excerpt.where * (spare + 1)), start + n_samples)
                    wave_CN = excerpt.gain * song.targets_JCN[j, :, stretch]
                    pool[segment, 1 + j] = wave_CN[::-1] if excerpt.swap else wave_CN
                    pool[segment, 0] = song.mixture_CN[:, stretch]  # of remixes, the sum follows
    for segment, excerpts in enumerate(planned):
        if len(set(excerpts)) > 1:
            pool[segment, 0] = pool[segment, 1:].sum(axis=0, dtype=np.float32)
    return pool
