"""Robustness and triplets: encoders with known answers, changes that are what they say, MP3 that stays in time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness.sounds import music
from typer.testing import CliRunner

from mert.errors import AudioError, UsageError
from mir_benchmarks.cli.bench import app
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.invariance import robustness
from mir_benchmarks.invariance.robustness import CHANGES, measure_robustness, retrieved, robustness_tables
from mir_benchmarks.invariance.segments import AudioFile, audio_files, embed_segments, over_recordings
from mir_benchmarks.invariance.triplets import measure_triplets, triplets_table
from probes.encoders import Encoder, EncoderFacts

RATE = 24_000
RANDOM = np.random.default_rng(0)


def encoder_of(function: Callable[[np.ndarray], np.ndarray], dim: int, name: str = "known") -> Encoder:
    """An encoder that gives one frame [1, 1, D] for a segment."""
    facts = EncoderFacts(name, "5" * 64, RATE, 75.0, (name,), dim)
    return Encoder(facts, lambda wave_N: function(wave_N.astype(np.float64))[None, None].astype(np.float32))


def shape_of_spectrum(wave_N: np.ndarray) -> np.ndarray:
    """Twelve bands of the power spectrum without DC, as shares: neither level nor offset matters."""
    bands = np.array_split(np.abs(np.fft.rfft(wave_N - wave_N.mean())) ** 2, 12)
    power = np.array([band.sum() for band in bands])
    return power / power.sum()


@pytest.fixture
def folder(write: Callable[..., Path], tmp_path: Path) -> Path:
    for i in range(3):
        write(f"songs/{i}.wav", music(7.0, seed=i), subtype="FLOAT")
    return tmp_path / "songs"


def applied(name: str, wave_N: np.ndarray) -> np.ndarray:
    return CHANGES[name](wave_N, RATE, np.random.default_rng(1))


def test_what_ignores_the_level_gives_cosine_one_and_finds_all_again(folder: Path) -> None:
    sources, _ = audio_files([folder])
    measured, failed = measure_robustness([encoder_of(shape_of_spectrum, 12)], sources)
    changes = measured["models"][0]["changes"]
    for change in ("gain -6 dB", "gain -20 dB", "DC offset of 0.01 of full scale"):
        cosine, found = (changes[change]["known"][what] for what in ("cosine", "retrieval"))
        assert cosine["mean"] == pytest.approx(1, abs=1e-4) and found["mean"] == 100, change
        assert cosine["ci95"] == pytest.approx([1, 1], abs=1e-4)
    assert changes["speed/pitch +12 semitones"]["known"]["cosine"]["mean"] < 0.9
    assert not failed


def test_what_hears_only_the_level_is_lost_under_gain(folder: Path) -> None:
    """Seen from the mean, levels are above or below it; 20 dB softer, all are below."""
    sources, _ = audio_files([folder])
    loudness = encoder_of(lambda wave_N: np.array([np.sqrt(np.mean(wave_N**2))]), 1)
    levels_n = embed_segments(loudness, sources).vectors["clean"][:, 0, 0]
    one = measure_robustness([loudness], sources)[0]["models"][0]
    wanted = np.where(levels_n < levels_n.mean(), 1.0, -1.0)
    assert set(wanted) == {1.0, -1.0}
    assert one["changes"]["gain -20 dB"]["known"]["cosine"]["mean"] == pytest.approx(wanted.mean())


def test_what_hears_nothing_finds_by_chance(folder: Path) -> None:
    sources, _ = audio_files([folder])
    deaf = encoder_of(lambda wave_N: np.ones(3), 3)
    one = measure_robustness([deaf], sources)[0]["models"][0]
    assert one["n_segments"] == 6 and one["chance"] == pytest.approx(100 / 6)
    assert one["changes"]["gain -6 dB"]["known"]["retrieval"]["mean"] == pytest.approx(100 / 6)
    triplets = measure_triplets([deaf], sources)[0]["models"][0]
    assert triplets["layers"]["known"]["mean"] == 50.0


def test_changes_are_what_they_say() -> None:
    wave_N = music(3.0)
    assert np.abs(applied("gain -20 dB", wave_N) - 0.1 * wave_N).max() < 1e-7
    assert np.abs(applied("DC offset of 0.01 of full scale", wave_N) - wave_N - 0.01).max() < 1e-7
    for snr_db in (30, 20, 10):
        added_N = applied(f"white noise, SNR {snr_db} dB", wave_N) - wave_N
        assert 10 * np.log10((wave_N**2).mean() / (added_N**2).mean()) == pytest.approx(snr_db, abs=0.1)
        power = np.abs(np.fft.rfft(added_N)) ** 2
        assert power[: len(power) // 2].sum() == pytest.approx(power[len(power) // 2 :].sum(), rel=0.05)


@pytest.mark.parametrize(("semitones", "factor"), [(1, 2 ** (1 / 12)), (12, 2.0)])
def test_speed_raises_a_tone_and_shortens_it(semitones: int, factor: float) -> None:
    wave_N = np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)
    name = f"speed/pitch +{semitones} semitone{'s' * (semitones > 1)}"
    faster_N = applied(name, wave_N)
    assert len(faster_N) == pytest.approx(len(wave_N) / factor, abs=2)
    spectrum = np.abs(np.fft.rfft(faster_N * np.hanning(len(faster_N))))
    assert spectrum.argmax() * RATE / len(faster_N) == pytest.approx(440 * factor, abs=1)


@pytest.mark.parametrize("kbps", [128, 64])
@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_mp3_has_its_bit_rate_stays_in_time_and_is_not_the_same(kbps: int, rate_hz: int) -> None:
    wave_N = music(3.0, rate_hz)
    heard_N = CHANGES[f"MP3, {kbps} kbit/s"](wave_N, rate_hz, RANDOM)
    assert heard_N.shape == wave_N.shape
    size = 2 * len(wave_N)
    lags = np.fft.irfft(np.fft.rfft(heard_N, size) * np.fft.rfft(wave_N, size).conj(), size)
    assert lags.argmax() == 0
    snr_db = 10 * np.log10((wave_N**2).sum() / ((heard_N - wave_N) ** 2).sum())
    assert 10 < snr_db < 60
    file = robustness.mp3_encoded(wave_N, kbps)
    assert file[0] == 0xFF and file[1] & 0xFE == 0xFA  # MPEG-1, layer III
    frame = 144_000 * kbps // robustness.MP3_HZ  # bytes of a frame, or one more
    second = next(at for at in range(frame, frame + 2) if file[at] == 0xFF and file[at + 1] & 0xFE == 0xFA)
    assert {128: 9, 64: 5}[kbps] == file[second + 2] >> 4  # the standard's index of the bit rate


def test_a_decoder_that_keeps_the_delay_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = robustness.mp3_decoded
    monkeypatch.setattr(robustness, "mp3_decoded", lambda file: np.pad(decoded(file), (1105, 0)))
    robustness.mp3_delay.cache_clear()
    try:
        assert robustness.mp3_delay(128) == 1105
        late_N = CHANGES["MP3, 128 kbit/s"](music(2.0), RATE, RANDOM)
    finally:
        monkeypatch.undo()
        robustness.mp3_delay.cache_clear()
    assert np.abs(late_N - CHANGES["MP3, 128 kbit/s"](music(2.0), RATE, RANDOM)).max() < 1e-6


def test_retrieved_shares_between_equals() -> None:
    clean = np.array([[1.0, 0], [1.0, 0], [0, 1.0]])
    assert retrieved(clean, clean).tolist() == [0.5, 0.5, 1.0]
    assert retrieved(clean[::-1], clean).tolist() == [0.0, 0.5, 0.0]


def by_hand(vectors: dict[int, list[list[float]]]) -> float:
    """Accuracy of triplets by loops, around the mean of all."""
    flat = [(recording, np.array(vector)) for recording, of in vectors.items() for vector in of]
    mean = np.mean([vector for _, vector in flat], axis=0)
    seen = [(recording, (v - mean) / np.linalg.norm(v - mean)) for recording, v in flat]
    pairs: dict[tuple[int, int], list[float]] = {}
    for i, (r, anchor) in enumerate(seen):
        for j, (same, positive) in enumerate(seen):
            for other, negative in seen:
                if r == same and i != j and other != r:
                    difference = anchor @ positive - anchor @ negative
                    pairs.setdefault((r, other), []).append(1.0 if difference > 0 else 0.0)
    return 100 * float(np.mean([np.mean(of) for of in pairs.values()]))


def planted(tmp_path: Path, vectors: dict[int, list[list[float]]]) -> tuple[Encoder, list[AudioFile]]:
    """Recordings whose segments an encoder knows by their level, and gives the vectors that were planted."""
    flat = [vector for of in vectors.values() for vector in of]
    level = 0
    for recording, of in vectors.items():
        levels = np.repeat(0.01 * (1 + level + np.arange(len(of))), RATE)
        level += len(of)
        wave_N = levels * np.tile([1.0, -1.0], len(levels) // 2)
        soundfile.write(tmp_path / f"{recording}.wav", wave_N, RATE, subtype="FLOAT")
    encoder = encoder_of(lambda wave_N: np.array(flat[round(np.abs(wave_N).max() * 100) - 1]), 2)
    return encoder, audio_files([tmp_path])[0]


@pytest.mark.parametrize("seed", range(3))
def test_triplets_agree_with_loops(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    vectors = {r: random.standard_normal((n, 2)).tolist() for r, n in enumerate((3, 1, 4, 2))}
    encoder, sources = planted(tmp_path, vectors)
    one = measure_triplets([encoder], sources, segment_s=1.0)[0]["models"][0]
    accuracy = one["layers"]["known"]
    assert accuracy["mean"] == pytest.approx(by_hand(vectors))
    assert one["n_triplets"] == 3 * 2 * 7 + 4 * 3 * 6 + 2 * 1 * 8
    assert (one["n_segments"], one["n_recordings"], one["n_anchor_recordings"]) == (10, 4, 3)
    assert accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]


def test_triplets_of_what_is_apart_and_of_what_is_crossed(tmp_path: Path) -> None:
    apart = {0: [[1.0, 0.1], [1.0, -0.1]], 1: [[-1.0, 0.1], [-1.0, -0.1]]}
    crossed = {0: [[1.0, 0.0], [-1.0, 0.0]], 1: [[0.0, 1.0], [0.0, -1.0]]}
    for i, (vectors, wanted) in enumerate(((apart, 100.0), (crossed, 0.0))):
        (tmp_path / str(i)).mkdir()
        encoder, sources = planted(tmp_path / str(i), vectors)
        one = measure_triplets([encoder], sources, segment_s=1.0)[0]["models"][0]
        assert one["layers"]["known"]["mean"] == pytest.approx(wanted)


def test_recordings_count_alike_and_are_what_is_drawn() -> None:
    values, owners = np.array([1.0] * 98 + [0.0, 0.0]), np.array([0] * 98 + [1, 2])
    summary = over_recordings(values, owners, (0, 1))
    assert summary["mean"] == pytest.approx(1 / 3) and summary["by_recording"] == [1, 0, 0]
    low, high = summary["ci95"]
    assert 0 < low < 0.1 and 0.7 < high < 1  # of three recordings, whatever their segments
    assert over_recordings(np.ones(5), np.zeros(5, int), (0, 1))["ci95"] is None
    assert over_recordings(np.ones(9), np.arange(9), (0, 1))["ci95"][0] < 0.75  # nine of nine are not all


def test_a_bad_file_a_copy_and_silence_are_left_out(folder: Path) -> None:
    (folder / "bad.wav").write_bytes(b"RIFF but no more")
    (folder / "copy.wav").write_bytes((folder / "0.wav").read_bytes())
    soundfile.write(folder / "silent.wav", np.zeros(4 * RATE), RATE)
    sources, left_out = audio_files([folder])
    assert left_out == {"copy.wav": "the same file as 0.wav"}
    heard = embed_segments(encoder_of(shape_of_spectrum, 12), sources)
    assert [one["name"] for one in heard.recordings] == ["0.wav", "1.wav", "2.wav"]
    assert set(heard.left_out) == {"bad.wav", "silent.wav"} and heard.failed == ("bad.wav",)
    assert heard.owner_n.tolist() == [0, 0, 1, 1, 2, 2]  # 7 s: two segments of 3 s, the rest is dropped


def test_noise_does_not_depend_on_the_other_recordings(folder: Path) -> None:
    encoder = encoder_of(shape_of_spectrum, 12)
    sources, _ = audio_files([folder])
    changes = {"noise": CHANGES["white noise, SNR 10 dB"]}
    together = embed_segments(encoder, sources, changes).vectors["noise"]
    assert np.array_equal(together[4:], embed_segments(encoder, sources[2:], changes).vectors["noise"])


def test_too_little_is_refused(folder: Path, tmp_path: Path) -> None:
    encoder = encoder_of(shape_of_spectrum, 12)
    with pytest.raises(TaskError, match="2 segments of 1 recordings make no triplet"):
        measure_triplets([encoder], audio_files([folder / "0.wav"])[0])
    with pytest.raises(UsageError, match="no recordings"):
        (tmp_path / "empty").mkdir()
        audio_files([tmp_path / "empty"])
    with pytest.raises(AudioError, match="cannot be read"):
        audio_files([tmp_path / "nowhere.wav"])


def test_the_commands_write_json_without_folders_and_print_tables(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write("songs/0.wav", music(2.1)).parent
    write("songs/1.wav", music(1.1, seed=1))
    (folder / "bad.wav").write_bytes(b"RIFF but no more")
    for command, n_rows in (("robustness", len(CHANGES)), ("triplets", 2)):
        out = tmp_path / f"{command}.json"
        words = [command, "-m", "log-mel", "-m", "random-nano", "--layer", "layer02", str(folder), "--segment-s", "1"]
        done = CliRunner().invoke(app, [*words, "-o", str(out)])
        assert done.exit_code == 3, done.output
        found = json.loads(out.read_text())
        assert (found["format"], found["schema"]) == (f"mert-{command}", 1) and "torch" in found["versions"]
        assert [one["model"]["name"] for one in found["models"]] == ["log-mel", "random-nano"]
        assert [one["layer"] for one in found["models"]] == ["log-mel", "layer02"]
        assert str(tmp_path) not in out.read_text() and len(found["models"][1]["model"]["sha256"]) == 64
        assert {one["name"] for one in found["recordings"]} == {"0.wav", "1.wav"}
        assert list(found["left_out"]) == ["bad.wav"]
        table = triplets_table(found) if command == "triplets" else robustness_tables(found)[0]
        assert len(table.rows) == n_rows and all(len(row) == len(table.columns) for row in table.rows)
    layers = found["models"][1]["layers"]
    assert len(layers) == 7 and f"{layers['layer02']['mean']:.1f}" in done.output


@pytest.mark.parametrize("model", ["random-nano", "log-mel"])
def test_a_layer_there_is_not_is_refused_before_the_work(model: str, folder: Path, tmp_path: Path) -> None:
    words = ["triplets", "-m", model, "--layer", "layer99", str(folder), "-o", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ValueError) and "layer99" in str(done.exception)
    assert not (tmp_path / "out.json").exists()
