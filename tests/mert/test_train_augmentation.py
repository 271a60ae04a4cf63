"""Changes of clips: the music stays where it is, and each change does what its name says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness.small_runs import small_recipe, write_recordings
from harness.sounds import music

from mert.errors import UsageError
from mert.train.augmentation import Augmentation, at_speed, coded, filtered, in_room, samples_at
from mert.train.batches import Batches
from mert.train.corpus.opening import open_corpus
from mert.train.draw import Draw
from mert.train.recipe import read_recipe

RATE = 24_000


def clip(seconds: float = 2.0, seed: int = 0) -> torch.Tensor:
    noise = 0.02 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return torch.from_numpy((music(seconds, RATE, seed=seed) + noise).astype(np.float32))


def lag(a: torch.Tensor, b: torch.Tensor) -> int:
    """By how many samples `a` comes after `b`."""
    n = 2 * len(a)
    product = torch.fft.irfft(torch.fft.rfft(a, n) * torch.fft.rfft(b, n).conj())
    best = int(product.argmax())
    return best if best < n // 2 else best - n


@pytest.mark.parametrize("change", [filtered, in_room, coded])
def test_a_changed_clip_has_its_length_and_its_place_and_is_another(change) -> None:  # type: ignore[no-untyped-def]
    wave_N = clip()
    for seed in range(5):
        changed_N = change(wave_N, np.random.default_rng(seed), RATE)
        assert changed_N.shape == wave_N.shape and torch.isfinite(changed_N).all()
        assert lag(changed_N, wave_N) == 0
        assert not torch.equal(changed_N, wave_N)
        assert torch.equal(changed_N, change(wave_N, np.random.default_rng(seed), RATE))


def test_a_filter_changes_levels_by_frequency_and_no_phase() -> None:
    n = 2 * RATE
    impulse_N = torch.zeros(n)
    impulse_N[n // 2] = 1
    spectra = [torch.fft.rfft(filtered(impulse_N, np.random.default_rng(seed), RATE)) for seed in range(20)]
    sign_K = torch.fft.rfft(impulse_N)  # plus and minus one
    db = torch.stack([20 * (spectrum * sign_K.conj()).real.clamp_min(1e-9).log10() for spectrum in spectra])
    assert max(float((spectrum * sign_K.conj()).imag.abs().max()) for spectrum in spectra) < 1e-3
    assert float(db.max()) <= 3 * 12.1 and float(db[:, 1000:12_000].std(1).median()) > 0.5


def test_a_room_rings_on() -> None:
    burst_N = torch.zeros(RATE)
    burst_N[: RATE // 10] = torch.from_numpy(np.random.default_rng(0).standard_normal(RATE // 10).astype(np.float32))
    behind = [in_room(burst_N, np.random.default_rng(seed), RATE)[RATE // 10 :] for seed in range(10)]
    early, late = (
        np.array([float(b[part].square().sum()) for b in behind]) for part in (slice(1200), slice(9600, None))
    )
    assert (early > 0).all() and (late < early / 10).all()


def test_chances_decide_how_many_clips_are_changed_and_levels_stay() -> None:
    wave_BN = torch.stack([clip(0.3, seed) for seed in range(60)])
    for name in ("filter", "room", "noise", "codec"):
        changed_BN = Augmentation(**{name: 0.5})(wave_BN, np.random.default_rng(1), RATE)
        others = (changed_BN - wave_BN).abs().amax(1) > 1e-5 * wave_BN.abs().amax(1)
        assert 18 <= int(others.sum()) <= 42, name
    both = Augmentation(filter=0.5, noise=1.0)(wave_BN, np.random.default_rng(1), RATE)
    assert not torch.equal(both, wave_BN)
    quiet = Augmentation(filter=1.0, room=1.0, noise=1.0)(1e-3 * wave_BN, np.random.default_rng(2), RATE)
    loud = Augmentation(filter=1.0, room=1.0, noise=1.0)(wave_BN, np.random.default_rng(2), RATE)
    torch.testing.assert_close(1e3 * quiet, loud, rtol=1e-3, atol=1e-4)


def test_without_chances_nothing_is_touched_and_silence_stays() -> None:
    wave_BN = torch.stack([clip(0.1), torch.zeros(2400)])
    assert Augmentation()(wave_BN, np.random.default_rng(0), RATE) is wave_BN
    all_of_it = Augmentation(filter=1.0, room=1.0, noise=1.0, codec=1.0)
    assert not all_of_it(wave_BN, np.random.default_rng(0), RATE)[1].any()


def test_targets_are_of_the_clean_clip_and_inputs_at_one_level(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    pytest.importorskip("datasets")
    pytest.importorskip("nnAudio")
    from harness.small_runs import ALONE, small_recipe, write_recordings
    from harness.sounds import tiny_config

    from mert.cli.train import load_teachers
    from mert.train.batches import Batches
    from mert.train.corpus.opening import open_corpus
    from mert.train.recipe import read_recipe

    (tmp_path / "music").mkdir()
    config = small_recipe(tmp_path, write_recordings(tmp_path / "music"), model=tiny_config(normalize=True).to_dict())
    settings = [["augmentation.filter=1", "augmentation.noise=1"], ["model.normalize=false", "mixing.apply_prob=0"]]
    groups = []
    for overrides in settings:
        recipe = read_recipe(config, overrides)
        corpus = open_corpus(recipe.data, RATE, recipe.min_samples, {})
        groups.append(Batches(recipe, corpus, load_teachers(recipe.teachers), ALONE.device).group(2, 1))
    changed, clean = groups
    assert torch.equal(changed.codes["random_projection"], clean.codes["random_projection"])
    torch.testing.assert_close(changed.wave_BN.std(1, correction=0), torch.ones(3), rtol=1e-3, atol=1e-3)
    assert float(clean.wave_BN.std(1).max()) < 0.5


def test_a_faster_clip_is_higher_by_as_much_and_has_its_length() -> None:
    time_N = np.arange(2 * RATE) / RATE
    tone_N = np.sin(2 * np.pi * 440 * time_N).astype(np.float32)
    for speed in (2 ** (-4 / 12), 2 ** (1 / 12), 2 ** (4 / 12)):
        made_N = at_speed(tone_N[: samples_at(speed, RATE)], speed, RATE)
        assert made_N.shape == (RATE,) and made_N.dtype == np.float32
        peak_hz = np.abs(np.fft.rfft(made_N * np.hanning(RATE))).argmax()
        assert peak_hz == pytest.approx(440 * speed, abs=1)
        assert np.abs(made_N[-480:]).max() > 0.9  # it does not end early


def test_some_clips_of_a_run_play_at_another_speed_and_none_of_those_held_out(tmp_path: Path) -> None:
    recipe = read_recipe(small_recipe(tmp_path, write_recordings(tmp_path)), ["augmentation.speed=0.5"])
    draw = Draw(recipe, open_corpus(recipe.data, RATE, recipe.min_samples, {}))
    cuts = [draw.cut(step, number) for step in range(1, 60) for number in range(2)]
    speeds = np.array([cut.speeds for cut in cuts])
    assert 0.4 < (speeds != 1).mean() < 0.6 and speeds.min() > 2 ** (-1 / 3) and speeds.max() < 2 ** (1 / 3)
    ends = [
        cut.frames[row] * draw.stride + samples_at(cut.speeds[row], cut.n_samples) - draw.lengths[index]
        for cut in cuts
        for row, index in enumerate(cut.recordings)
    ]
    assert max(ends) <= 0
    assert {speed for cut, _ in draw.held_out_cuts() for speed in cut.speeds} == {1.0}
    assert draw.cut(7, 1) == draw.cut(7, 1)


def test_codes_that_are_stored_know_no_other_speed(tmp_path: Path) -> None:
    recipe = read_recipe(small_recipe(tmp_path, write_recordings(tmp_path)), ["augmentation.speed=0.5"])
    corpus = open_corpus(recipe.data, RATE, recipe.min_samples, {})
    source: Any = SimpleNamespace(sample_rate=RATE, rate_hz=75.0, check_recordings=lambda recordings: None)
    with pytest.raises(UsageError, match=r"speed=0.5: codes holds the targets of recordings at their own speed; give"):
        Batches(recipe, corpus, {"codes": source}, torch.device("cpu"))


def test_generated_clips_are_long_enough_for_every_speed() -> None:
    change = Augmentation(speed=1.0)
    n = 24_000
    length = round(change.longest_s(1.0) * RATE)
    speeds = change.speeds(200, np.random.default_rng(0))
    assert max(speeds) > 1.2 and max(samples_at(speed, n) for speed in speeds) <= length
    assert Augmentation().longest_s(1.0) == 1.0


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100])
def test_every_quality_that_may_be_drawn_is_one_that_the_codec_takes(end: int, rate_hz: int) -> None:
    """libsndfile refuses the last ten-thousandth below the lowest quality of MP3: a run of days met it once."""
    random: Any = SimpleNamespace(uniform=lambda *ends: ends[end])
    wave_N = clip()
    assert coded(wave_N, random, rate_hz).shape == wave_N.shape
