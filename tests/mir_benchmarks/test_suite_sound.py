"""What the generated corpora sound like agrees with what their annotations say, measured by other means."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mir_benchmarks.suite.emomusic import emotion
from mir_benchmarks.suite.facts import facts_of
from mir_benchmarks.suite.musdb import Track
from mir_benchmarks.suite.nsynth import NoteClip
from mir_benchmarks.suite.plans import CORPORA, CorpusPlan, PlannedClip, first_score
from mir_benchmarks.suite.sizes import SIZES, Extent
from mir_benchmarks.suite.vocalset import SungClip
from mir_benchmarks.suite.write import plan_corpus
from mir_benchmarks.synth.corpus import SynthCorpus
from mir_benchmarks.synth.render import render

HOP_S = 0.01
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)  # Krumhansl's probe tones
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@cache
def tiny(name: str) -> CorpusPlan:
    return plan_corpus(name, SIZES["tiny"][name])


def heard(recording: object) -> dict[str, tuple[np.ndarray, int]]:
    """Decoded files: [N, channels] and the rate."""
    files = recording.encode()  # type: ignore[attr-defined]
    return {path: soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True) for path, data in files.items()}


def wave_of(recording: object) -> tuple[np.ndarray, int]:
    ((wave_NC, rate_hz),) = heard(recording).values()
    return wave_NC[:, 0], rate_hz


def onset_strength(wave_N: np.ndarray, rate_hz: int) -> np.ndarray:
    """Growth of the log spectrum in frames of 10 ms, centred on the frame's time."""
    hop = round(HOP_S * rate_hz)
    padded = np.pad(wave_N, 2 * hop)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4 * hop)[::hop] * np.hanning(4 * hop)
    level = np.log(np.abs(np.fft.rfft(frames)) + 1e-3)
    return np.maximum(0, np.diff(level, axis=0, prepend=level[:1])).sum(axis=1)


def test_onsets_lie_on_the_beats() -> None:
    """Near annotated beats there is more to hear than a third and two thirds of the way to the next one."""
    plan = plan_corpus("gtzan", Extent(1, 0, 0, 6.0, groups=10))
    ratios = []
    for clip in plan.recordings:
        assert isinstance(clip, PlannedClip)
        wave_N, rate_hz = wave_of(clip)
        assert rate_hz == 22_050 and len(wave_N) == 6 * rate_hz
        strength = onset_strength(wave_N, rate_hz)
        text = plan.texts[f"beats/gtzan_{Path(clip.path).stem.replace('.', '_')}.beats"]
        beats = np.array([float(line.split("\t")[0]) for line in text.splitlines()])
        beats = beats[(beats > 0.1) & (beats < 5.0)]
        period = 60 / clip.score.tempo_bpm

        def near(times: np.ndarray, strength: np.ndarray = strength) -> float:
            return float(np.mean([strength[max(0, round(t / HOP_S) - 3) : round(t / HOP_S) + 4].max() for t in times]))

        ratios.append(near(beats) / max(near(beats + 0.33 * period), near(beats + 0.67 * period), 1e-6))
    assert np.median(ratios) > 1.25 and sum(ratio > 1 for ratio in ratios) >= 8, ratios


def test_pitch_of_notes() -> None:
    """By autocorrelation, for families with harmonic spectra: the best period within a fourth is the labelled one."""
    plan = plan_corpus("nsynth", Extent(44, 0, 0, 4.0))
    checked = 0
    for note in plan.recordings:
        assert isinstance(note, NoteClip)
        wave_N, rate_hz = wave_of(note)
        assert rate_hz == 16_000 and len(wave_N) == 64_000 and 0.2 < np.abs(wave_N).max() < 0.9
        assert np.abs(wave_N[-4_000:]).max() < 0.3 * np.abs(wave_N).max(), "the last second is release and silence"
        pitch = int(note.path.split("-")[-2])
        if note.family in ("mallet", "keyboard", "synth_lead"):  # bars and FM have no such period
            continue
        part = wave_N[8_000:24_000]
        lags = rate_hz / (440 * 2 ** ((pitch + np.arange(-5, 5.01, 0.1) - 69) / 12))
        hz = np.fft.rfftfreq(2**15, 1 / rate_hz)[:8_192]  # partials above 4 kHz add nothing
        spectrum = np.abs(np.fft.rfft(part, 2**15)[:8_192]) ** 2
        match = [float(spectrum @ np.cos(2 * np.pi * hz * lag / rate_hz)) for lag in lags]
        assert abs(np.argmax(match) - 50) <= 4, (note.path, np.argmax(match))
        checked += 1
    assert checked >= 28


def test_stems_sum_to_the_mixture() -> None:
    for track in plan_corpus("musdb18", Extent(2, 0, 0, 3.0)).recordings:
        assert isinstance(track, Track)
        files = {path.rpartition("/")[2]: wave for path, wave in heard(track).items()}
        assert {rate_hz for _, rate_hz in files.values()} == {44_100}
        mixture = files.pop("mixture.wav")[0]
        assert mixture.shape == (3 * 44_100, 2) and 0.5 < np.abs(mixture).max() < 1
        assert np.abs(mixture - sum(wave for wave, _ in files.values())).max() < 1e-6
        for name, (stem, _) in files.items():
            assert np.sqrt(np.mean(stem**2)) > 0.002, name
            assert np.abs(stem[:, 0] - stem[:, 1]).max() > 1e-3, "stereo"


