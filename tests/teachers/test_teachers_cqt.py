"""The constant-Q teacher against nnAudio, the facts of the published target, and the student's clock."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from harness.sounds import music
from torch import Tensor

import teachers
from teachers.cqt import Cqt, CqtTeacher, fast_length, kernels_on_grid, one_thread

RATE_HZ = 24_000


def sounds(n: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    brown = np.cumsum(random.standard_normal(n))
    t = np.arange(n) / RATE_HZ
    return {
        "white": 0.1 * random.standard_normal(n),
        "brown": brown / np.abs(brown).max(),
        "offset": 0.5 + 0.01 * random.standard_normal(n),
        "tone_10": 0.5 * np.sin(2 * np.pi * 10 * t),
        "tone_40": 0.5 * np.sin(2 * np.pi * 40 * t),
        "tone_440": 0.5 * np.sin(2 * np.pi * 440 * t),
        "tone_3000": 0.5 * np.sin(2 * np.pi * 3000 * t),
        "click": (np.arange(n) == n // 2).astype(float),
        "music": music(n / RATE_HZ),
    }


@pytest.fixture(scope="module")
def oracle() -> Callable[[Tensor], Tensor]:
    nn_audio = pytest.importorskip("nnAudio.features")
    return make_oracle(nn_audio, RATE_HZ)


def make_oracle(nn_audio: Any, rate_hz: int) -> Callable[[Tensor], Tensor]:
    layer = nn_audio.CQT(
        sr=rate_hz, hop_length=320, fmin=32.7, n_bins=336, bins_per_octave=48, filter_scale=1, norm=1, window="hann",
        center=True, pad_mode="constant", output_format="Magnitude", verbose=False,
    )  # fmt: skip

    def magnitudes(wave_BN: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(wave_BN).transpose(1, 2)

    return magnitudes


def relative_rms(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got.double() - wanted.double()).square().mean().sqrt() / wanted.double().square().mean().sqrt())


def tensor(wave: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_2d(wave).astype(np.float32))


@pytest.mark.parametrize("name", list(sounds(9)))
def test_equals_nnaudio(name: str, oracle: Callable[[Tensor], Tensor]) -> None:
    wave_BN = tensor(sounds(72_000)[name])
    assert relative_rms(Cqt()(wave_BN), oracle(wave_BN)) <= 1e-4


def test_a_tone_above_all_bins_leaves_as_little_as_in_nnaudio(oracle: Callable[[Tensor], Tensor]) -> None:
    wave_BN = tensor(0.5 * np.sin(2 * np.pi * 7000 * np.arange(48_000) / RATE_HZ))
    got, wanted = Cqt()(wave_BN)[:, 20:-20, 240:], oracle(wave_BN)[:, 20:-20, 240:]
    assert float((got - wanted).abs().max()) < 1e-3  # the tone itself would be 4 or more


@pytest.mark.parametrize("n", [1, 319, 320, 400, 5_000, 50_460, 51_001])
def test_any_length(n: int, oracle: Callable[[Tensor], Tensor]) -> None:
    wave_BN = tensor(music(3)[10_000 : 10_000 + n])
    got_BTF = Cqt()(wave_BN)
    assert got_BTF.shape == (1, n // 320 + 1, 336)
    assert relative_rms(got_BTF, oracle(wave_BN)) <= 1e-4


def test_sixteen_kilohertz() -> None:
    nn_audio = pytest.importorskip("nnAudio.features")
    wave_BN = tensor(music(3, 16_000))
    cqt = Cqt(rate_hz=16_000)
    assert relative_rms(cqt(wave_BN), make_oracle(nn_audio, 16_000)(wave_BN)) <= 1e-4
    assert CqtTeacher(cqt).rate_hz == 50


def test_a_long_clip_in_pieces_is_the_same() -> None:
    wave_BN = tensor(music(7))
    whole = Cqt()(wave_BN)
    pieces = Cqt(longest_cells=300)(wave_BN)
    assert whole.shape[1] > 300
    assert relative_rms(pieces, whole) <= 3e-5


def test_a_minute(oracle: Callable[[Tensor], Tensor]) -> None:
    wave_BN = tensor(music(60))
    got_BTF = Cqt()(wave_BN)
    assert got_BTF.shape == (1, 4501, 336)
    part_BTF = oracle(wave_BN[:, 320 * 2000 : 320 * 2200])
    assert relative_rms(got_BTF[:, 2080:2120], part_BTF[:, 80:120]) <= 1e-4


def test_facts_of_the_published_target() -> None:
    cqt = Cqt()
    assert cqt.n_taps[0] == 50_460 and cqt.n_taps[335] == 400
    assert round(cqt.frequencies_hz[335], 2) == 4125.59 and round(cqt.frequencies_hz[180], 3) == 439.957
    t = torch.arange(120_000) / RATE_HZ
    frames_BTF = cqt(0.5 * torch.sin(2 * torch.pi * 440 * t)[None])
    assert frames_BTF.shape == (1, 376, 336) and frames_BTF.dtype == torch.float32
    middle_TF = frames_BTF[0, 100:276]
    assert set(middle_TF.argmax(1).tolist()) == {180}
    assert abs(float(middle_TF[:, 180].mean()) - 15.311) < 1e-3
    white_rms = float(cqt(tensor(sounds(120_000)["white"])).square().mean().sqrt())
    assert abs(white_rms - 0.12) < 0.02


@pytest.mark.parametrize("threads", [1, 2])
def test_ten_times_faster_than_nnaudio(threads: int, oracle: Callable[[Tensor], Tensor]) -> None:
    wave_BN = tensor(np.stack([music(2, seed=i) for i in range(2)]))
    ours, cqt = [], Cqt()
    theirs = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cqt(wave_BN)
        for _ in range(5):
            start = time.perf_counter()
            oracle(wave_BN)
            middle = time.perf_counter()
            cqt(wave_BN)
            theirs.append(middle - start)
            ours.append(time.perf_counter() - middle)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert statistics.median(theirs) >= 10 * statistics.median(ours)


def test_the_threads_of_others_stay_as_they_are() -> None:
    """Torch's number of threads belongs to each thread of the program; only ours is changed, and changed back."""
    wave_BN, before, seen = tensor(music(0.5)), torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1, initializer=torch.get_num_threads) as pool:
            pool.submit(torch.get_num_threads).result()
            with one_thread(torch.device("cpu")):
                seen += [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()]
            pool.submit(Cqt(), wave_BN).result()
            seen += [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()]
        with pytest.raises(ValueError), one_thread(torch.device("cpu")):
            raise ValueError
        assert [*seen, torch.get_num_threads()] == [1, 2, 2, 2, 2]
    finally:
        torch.set_num_threads(before)


