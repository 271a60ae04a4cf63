"""Single sounds: pitch, families, singers, drums, ends without clicks, nothing folded back from above Nyquist."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mir_benchmarks.synth.drum_sounds import KINDS, kit, sample
from mir_benchmarks.synth.effects import drive, fast_length
from mir_benchmarks.synth.instruments import FAMILIES, instrument
from mir_benchmarks.synth.patch import Patch
from mir_benchmarks.synth.score import Chord
from mir_benchmarks.synth.styles import STYLES
from mir_benchmarks.synth.theory import parse_numeral, read_progression
from mir_benchmarks.synth.tones import hz_of, tone
from mir_benchmarks.synth.voice import TECHNIQUES, VOWELS, sung

RATE = 24_000


def heard_cents(wave_N: np.ndarray, hz: float) -> float:
    """How far the strongest peak near `hz` or one of its harmonics is from where it belongs."""
    level = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N)), 2**20))
    step = RATE / 2**20
    best = (0.0, 0.0)
    for k in range(1, 7):
        low, high = (round(k * hz * 2 ** (cents / 1200) / step) for cents in (-60, 60))
        if high < len(level):
            peak = low + int(np.argmax(level[low:high]))
            best = max(best, (float(level[peak]), 1200 * np.log2(peak * step / (k * hz))))
    return best[1]


def centroid(wave_N: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(wave_N)) ** 2
    return float((power * np.fft.rfftfreq(len(wave_N), 1 / RATE)).sum() / power.sum())


def front(wave_N: np.ndarray) -> float:
    """The share of the second formant of front vowels, 1.6 to 2.8 kHz."""
    power = np.abs(np.fft.rfft(wave_N)) ** 2
    hz = np.fft.rfftfreq(len(wave_N), 1 / RATE)
    return float(power[(hz > 1600) & (hz < 2800)].sum() / power.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_notes_are_in_tune(family: str) -> None:
    """Within 10 cents, with what moves about the pitch (vibrato, scoops, second voices) switched off."""
    for index, midi in itertools.product(range(6), (40, 57, 69, 81)):
        patch = still(instrument(family, index))
        wave = tone(patch, midi, 1.2, 0.8, RATE)
        assert abs(heard_cents(wave, hz_of(midi))) < 10, (index, midi)


def still(patch: Patch) -> Patch:
    changes = {"vibrato": (0.0, 0.0, 0.0), "tremolo": (0.0, 0.0), "scoop_cents": 0.0, "detune_cents": 0.0}
    return Patch(**{**patch.__dict__, **changes})


@pytest.mark.parametrize("family", [*FAMILIES, "voice"])
def test_notes_begin_and_end_at_zero(family: str) -> None:
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    for index, duration_s in itertools.product(range(6), (0.03, 0.2, 1.0)):
        patch = sung(index, "belt", "a") if family == "voice" else instrument(family, index)
        wave = tone(patch, 60, duration_s, 1.0, RATE, noise)
        assert wave.dtype == np.float32 and np.isfinite(wave).all() and np.abs(wave).max() < 12
        assert wave[0] == 0 and np.abs(wave[-20:]).max() < 2e-3 * np.abs(wave).max()
        assert np.abs(wave).max() > 0.05


def test_nothing_is_folded_back() -> None:
    """A saw at every pitch: what lies between the harmonics is far below them."""
    patch = Patch("saw", 0, tilt_db=6.02, cutoff=(50_000, 50_000), sustain=1.0, attack_s=0.05, release_s=0.1)
    for midi in (69, 90, 103):
        wave = tone(patch, midi, 1.0, 1.0, RATE)[2400:21600]
        level = np.abs(np.fft.rfft(wave * np.blackman(len(wave))))
        hz = np.fft.rfftfreq(len(wave), 1 / RATE)
        off = np.abs(hz / hz_of(midi) - np.round(hz / hz_of(midi))) * hz_of(midi) > 12
        assert level[off].max() < 2e-3 * level.max(), midi


def test_families_sound_apart() -> None:
    """Mean log spectra of families differ more than those of two halves of one family."""
    means = {}
    for family in FAMILIES:
        halves = [[profile(instrument(family, i)) for i in range(start, 24, 2)] for start in (0, 1)]
        means[family] = [np.mean(half, axis=0) for half in halves]
    within = np.mean([np.abs(a - b).mean() for a, b in means.values()])
    pairs = itertools.combinations(FAMILIES, 2)
    between = [np.abs(np.mean(means[a], axis=0) - np.mean(means[b], axis=0)).mean() for a, b in pairs]
    assert np.mean(between) > 2 * within and min(between) > 0.3 * within
    bright = {family: np.mean([centroid(tone(instrument(family, i), 60, 0.8, 0.8, RATE)) for i in range(8)])
              for family in ("flute", "synth_lead", "bass", "brass")}  # fmt: skip
    assert bright["flute"] < bright["brass"] and bright["bass"] < bright["synth_lead"]


def profile(patch: Patch) -> np.ndarray:
    """Log level of the first 12 harmonics and of five stretches of time."""
    wave = tone(patch, 60, 1.0, 0.8, RATE)
    level = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 2**17))
    at = [int(hz_of(60) * k / RATE * 2**17) for k in range(1, 13)]
    spectrum = np.log10(np.array([level[i - 120 : i + 121].max() for i in at]) + 1e-2)
    time = np.log10(np.array([np.sqrt(np.mean(part**2)) for part in np.array_split(wave, 5)]) + 1e-3)
    return np.concatenate([spectrum - spectrum.max(), time - time.max()])


def test_instruments_are_pure_and_apart() -> None:
    for family in FAMILIES:
        patches = [instrument(family, i) for i in range(96)]
        assert len(set(patches)) == 96
        assert instrument.__wrapped__(family, 5) == patches[5]
    with pytest.raises(ValueError):
        instrument("kazoo", 0)


def test_singers_and_techniques() -> None:
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    waves = {name: tone(sung(3, name, "a"), 62, 1.0, 0.8, RATE, noise) for name in TECHNIQUES}
    assert len({wave.tobytes() for wave in waves.values()}) == 10
    assert centroid(waves["breathy"]) > centroid(waves["lip_trill"])
    assert len({sung(i, "straight", "a") for i in range(20)}) == 20
    vowels = {vowel: front(tone(sung(4, "straight", vowel), 55, 1.0, 0.8, RATE)) for vowel in VOWELS}
    assert max(vowels["o"], vowels["u"]) < min(vowels["e"], vowels["i"])
    with pytest.raises(ValueError):
        sung(0, "yodel", "a")


def test_drums() -> None:
    for kind in KINDS:
        for piece in kit(kind, 1):
            wave = sample(kind, 1, piece, RATE)
            assert wave[0] == 0 and abs(float(wave[-1])) < 1e-4 and 0.02 < np.abs(wave).max() < 2.5
        low, middle, high = (centroid(sample(kind, 1, piece, RATE)) for piece in ("kick", "snare", "hat"))
        assert low < 500 < middle < high
    with pytest.raises(ValueError):
        kit("trash", 0)


def test_progressions_are_written_in_known_chords() -> None:
    for style in STYLES.values():
        for text in (*style.major_progressions, *style.minor_progressions):
            for numeral in itertools.chain.from_iterable(read_progression(text)):
                root, quality = parse_numeral(numeral)
                assert Chord(0, 1, root, quality, numeral).name
    with pytest.raises(ValueError):
        parse_numeral("IIII9")


def test_drive_bends_and_folds_little() -> None:
    t = np.arange(RATE) / RATE
    wave = drive(np.sin(2 * np.pi * 1_100 * t).astype(np.float32), 0.8)
    level = np.abs(np.fft.rfft(wave * np.blackman(RATE)))
    assert level[3_300] > 0.1 * level[1_100]
    harmonics = [i for k in range(1_100, 12_000, 2_200) for i in range(k - 5, k + 6)]
    assert np.delete(level, harmonics).max() < 0.006 * level[1_100]


def test_fast_lengths() -> None:
    for n in (1, 7, 100, 240_001, 307_123):
        m = fast_length(n)
        assert n <= m < 1.2 * n + 1
        for prime in (2, 3, 5):
            while m % prime == 0:
                m //= prime
        assert m == 1