def test_harmony_tells_the_key() -> None:
    """Correlated with probe tones, what sounds is mostly nearest to the annotated key."""
    profiles = {(tonic, mode): np.roll(tones, tonic) for mode, tones in (("major", MAJOR), ("minor", MINOR))
                for tonic in range(12)}  # fmt: skip
    right = 0
    recordings = plan_corpus("giantsteps", Extent(16, 0, 0, 4.0)).recordings
    for clip in recordings:
        assert isinstance(clip, PlannedClip)
        wave_N, rate_hz = wave_of(clip)
        level = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N))))
        hz = np.fft.rfftfreq(len(wave_N), 1 / rate_hz)
        tonal = (hz > 60) & (hz < 1_500)
        classes = np.round(12 * np.log2(hz[tonal] / 440) + 69).astype(int) % 12
        chroma = np.bincount(classes, np.sqrt(level[tonal]), 12)
        best = max(profiles, key=lambda key: np.corrcoef(chroma, profiles[key])[0, 1])
        right += best == (clip.score.tonic, clip.score.mode)
    assert right >= 0.3 * len(recordings), right  # of 16, by chance 1


def test_ratings_follow_the_music() -> None:
    """Fast and dense is aroused, major and high is pleasant, and ratings stay near what was composed."""
    plan = plan_corpus("emomusic", Extent(80, 0, 0, 3.0))
    rows = [line.split(",") for line in plan.texts["annotations/static_annotations.csv"].splitlines()[1:]]
    rated = np.array([[float(row[1]), float(row[3])] for row in rows])
    scores = [clip.score for clip in plan.recordings if isinstance(clip, PlannedClip)]
    composed = np.array([emotion(score) for score in scores])
    for i in (0, 1):
        assert 0.85 < np.corrcoef(rated[:, i], composed[:, i])[0, 1] < 0.99
    assert np.corrcoef(rated[:, 0], [score.tempo_bpm for score in scores])[0, 1] > 0.3
    major = np.array([score.mode == "major" for score in scores])
    assert rated[major, 1].mean() - rated[~major, 1].mean() > 0.6
    assert np.abs(composed.mean(axis=0)).max() < 0.6 and 0.6 < composed.std(axis=0).min() < 1.4


def test_voices_are_where_tags_say() -> None:
    for clip in tiny("magnatagatune").recordings[:12]:
        assert isinstance(clip, PlannedClip)
        stems = render(clip.score, 8_000)
        assert ("voice" in facts_of(clip.score)) == bool(np.abs(stems["vocals"]).max() > 0)
        assert ("drums" in facts_of(clip.score)) == bool(np.abs(stems["drums"]).max() > 0)


@pytest.mark.parametrize(("corpus", "rate_hz"), [("magnatagatune", 16_000), ("emomusic", 44_100),
                                                 ("mtg-jamendo", 24_000), ("giantsteps", 22_050)])  # fmt: skip
def test_mp3_is_what_was_mixed(corpus: str, rate_hz: int) -> None:
    """Length, rate and place in time survive the coder."""
    clip = tiny(corpus).recordings[0]
    assert isinstance(clip, PlannedClip)
    wave_N, found_hz = wave_of(clip)
    assert found_hz == rate_hz and len(wave_N) == round(clip.seconds * rate_hz)
    lossless_N, _ = soundfile.read(io.BytesIO(PlannedClip("a.wav", clip.score, rate_hz).encode()["a.wav"]))
    assert np.corrcoef(wave_N, lossless_N)[0, 1] > 0.95


def test_singers_begin_after_silence() -> None:
    plan = tiny("vocalset")
    for clip in plan.recordings[::9]:
        assert isinstance(clip, SungClip)
        wave_N, rate_hz = wave_of(clip)
        start = round(clip.silence_s * rate_hz)
        assert np.abs(wave_N[: start - 10]).max() < 0.002 < 0.02 < np.abs(wave_N[start:]).max() < 1
        assert len(wave_N) - start >= 132_000, "a chunk of MARBLE's"


def test_training_is_never_heard_in_the_suite() -> None:
    """Other seeds, instruments, kits and singers."""
    trained = [SynthCorpus(seed=0, n_items=40, seconds=4.0).score(i) for i in range(40)]
    players = {(part.family, part.index) for score in trained for part in score.parts}
    kits = {score.kit for score in trained}
    for name in CORPORA:
        for recording in tiny(name).recordings:
            if isinstance(recording, NoteClip):
                assert 64 <= recording.index < 96 and recording.seed[0] == 2
                continue
            score = recording.score  # type: ignore[attr-defined]
            assert score.seed[0] == 2 and score.kit not in kits
            assert not {(part.family, part.index) for part in score.parts} & players
            for part in score.parts:
                assert (20 <= part.index <= 40) if part.family == "voice" else (64 <= part.index < 96)


def test_seeds_are_not_shared_between_recordings() -> None:
    seeds = []
    for name in CORPORA:
        plan = tiny(name)
        seeds += [(one.seed if isinstance(one, NoteClip) else one.score.seed) for one in plan.recordings]  # type: ignore[attr-defined]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(ValueError, match="nothing in 256 scores"):
        first_score("gtzan", 0, 0, 1.0, lambda score: False)
