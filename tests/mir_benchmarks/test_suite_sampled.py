"""The suite of sampled sound: real layouts, banks parted by split, and sound that agrees with the annotations."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness.bench_runs import oracle, run
from harness.scores import HAS_MUSIC21, invented_scores, with_sounds

from mert.errors import MertError
from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.suite.emomusic import emotion
from mir_benchmarks.suite.giantsteps import says_its_key
from mir_benchmarks.suite.musdb import PlayedTrack
from mir_benchmarks.suite.nsynth import PROGRAMS, PlayedNote
from mir_benchmarks.suite.plans import CORPORA, CorpusPlan, RecordingPlan
from mir_benchmarks.suite.sizes import SIZES, Extent
from mir_benchmarks.suite.studio import PlayedClip
from mir_benchmarks.suite.vocalset import SungClip
from mir_benchmarks.suite.write import plan_corpus, write_suite
from mir_benchmarks.synth import banks
from mir_benchmarks.synth.band import Band
from mir_benchmarks.synth.banks import banks_of
from mir_benchmarks.synth.tones import hz_of
from mir_benchmarks.tasks.registry import TASKS

MICRO = {"gtzan": Extent(2, 1, 1, 3.0, groups=10), "giantsteps": Extent(24, 8, 12, 5.0),
         "nsynth": Extent(66, 10, 20, 1.0), "emomusic": Extent(20, 8, 10, 2.0),
         "musdb18": Extent(1, 1, 1, 2.0)}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def scores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not HAS_MUSIC21:  # all tests that need scores are skipped
        yield
        return
    with pytest.MonkeyPatch.context() as patch, invented_scores(tmp_path_factory.mktemp("cache"), patch):
        patch.setitem(SIZES, "sampled-micro", MICRO)
        yield


def planned(name: str, extent: Extent | None = None) -> CorpusPlan:
    return plan_corpus(name, extent or SIZES["tiny"][name], sampled=True)


def wave_of(recording: RecordingPlan) -> tuple[np.ndarray, int]:
    ((_, data),) = recording.encode().items()
    wave, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    return wave, rate_hz


def banks_in(recording: RecordingPlan) -> set[str]:
    if isinstance(recording, PlayedNote):
        return {recording.bank}
    assert isinstance(recording, PlayedClip | PlayedTrack)
    return set(recording.band.banks)


@with_sounds
@pytest.mark.parametrize("name", [name for name in CORPORA if name != "vocalset"])
def test_readers_find_what_was_planned_and_no_bank_of_train_plays_elsewhere(name: str, tmp_path: Path) -> None:
    plan = planned(name)
    by_path = {path: recording for recording in plan.recordings for path in recording.paths}
    for path, text in (dict.fromkeys(by_path, "x") | plan.texts).items():
        file = tmp_path / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    heard: dict[str, set[str]] = {split: set() for split in SPLITS}
    for task in (task for task in TASKS.values() if task.corpus == name):
        dataset = task.read(tmp_path)
        assert dataset.counts == plan.counts[task.name]
        for item in dataset.items:
            place = item.audio.relative_to(tmp_path / name)
            of_item = (one for path, one in by_path.items() if f"{path}/".startswith(f"{place.as_posix()}/"))
            heard[item.split] |= banks_in(next(of_item))
    assert heard["train"] == set(banks_of("train")) and heard["valid"] == heard["test"] == set(banks_of("test"))


@with_sounds
def test_singing_stays_synthetic() -> None:
    assert all(isinstance(clip, SungClip) for clip in planned("vocalset").recordings)
    assert planned("vocalset").recordings == plan_corpus("vocalset", SIZES["tiny"]["vocalset"]).recordings


@with_sounds
def test_notes_are_the_pitches_of_their_names() -> None:
    """The strongest partial is one of the label's; programs of test are in no other split, its pitches in train."""
    plan = planned("nsynth", Extent(66, 20, 30, 1.0))
    programs: dict[str, set[int]] = {split: set() for split in SPLITS}
    right = 0
    for note in plan.recordings:
        assert isinstance(note, PlayedNote)
        programs[note.path.split("/")[0].removeprefix("nsynth-")].add(note.program)
        family = note.path.split("/")[-1].rpartition("_")[0].rpartition("_")[0]
        assert note.program in PROGRAMS[family]
        wave_N, rate_hz = wave_of(note)
        assert rate_hz == 16_000 and 0.2 < np.abs(wave_N).max() < 0.9 and np.abs(wave_N[:8_000]).max() > 0.1
        level = np.abs(np.fft.rfft(wave_N[1_600:11_200] * np.hanning(9_600), 1 << 17))
        partial = np.argmax(level) * rate_hz / (1 << 17) / hz_of(note.midi)
        right += abs(partial - round(partial)) < 0.02 * round(partial) or abs(partial - 0.5) < 0.01  # an organ's sub
    assert right >= 0.93 * len(plan.recordings)
    assert not programs["valid"] & programs["test"]
    examples = {split: json.loads(plan.texts[f"nsynth-{split}/examples.json"]).values() for split in SPLITS}
    pitches = {split: {row["pitch"] for row in rows} for split, rows in examples.items()}
    assert pitches["valid"] | pitches["test"] <= pitches["train"]
    instruments = {split: {row["instrument_str"] for row in rows} for split, rows in examples.items()}
    assert not instruments["train"] & (instruments["valid"] | instruments["test"])


