"""Drum kits: every piece of a kit is one sample, computed once from the kit's parameters."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mir_benchmarks.synth.seeds import PURPOSES, Draw, draw_patch, stream


@dataclass(frozen=True)
class Drum:
    """A piece: a tone that falls from `hz[0]` to `hz[1]`, noise in a band, bars of metal."""

    seconds: float
    hz: tuple[float, float] = (0.0, 0.0)
    fall_s: float = 0.03
    tone: float = 0.0
    tone_decay_s: float = 0.1
    noise: float = 0.0
    noise_hz: tuple[float, float] = (200.0, 9_000.0)
    noise_decay_s: float = 0.1
    metal: float = 0.0
    metal_hz: float = 400.0
    flams: int = 1
    level: float = 1.0


METAL_BARS = 24
# (pitch, length, noise) of a kit against the acoustic one.
KINDS = {
    "acoustic": (1.0, 1.0, 1.0), "brush": (1.1, 0.8, 0.6), "disco": (1.05, 0.7, 1.1), "drum_machine": (0.75, 1.7, 0.8),
    "heavy": (0.95, 1.1, 1.3),
}  # fmt: skip


def pieces(kind: str, draw: Draw) -> dict[str, Drum]:
    """All pieces of a kit; shells follow the kit's pitch, cymbals its length."""
    pitch, length, noise = KINDS[kind]
    low, metal_hz = pitch * draw(44, 58), draw(330, 520)
    snare_hz, band = pitch * draw(170, 240), (draw(900, 1800), draw(7_500, 10_500))
    kick = Drum(0.45 * length, (low * draw(3, 6), low), draw(0.012, 0.03), 1, draw(0.1, 0.18) * length, 0.15 * noise,
                (1_000, 6_000), 0.008, level=1.0)  # fmt: skip
    snare = Drum(0.5, (snare_hz * 1.6, snare_hz), 0.012, draw(0.4, 0.8), draw(0.05, 0.1), draw(0.3, 0.55) * noise,
                 band, draw(0.07, 0.14), level=0.8)  # fmt: skip
    clap = Drum(0.3, noise=1, noise_hz=(900, 7_500), noise_decay_s=draw(0.04, 0.08), flams=4, level=0.5)
    rim = Drum(0.08, (draw(1_500, 1_900), draw(1_500, 1_900)), 0.01, 1, 0.012, 0.2, (1_500, 8_000), 0.008, level=0.5)
    kit = {"kick": kick, "snare": snare, "clap": clap, "rim": rim}
    for name, ratio in {"tom_low": 1.6, "tom_mid": 2.2, "tom_high": 3.0}.items():
        hz = (low * ratio * 1.5, low * ratio)
        kit[name] = Drum(0.5, hz, 0.04, 1, draw(0.12, 0.2), 0.12, (500, 4_000), 0.03, level=0.75)
    for name, seconds, decay, level, floor in (
        ("hat", 0.12, draw(0.018, 0.035), 0.34, 6_000), ("open_hat", 0.5, draw(0.12, 0.22), 0.32, 5_500),
        ("pedal_hat", 0.1, 0.02, 0.22, 5_000), ("ride", 1.4 * length, draw(0.3, 0.5), 0.2, 3_500),
        ("crash", 2.4, draw(0.5, 0.9), 0.4, 2_500), ("china", 1.4, draw(0.25, 0.4), 0.32, 2_000),
        ("shaker", 0.12, draw(0.025, 0.05), 0.22, 5_000),
    ):  # fmt: skip
        share = 0.0 if name == "shaker" else draw(0.3, 0.7)
        kit[name] = Drum(seconds, noise=1 - share, noise_hz=(floor, 11_500), noise_decay_s=decay, metal=share,
                         metal_hz=metal_hz, level=level * draw(0.85, 1.15))  # fmt: skip
    return kit


@lru_cache(maxsize=256)
def kit(kind: str, index: int) -> dict[str, Drum]:
    """The pieces of kit `index` of a kind: a pure function.

    >>> kit("brush", 2)["kick"] == kit("brush", 2)["kick"], kit("brush", 2)["kick"] == kit("brush", 3)["kick"]
    (True, False)
    """
    if kind not in KINDS:
        raise ValueError(f"no kit {kind!r}: give one of {', '.join(KINDS)}")
    return pieces(kind, draw_patch("kit", list(KINDS).index(kind), index))


@lru_cache(maxsize=512)
def sample(kind: str, index: int, piece: str, rate_hz: int) -> np.ndarray:
    """One stroke on one piece, float32, from zero to zero; shared, so never write to it."""
    drum = kit(kind, index)[piece]
    number = sorted(kit(kind, index)).index(piece)
    rng = stream((PURPOSES["kit"], list(KINDS).index(kind), index), "breath", number)
    n = round(drum.seconds * rate_hz)
    t = np.arange(n) / rate_hz
    wave = np.zeros(n)
    if drum.tone:
        start, end = drum.hz
        turns = end * t + (start - end) * drum.fall_s * (1 - np.exp(-t / drum.fall_s))
        wave += drum.tone * np.sin(2 * np.pi * turns) * np.exp(-t / drum.tone_decay_s)
    if drum.noise:
        wave += drum.noise * band_noise(rng, n, drum.noise_hz, rate_hz) * strokes(drum, t)
    if drum.metal:
        # Plates ring at many unrelated pitches; close ones beat, so that no line stands out.
        for ratio, phase in zip(rng.uniform(4, 28, METAL_BARS), rng.uniform(0, 6.28, METAL_BARS), strict=True):
            if drum.metal_hz * ratio < 0.46 * rate_hz:
                wave += 0.2 * drum.metal * np.sin(2 * np.pi * drum.metal_hz * ratio * t + phase) * strokes(drum, t)
    edge = min(n // 2, max(2, round(0.0008 * rate_hz)))
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[-n // 4 :] *= np.linspace(1, 0, len(wave[-n // 4 :])) ** 2
    out = (wave * drum.level).astype(np.float32)
    out.flags.writeable = False
    return out


def strokes(drum: Drum, t: np.ndarray) -> np.ndarray:
    """The decay of the noise; hands that clap fall one after another."""
    if drum.flams == 1:
        return np.exp(-t / drum.noise_decay_s)
    level = np.zeros_like(t)
    for i in range(drum.flams):
        late, decay = t - 0.011 * i, drum.noise_decay_s if i == drum.flams - 1 else 0.006
        level += np.where(late >= 0, np.exp(-np.maximum(0, late) / decay), 0)
    return level


def band_noise(rng: np.random.Generator, n: int, band_hz: tuple[float, float], rate_hz: int) -> np.ndarray:
    """Noise within a band, rms 1, in float64 [n]."""
    size = 1 << max(4, (n - 1).bit_length())
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    low, high = band_hz
    spectrum *= 1 / (1 + (low / np.maximum(hz, 1e-3)) ** 4) / (1 + (hz / high) ** 8)
    spectrum[0] = 0
    wave = np.fft.irfft(spectrum, size)
    return wave[:n] / np.sqrt(np.mean(wave**2) + 1e-20)
