"""Effects on a mix: drive, compressor, room and equaliser, the last two in one pass over the spectrum."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from mir_benchmarks.synth.score import Score
from mir_benchmarks.synth.seeds import Seed, stream
from mir_benchmarks.synth.styles import STYLES


@dataclass(frozen=True)
class Finish:
    """How a clip was produced: room time and share, tilt and two bells, the noise floor, the level."""

    room_s: float
    room: float
    room_low_hz: float
    tilt_db: float
    bells: tuple[tuple[float, float, float], ...]  # (hz, octaves, dB)
    noise_db: float
    level_db: float
    squeeze: float = 0.0  # of the compressor: 0 leaves the dynamics, 1 takes away most


def finish_of(score: Score) -> Finish:
    """The finish that belongs to a score: its style's, varied by its seed."""
    rng = stream(score.seed, "effects")
    tilt, room = STYLES[score.style].tone
    bells = tuple((float(100 * 60 ** rng.random()), float(rng.uniform(0.7, 2)), float(rng.uniform(-4, 4)))
                  for _ in range(2))  # fmt: skip
    return Finish(
        float(rng.uniform(0.2, 0.6) + 2 * room), float(room * rng.uniform(0.5, 1.3)), float(rng.uniform(120, 300)),
        float(tilt + rng.uniform(-2.5, 2.5)), bells, float(rng.uniform(-72, -46)), float(rng.uniform(-22, -12)),
    )  # fmt: skip


def drawn_finish(seed: Seed) -> Finish:
    """A finish of any kind, as recordings of many sources have: dry or in a church, dull or sharp, loud or soft."""
    rng = stream(seed, "effects")
    bells = tuple((float(80 * 90 ** rng.random()), float(rng.uniform(0.7, 2.5)), float(rng.uniform(-6, 6)))
                  for _ in range(2))  # fmt: skip
    return Finish(
        float(0.15 * 20 ** rng.random()), float(rng.choice((0.0, rng.uniform(0.05, 0.25), rng.uniform(0.2, 0.8)))),
        float(rng.uniform(80, 300)), float(rng.normal(0, 3)), bells, float(rng.uniform(-75, -38)),
        float(rng.uniform(-34, -11)), float(rng.choice((0.0, rng.random()))),
    )  # fmt: skip


@cache
def fast_length(n: int) -> int:
    """The smallest 2**a 3**b 5**c that is at least n.

    >>> fast_length(1), fast_length(1025), fast_length(240_001)
    (1, 1080, 243000)
    """
    odd_parts = (3**b * 5**c for b in range(21) for c in range(15))
    return min(odd << (max(1, -(-n // odd)) - 1).bit_length() for odd in odd_parts)


def drive(wave_N: np.ndarray, amount: float) -> np.ndarray:
    """A valve amplifier and its cabinet: saturation at three times the rate, so that it folds little back."""
    n = len(wave_N)
    size = fast_length(n)
    spectrum = np.fft.rfft(wave_N, size)
    wide = np.fft.irfft(spectrum, 3 * size) * 3
    gain = np.float32(10 ** (amount * 1.3) / max(1e-6, float(np.max(np.abs(wide)))))
    bent = np.fft.rfft(np.tanh(wide * gain * np.float32(1.5)))[: size // 2 + 1]
    relative = np.arange(len(bent)) / len(bent)
    bent *= (1 / (1 + (relative / 0.42) ** 6)).astype(np.float32)
    return np.fft.irfft(bent, size)[:n].astype(np.float32)


def compress(wave_N: np.ndarray, amount: float, rate_hz: int) -> np.ndarray:
    """Louder where it was soft: the level of 10-ms blocks, which rises at once and falls slowly, is drawn together.

    `amount` from 0 to 1: at 1 a part that is 20 dB softer than the whole comes out 6 dB softer.
    """
    block = max(1, round(0.01 * rate_hz))
    padded = np.pad(wave_N, (0, -len(wave_N) % block)).reshape(-1, block)
    power = np.mean(np.square(padded, dtype=np.float64), axis=1)
    smooth, held = np.empty_like(power), 0.0
    for i, now in enumerate(power):
        held = now if now > held else held + (now - held) * 0.06
        smooth[i] = held
    rms = np.sqrt(np.mean(power))
    if not rms:
        return wave_N
    gains = np.maximum(np.sqrt(smooth) / rms, 0.03) ** (-0.7 * amount)
    at = (np.arange(len(gains)) + 0.5) * block
    return (wave_N * np.interp(np.arange(len(wave_N)), at, gains)).astype(np.float32)


def response(finish: Finish, size: int, rate_hz: int) -> np.ndarray:
    """Gains of the equaliser: a tilt about 800 Hz, the bells, and nothing below hearing, DC least of all."""
    hz = np.maximum(np.fft.rfftfreq(size, 1 / rate_hz), 1e-3)
    octaves = np.log2(hz / 800)
    db = np.clip(octaves, -5, 4) * finish.tilt_db / 4
    for centre, width, gain in finish.bells:
        db = db + gain * np.exp(-0.5 * ((octaves - np.log2(centre / 800)) / (width / 2)) ** 2)
    gains = 10 ** (db / 20) / (1 + (24 / hz) ** 4)
    gains[0] = 0
    return gains.astype(np.float32)


def impulse(finish: Finish, seed: tuple[int, int, int], rate_hz: int) -> np.ndarray:
    """A room: the direct sound, some early echoes, a tail of noise that dies exponentially."""
    rng = stream(seed, "room")
    n = round(finish.room_s * rate_hz)
    tail = rng.standard_normal(n, dtype=np.float32) * np.exp(np.arange(n, dtype=np.float32) * np.float32(-6.9 / n))
    tail[: round(0.006 * rate_hz)] = 0
    tail *= np.float32(finish.room) / np.sqrt(np.sum(tail * tail) + np.float32(1e-9))
    for delay_s, gain in zip(rng.uniform(0.006, 0.04, 5), rng.uniform(-0.3, 0.3, 5), strict=True):
        tail[min(n - 1, round(delay_s * rate_hz))] += np.float32(gain * finish.room)
    tail[0] = 1
    return tail


def produce(
    wave_N: np.ndarray, finish: Finish, seed: tuple[int, int, int], rate_hz: int, room: bool, eq: bool
) -> np.ndarray:
    """Room and equaliser: linear, so that the produced stems still sum to the produced mix."""
    n = len(wave_N)
    echo = impulse(finish, seed, rate_hz) if room else np.ones(1, np.float32)
    size = fast_length(n + len(echo))
    spectrum = np.fft.rfft(wave_N.astype(np.float32), size)
    if room:
        late = np.fft.rfft(echo, size)
        # Rooms carry no rumble: the low end stays dry.
        hz = np.fft.rfftfreq(size, 1 / rate_hz)
        spectrum *= 1 + (late - 1) * (1 / (1 + (finish.room_low_hz / np.maximum(hz, 1e-3)) ** 2)).astype(np.float32)
    if eq:
        spectrum *= response(finish, size, rate_hz)
    return np.fft.irfft(spectrum, size)[:n].astype(np.float32)
