"""Separation: spectra against torch's and a click, the Wiener filter, scores by hand, readers, and heads that learn."""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import mir_eval
import numpy as np
import pytest
import soundfile
import torch

from mert.embedding.windows import Clock
from mert.errors import AudioError, UsageError
from probes.fit import Policy
from probes.metrics import STEMS
from probes.separation import sdr, stems
from probes.separation.stems import Stems, load_stems, segments
from probes.separation.stft import Stft, at_times
from probes.separation.unmix import STFT, UnmixHead, fit_one, magnitudes, separate, song_masks
from probes.separation.wiener import wiener

RATE_HZ = 24_000


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Spectra


def test_spectra_are_torchs_on_another_clock() -> None:
    wave = torch.as_tensor(noise(2, 12_345))
    reach = 1024 - 200  # so that the first window has its centre at sample 200
    padded = torch.nn.functional.pad(wave, (reach, 2048))
    wanted = torch.stft(padded, 2048, 320, window=torch.hann_window(2048), center=False, return_complex=True)
    n_frames = (12_345 - 400) // 320 + 1
    assert STFT(wave).shape == (2, 1025, n_frames)
    torch.testing.assert_close(STFT(wave), wanted[..., :n_frames], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(STFT(wave, 7, 30), STFT(wave)[..., 7:30])


@pytest.mark.parametrize("frame", [0, 7, 36])
def test_a_click_is_loudest_in_the_frame_at_its_time(frame: int) -> None:
    """The same click at the centre of feature frame t is in STFT frame t: their clocks are one."""
    n_samples = 12_000
    wave_N = np.zeros(n_samples, np.float32)
    wave_N[round(Clock(RATE_HZ, 320, 400, 200, 400).times(frame, frame + 1)[0] * RATE_HZ)] = 1.0
    energy_T = STFT(torch.as_tensor(wave_N)).abs().square().sum(0)
    assert int(energy_T.argmax()) == frame and float(energy_T[frame]) == pytest.approx(1025, rel=1e-5)
    assert len(STFT.times(n_samples)) == len(energy_T)


@pytest.mark.parametrize("n_samples", [400, 719, 720, 2048, 24_000, 24_319])
def test_the_inverse_is_exact_to_the_last_sample(n_samples: int) -> None:
    wave = torch.as_tensor(noise(2, n_samples))
    torch.testing.assert_close(STFT.inverse(STFT(wave), n_samples), wave, rtol=0, atol=1e-5)


def test_frames_of_another_clock_are_the_nearest() -> None:
    frames = noise(3, 50, 2)
    slow, fast = np.arange(50) / 50 + 0.0125, Clock(RATE_HZ, 320, 400, 200, 400).times(0, 75)
    got = at_times(frames, slow, fast)
    wanted = np.abs(slow[:, None] - fast).argmin(axis=0)
    np.testing.assert_array_equal(got, frames[:, wanted])
    assert at_times(frames, slow, slow.copy()) is frames


# Wiener filter


def song(seconds: float, seed: int = 0) -> np.ndarray:
    """[J, C, N]: four stems with spectra, places and rhythms of their own that overlap."""
    random = np.random.default_rng(seed)
    n = round(seconds * RATE_HZ)
    t, targets = np.arange(n) / RATE_HZ, []
    for hz, pan, beat_hz in ((440, 0.3, 0.9), (3000, 0.5, 2.0), (90, 0.7, 0.6), (1100, 0.9, 1.3)):
        level = np.sin(2 * np.pi * beat_hz * t + random.uniform(0, 6)) > 0
        tone = sum(np.sin(2 * np.pi * hz * k * t + random.uniform(0, 6)) / k for k in (1, 2, 3))
        wave = level * (tone + 0.05 * random.standard_normal(n)) * 0.2
        targets.append([np.sqrt(1 - pan) * wave, np.sqrt(pan) * wave])
    return np.array(targets, np.float32)


def test_wiener_with_true_magnitudes_beats_masks_and_sums_to_the_mixture() -> None:
    targets = song(2.0)
    mixture = targets.sum(0)
    magnitudes = STFT(torch.as_tensor(targets)).abs()
    shares = magnitudes / STFT(torch.as_tensor(mixture)).abs().clamp_min(1e-6)
    plain, filtered = (separate(mixture, shares, iterations) for iterations in (0, 1))
    assert (sdr.global_sdrs(targets, filtered) > sdr.global_sdrs(targets, plain) + 1).all()
    assert sdr.global_sdr(mixture, filtered.sum(0)) > 40
    assert sdr.global_sdr(mixture, plain.sum(0)) < 30


def test_wiener_of_one_channel_is_the_textbooks() -> None:
    mixture = torch.as_tensor(noise(1, 6, 50)) + 1j * torch.as_tensor(noise(1, 6, 50, seed=1))
    magnitudes = torch.as_tensor(noise(3, 1, 6, 50, seed=2)).abs()
    power = magnitudes.square()  # with one channel every R_j is 1
    torch.testing.assert_close(wiener(mixture, magnitudes, 1), power / power.sum(0) * mixture, rtol=1e-4, atol=1e-5)


def test_wiener_of_mono_silence_and_nothing_is_finite() -> None:
    mixture = torch.as_tensor(noise(1, 5, 9) + 1j * noise(1, 5, 9, seed=1)).expand(2, 5, 9)
    magnitudes = torch.rand(4, 1, 5, 9).expand(4, 2, 5, 9)
    torch.testing.assert_close(wiener(mixture, magnitudes, 1).sum(0), mixture, rtol=0, atol=1e-5)
    for silent in (
        wiener(mixture * 0, magnitudes, 1),
        wiener(mixture, magnitudes * 0, 1),
        wiener(mixture * 0, magnitudes * 0, 1),
    ):
        assert not silent.any()


def test_separation_does_not_depend_on_where_windows_lie_without_em() -> None:
    targets = song(1.5)
    masks = sdr.ideal_masks(targets)
    whole, cut = (separate(targets.sum(0), masks, iterations=0, window=window) for window in (600, 17))
    np.testing.assert_allclose(whole, cut, atol=1e-5)


# Scores


def test_global_sdr_by_hand() -> None:
    reference, estimate = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[3.0, 1.0], [0.0, 2.0]])
    assert sdr.global_sdr(reference, estimate) == pytest.approx(10 * np.log10(25 / 5))
    assert sdr.global_sdr(reference, 0 * reference) == pytest.approx(0, abs=1e-6)
    assert sdr.global_sdr(0 * reference, 0 * reference) == 0
    with pytest.raises(ValueError, match="shape"):
        sdr.global_sdr(reference, estimate[:1])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_global_sdr_is_near_mir_evals_where_errors_are_no_filters() -> None:
    """BSS Eval forgives filtered copies of 512 taps, which explain little of white noise."""
    reference = noise(2, 6000)
    estimate = reference + 0.1 * noise(2, 6000, seed=1)
    theirs = mir_eval.separation.bss_eval_sources(reference, estimate, compute_permutation=False)[0]
    ours = [sdr.global_sdr(*pair) for pair in zip(reference[:, None], estimate[:, None], strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1.0)


def test_floor_and_ceiling() -> None:
    targets = song(2.0)
    floor = sdr.global_sdrs(targets, sdr.mixture_as_estimate(targets.sum(0)))
    ceiling = sdr.global_sdrs(targets, separate(targets.sum(0), sdr.ideal_masks(targets), iterations=0))
    assert floor.mean() < 0 and (ceiling > floor + 10).all()


def test_museval_is_asked_for_and_medians_pass_over_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = song(1.0)
    monkeypatch.setitem(sys.modules, "museval", None)
    with pytest.raises(UsageError, match=r"pip install museval.*ffmpeg"):
        sdr.museval_sdrs(targets, targets)

    def evaluate(references: np.ndarray, estimates: np.ndarray, win: int, hop: int) -> tuple[np.ndarray, ...]:
        assert references.shape == estimates.shape and references.shape[1:] == (RATE_HZ, 2) and win == hop == RATE_HZ
        if not (references.any(axis=(1, 2)).all() and estimates.any(axis=(1, 2)).all()):
            raise ValueError("All the reference sources should be non-silent")  # as museval does
        sdr_JK = [[1.0, np.nan, 3.0, 8.0], [np.nan] * 4, [5.0] * 4, [6.0] * 4]
        return (np.array(sdr_JK[: len(references)]), None, None, None)

    monkeypatch.setitem(sys.modules, "museval", SimpleNamespace(evaluate=evaluate))
    np.testing.assert_array_equal(sdr.museval_sdrs(targets, targets), [3.0, np.nan, 5.0, 6.0])
    silent = targets.copy()
    silent[0] = 0
    for pair in ((silent, targets), (targets, silent)):
        np.testing.assert_array_equal(sdr.museval_sdrs(*pair), [np.nan, 3.0, np.nan, 5.0])
    assert np.isnan(sdr.museval_sdrs(0 * targets, targets)).all()


# Readers and segments


def write_folder(folder: Path, targets: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    folder.mkdir()
    for name, wave in zip(("mixture", *STEMS), (targets.sum(0), *targets), strict=True):
        soundfile.write(folder / f"{name}.wav", wave.T, rate_hz, subtype="FLOAT")
    return folder


def test_stems_of_a_folder(tmp_path: Path) -> None:
    targets = song(1.0)
    folder = write_folder(tmp_path / "A - B", targets)
    for path in (folder, folder / "mixture.wav"):
        read = load_stems(path)
        np.testing.assert_array_equal(read.targets_JCN, targets)
        np.testing.assert_allclose(read.mixture_CN, targets.sum(0))
    assert load_stems(folder, 16_000).targets_JCN.shape == (4, 2, 16_000)
    soundfile.write(folder / "bass.wav", targets[2].T[:12_000], RATE_HZ)
    with pytest.raises(AudioError, match="lengths"):
        load_stems(folder)
    soundfile.write(folder / "bass.wav", targets[2, 0], RATE_HZ, subtype="FLOAT")  # mono
    np.testing.assert_array_equal(load_stems(folder).targets_JCN[2, 1], targets[2, 0])
    (folder / "bass.wav").unlink()
    with pytest.raises(AudioError, match=r"bass\.wav"):
        load_stems(folder)


def write_mp4(path: Path, waves: list[np.ndarray], rate_hz: int) -> None:
    av = pytest.importorskip("av")
    with av.open(path, "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=rate_hz, layout="stereo", bit_rate=256_000) for _ in waves]
        for stream, wave in zip(streams, waves, strict=True):
            for start in range(0, wave.shape[1], 1024):
                block = np.ascontiguousarray(wave[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def test_stems_of_an_mp4_are_its_wavs_within_the_codec(tmp_path: Path) -> None:
    rate_hz = 44_100
    targets = np.stack([stems.soxr.resample(t.T, RATE_HZ, rate_hz).T for t in song(2.0)])
    by_name = dict(zip(STEMS, targets, strict=True))
    waves = [targets.sum(0)] + [by_name[name] for name in ("drums", "bass", "other", "vocals")]
    write_mp4(tmp_path / "a.stem.mp4", waves, rate_hz)
    wanted = load_stems(write_folder(tmp_path / "wav", targets, rate_hz))
    read = load_stems(tmp_path / "a.stem.mp4")
    n = min(wanted.mixture_CN.shape[1], read.mixture_CN.shape[1])
    assert abs(wanted.mixture_CN.shape[1] - read.mixture_CN.shape[1]) < 0.1 * RATE_HZ
    scores = sdr.global_sdrs(wanted.targets_JCN[..., :n], read.targets_JCN[..., :n])
    assert (scores > 15).all(), scores  # a delay of one sample, or a stem in another's place, would end below
    write_mp4(tmp_path / "b.stem.mp4", waves[:2], rate_hz)
    with pytest.raises(AudioError, match="2 audio streams"):
        load_stems(tmp_path / "b.stem.mp4")
    (tmp_path / "c.stem.mp4").write_bytes(b"no film")
    with pytest.raises(AudioError, match="decoded"):
        load_stems(tmp_path / "c.stem.mp4")


def test_segments_are_half_real_and_half_remixed() -> None:
    """Each track and channel has a constant of its own, so a segment shows what it was made of."""
    n = 3 * RATE_HZ

    def track(number: int) -> Stems:
        targets = np.empty((4, 2, n), np.float32)
        targets[:] = 10.0 * (number + 1) + np.arange(4)[:, None, None] + np.array([0, 0.5])[:, None]
        return Stems(np.full((2, n), 1000.0 + number, np.float32), targets)  # a mixture that is not the sum

    loads: list[int] = []
    tracks = [lambda i=i: loads.append(i) or track(i) for i in range(5)]
    pool = segments(tracks, seed=1, per_track=6, seconds=1.0)
    assert loads == [0, 1, 2, 3, 4] and pool.shape == (30, 5, 2, RATE_HZ)
    swapped, gains = 0, []
    for number, segment in enumerate(pool):
        if number % 2 == 0:
            assert (segment[0] == 1000 + number // 6).all()
            np.testing.assert_array_equal(segment[1:], track(number // 6).targets_JCN[..., :RATE_HZ])
            continue
        np.testing.assert_allclose(segment[0], segment[1:].sum(0), rtol=1e-6)
        for left, right in segment[1:, :, 0]:
            swapped += left > right
            gains.append(abs(left - right) / 0.5)
    assert 15 < swapped < 45 and 0.25 <= min(gains) < 0.4 and 1.1 < max(gains) <= 1.2501
    np.testing.assert_array_equal(pool, segments(tracks, seed=1, per_track=6, seconds=1.0))
    assert not np.array_equal(pool, segments(tracks, seed=2, per_track=6, seconds=1.0))
    half = np.full(pool.shape, 7, np.float16)
    assert segments(tracks, seed=1, per_track=6, seconds=1.0, out=half) is half
    np.testing.assert_allclose(half, pool, rtol=2e-3)
    real = segments(tracks, seed=1, per_track=2, seconds=1.0, remix=False)
    assert (real[:, 0] >= 1000).all()
    with pytest.raises(AudioError, match="shorter"):
        segments(tracks, seed=1, seconds=4.0)


# Heads


class Store:
    """Segments and songs whose features are what is to be found out: how loud each stem is in each frame."""

    def __init__(self, n: int, seconds: float, seed: int) -> None:
        self.waves, self._frames = {}, {}
        self.n_samples = round(seconds * RATE_HZ)
        for i in range(n):
            targets = song(seconds, seed=1000 * seed + i)
            self.waves[f"{seed}-{i}"] = np.concatenate([targets.sum(0)[None], targets])
            level_TJ = STFT(torch.as_tensor(targets[:, 0])).abs().mean(1).T.numpy()
            frames = noise(2, len(level_TJ), 8, seed=i)
            frames[1, :, :4] = level_TJ
            self._frames[f"{seed}-{i}"] = frames

    def frames(self, clip_id: str, layer: int | slice) -> np.ndarray:
        return self._frames[clip_id][layer]

    def times(self, clip_id: str) -> np.ndarray:
        return STFT.times(self.n_samples)


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(6, 0.6, seed=1)


def fit(store: Store, target: str, layer: int | slice, seed: int = 0, epochs: int = 3):
    names = list(store.waves)
    pool = magnitudes(np.stack(list(store.waves.values())), names, Path(tempfile.gettempdir()))
    return fit_one(store, pool, {name: pool[name] for name in names[:2]}, target=target, layer=layer,
                   lr=5e-3, seed=seed, hidden=32, batch_segments=3, policy=Policy(max_epochs=epochs))  # fmt: skip


def test_heads_take_apart_what_their_features_tell(store: Store) -> None:
    fits = [fit(store, target, 1, epochs=20) for target in reversed(STEMS)]
    test = Store(2, 1.5, seed=2)
    for name, waves in test.waves.items():
        masks = song_masks(fits, test, name, waves.shape[-1])
        estimates = separate(waves[0], masks)
        floor = sdr.global_sdrs(waves[1:], sdr.mixture_as_estimate(waves[0]))
        assert (sdr.global_sdrs(waves[1:], estimates) > floor + 6).all()
        swapped = sdr.global_sdrs(waves[1:], estimates[[1, 0, 3, 2]])
        assert (swapped < 3).all()
    with pytest.raises(ValueError, match="no head for vocals"):
        song_masks(fits[:3], test, name, 24_000)


def test_fits_repeat_bit_by_bit(store: Store) -> None:
    state = torch.get_rng_state()
    one, same, other = (fit(store, "bass", slice(None), seed, epochs=2) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    same_state = same.head.state_dict()
    assert all(torch.equal(value, same_state[name]) for name, value in one.head.state_dict().items())
    assert one.valid_loss == same.valid_loss != other.valid_loss and np.isfinite(one.valid_loss)


def test_the_network_has_open_unmixs_shape() -> None:
    sizes = {name: tuple(value.shape) for name, value in UnmixHead(768, n_layers=12).named_parameters()}
    assert sizes["layers.logits_L"] == (12,) and sizes["squeeze.0.weight"] == (512, 768)
    assert sizes["lstm.weight_hh_l2_reverse"] == (4 * 256, 256)  # 256 each way: 512 in all
    assert sizes["widen.0.weight"] == (512, 1024) and sizes["widen.3.weight"] == (1025, 512)
    assert [name for name in sizes if name.endswith("bias")] == [
        "squeeze.1.bias", *(n for n in sizes if n.startswith("lstm.bias") and n.endswith("bias")),
        "widen.1.bias", "widen.4.bias",
    ]  # fmt: skip


def test_other_clocks_have_other_sizes() -> None:
    stft = Stft(Clock(16_000, 320, 400, 200, 400), size=1024)
    wave = torch.as_tensor(noise(1, 16_000))
    assert stft(wave).shape == (1, 513, 49)
    torch.testing.assert_close(stft.inverse(stft(wave), 16_000), wave, rtol=0, atol=1e-5)