@with_sounds
def test_beats_are_where_the_drums_are_though_the_pulse_bends() -> None:
    """With the drums alone: a kick or snare lies within 12 ms of most beats, and beats are not even."""
    plan = planned("gtzan", Extent(1, 1, 1, 6.0, groups=10))
    uneven = near = total = 0
    for clip in plan.recordings:
        assert isinstance(clip, PlayedClip)
        text = plan.texts[f"beats/gtzan_{Path(clip.path).stem.replace('.', '_')}.beats"]
        beats = np.array([float(line.split("\t")[0]) for line in text.splitlines()])
        assert (np.diff(beats) > 0.15).all() and beats[-1] < 6.0
        uneven += np.diff(beats).std() > 0.004 * np.diff(beats).mean()
        hits = np.array(
            [hit.onset_s for hit in clip.score.hits if hit.piece in ("kick", "snare", "rim", "clap", "ride", "hat")]
        )
        if len(hits):
            near += sum(np.abs(hits - beat).min() < 0.012 for beat in beats)
            total += len(beats)
    assert uneven >= 27 and near > 0.6 * total > 100


@with_sounds
def test_what_sounds_is_where_the_beats_are() -> None:
    """The growth of the spectrum is greater at annotated beats than at random times."""
    ratios = []
    plan = planned("gtzan", Extent(1, 0, 0, 6.0, groups=10))
    for clip in plan.recordings:
        wave_N, rate_hz = wave_of(clip)
        hop = rate_hz // 100
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave_N, 2 * hop), 4 * hop)[::hop] * np.hanning(4 * hop)
        level = np.log(np.abs(np.fft.rfft(frames)) + 1e-3)
        growth = np.maximum(0, np.diff(level, axis=0, prepend=level[:1])).sum(axis=1)
        beats = np.array([time for time, _ in clip.score.beats if 0.1 < time < 5.8])  # type: ignore[attr-defined]
        at = np.mean([growth[max(0, round(100 * time) - 3) : round(100 * time) + 4].max() for time in beats])
        anywhere = np.mean([growth[i - 3 : i + 4].max() for i in range(10, 580)])
        ratios.append(at / anywhere)
    assert np.median(ratios) > 1.15 and sum(ratio > 1 for ratio in ratios) >= 8, ratios


