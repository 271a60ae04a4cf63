"""Changes that recordings undergo: filters, rooms, noise and codecs, which leave their music alone, and speed.

Of the former, the model's input is changed, and its targets are those of the clean clip; a clip at another speed is
another clip, with targets of its own.
Shapes: B clips, N samples, K frequencies.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

BELLS = 3  # of a filter, at most
BELL_DB, BELL_OCTAVES = 12.0, (0.3, 2.0)
LOWEST_HZ = 60.0
CUT_DB_PER_OCTAVE = 24.0
ROOM_S = (0.1, 0.8)  # in which its sound falls by 60 dB
DIRECT_DB = (0.0, 20.0)  # of the direct sound over that of the room
NOISE_DB = (-60.0, -20.0)  # relative to the clip
MP3_QUALITY = (0.5, 0.99)  # of libsndfile: 0 is the best
SPEED_SEMITONES = 4.0  # faster and higher, or slower and lower, at most


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Chances of each change of a clip; the paper makes none of them.

    A filter has bells of up to 12 dB or cuts what is above or below a frequency, a room is a decaying echo, the codec
    is MP3 at low rates. Speed is that of a tape: tempo and pitch change by up to 4 semitones, if the recording is long
    enough. Level is not among them: `model.normalize` brings all inputs to one.
    """

    filter: float = 0.0
    room: float = 0.0
    noise: float = 0.0
    codec: float = 0.0
    speed: float = 0.0

    def longest_s(self, clip_s: float) -> float:
        """Seconds of a recording that the fastest clip of `clip_s` takes."""
        return clip_s * 2 ** (SPEED_SEMITONES / 12) if self.speed else clip_s

    def speeds(self, n: int, random: np.random.Generator) -> tuple[float, ...]:
        """By what factors n clips play faster than their recordings; 1 for those that are as they are."""
        semitones = random.uniform(-SPEED_SEMITONES, SPEED_SEMITONES, n) * (random.random(n) < self.speed)
        return tuple((2 ** (semitones / 12)).tolist())

    def __call__(self, wave_BN: Tensor, random: np.random.Generator, rate_hz: int) -> Tensor:
        """Changed copies of clips; silent ones stay as they are."""
        if not (self.filter or self.room or self.noise or self.codec):
            return wave_BN
        return torch.stack([self._changed(wave_N, random, rate_hz) for wave_N in wave_BN])

    def _changed(self, wave_N: Tensor, random: np.random.Generator, rate_hz: int) -> Tensor:
        # All draws are made whatever the chances are, so that one change does not move the others.
        wants = random.random(4) < (self.filter, self.room, self.noise, self.codec)
        seeds = random.integers(2**63, size=4)
        draws = [np.random.default_rng(seed) for seed in seeds]
        level = float(wave_N.square().mean().sqrt())
        if not level:
            return wave_N
        wave_N = wave_N / level
        if wants[0]:
            wave_N = filtered(wave_N, draws[0], rate_hz)
        if wants[1]:
            wave_N = in_room(wave_N, draws[1], rate_hz)
        if wants[2]:
            db = draws[2].uniform(*NOISE_DB)
            noise_N = torch.from_numpy(draws[2].standard_normal(len(wave_N), dtype=np.float32)).to(wave_N.device)
            wave_N = wave_N + noise_N * 10 ** (db / 20)
        if wants[3]:
            wave_N = coded(wave_N, draws[3], rate_hz)
        return wave_N * level


def samples_at(speed: float, n_samples: int) -> int:
    """Samples of a recording that a clip of so many takes at a speed.

    >>> samples_at(1.0, 24_000), samples_at(1.25, 24_000)
    (24000, 30000)
    """
    return math.ceil(n_samples * speed)


def at_speed(wave_N: np.ndarray, speed: float, n_samples: int) -> np.ndarray:
    """The first `n_samples` of a clip that plays by a factor faster, and higher by the same."""
    changed_N = soxr.resample(wave_N, speed, 1.0, quality="HQ")[:n_samples]
    return np.pad(changed_N, (0, n_samples - len(changed_N)))


def filtered(wave_N: Tensor, random: np.random.Generator, rate_hz: int) -> Tensor:
    """A clip behind a filter without delay; what it was is what it is where the filter has 0 dB."""
    n = len(wave_N)
    hz_K = torch.fft.rfftfreq(n, 1 / rate_hz, device=wave_N.device).clamp_min(1.0)
    octaves_K = hz_K.log2()
    highest = math.log2(0.9 * rate_hz / 2)
    db_K = torch.zeros_like(octaves_K)
    for _ in range(random.integers(1, BELLS, endpoint=True)):
        centre, width = random.uniform(math.log2(LOWEST_HZ), highest), random.uniform(*BELL_OCTAVES)
        db_K += random.uniform(-BELL_DB, BELL_DB) * torch.exp(-((octaves_K - centre) / width).square())
    kind, place = random.integers(3), random.random()
    if kind == 1:  # above it little is left
        db_K -= CUT_DB_PER_OCTAVE * (octaves_K - (highest - 3 * place)).clamp_min(0)
    elif kind == 2:
        db_K -= CUT_DB_PER_OCTAVE * (math.log2(LOWEST_HZ) + 2.5 * place - octaves_K).clamp_min(0)
    return torch.fft.irfft(torch.fft.rfft(wave_N) * 10 ** (db_K / 20), n)


def in_room(wave_N: Tensor, random: np.random.Generator, rate_hz: int) -> Tensor:
    """A clip with the echo of a room, which ends with the clip."""
    seconds, db = random.uniform(*ROOM_S), random.uniform(*DIRECT_DB)
    echo_N = random.standard_normal(round(seconds * rate_hz), dtype=np.float32)
    echo_N *= 10 ** (-3 * np.arange(len(echo_N), dtype=np.float32) / len(echo_N))
    echo_N *= np.float32(10 ** (-db / 20) / np.linalg.norm(echo_N))
    echo_N[0] += 1
    total = 2 ** math.ceil(math.log2(len(wave_N) + len(echo_N) - 1))
    spectrum_K = torch.fft.rfft(torch.from_numpy(echo_N).to(wave_N.device), total)
    return torch.fft.irfft(torch.fft.rfft(wave_N, total) * spectrum_K, total)[: len(wave_N)]


def coded(wave_N: Tensor, random: np.random.Generator, rate_hz: int) -> Tensor:
    """A clip as MP3 has it at a low rate of bits."""
    peak = max(1.0, float(wave_N.abs().max()))
    file = io.BytesIO()
    settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": random.uniform(*MP3_QUALITY)}
    soundfile.write(file, (wave_N / peak).cpu().numpy(), rate_hz, **settings)
    file.seek(0)
    back_N, _ = soundfile.read(file, len(wave_N), dtype="float32", fill_value=0.0)
    return torch.from_numpy(back_N).to(wave_N.device) * peak
