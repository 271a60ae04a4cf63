"""Synthetic music: what is heard is what was composed, and any clip is a pure function of its seed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mir_benchmarks.synth.compose import compose
from mir_benchmarks.synth.corpus import INSTRUMENTS, SynthCorpus, corpus
from mir_benchmarks.synth.effects import finish_of, produce
from mir_benchmarks.synth.render import mix, render, total
from mir_benchmarks.synth.score import STEMS, Score
from mir_benchmarks.synth.seeds import PURPOSES, stream
from mir_benchmarks.synth.styles import STYLES

RATE = 24_000
# Krumhansl and Kessler's probe-tone ratings.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


@pytest.fixture(scope="module")
def clips() -> list[tuple[Score, np.ndarray]]:
    """Thirty clips of the training corpus."""
    music = SynthCorpus(seed=1, n_items=30)
    return [(music.score(i), music.read(i)) for i in range(30)]


@pytest.fixture(scope="module")
def by_style() -> dict[str, list[tuple[Score, np.ndarray]]]:
    found = {}
    for style in STYLES:
        scores = [compose(seed, 6.0, style=style) for seed in range(3)]
        found[style] = [(score, mix(render(score), score)) for score in scores]
    return found


def spectra(wave_N: np.ndarray, n: int, hop: int) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(wave_N, n)[::hop] * np.hanning(n)
    return np.abs(np.fft.rfft(frames))


def chroma(wave_N: np.ndarray) -> np.ndarray:
    """Energy per pitch class, from spectral peaks low enough to be fundamentals for the most part."""
    level = spectra(wave_N, 8192, 4096)
    peaks = (level[:, 1:-1] > level[:, :-2]) & (level[:, 1:-1] > level[:, 2:])
    weight = (np.sqrt(level[:, 1:-1]) * peaks).sum(axis=0)
    hz = np.fft.rfftfreq(8192, 1 / RATE)[1:-1]
    used = (hz > 60) & (hz < 500)
    classes = np.round(12 * np.log2(hz[used] / 440) + 69).astype(int) % 12
    return np.bincount(classes, weight[used], 12)


def heard_key(wave_N: np.ndarray) -> tuple[int, str]:
    found = chroma(wave_N)
    fits = {
        (tonic, mode): float(np.corrcoef(np.roll(profile, tonic), found)[0, 1])
        for mode, profile in PROFILES.items()
        for tonic in range(12)
    }
    return max(fits, key=lambda key: fits[key])


def onset_strength(wave_N: np.ndarray) -> np.ndarray:
    """Rise of the spectrum per 10 ms."""
    level = np.log1p(20 * spectra(wave_N, 480, 240))
    return np.maximum(0, np.diff(level, axis=0)).sum(axis=1)


def digest(wave_N: np.ndarray) -> str:
    return hashlib.sha256(wave_N.tobytes()).hexdigest()


def test_key_is_heard(clips: list[tuple[Score, np.ndarray]]) -> None:
    right = sum(heard_key(wave) == (score.tonic, score.mode) for score, wave in clips)
    assert right >= 20  # by chance: 30 / 24


def test_chords_are_heard() -> None:
    """The tones of the composed chord are louder than the others, in nearly all chords."""
    louder = []
    for seed in range(6):
        score = compose(seed, 8.0, style="pop")
        wave = total({**render(score), "drums": np.zeros(8 * RATE, np.float32)})
        for chord in (chord for chord in score.chords if chord.duration_s > 1):
            found = chroma(wave[round(chord.onset_s * RATE) : round((chord.onset_s + chord.duration_s) * RATE)])
            tones = [(chord.root + i) % 12 for i in (0, 3 if chord.quality.startswith("m") else 4, 7)]
            louder.append(found[tones].mean() > np.delete(found, tones).mean())
    assert len(louder) >= 15 and np.mean(louder) > 0.9


def test_beats_are_heard(clips: list[tuple[Score, np.ndarray]]) -> None:
    """Onsets are stronger near the beats than elsewhere; and the composed tempo explains them better than others."""
    ratios, fits = [], []
    for score, wave in clips:
        strength = onset_strength(wave)
        at = np.arange(len(strength)) * 0.01 + 0.02
        beats = np.array([beat for beat, _ in score.beats])
        near = np.abs(at[:, None] - beats).min(axis=1) < 0.035
        ratios.append(strength[near].mean() / strength[~near].mean())
        fits.append(pulse(strength, at, score.tempo_bpm) / pulse(strength, at, score.tempo_bpm * 1.13))
    assert np.median(ratios) > 1.5 and np.mean(np.array(ratios) > 1) > 0.9
    assert np.mean(np.array(fits) > 1) > 0.9


def pulse(strength: np.ndarray, at: np.ndarray, tempo_bpm: float) -> float:
    """How much of the onsets is periodic with the beat."""
    turns = np.exp(-2j * np.pi * at * tempo_bpm / 60)
    return max(float(abs((strength * turns**k).sum())) for k in (1, 2))


def test_beat_grid() -> None:
    for style in STYLES:
        score = compose(5, 20.0, style=style)
        times = np.array([time for time, _ in score.beats])
        assert np.allclose(np.diff(times), 60 / score.tempo_bpm) and times[0] >= 0 and times[-1] < 20
        positions = [position for _, position in score.beats]
        n = max(positions)
        assert all(b == a % n + 1 for a, b in itertools.pairwise(positions))
        assert n == (2 if score.metre == (6, 8) else score.metre[0])


def test_scores_are_sound() -> None:
    for seed in range(40):
        score = compose(seed, 7.5)
        assert score.notes and all(n.onset_s >= 0 and n.onset_s + n.duration_s <= 7.5 + 1e-9 for n in score.notes)
        assert all(0 < n.velocity <= 1 and 24 <= n.midi <= 108 and n.part < len(score.parts) for n in score.notes)
        for spans in (score.chords, score.sections):
            ends = [span.onset_s + span.duration_s for span in spans]
            assert spans[0].onset_s == 0 and ends[-1] == pytest.approx(7.5)
            assert [span.onset_s for span in spans[1:]] == pytest.approx(ends[:-1])
        low, high = STYLES[score.style].tempo
        assert low <= score.tempo_bpm <= high
        json.dumps(score.as_dict(), allow_nan=False)


def test_styles_differ(by_style: dict[str, list[tuple[Score, np.ndarray]]]) -> None:
    """In tempo, density and brightness: each as far apart as such music is."""
    tempo = {style: np.mean([score.tempo_bpm for score, _ in found]) for style, found in by_style.items()}
    rate = {
        style: np.mean([(len(s.hits) + len(s.notes)) / s.seconds for s, _ in found])
        for style, found in by_style.items()
    }
    high = {style: np.mean([treble(wave) for _, wave in found]) for style, found in by_style.items()}
    assert tempo["hiphop"] < 102 < tempo["disco"] and tempo["reggae"] < 92 < tempo["metal"]
    assert rate["disco"] > 1.8 * rate["reggae"]
    assert high["metal"] > high["reggae"] and high["disco"] > 2 * high["classical"]
    assert not any(score.hits for score, _ in by_style["classical"])


def treble(wave_N: np.ndarray) -> float:
    power = (spectra(wave_N, 2048, 1024) ** 2).sum(axis=0)
    return float(power[len(power) // 3 :].sum() / power.sum())


def test_clips_are_clean(
    clips: list[tuple[Score, np.ndarray]], by_style: dict[str, list[tuple[Score, np.ndarray]]]
) -> None:
    for _, wave in [*clips, *(clip for found in by_style.values() for clip in found)]:
        assert wave.dtype == np.float32 and np.isfinite(wave).all()
        assert np.abs(wave).max() <= 0.981
        assert abs(float(wave.mean(dtype=np.float64))) < 1e-5
        rms = float(np.sqrt(np.mean(wave**2)))
        assert 10 ** (-35 / 20) < rms < 10 ** (-8 / 20)
        # No hole longer than a second in the music.
        loud = np.sqrt(np.mean(np.square(wave[: len(wave) // 2400 * 2400].reshape(-1, 2400)), axis=1)) > rms / 30
        assert max(map(len, "".join("x" if on else " " for on in loud).split("x"))) <= 10


def test_constraints_move_nothing_else() -> None:
    free = compose(11, 8.0, style="rock")
    assert compose(11, 8.0, style="rock", tonic=free.tonic, mode=free.mode, tempo_bpm=free.tempo_bpm) == free
    moved = compose(11, 8.0, style="rock", tonic=(free.tonic + 2) % 12)
    assert moved.hits == free.hits and [c.numeral for c in moved.chords] == [c.numeral for c in free.chords]
    assert compose(11, 8.0, style="pop", vocals=False).notes != ()
    assert all(part.stem != "vocals" for part in compose(11, 8.0, style="pop", vocals=False).parts)
    assert compose(3, 8.0, style="classical", metre=(3, 4), mode="minor").key.endswith("minor")


@pytest.mark.parametrize(
    "wrong", [{"style": "polka"}, {"mode": "dorian"}, {"tempo_bpm": 0.0}, {"style": "metal", "metre": (5, 4)}]
)
def test_wrong_constraints_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        compose(0, 5.0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        compose(0, float("nan"))


def test_stems_sum_to_the_mix() -> None:
    score = compose(8, 5.0, style="pop", vocals=True)
    stems = render(score)
    assert list(stems) == list(STEMS) and all(np.abs(stem).max() > 0.01 for stem in stems.values())
    plain = mix(stems, score, room=False, eq=False, noise=False, level=False)
    assert np.array_equal(plain, total(stems))
    # Room and equaliser are linear: they may be applied to each stem.
    finish = finish_of(score)
    apart = sum(produce(stem, finish, score.seed, RATE, True, True) for stem in stems.values())
    together = mix(stems, score, noise=False, level=False)
    assert np.abs(apart - together).max() < 1e-5 * np.abs(together).max() * 10


def test_pure_in_seed_order_thread_and_process() -> None:
    music = SynthCorpus(seed=7, n_items=6, seconds=3.0)
    forward = [digest(music.read(i)) for i in range(6)]
    assert [digest(music.read(i)) for i in reversed(range(6))] == forward[::-1]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda i: digest(music.read(i)), range(6))) == forward
    code = "import hashlib; from mir_benchmarks.synth.corpus import SynthCorpus; m = SynthCorpus(7, 6, 3.0);"
    code += "print([hashlib.sha256(m.read(i).tobytes()).hexdigest() for i in (4, 1)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([forward[4], forward[1]])
    assert len(set(forward)) == 6


def test_training_and_benchmark_share_nothing() -> None:
    train, bench = SynthCorpus(seed=3, n_items=20), SynthCorpus(seed=3, n_items=20, purpose="bench")
    assert {train.score(i).seed for i in range(20)}.isdisjoint(bench.score(i).seed for i in range(20))
    used = {
        purpose: {
            (p.family, p.index)
            for i in range(20)
            for p in music.score(i).parts
            if p.family != "voice"
        }
        for purpose, music in (("train", train), ("bench", bench))
    }  # fmt: skip
    assert used["train"] and used["train"].isdisjoint(used["bench"])
    assert INSTRUMENTS["train"][1] <= INSTRUMENTS["bench"][0]
    first = {stream((purpose, 3, i), "plan").random() for purpose in PURPOSES.values() for i in range(50)}
    assert len(first) == 50 * len(PURPOSES)


def test_corpus_takes_options_and_refuses_nonsense() -> None:
    music = corpus(seed=2, n_items=3, seconds=1.0, rate_hz=16_000)
    assert len(music) == 3 and music.read(2).shape == (16_000,) and music == corpus(**dataclasses.asdict(music))
    with pytest.raises(IndexError):
        music.read(3)
    for wrong in ({"purpose": "test"}, {"seed": -1}, {"rate_hz": 100}, {"n_items": 0}):
        with pytest.raises(ValueError):
            corpus(**wrong)


def real_time_factor(n_clips: int = 10, seconds: float = 10.0) -> float:
    """Seconds of music per second of one core's time."""
    music = SynthCorpus(seed=99, n_items=n_clips, seconds=seconds)
    music.read(0)
    begin = time.process_time()
    for i in range(n_clips):
        music.read(i)
    return n_clips * seconds / (time.process_time() - begin)


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    factor = real_time_factor()
    with capsys.disabled():
        print(f"\nsynthetic music: {factor:.0f} times real time on one core")
    assert factor > 8