@with_sounds
def test_keys_of_real_tunes_and_of_ours() -> None:
    plan = planned("giantsteps", Extent(24, 4, 8, 6.0))
    real = [clip for clip in plan.recordings if clip.score.style == "ryansMammoth"]  # type: ignore[attr-defined]
    assert len(real) == 18 and all(says_its_key(clip.score) for clip in real)  # type: ignore[attr-defined]
    for clip in real:
        assert isinstance(clip, PlayedClip)
        classes = {(note.midi - clip.score.tonic) % 12 for note in clip.score.notes if note.part == 0}
        allowed = {0, 2, 4, 5, 7, 9, 11} if clip.score.mode == "major" else {0, 2, 3, 5, 7, 8, 10}
        assert classes <= allowed, "a tune in the key that is annotated"
    keys = plan.texts["giantsteps-mtg-key-dataset/annotations/annotations.txt"].splitlines()
    assert len({line.split("\t")[1] for line in keys[1:]}) >= 20


@with_sounds
def test_ratings_follow_what_is_played() -> None:
    plan = planned("emomusic", Extent(60, 0, 0, 2.0))
    rows = [line.split(",") for line in plan.texts["annotations/static_annotations.csv"].splitlines()[1:]]
    rated = np.array([[float(row[1]), float(row[3])] for row in rows])
    played = np.array([emotion(clip.score) for clip in plan.recordings])  # type: ignore[attr-defined]
    for i in (0, 1):
        assert 0.85 < np.corrcoef(rated[:, i], played[:, i])[0, 1] < 0.995


@with_sounds
def test_stems_of_sampled_songs_sum_to_the_mixture() -> None:
    for track in planned("musdb18", Extent(1, 0, 1, 2.0)).recordings:
        assert isinstance(track, PlayedTrack) and isinstance(track.band, Band)
        waves = {path.rpartition("/")[2]: soundfile.read(io.BytesIO(data), dtype="float32")[0]
                 for path, data in track.encode().items()}  # fmt: skip
        mixture = waves.pop("mixture.wav")
        assert mixture.shape == (88_200, 2) and 0.5 < np.abs(mixture).max() < 1
        assert np.abs(mixture - sum(waves.values())).max() < 1e-6
        for name, stem in waves.items():
            assert np.sqrt(np.mean(stem**2)) > 0.001, name
        assert np.abs(waves["other.wav"][:, 0] - waves["other.wav"][:, 1]).max() > 1e-3, "stereo"


@pytest.mark.check
@with_sounds
def test_the_same_bytes_from_any_number_of_workers(tmp_path: Path) -> None:
    def contents(home: Path) -> dict[str, bytes]:
        return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}

    alone = write_suite(tmp_path / "a", "sampled-micro", corpora=["musdb18", "emomusic"])
    several = write_suite(tmp_path / "b", "sampled-micro", workers=2, corpora=["emomusic", "musdb18"])
    assert contents(alone) == contents(several)
    assert json.loads((alone / "musdb18" / "SYNTHETIC.json").read_text())["size"] == "sampled-micro"


def test_a_missing_bank_ends_it_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fluidsynth", exc_type=ImportError)
    monkeypatch.setattr(banks, "FOLDERS", (tmp_path,))
    monkeypatch.setitem(SIZES, "sampled-micro", MICRO)
    with pytest.raises(MertError, match="apt-get install"):
        write_suite(tmp_path / "suite", "sampled-micro", corpora=["gtzan"])
    assert not (tmp_path / "suite").exists()


@with_sounds
@pytest.mark.check
@pytest.mark.parametrize("task", ["nsynth_pitch", "nsynth_instrument", "giantsteps_key", "gtzan_genre", "emomusic"])
def test_the_true_answer_is_found(task: str, tmp_path: Path) -> None:
    home = write_suite(tmp_path / "suite", "sampled-micro", corpora=[TASKS[task].corpus])
    result = run(TASKS[task], oracle(TASKS[task], home), home, tmp_path / "out", lrs=(5e-3, 1e-2), seeds=(0,))
    assert all(metric["mean"] >= 99 for metric in result.metrics.values()), result.metrics