def test_float32_whatever_autocast_says() -> None:
    wave_BN = tensor(music(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = CqtTeacher().targets(wave_BN.bfloat16().float()).frames
    assert got is not None and got.dtype == torch.float32
    assert torch.equal(got, Cqt()(wave_BN.bfloat16().float()))


def test_batch_row_is_clip_alone() -> None:
    wave_BN = tensor(np.stack([music(2, seed=0), 100 * music(2, seed=1), np.zeros(48_000)]))
    together = Cqt()(wave_BN)
    for b in range(3):
        alone = Cqt()(wave_BN[b : b + 1])[0]
        assert float((together[b] - alone).abs().max()) <= 1e-5 * max(1.0, float(alone.square().mean().sqrt()))
    assert float(together[2].abs().max()) == 0


def test_deterministic() -> None:
    wave_BN = tensor(music(2))
    assert torch.equal(Cqt()(wave_BN), Cqt()(wave_BN))


@pytest.mark.parametrize("frame", [40, 75, 110])
def test_a_click_lands_in_the_students_frame(frame: int) -> None:
    wave_BN = torch.zeros(1, 48_000)
    wave_BN[0, 320 * frame + 200] = 1  # the centre of the student's frame
    high_TF = Cqt()(wave_BN)[0, :, 288:]  # short kernels: the top octave
    assert abs(int(high_TF.sum(1).argmax()) - frame) <= 1


def test_teacher_protocol_and_folder(tmp_path: Any) -> None:
    teacher = teachers.load_teacher("cqt")
    assert isinstance(teacher, teachers.Teacher)
    assert (teacher.name, teacher.sample_rate, teacher.rate_hz) == ("cqt", 24_000, 75.0)
    assert (teacher.n_classes, teacher.n_bins, teacher.licence) == ((), 336, "Apache-2.0")
    targets = teacher.targets(tensor(music(1)))
    assert targets.codes is None and targets.rate_hz == 75 and targets.fingerprint == teacher.fingerprint
    assert targets.frames is not None and targets.frames.shape == (1, 76, 336)
    other = CqtTeacher(Cqt(rate_hz=16_000))
    assert len(other.fingerprint) == 64 and other.fingerprint != teacher.fingerprint
    other.save(tmp_path / "cqt16")
    again = teachers.load_teacher(tmp_path / "cqt16")
    assert isinstance(again, CqtTeacher) and again.cqt == other.cqt and again.fingerprint == other.fingerprint


def test_gradient_flows_through_the_transform_but_not_the_teacher() -> None:
    wave_BN = tensor(music(0.1)).requires_grad_()
    Cqt()(wave_BN).sum().backward()
    assert wave_BN.grad is not None and torch.isfinite(wave_BN.grad).all()
    frames = CqtTeacher().targets(wave_BN).frames
    assert frames is not None and not frames.requires_grad


def test_kernels_are_small_and_in_no_state_dict() -> None:
    kernels = kernels_on_grid(Cqt(), fast_length(455), torch.device("cpu"))
    assert sum(part.numel() * part.element_size() for part in kernels) < 19e6  # those of the reference: 176 MB
    assert not isinstance(CqtTeacher(), torch.nn.Module) and CqtTeacher().weights == {}


@pytest.mark.parametrize("changes", [{"n_bins": 400}, {"rate_hz": 8_000}, {"longest_cells": 100}])
def test_settings_that_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"bins reach|longest_cells"):
        Cqt(**changes)


@pytest.mark.parametrize("wave", [torch.zeros(5), torch.zeros(1, 0), torch.zeros(1, 5, dtype=torch.int64)])
def test_waves_that_are_none(wave: Tensor) -> None:
    with pytest.raises(ValueError, match="wants clips"):
        CqtTeacher().targets(wave)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu() -> None:
    wave_BN = tensor(music(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = Cqt()(wave_BN.cuda()).cpu()
    assert relative_rms(got, Cqt()(wave_BN)) < 1e-5


def scale(tonic: int, steps: tuple[int, ...]) -> Tensor:
    """A scale, up and down, that rests on its tonic and fifth: [1, N]."""
    time_N = np.arange(RATE_HZ // 4) / RATE_HZ
    degrees = [*steps, 12, *reversed(steps), 0, 7, 0]
    fade_N = np.hanning(len(time_N))
    tones = [fade_N * np.sin(2 * np.pi * 261.63 * 2 ** ((tonic + step) / 12) * time_N) for step in degrees]
    return torch.from_numpy(0.3 * np.concatenate(tones)).float()[None]


@pytest.mark.parametrize(("mode", "steps"), [("major", (0, 2, 4, 5, 7, 9, 11)), ("minor", (0, 2, 3, 5, 7, 8, 10))])
def test_a_scale_fits_its_own_key_best_and_a_transposed_one_is_rolled(mode: str, steps: tuple[int, ...]) -> None:
    teacher = teachers.load_teacher("tonality")
    first = 0 if mode == "major" else 12
    rows = [teacher.targets(scale(tonic, steps)).clips[0] for tonic in range(12)]
    assert [int(row[:24].argmax()) for row in rows] == [first + tonic for tonic in range(12)]
    for tonic, row in enumerate(rows):
        assert torch.allclose(row[24:], rows[0][24:].roll(tonic), atol=0.15)


def test_tonality_is_of_any_level_and_that_of_silence_is_zero() -> None:
    teacher, wave_BN = teachers.load_teacher("tonality"), torch.from_numpy(music(3.0)).float()[None]
    assert torch.allclose(teacher.targets(wave_BN).clips, teacher.targets(0.01 * wave_BN).clips, atol=1e-3)
    assert not teacher.targets(torch.zeros(1, RATE_HZ)).clips.any()
