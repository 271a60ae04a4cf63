"""From a patch to samples: wavetables of two spectra, struck bars, FM; all of a note at once.

Phases are integers of 32 bits: they wrap by themselves and hold their pitch to a millionth of a cent.
"""

from functools import lru_cache

import numpy as np

from mir_benchmarks.synth.patch import N_PARTIALS, Patch

TABLE_BITS = 12
TURN = 2**32
FRACTION_BITS = 32 - TABLE_BITS


def hz_of(midi: float) -> float:
    return float(440.0 * 2 ** ((midi - 69) / 12))


@lru_cache(maxsize=512)
def wavetable(patch: Patch, midi: int, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """One turn of the bright (real) and dark (imaginary) wave, and the steps from sample to sample; unit rms."""
    n = 2**TABLE_BITS
    k = np.arange(1, N_PARTIALS + 1)
    bins = np.zeros((2, n // 2 + 1), np.complex128)
    # Phases that grow with the square spread the energy over the turn: no spike, more room below full scale.
    bins[:, 1 : N_PARTIALS + 1] = patch.spectrum(hz_of(midi), rate_hz) * np.exp(1j * np.pi * 0.618034 * k**2) * n / 2
    waves = np.fft.irfft(bins, n)
    table = (waves[0] + 1j * waves[1]).astype(np.complex64)
    return table, np.roll(table, -1) - table


@lru_cache(maxsize=16)
def clock_table(capacity: int, rate_hz: int | None) -> np.ndarray:
    samples = np.arange(capacity, dtype=np.int64)
    return samples if rate_hz is None else (samples / rate_hz).astype(np.float32)


def clock(n: int, rate_hz: int | None = None) -> np.ndarray:
    """0 to n - 1, or the seconds of n samples, from a table that is shared: never write to it."""
    return clock_table(1 << max(16, (n - 1).bit_length()), rate_hz)[:n]


def turns(patch: Patch, hz: float, n: int, rate_hz: int) -> np.ndarray:
    """Phase [n] in 2**32ths of a turn, with scoop and vibrato in closed form."""
    phase = clock(n) * round(hz / rate_hz * TURN)
    rate, cents, delay = patch.vibrato
    t = clock(n, rate_hz)
    if rate and cents:
        depth = hz * (2 ** (cents / 1200) - 1) / (2 * np.pi * rate)
        swell = np.minimum(1, t / np.float32(max(2 * delay, 1e-3))) ** 2
        phase = phase + (swell * np.cos(np.float32(2 * np.pi * rate) * t) * np.float32(depth * TURN)).astype(np.int64)
    if patch.scoop_cents:
        depth = hz * (2 ** (-patch.scoop_cents / 1200) - 1) * 0.05
        phase = phase + ((1 - np.exp(t * np.float32(-1 / 0.05))) * np.float32(depth * TURN)).astype(np.int64)
    return phase


def envelope(patch: Patch, n: int, n_release: int, rate_hz: int) -> np.ndarray:
    """From zero to zero: a rounded attack, an exponential decay to the sustain, a rounded release."""
    t = clock(n, rate_hz)
    level = np.float32(patch.sustain) + np.float32(1 - patch.sustain) * np.exp(t * np.float32(-1 / patch.decay_s))
    n_attack = max(8, min(round(patch.attack_s * rate_hz), n - n_release))
    angle = np.arange(min(n_attack, n), dtype=np.float32) * np.float32(np.pi / n_attack)
    level[: len(angle)] *= np.float32(0.5) - np.float32(0.5) * np.cos(angle)
    fall = np.linspace(1, 0, n_release, dtype=np.float32)
    level[n - n_release :] *= fall * fall
    if patch.tremolo[0] and patch.tremolo[1]:
        rate, depth = patch.tremolo
        level *= 1 - np.float32(depth / 2) * (1 - np.cos(np.float32(2 * np.pi * rate) * t))
    return level


def look_up(patch: Patch, midi: int, phase: np.ndarray, rate_hz: int, bright: np.ndarray) -> np.ndarray:
    table, steps = wavetable(patch, midi, rate_hz)
    place = (phase >> FRACTION_BITS) & (2**TABLE_BITS - 1)
    between = (phase & (2**FRACTION_BITS - 1)).astype(np.float32) * np.float32(2.0**-FRACTION_BITS)
    both = table.take(place) + steps.take(place) * between
    return both.imag + (both.real - both.imag) * bright


def modal(patch: Patch, hz: float, n: int, rate_hz: int, velocity: float) -> np.ndarray:
    """Decaying sines; those above Nyquist are left out, harder blows bring out the high ones."""
    wave = np.zeros(n, np.float32)
    t = clock(n, rate_hz)
    for i, (ratio, gain, decay_s) in enumerate(patch.modes):
        if ratio * hz < 0.47 * rate_hz:
            angle = sine_angle(clock(n) * round(ratio * hz / rate_hz * TURN))
            loud = np.float32(gain * (velocity if i else 1.0))
            wave += loud * np.sin(angle) * np.exp(t * np.float32(-1 / decay_s))
    return wave


def sine_angle(phase: np.ndarray) -> np.ndarray:
    """Integer phase as an angle in [-pi, pi), exact enough in float32."""
    return phase.astype(np.uint32).view(np.int32).astype(np.float32) * np.float32(2 * np.pi / TURN)


def frequency_modulated(patch: Patch, hz: float, phase: np.ndarray, rate_hz: int, bright: np.ndarray) -> np.ndarray:
    """Two sines, with the index held where Carson's band stays below Nyquist."""
    ratio, index = patch.fm
    room = (0.45 * rate_hz - hz) / (ratio * hz) - 1.5
    if room <= 0:
        return np.sin(sine_angle(phase))
    swing = bright * np.float32(min(index, room))
    return np.sin(sine_angle(phase) + swing * np.sin(sine_angle(phase * round(ratio))))


def brightness(patch: Patch, n: int, rate_hz: int, velocity: float) -> np.ndarray:
    """The share of the bright spectrum over time; hard notes are brighter."""
    start, end, time = patch.bright
    share = np.float32(end) + np.float32(start - end) * np.exp(clock(n, rate_hz) * np.float32(-1 / time))
    return share * np.float32(0.45 + 0.55 * velocity)


def tone(
    patch: Patch, midi: int, duration_s: float, velocity: float, rate_hz: int, noise: np.ndarray | None = None
) -> np.ndarray:
    """One note as float32 [n], release included; it begins and ends at zero. `noise`: at least n samples, if any.

    >>> wave = tone(Patch("x", 0), 69, 0.5, 1.0, 24_000)
    >>> wave.dtype, len(wave), wave[0] == wave[-1] == 0
    (dtype('float32'), 13920, np.True_)
    """
    n_release = max(16, round(patch.release_s * rate_hz))
    n, hz = max(16, round(duration_s * rate_hz)) + n_release, hz_of(midi)
    bright = brightness(patch, n, rate_hz, velocity)
    if patch.method == "modal":
        wave = modal(patch, hz, n, rate_hz, velocity)
    else:
        phase = turns(patch, hz, n, rate_hz)
        if patch.detune_cents:
            # Half the spread either way keeps the pitch of the pair; the second starts elsewhere in the turn.
            drift = clock(n) * round(hz * (2 ** (patch.detune_cents / 1200) - 1) / 2 / rate_hz * TURN)
            low = voice(patch, midi, phase - drift, rate_hz, bright)
            wave = np.float32(0.7071) * (low + voice(patch, midi, phase + drift + TURN // 3, rate_hz, bright))
        else:
            wave = voice(patch, midi, phase, rate_hz, bright)
    level = envelope(patch, n, n_release, rate_hz)
    if noise is not None and patch.noise:
        breath = noise[:n] * np.float32(patch.noise)
        if patch.noise_decay_s:
            breath = breath * np.exp(clock(n, rate_hz) * np.float32(-1 / patch.noise_decay_s)) * 6
        wave = wave + breath
    return wave * level * np.float32(velocity**1.5)


def voice(patch: Patch, midi: int, phase: np.ndarray, rate_hz: int, bright: np.ndarray) -> np.ndarray:
    if patch.method == "fm":
        return frequency_modulated(patch, hz_of(midi), phase, rate_hz, bright)
    return look_up(patch, midi, phase, rate_hz, bright)
