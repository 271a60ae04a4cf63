"""Features once: what is made, kept, found damaged, and made again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from harness.sounds import music, tiny_embedder

from mert.errors import AudioError, MertError, OutputError
from probes.encoders import Encoder, EncoderFacts, MertEncoder, load_encoder
from probes.features.clips import Clip, trimmed
from probes.features.cutting import ClipWindows
from probes.features.matrix import FeatureMatrix

FACTS = EncoderFacts("energy", "", 8_000, 100.0, ("a", "b"), 3)


def energies(wave_N: np.ndarray) -> np.ndarray:
    """[2, T, 3] for whole 10 ms: energy, its double, and one; the second layer is ten times the first."""
    energy_T = (wave_N[: len(wave_N) // 80 * 80].reshape(-1, 80) ** 2).mean(1)
    values = np.stack([energy_T, 2 * energy_T, np.ones_like(energy_T)], axis=-1)
    return np.stack([values, 10 * values]).astype(np.float32)


class Counting(Encoder):
    """Counts what it is asked to hear."""

    def __init__(self, facts: EncoderFacts = FACTS) -> None:
        self.heard = 0
        super().__init__(facts, energies)

    def pooled(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        self.heard += len(waves)
        yield from super().pooled(waves)


def clips(folder: Path, n: int = 5, seconds: float = 2.5) -> list[Clip]:
    made = []
    for i in range(n):
        path = folder / f"{i}.wav"
        soundfile.write(path, music(seconds, 8_000, seed=i), 8_000)
        made.append(Clip(f"clip{i}", path))
    return made


def matrix(folder: Path, encoder: Encoder | None = None, **windowing: object) -> FeatureMatrix:
    return FeatureMatrix(folder / "features", encoder or Counting(), ClipWindows(1.0, **windowing))  # type: ignore[arg-type]


def test_rows_are_the_means_of_windows(tmp_path: Path) -> None:
    made, held = clips(tmp_path), matrix(tmp_path, tail="drop")
    held.extract(made)
    rows, owners = held.rows(["clip3", "clip1"])
    assert owners.tolist() == [0, 0, 1, 1]
    wave_N, _ = soundfile.read(tmp_path / "1.wav", dtype="float32")
    second = (wave_N[8_000:16_000] ** 2).mean()
    assert held.windows(rows, 0)[3] == pytest.approx([second, 2 * second, 1], rel=2e-3)
    assert held.windows(rows, slice(0, None))[3, 1] == pytest.approx([10 * second, 20 * second, 10], rel=2e-3)


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    made = clips(tmp_path)
    matrix(tmp_path).extract(made[:3])
    again, told = Counting(), list[bool]()
    held = matrix(tmp_path, again)
    held.extract(made, told.append)
    assert again.heard == 2 * 2 and told == [False] * 3 + [True] * 2
    assert len(held.rows([clip.id for clip in made])[0]) == 10


@pytest.mark.parametrize(
    ("facts", "windowing"),
    [({"sha256": "1" * 64}, {}), ({"normalize": True}, {}), ({"layer_names": ("b", "c")}, {}), ({}, {"crop_s": 2.0})],
)
def test_other_weights_normalisation_layers_or_windows_are_other_features(
    tmp_path: Path, facts: dict[str, object], windowing: dict[str, object]
) -> None:
    made = clips(tmp_path, 2)
    matrix(tmp_path).extract(made)
    other = Counting(EncoderFacts(**(FACTS.as_dict() | {"layer_names": ("a", "b")} | facts)))  # type: ignore[arg-type]
    matrix(tmp_path, other, **windowing).extract(made)
    assert other.heard


def test_changed_audio_is_heard_again_and_touched_audio_is_not(tmp_path: Path) -> None:
    made = clips(tmp_path, 2)
    matrix(tmp_path).extract(made)
    data = (tmp_path / "0.wav").read_bytes()
    (tmp_path / "0.wav").unlink()
    (tmp_path / "0.wav").write_bytes(data)
    soundfile.write(tmp_path / "1.wav", music(2.5, 8_000, seed=9), 8_000)
    again = Counting()
    held = matrix(tmp_path, again)
    held.extract(made)
    assert again.heard == 2
    wave_N, _ = soundfile.read(tmp_path / "1.wav", dtype="float32")
    assert held.windows(held.rows(["clip1"])[0], 0)[0, 0] == pytest.approx((wave_N[:8_000] ** 2).mean(), rel=2e-3)


def test_a_flipped_byte_is_found_and_made_again(tmp_path: Path) -> None:
    made = clips(tmp_path)
    first = matrix(tmp_path)
    first.extract(made)
    wanted = first.windows(first.rows(["clip2"])[0], 0)
    path = first.folder / "values.f16"
    damaged = bytearray(path.read_bytes())
    damaged[first.entries["clip2"].first * first.row_bytes + 3] ^= 0xFF
    path.write_bytes(damaged)
    again = Counting()
    held = matrix(tmp_path, again)
    held.extract(made)
    assert again.heard == 2 and np.array_equal(held.windows(held.rows(["clip2"])[0], 0), wanted)


@pytest.mark.parametrize("damage", ["index", "values", "journal"])
def test_a_run_cut_off_anywhere_goes_on(tmp_path: Path, damage: str) -> None:
    made = clips(tmp_path)
    whole = matrix(tmp_path)
    whole.extract(made)
    wanted = whole.windows(whole.rows([clip.id for clip in made])[0], 0)
    if damage == "index":
        (whole.folder / "index.parquet").write_bytes(b"PAR1")
    elif damage == "values":
        path = whole.folder / "values.f16"
        path.write_bytes(path.read_bytes()[:-10])
    else:  # killed before the index was written, in the middle of a line
        lines = [json.dumps(vars(whole.entries[clip.id])) for clip in made[:4]]
        (whole.folder / "journal.jsonl").write_text("\n".join(lines)[:-20])
        (whole.folder / "index.parquet").unlink()
    again = Counting()
    held = matrix(tmp_path, again)
    held.extract(made)
    assert np.array_equal(held.windows(held.rows([clip.id for clip in made])[0], 0), wanted)
    assert again.heard == {"index": 10, "values": 2, "journal": 4}[damage]


def test_work_behind_a_line_that_was_cut_off_is_kept(tmp_path: Path) -> None:
    """A run is killed in the middle of a line, the next one behind it."""
    made = clips(tmp_path)
    whole = matrix(tmp_path)
    whole.extract(made[:2])
    lines = [json.dumps(vars(whole.entries[clip.id])) for clip in made[:2]]
    (whole.folder / "index.parquet").unlink()
    (whole.folder / "journal.jsonl").write_text("\n".join(lines)[:-20])
    second = matrix(tmp_path)
    with second._locked():
        second._open()
        second._append(made[1:4], None)
    again = Counting()
    matrix(tmp_path, again).extract(made[:4])
    assert again.heard == 0


@pytest.mark.parametrize("change", [{"window_s": 0.5}, {"n_heads": 1}])
def test_a_model_that_differs_in_what_weights_do_not_tell_has_features_of_its_own(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    first, second = tiny_embedder(), tiny_embedder()
    second.model.config = dataclasses.replace(second.model.config, **change)
    assert first.sha256 == second.sha256
    held = [FeatureMatrix(tmp_path, MertEncoder(each, "training"), ClipWindows(1.0)) for each in (first, second)]
    assert held[0].digest != held[1].digest and held[0].folder != held[1].folder


def test_a_key_of_something_else_is_refused(tmp_path: Path) -> None:
    held = matrix(tmp_path)
    held.extract(clips(tmp_path, 1))
    (held.folder / "key.json").write_text("{}")
    with pytest.raises(OutputError, match=r"key\.json.*remove"):
        matrix(tmp_path).extract(clips(tmp_path, 1))


def test_unreadable_audio_is_an_error_after_the_rest_was_made(tmp_path: Path) -> None:
    made = clips(tmp_path, 3)
    (tmp_path / "0.wav").write_bytes(b"")
    (tmp_path / "2.wav").write_bytes(b"RIFF nonsense")
    encoder = Counting()
    with pytest.raises(AudioError, match=r"0\.wav: the file is empty \(and 1 more like it\)"):
        matrix(tmp_path, encoder).extract(made)
    assert encoder.heard == 2


def test_audio_that_is_gone_is_an_error_after_the_rest_was_made(tmp_path: Path) -> None:
    made = clips(tmp_path, 3)
    (tmp_path / "0.wav").unlink()
    held = matrix(tmp_path)
    with pytest.raises(AudioError, match=r"0\.wav: no such file"):
        held.extract(made)
    assert set(held.entries) == {"clip1", "clip2"}
    (tmp_path / "1.wav").unlink()  # known, and gone
    with pytest.raises(AudioError, match=r"0\.wav: no such file .*\(and 1 more like it\)"):
        held.extract(made)


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN, infinite"), (1e6, "beyond fp16"), (None, r"gave \(2, 4\), not")]
)
def test_features_that_are_none_are_refused(tmp_path: Path, value: float | None, said: str) -> None:
    values = np.zeros((2, 10, 4 if value is None else 3)) + (value or 0.0)
    with pytest.raises(MertError, match=said):
        matrix(tmp_path, Encoder(FACTS, lambda wave_N: values)).extract(clips(tmp_path, 1))


def test_frames_stand_on_the_clock_of_the_model(tmp_path: Path) -> None:
    encoder = MertEncoder(tiny_embedder())
    (tmp_path / "a.wav").touch()
    soundfile.write(tmp_path / "a.wav", music(2.2), 24_000)
    held = FeatureMatrix(tmp_path, encoder, ClipWindows(1.0, pooled=False))
    held.extract([Clip("a", tmp_path / "a.wav")])
    wanted = encoder.embedder.embed(tmp_path / "a.wav", window=1.0)
    assert wanted.times is not None
    assert np.array_equal(held.times("a"), wanted.times)
    assert np.abs(held.frames("a", slice(1, None)) - wanted.values[1:]).max() < 2e-3
    assert np.array_equal(held.frames("a", 2), held.frames("a", slice(1, None))[1])


def test_a_window_is_what_embed_gives_of_it(tmp_path: Path) -> None:
    encoder = MertEncoder(tiny_embedder())
    wave_N = music(2.0)
    (pooled_LP,) = encoder.pooled([wave_N])
    wanted = encoder.embedder.embed(wave_N, sr=24_000, window="whole", pool="mean")
    assert np.allclose(pooled_LP, wanted.values, atol=1e-6)


def test_leading_silence_is_dropped_and_only_that() -> None:
    wave_N = np.concatenate([np.zeros(4_000), music(1.0, 8_000), np.zeros(1_000)]).astype(np.float32)
    kept_N = trimmed(wave_N, 8_000)
    assert len(wave_N) - 4_160 <= len(kept_N) <= len(wave_N) - 3_920
    assert np.array_equal(kept_N, wave_N[-len(kept_N) :])
    assert len(trimmed(np.zeros(800, np.float32), 8_000)) == 800


@pytest.mark.parametrize("name", ["log-mel", "mfcc", "cqt-chroma"])
def test_baselines_hear_any_length(name: str, write: Callable[..., Path]) -> None:
    pytest.importorskip("nnAudio")
    encoder = load_encoder(name)
    for seconds in (0.05, 0.5, 3.0):
        frames_LTD = encoder.frames(music(seconds))
        assert frames_LTD.shape == (1, round(75 * seconds), encoder.facts.dim) and np.isfinite(frames_LTD).all()


def test_chroma_knows_the_pitch_class_and_mel_the_register() -> None:
    pytest.importorskip("nnAudio")
    t = np.arange(48_000) / 24_000
    low, high = (np.sin(2 * np.pi * hz * t).astype(np.float32) * 0.3 for hz in (220.0, 880.0))
    chroma = load_encoder("cqt-chroma")
    assert [int(chroma.frames(wave)[0].mean(0).argmax()) for wave in (low, high)] == [9, 9]
    mel = load_encoder("log-mel")
    assert mel.frames(low)[0].mean(0).argmax() < mel.frames(high)[0].mean(0).argmax()
