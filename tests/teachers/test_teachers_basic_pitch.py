"""basic_pitch: the network against the authors' own model, known notes in known places, and what a teacher promises."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from teachers import load_teacher
from teachers.base import TeacherError
from teachers.basic_pitch import FILE, RATE_HZ, WINDOW_SAMPLES, BasicPitchTeacher, joined, window_starts
from teachers.spectral import interpolated

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "basic_pitch.json").read_text())


def is_installed() -> bool:
    try:
        return bool(distribution("basic-pitch"))
    except PackageNotFoundError:
        return False


needs_basic_pitch = pytest.mark.skipif(not is_installed(), reason="basic-pitch is not installed (teachers/README.md)")


def note(midi: int, onset_s: float, seconds: float, rate_hz: int) -> np.ndarray:
    """A harmonic note that decays, float32 [N], after silence with a little noise."""
    random, hz = np.random.default_rng(midi), 440 * 2 ** ((midi - 69) / 12)
    since_N = np.arange(round(seconds * rate_hz)) / rate_hz - onset_s
    partials = range(1, 9) if hz < 1000 else range(1, 3)
    wave_N = sum(0.2 / k * np.sin(2 * np.pi * k * hz * since_N) for k in partials) * np.exp(-since_N.clip(0))
    return ((since_N >= 0) * wave_N + 1e-4 * random.standard_normal(len(since_N))).astype(np.float32)


def window() -> np.ndarray:
    """Two notes in one window of the network: C4 from 0.1 s on, and A4 from 0.8 s on."""
    return (note(60, 0.1, 2.0, RATE_HZ) + note(69, 0.8, 2.0, RATE_HZ))[:WINDOW_SAMPLES]


def made(**settings: Any) -> BasicPitchTeacher:
    pytest.importorskip("onnxruntime")
    return BasicPitchTeacher.installed(**settings)


@needs_basic_pitch
def test_the_network_gives_what_the_authors_model_gives() -> None:
    """The golden file says with which software it was made."""
    teacher = made(outputs=("notes", "onsets", "contours"))
    got_JF = teacher.posteriors(window())
    for frame, wanted in GOLDEN["frames"].items():
        both = np.concatenate([wanted["notes"], wanted["onsets"], wanted["contours"]])
        assert np.abs(got_JF[int(frame)] - both).max() < 1e-3


@needs_basic_pitch
@pytest.mark.parametrize("sample_rate", [24_000, 16_000])
@pytest.mark.parametrize("midi", [33, 45, 57, 69, 81, 93, 105])
def test_a_note_of_each_octave_is_in_its_bins_from_its_onset_on(midi: int, sample_rate: int) -> None:
    """In a clip of several windows, its end and beginning included, within two frames of where it begins."""
    teacher = made(sample_rate=sample_rate)
    wave_1N = torch.from_numpy(note(midi, 1.1, 3.2, sample_rate))[None]
    frames_TF = teacher.targets(wave_1N).frames[0]
    assert frames_TF.shape == ((wave_1N.shape[1] - 400) // 320 + 1, 352)
    assert float(frames_TF.min()) >= 0 and float(frames_TF.max()) <= 1
    sounding_TF = frames_TF[round(1.3 * teacher.rate_hz) : round(2.2 * teacher.rate_hz)]
    assert int(sounding_TF[:, :88].mean(0).argmax()) == midi - 21
    assert int(sounding_TF[:, 88:].mean(0).argmax()) == 3 * (midi - 21) + 1
    notes_T = frames_TF[:, midi - 21]
    begins = int((notes_T > 0.5 * notes_T.max()).nonzero()[0])
    assert abs(begins - (1.1 * sample_rate - 200) / 320) < 3


@needs_basic_pitch
def test_onsets_are_within_a_frame_wherever_they_fall_between_windows() -> None:
    teacher = made(outputs=("onsets",))
    for onset_s in (0.31, 1.2, 1.49, 1.5, 1.51, 2.77, 3.003, 4.4):
        frames_TF = teacher.targets(torch.from_numpy(note(69, onset_s, 5.0, 24_000))[None]).frames[0]
        assert abs(int(frames_TF[:, 48].argmax()) - (24_000 * onset_s - 200) / 320) <= 1


@needs_basic_pitch
def test_rows_do_not_depend_on_each_other() -> None:
    teacher = made()
    for seconds in (0.5, 2.6):
        wave_BN = torch.from_numpy(np.stack([note(midi, 0.2, seconds, 24_000) for midi in (50, 62, 74)]))
        together = teacher.targets(wave_BN).frames
        for row, wave_N in enumerate(wave_BN):
            assert torch.equal(together[row], teacher.targets(wave_N[None]).frames[0])


@needs_basic_pitch
def test_a_saved_teacher_carries_its_network_and_licence(tmp_path: Path) -> None:
    teacher = made(outputs=("notes",))
    teacher.save(tmp_path / "bp")
    again = load_teacher(str(tmp_path / "bp"))
    assert (again.licence, again.fingerprint, again.n_bins) == ("Apache-2.0", teacher.fingerprint, 88)
    wave_1N = torch.from_numpy(note(60, 0.1, 2.0, 24_000))[None]
    assert torch.equal(again.crop_targets(wave_1N, [], 50).frames, teacher.targets(wave_1N).frames[:, :50])
    assert made().fingerprint != teacher.fingerprint


@needs_basic_pitch
def test_another_file_in_the_place_of_the_network_is_refused(tmp_path: Path) -> None:
    folder = Path(str(distribution("basic-pitch").locate_file("basic_pitch")))
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    shutil.copy(folder / FILE, path)
    assert BasicPitchTeacher.installed(tmp_path).fingerprint == made().fingerprint
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(TeacherError, match=r"is not the file that basic-pitch 0\.4\.0 came with"):
        BasicPitchTeacher.installed(tmp_path)
    path.unlink()
    with pytest.raises(
        TeacherError, match=r"cannot be read .* pip install --no-deps musicnn==0.1.0 basic-pitch==0.4.0"
    ):
        BasicPitchTeacher.installed(tmp_path)


def test_what_is_missing_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("teachers.base.distribution", missing)
    with pytest.raises(TeacherError) as caught:
        load_teacher("basic_pitch")
    install = "pip install --no-deps musicnn==0.1.0 basic-pitch==0.4.0"
    assert str(caught.value) == f"basic_pitch: the package basic-pitch is not installed; {install}"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TeacherError, match=r"basic_pitch: onnxruntime cannot be imported .*\[onnx\]"):
        BasicPitchTeacher({"sample_rate": 24_000, "outputs": ["notes"]}, {"onnx": torch.zeros(3, dtype=torch.uint8)})


def test_bytes_that_are_no_network_and_unknown_outputs_are_refused() -> None:
    pytest.importorskip("onnxruntime")
    nothing = {"onnx": torch.zeros(100, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="onnxruntime cannot read the network"):
        BasicPitchTeacher({"sample_rate": 24_000, "outputs": ["notes"]}, nothing)
    for settings in ({"sample_rate": 24_000, "outputs": ["drums"]}, {"sample_rate": 24_000, "outputs": []}):
        with pytest.raises(ValueError, match="outputs="):
            BasicPitchTeacher(settings, nothing)


@pytest.mark.parametrize("n_frames", [1, 100, 172, 173, 259, 431, 2000])
def test_windows_cover_every_frame_once_and_overlap(n_frames: int) -> None:
    starts = window_starts(n_frames)
    assert starts[0] == 0 and starts[-1] + 172 == max(172, n_frames)
    assert all(0 < after - before <= 142 for before, after in pairwise(starts))
    numbers_WJ1 = np.stack([np.arange(start, start + 172.0) for start in starts])[..., None]
    assert joined(numbers_WJ1, starts)[:, 0].tolist() == list(range(max(172, n_frames)))


def test_interpolation_is_exact_on_a_line() -> None:
    place_T = np.array([0.0, 0.1, 3.5, 6.9, 7.0])
    line_J1 = (3.0 + 2.0 * np.arange(8, dtype=np.float32))[:, None]
    assert interpolated(line_J1, place_T)[:, 0] == pytest.approx(3 + 2 * place_T, rel=1e-6)
    assert interpolated(line_J1[:1], np.array([0.0, 4.0]))[:, 0].tolist() == [3.0, 3.0]
